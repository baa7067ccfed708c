"""Replicas are replaced one by one under load, and nobody but the operator notices."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH
from tests.fleet.balancer import Balancer
from tests.fleet.fleets import fleet, prepared
from tests.process.conftest import GatewayProcess, Tables, tables
from tests.support import BTC, bearer

REPLICAS = 3
CONNECTIONS = 20
RATE = 200
"""Requests a second, of all connections together."""
FRESH_FOR = 1.0
"""Seconds; the default, and short enough that several refreshes fall into each drain."""
GRACE_S = 20.0
"""Seconds: what the manifests give a replica to end."""
PATHS = (BTC, "/v1/accounts/main/positions?open=true", "/v1/accounts/main", "/v1/accounts/main/assets?nonzero=true")
BEFORE, AFTER = 400, 400
"""Answers before the first replica is told to stop, and after the last has ended."""


class Load(msgspec.Struct):
    """What callers saw. An open loop: each connection asks by the clock, whether or not answers are late."""

    statuses: Counter[int] = msgspec.field(default_factory=Counter)
    broken: int = 0
    """Connections that ended without an answer to what was asked on them."""
    unmarked_ages: list[int] = []
    """Of answers without a `detail`, in ms."""

    async def sees(self, count: int) -> None:
        """Return once so many more answers are there."""
        wanted = self.statuses.total() + count
        while self.statuses.total() < wanted and not self.broken:
            await asyncio.sleep(0.05)


async def keep_asking(port: int, number: int, load: Load, stopped: asyncio.Event) -> None:
    """One keep-alive connection, opened anew when the other side has said that it closes."""
    pause, asked = CONNECTIONS / RATE, 0
    began = time.monotonic() + number * pause / CONNECTIONS
    headers = "".join(f"{name}: {value}\r\n" for name, value in bearer().items())
    connection = None
    while not stopped.is_set():
        await asyncio.sleep(max(0.0, began + asked * pause - time.monotonic()))
        connection = connection or await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        path = PATHS[(asked + number) % len(PATHS)]
        writer.write(f"GET {path} HTTP/1.1\r\nHost: gateway\r\n{headers}\r\n".encode())
        asked += 1
        try:
            closes = await answered(reader, load)
        except (OSError, EOFError):
            load.broken += 1
            closes = True
        if closes:
            writer.close()
            connection = None
    if connection:
        connection[1].close()


async def answered(reader: asyncio.StreamReader, load: Load) -> bool:
    """Note one answer; whether the other side closes after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    status, *lines = head.splitlines()
    headers = dict(line.split(": ", 1) for line in lines if line)
    await reader.readexactly(int(headers["content-length"]))
    load.statuses[int(status.split()[1])] += 1
    if "detail" not in headers.get("cache-status", "detail"):
        load.unmarked_ages.append(int(headers["gateway-snapshot-age"]))
    return headers.get("connection") == "close"


async def replaced(old: GatewayProcess, new: GatewayProcess, balancer: Balancer) -> float:
    """As a Deployment without unavailable replicas does it; the seconds that the old one took to end."""
    await new.start()
    await balancer.add([new])
    began = time.monotonic()
    status, _ = await old.stop(signal.SIGTERM)
    assert status == 0
    return time.monotonic() - began


@pytest.fixture
def settings(redis_port: int, exchange_url: str) -> Tables:
    settings = tables(redis_port, exchange_url, fresh_for=f"{FRESH_FOR:.0f}s")
    settings["server"] |= {"drain": "2s"}  # ten times what the balancer takes to notice
    return settings


async def test_a_rolling_restart_under_load_fails_no_request_and_costs_no_call(
    tmp_path: Path,
    settings: Tables,
    exchange: Exchange,
    haproxy: str,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    successors = [prepared(tmp_path / f"successor-{number}", settings) for number in range(REPLICAS)]
    load, stopped = Load(), asyncio.Event()
    async with fleet(tmp_path, REPLICAS, settings) as replicas, Balancer(haproxy, tmp_path) as balancer:
        await balancer.add(replicas)
        began = time.monotonic()
        callers = [
            asyncio.create_task(keep_asking(balancer.port, number, load, stopped)) for number in range(CONNECTIONS)
        ]
        try:
            await load.sees(BEFORE)
            ends = [await replaced(old, new, balancer) for old, new in zip(replicas, successors, strict=True)]
            await load.sees(AFTER)
        finally:
            stopped.set()
            await asyncio.gather(*callers)
            await asyncio.gather(*(each.kill() for each in successors))
        seconds = time.monotonic() - began

    calls, answers = exchange.calls.count(ACCOUNT_PATH), load.statuses.total()
    record_testsuite_property("rolling_restart", f"{answers} answers in {seconds:.1f} s, {calls} account calls")
    assert load.broken == 0
    assert set(load.statuses) == {200}
    assert answers >= 0.9 * RATE * seconds
    assert 0.5 * seconds / FRESH_FOR <= calls <= seconds / FRESH_FOR + 1
    assert max(ends) < GRACE_S
    assert max(load.unmarked_ages) < FRESH_FOR * 1000
