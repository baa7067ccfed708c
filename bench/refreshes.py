"""What refreshes cost: one of an account of any size, and all those of a fleet that keeps many accounts."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec

from bench.curves import ROWS
from bench.exchange import statement_of
from bench.measure import Run, median
from bench.processes import STARTUP_S, Process, Request, load, python
from bench.report import Row, grid, spread
from bench.world import ASSET, BenchServers, Gateway, Setup, bench_servers
from service.account.documents import ACCOUNT
from service.account.parsing import parse
from simulator.exchange import Exchange

REPLICAS = 3
FRESH_FOR = "10ms"
"""So short that nearly every read of the requesting replica finds its snapshot too old."""
READ_EVERY_MS = 100
"""On an average: some nine refreshes a second, which three replicas on one core manage at every size."""
PARSES = 50
"""Of one body: the fastest counts, for everything else on the machine only adds."""
WARM_CALLS = 3
"""Refreshes of the poller before its CPU counts: until then it imports and connects."""

ACCOUNTS = 200
FRESH_FOR_S = 5
CONNECTIONS, PAUSE_MS = 4, 60
"""Of the reads of each replica: together they read each account once a second."""


class Refresh(msgspec.Struct, frozen=True):
    """Milliseconds of CPU that one refresh of the account takes."""

    requesting: float
    """On the replica that requests it."""
    adopting: float
    """On one of the others."""
    poller: float


async def by_size(run: Run) -> str:
    """One refresh, on the replica that requests it and on those that adopt it, beside a process that polls."""
    lines, medians = list[Row](), list[tuple[float, float]]()
    for rows in ROWS:
        body = statement_of(Exchange(), rows)
        requesting, adopting, poller = zip(*map(msgspec.structs.astuple, await _rounds(run, rows)), strict=True)
        medians.append((median(requesting), median(adopting)))
        ratios = [
            median([own / peer for own, peer in zip(each, poller, strict=True)]) for each in (requesting, adopting)
        ]
        costs = [spread(each, ".2f") for each in (requesting, adopting, poller)]
        cells = (*costs, *(f"{each:.2f}" for each in (*ratios, check_cost(body))))
        lines.append((f"{rows:,}", f"{len(body) / 1024:,.0f}", *cells))
    few, *_, many = medians
    slopes = [(high - low) * 1000 / (ROWS[-1] - ROWS[0]) for low, high in zip(few, many, strict=True)]
    head = (
        "position rows|body, KiB|requesting replica, CPU ms|adopting replica, CPU ms|poller, CPU ms"
        "|requesting to poller|adopting to poller|to check a body, CPU ms"
    )
    return f"""## A refresh

Milliseconds of one process's CPU for each refresh. Three replicas share an account. One is read so that it requests
some nine refreshes a second; the two others are read as often, but start none (`only-if-cached`): they adopt what the
first has shared in Redis. Their reads and everything else that they do meanwhile are counted in. The poller is what a
team would write itself: a process that requests the same body with httpx as often, parses it with `json`, and puts it
into Redis. It signs and checks nothing, has no lease, and whoever reads what it puts there parses it again. Rounds of
{run.seconds:.0f} s ({run.rounds}), fleet and poller in turn.

{grid(head, lines)}

Each further row costs the replica that requests it {slopes[0]:.1f} µs, and one that adopts it {slopes[1]:.1f} µs.
"""


async def _rounds(run: Run, rows: int) -> list[Refresh]:
    rounds = list[Refresh]()
    async with bench_servers(run.folder / f"refresh-{rows}", rows) as servers, AsyncExitStack() as stack:
        setup = Setup(fresh_for=FRESH_FOR, fleet="three")
        fleet = [await stack.enter_async_context(servers.gateway(setup)) for _ in range(REPLICAS)]
        for number in range(1, run.rounds + 1):
            rounds.append(await _round(servers, fleet, run.seconds))
            costs = ", ".join(f"{each:.2f} ms" for each in msgspec.structs.astuple(rounds[-1]))
            run.say(f"round {number} of {run.rounds}: {rows:,} rows: requesting, adopting, poller: {costs}")
    return rounds


async def _round(servers: BenchServers, fleet: Sequence[Gateway], seconds: float) -> Refresh:
    requesting, *adopting = fleet
    read = Request(requesting.url + ASSET, (servers.authorization,))
    headers = (servers.authorization, "Cache-Control: only-if-cached")  # fails unless what was adopted is young
    reads = [read, *(Request(each.url + ASSET, headers) for each in adopting)]
    await load(read, 1, 1, READ_EVERY_MS)  # so that the others have a snapshot to begin with
    calls, began, before = await servers.calls(), time.monotonic(), [each.process.cpu for each in fleet]
    await asyncio.gather(*(load(each, seconds, 1, READ_EVERY_MS) for each in reads))
    calls = await servers.calls() - calls
    first, *others = ((each.process.cpu - cpu) * 1000 / calls for each, cpu in zip(fleet, before, strict=True))
    interval_s = (time.monotonic() - began) / calls
    return Refresh(first, sum(others) / len(others), await _polling(servers, interval_s, seconds))


async def _polling(servers: BenchServers, interval_s: float, seconds: float) -> float:
    """Milliseconds of CPU for each refresh of a process that polls."""
    warm = await servers.calls() + WARM_CALLS
    async with Process(*python("bench.peers.poller", servers.exchange_url, servers.redis, interval_s)) as poller:
        async with asyncio.timeout(STARTUP_S):
            while await servers.calls() < warm:  # noqa: ASYNC110 - another process sets no events here
                await asyncio.sleep(interval_s)
        calls, before = await servers.calls(), poller.cpu
        await asyncio.sleep(seconds)
        return (poller.cpu - before) * 1000 / (await servers.calls() - calls)


def check_cost(body: bytes) -> float:
    """Milliseconds of CPU to check a body and find its rows."""
    times = []
    for _ in range(PARSES):
        began = time.process_time()
        parse(ACCOUNT, body, 0, 0, {})
        times.append(time.process_time() - began)
    return min(times) * 1000


async def of_many_accounts(run: Run) -> str:
    """A fleet that keeps many accounts, all of which are read all the time."""
    setup = Setup(accounts=ACCOUNTS, fresh_for=f"{FRESH_FOR_S}s", fleet="many")
    paths = [f"/v1/accounts/{name}/assets/BTC" for name in setup.names]
    async with bench_servers(run.folder / "many") as servers, AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(servers.gateway(setup)) for _ in range(REPLICAS)]
        async with servers.client(fleet[0].url) as client:
            for path in paths:  # spread over the window, and so are all refreshes after it
                (await client.get(path)).raise_for_status()
                await asyncio.sleep(FRESH_FOR_S / ACCOUNTS)
        requests = list[Request]()
        for number, each in enumerate(fleet):
            first = number * ACCOUNTS // REPLICAS  # each begins elsewhere, so that an account's reads are spread too
            requests.append(Request(each.url, (servers.authorization,), paths[first:] + paths[:first]))
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(load(request, FRESH_FOR_S + 10 * run.seconds + 1, CONNECTIONS, PAUSE_MS))
            await asyncio.sleep(FRESH_FOR_S)
            before = [await each.count("coinm_refreshes_total", outcome="fetched") for each in fleet]
            calls, began, idle = await servers.calls(), time.monotonic(), [each.process.cpu for each in fleet]
            await asyncio.sleep(10 * run.seconds)
            span_s, busy = time.monotonic() - began, [each.process.cpu for each in fleet]
            calls = await servers.calls() - calls
            after = [await each.count("coinm_refreshes_total", outcome="fetched") for each in fleet]
    fetched = [end - start for start, end in zip(before, after, strict=True)]
    cores = [(end - start) / span_s for start, end in zip(idle, busy, strict=True)]
    lines = [
        (f"{number}", f"{each / sum(fetched):.0%}", f"{used:.2f}")
        for number, (each, used) in enumerate(zip(fetched, cores, strict=True), 1)
    ]
    run.say(f"{ACCOUNTS} accounts: part of the refreshes, and cores, of each replica: {lines}")
    return f"""## A fleet with many accounts

{ACCOUNTS} accounts with `fresh_for = "{FRESH_FOR_S}s"` on three replicas. Each account is read once a second, on one
replica after another, so that it is refreshed when it is {FRESH_FOR_S} s old or little later, which makes
{calls / span_s:.1f} account calls a second in all; measured for {span_s:.0f} s. Each replica adopts what the others
request.

{grid("replica|of the refreshes it requested|CPU, cores", lines)}
"""
