"""Real processes: the command line, a Redis, and a simulated exchange on a socket."""

import asyncio
import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from simulator.exchange import Exchange
from simulator.server import serving
from tests.programs import CLIENTS, JAVASCRIPT, require, require_folder
from tests.support import bearer, free_port, unmeasured, until, write_settings

Tables = dict[str, dict[str, object]]
Environment = Mapping[str, str]

STARTUP = 20.0
"""Seconds for a process to answer; some 1 s here, more where every core is busy."""


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    """A redis-server of the test's own, empty, saving nothing."""
    port = free_port()
    command = [require("redis-server"), "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        asyncio.run(_answers(port))
        yield port
        process.terminate()


@pytest.fixture
async def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
async def exchange_url(exchange: Exchange) -> AsyncIterator[str]:
    async with serving(exchange) as url:
        yield url


@pytest.fixture
def unshare() -> str:
    """A program that starts another in namespaces of its own."""
    return require("unshare")


@pytest.fixture
def curl() -> str:
    return require("curl")


@pytest.fixture
def clients() -> Path:
    """The folder of the public clients that have one of their own."""
    return require_folder(CLIENTS)


@pytest.fixture
def node() -> str:
    return require("node")


@pytest.fixture
def javascript() -> Path:
    """The folder of the public JavaScript clients."""
    return require_folder(JAVASCRIPT)


@pytest.fixture
async def demo() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *["-m", "simulator", "demo", "--port", str(free_port())],
        env=unmeasured(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
async def told(demo: asyncio.subprocess.Process) -> str:
    """What the demo prints."""
    async with asyncio.timeout(STARTUP):
        return "\n".join(await greeting(demo))


@pytest.fixture
def environment(told: str) -> Environment:
    """The variables that the guides want set, from the line that the demo prints for it; tools beside them."""
    (line,) = re.findall(r"^export (.+)$", told, re.MULTILINE)
    variables = dict(assignment.split("=") for assignment in line.split())
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return unmeasured() | variables | {"PATH": tools}


class GatewayProcess:
    """`coinm-gateway serve`, as an operator starts it."""

    def __init__(
        self,
        config: Path,
        tables: Mapping[str, Mapping[str, object]],
        trust: ssl.SSLContext | None = None,
        *,
        through: Sequence[str] = (),
        stdout: int = subprocess.PIPE,
        measured: bool = True,
    ) -> None:
        self.config = config
        self.environment = None if measured else unmeasured()
        self.through = through
        """A command that becomes the gateway's, which follows it."""
        self.stdout = stdout
        self.trust = trust
        self.url = f"{'https' if trust else 'http'}://127.0.0.1:{tables['server']['port']}"
        self.beside = f"http://127.0.0.1:{tables['server']['metrics_port']}"
        self.metrics_url = f"{self.beside}/metrics"
        self.process: asyncio.subprocess.Process | None = None
        self.errors = b""
        """What it wrote on stderr, once it has ended."""

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        await self.launch()
        async with asyncio.timeout(STARTUP), httpx.AsyncClient(verify=self.trust or True) as client:
            while not await _ready(client, self.url):
                await asyncio.sleep(0.02)

    async def launch(self) -> asyncio.subprocess.Process:
        """Start it."""
        command = [*self.through, sys.executable, "-m", "service", "serve", "--config", str(self.config)]
        self.process = await asyncio.create_subprocess_exec(
            *command, stdout=self.stdout, stderr=subprocess.PIPE, env=self.environment
        )
        return self.process

    async def stop(self, number: int = signal.SIGTERM) -> tuple[int | None, str]:
        """Signal it and wait for its end; its exit status and all it logged."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> tuple[int | None, str]:
        assert self.process is not None
        process = self.process
        async with asyncio.timeout(STARTUP):
            output, self.errors = await process.communicate()
        self.process = None
        return process.returncode, (output or b"").decode()

    async def kill(self) -> None:
        """For the end of a test that failed."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()


@pytest.fixture
async def gateway(tmp_path: Path, redis_port: int, exchange_url: str) -> AsyncIterator[GatewayProcess]:
    """A gateway of the default windows, started."""
    async with gateway_process(tmp_path, tables(redis_port, exchange_url), measured=False) as process:
        yield process


@pytest.fixture
async def still(exchange: Exchange) -> Exchange:
    """An exchange whose account no longer moves with the market, so that two reads can be compared."""
    exchange.market.frozen = True
    return exchange


@pytest.fixture
async def kept_up(gateway: GatewayProcess) -> GatewayProcess:
    """A gateway that has read the contracts, which it does by itself."""
    async with asyncio.timeout(STARTUP), httpx.AsyncClient(base_url=gateway.url) as client:
        while (await client.get("/binance/main/dapi/v1/exchangeInfo")).status_code != 200:
            await asyncio.sleep(0.02)
    return gateway


def port_of(url: str) -> tuple[str, int]:
    """Where a URL leads, for a socket."""
    parts = httpx.URL(url)
    assert parts.port is not None
    return parts.host, parts.port


async def figure(gateway: GatewayProcess, pattern: str) -> float:
    """The sum of the samples that a scrape has of a metric, and of labels."""
    async with httpx.AsyncClient(timeout=30) as caller:
        lines = (await caller.get(gateway.metrics_url)).text.splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line)]
    assert found, pattern
    return sum(found)


async def until_figure(gateway: GatewayProcess, pattern: str, value: float) -> None:
    """Wait until a figure is so."""

    async def is_so() -> bool:
        return await figure(gateway, pattern) == value

    await until(is_so, STARTUP, f"{pattern} is {value:g}")


async def keep_asking(url: str, seen: Counter[int]) -> str:
    """Ask on one connection until an answer closes it; what that answer said."""
    async with httpx.AsyncClient(headers=bearer(), timeout=30) as caller:
        while True:
            answer = await caller.get(url)
            seen[answer.status_code] += 1
            if "connection" in answer.headers:
                return answer.headers["connection"]
            await asyncio.sleep(0.2)


async def closed(url: str) -> None:
    """Returns once nobody listens any more."""
    async with httpx.AsyncClient() as caller:
        while True:
            try:
                await caller.get(f"{url}/healthz")
            except httpx.ConnectError:
                return
            except httpx.RemoteProtocolError:
                continue  # it was accepted in the very moment of the end
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def gateway_process(
    folder: Path,
    settings: Tables,
    trust: ssl.SSLContext | None = None,
    *,
    through: Sequence[str] = (),
    stdout: int = subprocess.PIPE,
    measured: bool = True,
) -> AsyncIterator[GatewayProcess]:
    """A started gateway with these settings; started anew it keeps its port."""
    config = write_settings(folder, **settings)
    process = GatewayProcess(config, settings, trust, through=through, stdout=stdout, measured=measured)
    try:
        await process.start()
        yield process
    finally:
        await process.kill()


def tables(redis_port: int, exchange_url: str, **freshness: object) -> Tables:
    return {
        "server": {"port": free_port(), "metrics_port": free_port(), "drain": "1s"},
        "redis": {"url": f"redis://127.0.0.1:{redis_port}/0"},
        "exchange": {"base_url": exchange_url},
        "freshness": freshness,
    }


async def run_command(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """`coinm-gateway ARGUMENTS`: exit status, stdout, stderr."""
    return await run(sys.executable, "-m", "service", *arguments, environment={**os.environ, **environment})


async def run(
    *command: str, environment: Environment | None = None, folder: Path | None = None
) -> tuple[int | None, str, str]:
    """Exit status, stdout and stderr of a program."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(STARTUP):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def greeting(demo: asyncio.subprocess.Process) -> list[str]:
    """The lines up to the last."""
    assert demo.stdout is not None
    lines: list[str] = []
    while "Ctrl-C" not in "".join(lines[-1:]):
        line = await demo.stdout.readline()
        assert line, "the demo ended"
        lines.append(line.decode().strip())
    return lines


async def _answers(port: int) -> None:
    async with asyncio.timeout(STARTUP), Redis(port=port) as redis:
        while True:
            with contextlib.suppress(RedisConnectionError):
                await redis.ping()
                return
            await asyncio.sleep(0.02)


async def _ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        answer = await client.get(f"{url}/readyz")
    except httpx.TransportError:
        return False
    return answer.status_code == 200
