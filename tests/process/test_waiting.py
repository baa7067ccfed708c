"""What callers that hang up leave behind in a real server: nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH
from tests.process.conftest import GatewayProcess, figure, gateway_process, port_of, tables, until_figure
from tests.support import BTC, bearer

HANG_UPS = 2_000
AT_ONCE = 100
GROWTH = 40 * 1024
"""KiB that the process may grow by meanwhile: some hundreds of waiters with their connections weigh 10 MiB; without an
end of their waits these 2,000 weighed 50."""


def request(path: str = BTC) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in bearer().items())
    return f"GET {path} HTTP/1.1\r\nHost: gateway\r\n{head}\r\n".encode()


async def connect(gateway: GatewayProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*port_of(gateway.url))


def resident(gateway: GatewayProcess) -> int:
    assert gateway.process is not None
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{gateway.process.pid}/status").read_text())
    assert found
    return int(found[1])


@pytest.fixture
async def gateway(tmp_path: Path, redis_port: int, exchange_url: str) -> AsyncIterator[GatewayProcess]:
    """One that waits for the exchange as long as a test takes."""
    settings = tables(redis_port, exchange_url)
    settings["exchange"]["timeout"] = "50s"
    async with gateway_process(tmp_path, settings, measured=False) as process:
        yield process


async def test_two_thousand_callers_that_hang_up_leave_nothing_behind(
    gateway: GatewayProcess, exchange: Exchange
) -> None:
    """Of some the server sees the end before it begins with them, so that their number is not exact."""
    exchange.hold()
    stayer, staying = await connect(gateway)
    staying.write(request())
    await exchange.wait_held()
    before = resident(gateway)
    for _ in range(HANG_UPS // AT_ONCE):
        connections = [await connect(gateway) for _ in range(AT_ONCE)]
        for _, writer in connections:
            writer.write(request())
        for _, writer in connections:
            writer.close()
            await writer.wait_closed()
    await until_figure(gateway, "coinm_(waiting_reads|queued_requests) ", 1)

    left = await figure(gateway, r'coinm_requests_total{.*asset.*status="0"}')
    assert HANG_UPS / 4 < left <= HANG_UPS
    assert await figure(gateway, r"coinm_requests_total{.*asset.*}") == left
    assert resident(gateway) - before < GROWTH
    exchange.release()
    assert (await stayer.readline()).startswith(b"HTTP/1.1 200")
    assert exchange.calls.count(ACCOUNT_PATH) == 1
    staying.close()
    await staying.wait_closed()


async def test_a_caller_on_a_kept_connection_that_hangs_up_is_noticed_too(
    gateway: GatewayProcess, exchange: Exchange
) -> None:
    reader, writer = await connect(gateway)
    writer.write(request("/v1/accounts"))
    await reader.readuntil(b"\r\n\r\n")
    exchange.hold()
    writer.write(request())
    await exchange.wait_held()
    await until_figure(gateway, "coinm_waiting_reads", 1)
    writer.close()
    await writer.wait_closed()
    await until_figure(gateway, "coinm_waiting_reads", 0)
    exchange.release()
