"""Callers that hang up, callers that are many, and an exchange that is slow; as a program, what they cost.

`python -m tests.fleet.hostile_callers` measures all three and prints tables.
"""

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import re
import resource
import selectors
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import click
import httpx

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from simulator.server import serving
from tests.fleet.fleets import prepared
from tests.fleet.outage import fleet
from tests.fleet.redis_servers import RedisServer
from tests.process.conftest import GatewayProcess, tables
from tests.support import BTC, bearer

SOURCES = 200
"""Loopback addresses that connections come from: one has ports for 28,000 only, and keeps each for a minute."""
BATCH = 500
"""Connections that one attacker has open at a time before it closes the oldest."""

EVENTS = ("lease_lost", "redis_away", "waiting_room_full", "waiting_room_has_room")
"""What the log may say of it."""


class Watched:
    """A replica, and what it says and weighs."""

    def __init__(self, replica: GatewayProcess) -> None:
        self.replica = replica
        self.events: Counter[str] = Counter()
        self.health: list[float] = []
        """Seconds that `/healthz` took, on a connection of its own each time."""
        self.rss: list[int] = []
        """KiB."""

    @property
    def port(self) -> int:
        return int(self.replica.url.rpartition(":")[2])

    def resident(self) -> int:
        """KiB that the process holds now."""
        assert self.replica.process is not None
        status = Path(f"/proc/{self.replica.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1])

    async def read_log(self) -> None:
        """Count the events until the process ends; somebody has to read what it writes."""
        assert self.replica.process is not None
        assert self.replica.process.stdout is not None
        async for line in self.replica.process.stdout:
            self.events.update(event for event in EVENTS if event.encode() in line)

    async def probe(self) -> None:
        """Ask for its health, and weigh it, ten times a second."""
        now = asyncio.get_running_loop().time
        while True:
            self.rss.append(self.resident())
            began = now()
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
                await reader.read()
                writer.close()
            self.health.append(now() - began)
            await asyncio.sleep(0.1)

    async def figure(self, name: str) -> float:
        """One figure of its metrics, summed over the labels."""
        async with httpx.AsyncClient(timeout=30) as caller:
            text = (await caller.get(self.replica.metrics_url)).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


@asynccontextmanager
async def watched(replica: GatewayProcess) -> AsyncIterator[Watched]:
    """A started replica under observation."""
    seen = Watched(replica)
    tasks = [asyncio.create_task(seen.read_log()), asyncio.create_task(seen.probe())]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def slow_replica(folder: Path, redis_url: str, seconds: float) -> AsyncIterator[tuple[Watched, Exchange]]:
    """One replica that has nothing yet, before an exchange whose answers take so long."""
    exchange = Exchange()
    exchange.faults.add(Fault("slow", path=ACCOUNT_PATH, seconds=seconds))
    async with serving(exchange) as url:
        settings = tables(0, url)
        settings["redis"] = {"url": redis_url}
        replica = prepared(folder / "replica", settings)
        try:
            await replica.start()
            async with watched(replica) as seen:
                yield seen, exchange
        finally:
            exchange.release()
            await replica.kill()


def request() -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in bearer().items())
    return f"GET {BTC} HTTP/1.1\r\nHost: gateway\r\n{head}\r\n".encode()


def _connected(port: int, number: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 30, (f"127.0.1.{1 + number % SOURCES}", 0))


def send_and_close(port: int, count: int, sent: bytes) -> None:
    """So many reads, each on a connection of its own that is closed a moment later; a process of its own."""
    waiting: list[socket.socket] = []
    for number in range(count):
        with contextlib.suppress(OSError):
            connection = _connected(port, number)
            connection.sendall(sent)
            waiting.append(connection)
        if len(waiting) >= BATCH:
            waiting.pop(0).close()


async def attack(port: int, count: int) -> float:
    """Have two processes do it; the seconds it took."""
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    attackers = [context.Process(target=send_and_close, args=(port, count // 2, request())) for _ in range(2)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        await asyncio.to_thread(attacker.join)
    return time.monotonic() - began


async def hang_ups(count: int) -> str:
    """Reads that are sent and closed while a refresh is slow."""
    async with _slow(4.5) as (seen, exchange):
        before = seen.resident()
        seconds = await attack(seen.port, count)
        async with asyncio.timeout(60):
            while await seen.figure("coinm_waiting_reads"):
                await asyncio.sleep(0.1)
        noted = seen.events["lease_lost"] + seen.events["redis_away"]
        return (
            f"| {count} reads sent and closed in {seconds:.1f} s, a refresh takes 4.5 s | {before // 1024} "
            f"| {max(seen.rss) // 1024} | {max(seen.health) * 1000:.0f} | {noted} "
            f"| {exchange.calls.count(ACCOUNT_PATH)} |"
        )


async def crowd(count: int) -> str:
    """Callers that wait at once, none of whom hangs up."""
    _allow_descriptors(count + 500)  # also of the replica, which inherits it
    async with _slow(4.5) as (seen, exchange):
        before = seen.resident()
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            answers = pool.submit(asks_at_once, seen.port, count, request())
            statuses, longest = await asyncio.wrap_future(answers)
        noted = seen.events["lease_lost"] + seen.events["redis_away"]
        told = ", ".join(f"{number} with {status}" for status, number in sorted(statuses.items()))
        return (
            f"| {count} callers at once ({told}; longest {longest:.1f} s), a refresh takes 4.5 s "
            f"| {before // 1024} | {max(seen.rss) // 1024} | {max(seen.health) * 1000:.0f} | {noted} "
            f"| {exchange.calls.count(ACCOUNT_PATH)} |"
        )


def asks_at_once(port: int, count: int, sent: bytes) -> tuple[Counter[int], float]:
    """So many reads at once, each on a connection of its own: statuses, and the longest wait; a process of its own."""
    _allow_descriptors(count + 500)
    began, statuses, longest = time.monotonic(), Counter[int](), 0.0
    waiting = selectors.DefaultSelector()
    for number in range(count):
        connection = _connected(port, number)
        connection.sendall(sent)
        waiting.register(connection, selectors.EVENT_READ)
    while waiting.get_map():
        for key, _ in waiting.select():
            connection = cast("socket.socket", key.fileobj)
            statuses[int(connection.recv(65_536).split()[1])] += 1
            longest = time.monotonic() - began
            waiting.unregister(connection)
            connection.close()
    return statuses, longest


async def slow_exchange(seconds: float, latency: float, replicas: int, callers: int) -> str:
    """Callers of every replica, all the while the exchange takes `latency` seconds to answer."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(RedisServer(folder / "redis"))
        started = await stack.enter_async_context(fleet(folder, {"url": server.url}, replicas=replicas, timeout="5s"))
        for number in range(replicas):
            await started.read(number)
        started.exchange.faults.add(Fault("slow", path=ACCOUNT_PATH, seconds=latency))
        calls = started.calls
        async with started.polled(callers) as load:
            await asyncio.sleep(seconds)
        calls = started.calls - calls
    p99 = statistics.quantiles(load.waits, n=100)[98]
    return (
        f"| {latency:g} s for {seconds:g} s | {load.statuses.total()} | {load.failures} | {calls} "
        f"| {statistics.median(load.waits) * 1000:.1f} | {p99 * 1000:.0f} | {max(load.waits) * 1000:.0f} |"
    )


@asynccontextmanager
async def _slow(seconds: float) -> AsyncIterator[tuple[Watched, Exchange]]:
    with tempfile.TemporaryDirectory() as name:
        async with (
            RedisServer(Path(name) / "redis") as server,
            slow_replica(Path(name), server.url, seconds) as started,
        ):
            yield started


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


CALLERS_HEADING = """\
| what callers do | MiB before | MiB at most | longest `/healthz`, ms | `lease_lost`, `redis_away` | account calls |
|---|--:|--:|--:|--:|--:|"""
SLOW_HEADING = """\
| every answer of the exchange takes | requests | not 200 | account calls | median, ms | p99, ms | longest, ms |
|---|--:|--:|--:|--:|--:|--:|"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice(["hang-ups", "crowd", "slow"]), help="This one alone.")
@click.option("--reads", type=click.IntRange(min=2), default=70_000, show_default=True, help="Sent and closed.")
@click.option("--callers", type=click.IntRange(min=1), default=9_000, show_default=True, help="Waiting at once.")
@click.option("--seconds", type=click.FloatRange(min=1), default=200.0, show_default=True, help="Of a slow exchange.")
def main(only: str | None, reads: int, callers: int, seconds: float) -> None:
    """Measure what hostile callers and a slow exchange cost; prints Markdown tables."""
    if only in (None, "hang-ups", "crowd"):
        click.echo(CALLERS_HEADING)
    if only in (None, "hang-ups"):
        click.echo(asyncio.run(hang_ups(reads)))
    if only in (None, "crowd"):
        click.echo(asyncio.run(crowd(callers)))
    if only in (None, "slow"):
        click.echo(SLOW_HEADING)
        click.echo(asyncio.run(slow_exchange(seconds, 3.5, replicas=3, callers=5)))


if __name__ == "__main__":
    main()
