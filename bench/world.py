"""Everything that is compared, started side by side: only who is under load uses its core."""

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from bench.processes import LOAD_CORE, Process, Request, python
from service.access import tokens
from service.settings import Scheduling
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY

BARE = "bare ASGI app on granian"
BATCH = "bare ASGI app on granian, in batches"
ASSET = "/v1/accounts/main/assets/BTC"
"""What is requested most."""
ROWS = 210
"""Position rows: 70 symbols in hedge mode, 84 KB."""

# Everything that isn't here is as installed; the weight limit is the simulated exchange's.
SETTINGS = """
environment = "bench"
[server]
port = {port}
metrics_port = {metrics_port}
{scheduling}
[redis]
url = "redis://127.0.0.1:{redis}/0"
key_prefix = "{fleet}"
[exchange]
base_url = "http://127.0.0.1:{exchange}"
weight_limit = 1000000
{tables}
"""
LOG = """
[log]
hits = {log_hits}
"""
FRESHNESS = """
[freshness]
fresh_for = "{fresh_for}"
min_refresh_interval = "{fresh_for}"
"""
ACCOUNT = """
[accounts.{name}]
api_key_file = "api_key"
secret_key_file = "secret_key"
"""
CLIENT = """
[clients.{name}]
token_sha256 = ["{digest}"]
[clients.{name}.accounts."*"]
assets = "all"
"""
NGINX = """
{user}
worker_processes 1;
error_log stderr crit;
pid {folder}/nginx.pid;
daemon off;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=answers:10m;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_cache answers;
            proxy_cache_valid 200 10m;
        }}
    }}
}}
"""


_USER = "user root;" if os.geteuid() == 0 else ""
"""nginx gives root's rights up where it may, and with them the way into our folder."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Target(msgspec.Struct, frozen=True):
    """What is measured: a name, who serves it, and what is requested."""

    name: str
    server: Process
    request: Request


class Setup(msgspec.Struct, frozen=True):
    """What sets one gateway apart from another; `None`: as installed, the key isn't in its settings file."""

    accounts: int = 1
    log_hits: int | None = None
    """One log line for so many hits."""
    scheduling: Scheduling | None = None
    fresh_for: str | None = None
    fleet: str = ""
    """Gateways of one name share snapshots; without, it is alone, so that none works while another is measured."""
    tokens: tuple[str, ...] = ()
    """Of further clients, which may read every account too."""

    @property
    def names(self) -> list[str]:
        """Of its accounts: one account of the exchange by any number of names."""
        return ["main", *(f"a{number}" for number in range(1, self.accounts))]


class Gateway(msgspec.Struct, frozen=True):
    """One that runs."""

    process: Process
    url: str
    metrics_url: str

    async def count(self, name: str, **labels: str) -> float:
        """A counter's value, summed over all series that have these labels."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(self.metrics_url)).raise_for_status().text
        samples = (each for family in text_string_to_metric_families(text) for each in family.samples)
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


class BenchServers(msgspec.Struct):
    """What the measured servers share: a Redis, an exchange, a folder, and a client's token."""

    folder: Path
    redis: int
    exchange: int
    token: str

    @property
    def exchange_url(self) -> str:
        return f"http://127.0.0.1:{self.exchange}"

    @property
    def authorization(self) -> str:
        return f"Authorization: Bearer {self.token}"

    def client(self, url: str, token: str | None = None) -> httpx.AsyncClient:
        """For single requests to a gateway. The first of an account waits for the exchange: hence the time limit."""
        headers = {"authorization": f"Bearer {token or self.token}", "accept-encoding": "identity"}
        return httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30)

    async def calls(self) -> int:
        """How often the exchange was asked for an account so far."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return int((await client.get(f"{self.exchange_url}/calls")).text)

    def settings(self, setup: Setup, port: int, metrics_port: int) -> str:
        """The settings file of one gateway, as TOML."""
        clients = {"bench": self.token} | {f"bench-{number}": token for number, token in enumerate(setup.tokens, 1)}
        tables = [
            *([LOG.format(log_hits=setup.log_hits)] if setup.log_hits else []),
            *([FRESHNESS.format(fresh_for=setup.fresh_for)] if setup.fresh_for else []),
            *(ACCOUNT.format(name=name) for name in setup.names),
            *(CLIENT.format(name=name, digest=tokens.digest(token.encode())) for name, token in clients.items()),
        ]
        return SETTINGS.format(
            port=port,
            metrics_port=metrics_port,
            redis=self.redis,
            exchange=self.exchange,
            scheduling=f'scheduling = "{setup.scheduling}"' if setup.scheduling else "",
            fleet=setup.fleet or f"alone-{port}",
            tables="".join(tables),
        )

    @asynccontextmanager
    async def gateway(self, setup: Setup = Setup()) -> AsyncIterator[Gateway]:  # noqa: B008 - it is frozen
        """A gateway on ports of its own."""
        port, metrics_port = free_port(), free_port()
        folder = self.folder / f"gateway-{port}"
        folder.mkdir()
        (folder / "api_key").write_text(DEMO_API_KEY)
        (folder / "secret_key").write_text(DEMO_SECRET_KEY)
        (folder / "gateway.toml").write_text(self.settings(setup, port, metrics_port))
        command = python("service", "serve", "--config", folder / "gateway.toml")
        url = f"http://127.0.0.1:{port}"
        async with Process(*command, check=f"{url}/readyz") as process:
            yield Gateway(process, url, f"http://127.0.0.1:{metrics_port}/metrics")


@asynccontextmanager
async def bench_servers(folder: Path, rows: int = ROWS) -> AsyncIterator[BenchServers]:
    """A Redis and an exchange, on the load's core."""
    redis, exchange = free_port(), free_port()
    folder.mkdir(exist_ok=True)
    command = ("redis-server", "--port", str(redis), "--save", "", "--dir", str(folder))
    server = python("bench.exchange", exchange, rows)
    check = f"http://127.0.0.1:{exchange}/calls"
    async with Process(*command, core=LOAD_CORE), Process(*server, core=LOAD_CORE, check=check):
        yield BenchServers(folder, redis, exchange, tokens.generate())


@asynccontextmanager
async def peers(servers: BenchServers, row: bytes) -> AsyncIterator[Mapping[str, tuple[Process, str]]]:
    """The others, by name, and the URL of one asset (or of the whole account) at each."""
    (body := servers.folder / "row.json").write_bytes(row)
    bare, batch, first, decorated, nginx = (free_port() for _ in range(5))
    (folder := servers.folder / "nginx").mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(user=_USER, folder=folder, port=nginx, upstream=bare))
    async with Redis(port=servers.redis) as redis, httpx.AsyncClient(trust_env=False) as client:
        await redis.set("account", (await client.get(f"{servers.exchange_url}/account")).content)
    async with AsyncExitStack() as stack:
        commands = {
            BARE: (python("bench.peers.bare", bare, body), f"http://127.0.0.1:{bare}/"),
            BATCH: (python("bench.peers.bare", batch, body, "batch"), f"http://127.0.0.1:{batch}/"),
            "nginx proxy_cache": (("nginx", "-c", str(configuration)), f"http://127.0.0.1:{nginx}/"),
            "FastAPI, JSON from Redis": (
                python("bench.peers.first_idea", first, servers.redis),
                f"http://127.0.0.1:{first}/assets/BTC",
            ),
            "FastAPI, cashews": (
                python("bench.peers.decorated", decorated, servers.redis, servers.exchange_url),
                f"http://127.0.0.1:{decorated}/assets/BTC",
            ),
        }
        yield {
            name: (await stack.enter_async_context(Process(*command, check=url)), url)
            for name, (command, url) in commands.items()
        }
