"""The end has one deadline, whatever lingers: peers, names, Redis, the exchange, the log, the audit log."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.process.certificates import write_certificate
from tests.process.conftest import STARTUP, GatewayProcess, Tables, gateway_process, port_of, tables
from tests.support import BTC, TOKENS, bearer

DRAIN, TIMEOUT = 0.2, 0.5
LONGEST_READ = TIMEOUT + 3.0
DEADLINE = DRAIN + LONGEST_READ + 2.0
"""Seconds: the whole end."""
ALL = f"GET /v1/accounts/main HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {TOKENS['risk']}\r\n\r\n".encode()
HALF = b"GET /healthz HTTP/1.1\r\nHost: gat"


def quick(redis_port: int, exchange_url: str) -> Tables:
    settings = tables(redis_port, exchange_url)
    settings["server"] |= {"drain": f"{DRAIN * 1000:.0f}ms"}
    settings["exchange"] |= {"timeout": f"{TIMEOUT * 1000:.0f}ms"}
    return settings


async def told_to_end(gateway: GatewayProcess, *, times: int = 1) -> tuple[int | None, float, str]:
    """Exit status, seconds and log of an end."""
    assert gateway.process is not None
    began = time.monotonic()
    for _ in range(times):
        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
    status, log = await gateway.ended()
    return status, time.monotonic() - began, log


@contextmanager
def half_a_request(gateway: GatewayProcess) -> Iterator[None]:
    with socket.create_connection(port_of(gateway.url)) as peer:
        peer.sendall(HALF)
        yield


@contextmanager
def answers_that_nobody_reads(gateway: GatewayProcess) -> Iterator[None]:
    with contextlib.ExitStack() as peers:
        for _ in range(20):
            peer = socket.socket()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peers.enter_context(peer)
            peer.connect(port_of(gateway.url))
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                peer.send(ALL * 200)
        yield


@contextmanager
def a_scrape_that_is_held(gateway: GatewayProcess) -> Iterator[None]:
    with socket.create_connection(port_of(gateway.beside)) as peer:
        peer.sendall(HALF)
        yield


Hindrance = Callable[[GatewayProcess], AbstractContextManager[None]]


@pytest.mark.parametrize("hindrance", [half_a_request, answers_that_nobody_reads, a_scrape_that_is_held])
async def test_a_peer_that_lingers_holds_up_the_end_no_longer_than_a_read(
    tmp_path: Path, redis_port: int, exchange_url: str, hindrance: Hindrance
) -> None:
    async with gateway_process(tmp_path, quick(redis_port, exchange_url)) as gateway:
        with hindrance(gateway):
            await asyncio.sleep(0.2)
            status, seconds, log = await told_to_end(gateway)

    assert status == 0
    assert seconds < DEADLINE
    assert '"event":"stopped"' in log


async def test_a_second_signal_ends_it_at_once_whoever_lingers(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    settings = quick(redis_port, exchange_url)
    settings["server"] |= {"drain": "30s"}
    async with gateway_process(tmp_path, settings) as gateway:
        with half_a_request(gateway), answers_that_nobody_reads(gateway):
            status, seconds, _ = await told_to_end(gateway, times=2)

    assert status in (0, 1)
    assert seconds < 2.0


async def test_a_handshake_that_never_ends_holds_up_the_end_no_longer_than_a_read(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    certificate, key = write_certificate(tmp_path)
    settings = quick(redis_port, exchange_url)
    settings["server"] |= {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    trust = ssl.create_default_context(cafile=str(certificate))
    async with gateway_process(tmp_path, settings, trust) as gateway:
        with socket.create_connection(port_of(gateway.url)) as peer:
            peer.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
            await asyncio.sleep(0.2)
            status, seconds, _ = await told_to_end(gateway)

    assert status == 0
    assert seconds < DEADLINE


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Connections are taken, and nothing ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("hung", ["redis", "exchange", "both"])
async def test_what_never_answers_holds_up_the_end_no_longer_than_a_read(
    tmp_path: Path, redis_port: int, exchange_url: str, silent_port: int, hung: str
) -> None:
    settings = quick(
        redis_port if hung == "exchange" else silent_port,
        exchange_url if hung == "redis" else f"http://127.0.0.1:{silent_port}",
    )
    async with gateway_process(tmp_path, settings) as gateway, httpx.AsyncClient(headers=bearer()) as caller:
        asked = asyncio.create_task(caller.get(gateway.url + BTC, timeout=30))
        await asyncio.sleep(0.1)
        status, seconds, _ = await told_to_end(gateway)
        answer = await asked

    assert status == 0
    assert seconds < DEADLINE
    assert answer.status_code == (200 if hung == "redis" else 504)


async def test_a_name_server_that_never_answers_holds_up_the_end_no_longer_than_a_read(
    tmp_path: Path, redis_port: int, unshare: str
) -> None:
    """The look-up goes on in a thread that nothing can end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.54", 53))
        nobody.setblocking(False)
        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.54\noptions timeout:30 attempts:5\n")
        mount = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
        through = [unshare, "--mount", "sh", "-c", mount, "sh"]
        settings = quick(redis_port, "https://exchange.invalid")
        async with gateway_process(tmp_path, settings, through=through) as gateway:
            async with asyncio.timeout(STARTUP):
                await asyncio.get_running_loop().sock_recv(nobody, 512)  # the look-up is under way
            status, seconds, _ = await told_to_end(gateway)

    assert status == 0
    assert seconds < DEADLINE


@contextmanager
def pipe_that_nobody_reads() -> Iterator[int]:
    """Its end to write into, full."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 4096)
    os.set_blocking(write, True)
    try:
        yield write
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("extra", [{}, {"audit": {}}], ids=["log", "audit"])
async def test_a_stdout_that_nobody_reads_does_not_hold_up_the_end(
    tmp_path: Path, redis_port: int, exchange_url: str, extra: Tables
) -> None:
    settings = quick(redis_port, exchange_url) | extra
    with pipe_that_nobody_reads() as pipe:
        async with gateway_process(tmp_path, settings, stdout=pipe) as gateway:
            async with httpx.AsyncClient(headers=bearer()) as caller:
                await caller.get(gateway.url + BTC)
            status, seconds, _ = await told_to_end(gateway)

    assert status == (1 if extra else 0), "only lines of the audit log are promised"
    assert seconds < DEADLINE


async def test_an_audit_file_that_nobody_reads_loses_its_line_and_does_not_hold_up_the_end(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    os.mkfifo(tmp_path / "audit")
    reader = os.open(tmp_path / "audit", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "audit", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    settings = quick(redis_port, exchange_url)
    settings["audit"] = {"file": str(tmp_path / "audit"), "when_full": "refuse"}
    async with gateway_process(tmp_path, settings) as gateway, httpx.AsyncClient(headers=bearer()) as caller:
        await caller.get(gateway.url + BTC)
        status, seconds, log = await told_to_end(gateway)
    os.close(reader)
    os.close(writer)

    assert status == 1
    assert seconds < DEADLINE
    assert '"event":"audit_lines_lost","lines":1' in log
