"""Connections are bounded: probes get through whatever callers do, and no core spins."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from service.metrics_port import CONNECTIONS
from tests.process.certificates import write_certificate
from tests.process.conftest import STARTUP, GatewayProcess, Tables, figure, gateway_process, port_of, run_command
from tests.support import free_port, until, write_settings

FILES = 200
"""The limit of open files; 128 of them are reserved."""
BOUND = FILES - 128
REACHED, LEFT = "connection_limit_reached", "connection_limit_left"


def limited(files: int) -> list[str]:
    """A command that lowers the limit of open files of the next."""
    return ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]


@pytest.fixture
def settings() -> Tables:
    server = {"port": free_port(), "metrics_port": free_port(), "drain": "100ms"}
    return {"server": server, "exchange": {"timeout": "200ms"}}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file of the gateway's log, so that it can be read while it runs."""
    return tmp_path / "log"


@pytest.fixture
async def narrow(tmp_path: Path, settings: Tables, log: Path) -> AsyncIterator[GatewayProcess]:
    with log.open("w") as stdout:
        async with gateway_process(tmp_path, settings, through=limited(FILES), stdout=stdout.fileno()) as gateway:
            yield gateway


def times_logged(log: Path, event: str) -> int:
    return log.read_text().count(f'"event":"{event}"')


async def until_logged(log: Path, event: str) -> None:
    await until(lambda: times_logged(log, event) > 0, STARTUP, f"the log has {event}")


@contextlib.contextmanager
def silent(url: str, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as peers:
        yield [peers.enter_context(socket.create_connection(port_of(url))) for _ in range(count)]


async def probes(gateway: GatewayProcess) -> list[int]:
    async with httpx.AsyncClient(timeout=2) as caller:
        return [(await caller.get(gateway.beside + path)).status_code for path in ("/healthz", "/readyz", "/metrics")]


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


async def test_at_the_bound_probes_answer_open_connections_go_on_and_no_core_spins(
    narrow: GatewayProcess, log: Path
) -> None:
    assert narrow.process is not None
    async with httpx.AsyncClient(timeout=2) as earlier:
        await earlier.get(narrow.url + "/healthz")
        with silent(narrow.url, FILES):
            await until_logged(log, REACHED)
            began = processor_seconds(narrow.process.pid)
            await asyncio.sleep(1.0)
            spent = processor_seconds(narrow.process.pid) - began
            found = await probes(narrow), (await earlier.get(narrow.url + "/healthz")).status_code
            waiting = await figure(narrow, "coinm_connections_waiting")
            assert await figure(narrow, "coinm_connection_limit") == BOUND
    await narrow.stop()

    assert found == ([200, 200, 200], 200)
    assert waiting >= FILES - BOUND
    assert spent < 0.3
    assert times_logged(log, REACHED) == 1
    assert times_logged(log, "connection_limit_low") == 1


async def test_below_the_bound_again_everybody_is_served_and_the_log_says_so(narrow: GatewayProcess, log: Path) -> None:
    with silent(narrow.url, FILES):
        await until_logged(log, REACHED)
    await until_logged(log, LEFT)
    async with httpx.AsyncClient(timeout=2) as caller:
        answer = await caller.get(narrow.url + "/healthz")
    await narrow.stop()

    assert answer.status_code == 200
    assert times_logged(log, LEFT) == 1


async def test_a_limit_of_files_that_is_too_low_is_one_line_and_exit_status_1(tmp_path: Path, settings: Tables) -> None:
    gateway = GatewayProcess(write_settings(tmp_path, **settings), settings, through=limited(140))
    await gateway.launch()
    status, _ = await gateway.ended()

    said = "coinm-gateway: the limit of open files is 140: expected 144 or more (ulimit -n, LimitNOFILE)\n"
    assert (status, gateway.errors.decode()) == (1, said)


async def test_check_says_how_many_connections_there_may_be(tmp_path: Path, settings: Tables) -> None:
    config = write_settings(tmp_path, **settings)

    _, output, _ = await run_command("check", "--config", str(config))

    assert "ok    open files" in output


async def test_half_open_scrapes_neither_keep_a_probe_out_nor_take_threads(narrow: GatewayProcess) -> None:
    assert narrow.process is not None
    before = threads(narrow.process.pid)
    with silent(narrow.beside, 3 * CONNECTIONS) as peers:
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(b"GET /metrics HTTP/1.1\r\n")
        found = await probes(narrow)
        more = threads(narrow.process.pid) - before

    assert found == [200, 200, 200]
    assert more <= 1


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /metrics?name=x HTTP/1.1\r\n\r\n", b"200"),
        (b"HEAD /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.1\r\naccept: text/plain;version=x\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;version=1..0;q=9\r\n\r\n", b"200"),
        (b"GET /v1/accounts HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET\r\n\r\n", b"400"),
        (b"\xff\x00 / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 9000, b""),
    ],
)
async def test_the_metrics_port_answers_one_request_and_hangs_up(
    narrow: GatewayProcess, request_head: bytes, status: bytes
) -> None:
    reader, writer = await asyncio.open_connection(*port_of(narrow.beside))
    writer.write(request_head)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            answer = await reader.read()
            assert answer[9:12] == status
            assert status == b"" or b"Connection: close\r\n" in answer
    writer.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    """For as many peers in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_handshakes_that_never_end_keep_neither_probes_out_nor_a_core_busy(
    tmp_path: Path, settings: Tables, log: Path
) -> None:
    """They hold descriptors, and the server doesn't bound them: more of them come here than it may open."""
    certificate, key = write_certificate(tmp_path)
    settings["server"] |= {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    trust = ssl.create_default_context(cafile=str(certificate))
    with log.open("w") as stdout:
        async with gateway_process(tmp_path, settings, trust, through=limited(2400), stdout=stdout.fileno()) as gateway:
            assert gateway.process is not None
            with contextlib.ExitStack() as peers:
                for _ in range(2600):
                    peer = peers.enter_context(socket.socket())
                    peer.setblocking(False)
                    peer.connect_ex(port_of(gateway.url))
                await until_logged(log, REACHED)
                began = processor_seconds(gateway.process.pid)
                await asyncio.sleep(1.0)
                spent = processor_seconds(gateway.process.pid) - began
                found = await probes(gateway)
            status, _ = await gateway.stop()

    assert found == [200, 200, 200]
    assert spent < 0.3
    assert status == 0
