"""A fleet under load while something breaks; as a program, what its callers notice of it.

`python -m tests.fleet.outage` measures every scenario and prints the table of docs/reliability.md.
"""

import asyncio
import contextlib
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click
import httpx
import msgspec

from simulator.exchange import ROUTES, Exchange
from simulator.faults import ACCOUNT_PATH
from simulator.limits import MINUTE_MS
from simulator.server import serving
from tests.fleet.redis_servers import MASTER, RedisServer, SentinelSetup
from tests.process.conftest import GatewayProcess, tables
from tests.support import BTC, bearer, until, write_settings

WEIGHT_LIMIT, WEIGHT_SHARE = 2400, 0.8
"""Of a measured fleet: the defaults."""

Table = Mapping[str, object]


class Load:
    """What callers met who polled every replica: statuses (0: no answer at all) and waits in seconds."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.waits: list[float] = []

    @property
    def failures(self) -> int:
        return self.statuses.total() - self.statuses[200]

    async def poll(self, caller: httpx.AsyncClient, url: str, stopped: asyncio.Event) -> None:
        """Ask every 50 to 100 ms."""
        now = asyncio.get_running_loop().time
        while not stopped.is_set():
            asked, status = now(), 0
            with contextlib.suppress(httpx.TransportError):
                status = (await caller.get(url)).status_code
            self.waits.append(now() - asked)
            self.statuses[status] += 1
            await asyncio.sleep(random.uniform(0.05, 0.1))


class Fleet:
    """Replicas before a simulated exchange, with one Redis between them."""

    def __init__(self, exchange: Exchange, url: str, replicas: Sequence[GatewayProcess]) -> None:
        self.exchange = exchange
        self.exchange_host = url.removeprefix("http://")
        """As it is in the names of Redis keys."""
        self.replicas = replicas
        self.caller = httpx.AsyncClient(headers=bearer(), timeout=30)

    @property
    def calls(self) -> int:
        """How often the exchange was asked for the account."""
        return self.exchange.calls.count(ACCOUNT_PATH)

    @property
    def weight(self) -> int:
        """What the exchange counts for the address this minute."""
        return self.exchange.limits.tally("127.0.0.1", self.exchange.now_ms()).used

    async def read(self, replica: int = 0, cache_control: str = "") -> httpx.Response:
        demand = {"cache-control": cache_control} if cache_control else {}
        return await self.caller.get(self.replicas[replica].url + BTC, headers=demand)

    async def more_calls(self, count: int) -> float:
        """Wait for so many more account calls; the seconds it took."""
        now = asyncio.get_running_loop().time
        began = now()
        await self.exchange.calls.wait_for(ACCOUNT_PATH, self.calls + count)
        return now() - began

    async def until_redis(self, state: str, within: float = 6.0) -> None:
        """Wait until every replica says that its Redis is `ok`, or `degraded`."""

        async def all_say() -> bool:
            return {status["redis"] for status in await self.statuses()} == {state}

        await until(all_say, within, f"every replica's status says {state}")

    async def statuses(self) -> list[dict[str, object]]:
        """`/v1/status` of each replica."""
        answers = [await self.caller.get(f"{replica.url}/v1/status") for replica in self.replicas]
        return [answer.json() for answer in answers]

    @asynccontextmanager
    async def polled(self, callers: int = 2) -> AsyncIterator[Load]:
        """So many callers poll each replica while the block runs."""
        load, stopped = Load(), asyncio.Event()
        urls = [replica.url + BTC for replica in self.replicas for _ in range(callers)]
        polling = [asyncio.create_task(load.poll(self.caller, url, stopped)) for url in urls]
        try:
            yield load
        finally:
            stopped.set()
            await asyncio.gather(*polling)


@asynccontextmanager
async def fleet(folder: Path, redis: Table, *, replicas: int = 3, **exchange_table: object) -> AsyncIterator[Fleet]:
    """Started replicas of the default windows; `exchange_table` adds keys of the settings' `[exchange]`.

    The exchange's minute has just begun, so that no count is cut in two by the next one in a short test.
    """
    exchange = Exchange()
    exchange.clock.skew_ms = MINUTE_MS - exchange.now_ms() % MINUTE_MS
    async with serving(exchange) as url:
        own = {"expected_replicas": replicas, "timeout": "2s"} | exchange_table
        processes = [_replica(folder / f"replica-{number}", redis, url, own) for number in range(replicas)]
        started = Fleet(exchange, url, processes)
        try:
            await asyncio.gather(*(process.start() for process in processes))
            yield started
        finally:
            exchange.release()  # its server waits for answers under way
            await started.caller.aclose()
            await asyncio.gather(*(process.kill() for process in processes))


def _replica(folder: Path, redis: Table, exchange_url: str, exchange_table: Table) -> GatewayProcess:
    folder.mkdir()
    settings = tables(0, exchange_url)
    settings["redis"] = dict(redis)
    settings["exchange"] |= exchange_table
    return GatewayProcess(write_settings(folder, **settings), settings, measured=False)


class Stage(msgspec.Struct, frozen=True):
    """What a scenario works on, and for how many seconds it breaks something."""

    fleet: Fleet
    server: RedisServer
    sentinels: SentinelSetup | None
    seconds: float


async def _killed(stage: Stage) -> None:
    await stage.server.kill()
    await asyncio.sleep(stage.seconds)
    await stage.server.start()


async def _emptied(stage: Stage) -> None:
    await stage.server.kill()
    await stage.server.start()


async def _hung(stage: Stage) -> None:
    stage.server.hang()
    await asyncio.sleep(stage.seconds)
    stage.server.resume()


async def _failed_over(stage: Stage) -> None:
    assert stage.sentinels is not None
    await stage.server.kill()
    await stage.sentinels.failed_over()


async def _exchange_failing(stage: Stage) -> None:
    stage.fleet.exchange.faults.add("503-unavailable")
    await asyncio.sleep(stage.seconds)
    stage.fleet.exchange.faults.clear()


class Scenario(msgspec.Struct, frozen=True):
    """One thing that breaks. It works for a while before and after that."""

    title: str
    act: Callable[[Stage], Awaitable[None]]
    broken: float = 0.25
    """The part of the time in which it is broken."""
    seconds: float = 20.0
    by_sentinel: bool = False

    def moments(self, seconds: float) -> tuple[float, float]:
        """How long it works at first, and how long it is broken then."""
        return seconds * (1 - self.broken) / 3, seconds * self.broken


SCENARIOS = {
    "killed": Scenario("Redis killed, started empty {:g} s later", _killed),
    "hung": Scenario("Redis hung for {:g} s", _hung),
    "emptied": Scenario("Redis restarted empty at once", _emptied),
    "failover": Scenario("Redis master killed, failed over by Sentinel", _failed_over, by_sentinel=True),
    "exchange": Scenario("the exchange answers 503 for {:g} s", _exchange_failing, broken=2 / 3, seconds=30.0),
}


class Measured(msgspec.Struct, frozen=True):
    """One line of the table."""

    title: str
    requests: int
    failures: int
    calls: int
    weight: int
    longest: float
    median: float

    def line(self) -> str:
        share = f"{WEIGHT_LIMIT * WEIGHT_SHARE:.0f}"
        figures = f"{self.requests} | {self.failures} | {self.calls} | {self.weight} of {share}"
        return f"| {self.title} | {figures} | {self.longest * 1000:.0f} | {self.median * 1000:.1f} |"


HEADING = """\
| what breaks | requests | not 200 | account calls | weight in the busiest minute | longest wait, ms | median, ms |
|---|--:|--:|--:|--:|--:|--:|"""


async def measure(scenario: Scenario, seconds: float, replicas: int, callers: int) -> Measured:
    """Carry a scenario out, with servers of its own."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, sentinels, redis = await _redis(stack, folder / "redis", by_sentinel=scenario.by_sentinel)
        limits = {"weight_limit": WEIGHT_LIMIT, "weight_share": WEIGHT_SHARE}
        started = await stack.enter_async_context(fleet(folder, redis, replicas=replicas, **limits))
        before, broken = scenario.moments(seconds)
        for number in range(replicas):
            await started.read(number)  # a replica's first read of all waits for the exchange; no outage does that
        async with started.polled(callers) as load:
            now = asyncio.get_running_loop().time
            end = now() + seconds
            await asyncio.sleep(before)
            await scenario.act(Stage(started, server, sentinels, broken))
            await asyncio.sleep(max(before, end - now()))
    return Measured(
        title=scenario.title.format(broken),
        requests=load.statuses.total(),
        failures=load.failures,
        calls=started.calls,
        weight=busiest_minute(started.exchange),
        longest=max(load.waits),
        median=statistics.median(load.waits),
    )


def busiest_minute(exchange: Exchange) -> int:
    """The most weight that was used in one of the exchange's minutes."""
    minutes: Counter[int] = Counter()
    for call in exchange.calls.kept():
        minutes[call.at // MINUTE_MS] += ROUTES[call.path].weight
    return max(minutes.values())


async def _redis(
    stack: AsyncExitStack, folder: Path, *, by_sentinel: bool
) -> tuple[RedisServer, SentinelSetup | None, Table]:
    """The server that is to break, and the settings to reach it."""
    if by_sentinel:
        setup = await stack.enter_async_context(SentinelSetup(folder))
        return setup.master, setup, {"sentinels": setup.addresses, "master": MASTER}
    server = await stack.enter_async_context(RedisServer(folder))
    return server, None, {"url": server.url}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice(list(SCENARIOS)), help="This scenario alone.")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long a scenario takes, instead of its own time.")
@click.option("--replicas", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--callers", type=click.IntRange(min=1), default=5, show_default=True, help="Callers of each replica.")
def main(only: str | None, seconds: float | None, replicas: int, callers: int) -> None:
    """Measure what callers notice when Redis or the exchange breaks; prints a Markdown table.

    Replicas are real processes, before a real Redis and the simulated exchange. Each caller asks every 50 to 100 ms.
    """
    click.echo(HEADING)
    for name, scenario in SCENARIOS.items():
        if only in (None, name):
            length = seconds or scenario.seconds
            click.echo(f"{name}: {replicas} replicas, {callers} callers each, {length:g} s", err=True)
            click.echo(asyncio.run(measure(scenario, length, replicas, callers)).line())


if __name__ == "__main__":
    main()
