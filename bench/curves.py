"""How a hit's cost grows: with an account's rows, with accounts, with replicas."""

import asyncio
import time
import tracemalloc
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from bench.exchange import statement_of
from bench.measure import CONNECTIONS, Run, cost, median
from bench.processes import Request, load
from bench.report import Row, grid
from bench.world import ASSET, Setup, Target, bench_servers
from service.account.documents import ACCOUNT
from service.account.parsing import parse
from simulator.exchange import Exchange

ROWS = (30, 300, 3_000)
ACCOUNTS = (1, 20, 200)
REPLICAS = (1, 2, 4)


class Seen(msgspec.Struct):
    """A gateway's costs, round by round: requests/s, and microseconds of CPU a request."""

    target: Target
    costs: list[tuple[float, float]] = []


async def by_rows(run: Run) -> str:
    """An account with few positions beside one with many."""
    async with AsyncExitStack() as stack:
        seen = {rows: await _with_rows(stack, run.folder / f"rows-{rows}", rows) for rows in ROWS}
        for each in seen.values():
            await load(each.target.request, 1, CONNECTIONS)
        for number in range(1, run.rounds + 1):
            for rows, each in seen.items():
                each.costs.append(await cost(each.target, run.seconds))
                run.say(f"round {number} of {run.rounds}: {rows:,} rows: {each.costs[-1][1]:.1f} µs")
    fewest = seen[ROWS[0]].costs
    lines = []
    for rows, each in seen.items():
        rate, cpu = (median([found[part] for found in each.costs]) for part in (0, 1))
        ratio = median([own[1] / few[1] for own, few in zip(each.costs, fewest, strict=True)])
        kib = size_of(statement_of(Exchange(), rows)) / 1024
        lines.append((f"{rows:,}", f"{rate:,.0f}", f"{cpu:.1f}", f"{ratio:.2f}", f"{kib:,.0f}"))
    return f"""## Hits in large accounts

One asset's row, of accounts with more or fewer position rows: {run.rounds} rounds of {run.seconds:.0f} s at full speed,
interleaved.

{grid("position rows|hit, requests/s|hit, CPU µs|to the fewest|snapshot in memory, KiB", lines)}
"""


async def _with_rows(stack: AsyncExitStack, folder: Path, rows: int) -> Seen:
    servers = await stack.enter_async_context(bench_servers(folder, rows))
    gateway = await stack.enter_async_context(servers.gateway())
    return Seen(Target("", gateway.process, Request(gateway.url + ASSET, (servers.authorization,))))


def size_of(body: bytes) -> int:
    """Bytes that a snapshot takes, its body included."""
    tracemalloc.start()
    kept = parse(ACCOUNT, bytes(bytearray(body)), 0, 0, {})
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return size


async def by_accounts(run: Run) -> str:
    """One gateway that keeps many accounts, all of them read once."""
    lines = list[Row]()
    for accounts in ACCOUNTS:
        lines.append(await _with_accounts(run, accounts))
        run.say(f"{accounts} accounts: {lines[-1]}")
    return f"""## Hits beside many accounts

One asset of one account, at full speed, of a gateway that has read so many others once.

{grid("accounts|hit, requests/s|hit, CPU µs|resident, MiB", lines)}
"""


async def _with_accounts(run: Run, accounts: int) -> Row:
    setup = Setup(accounts=accounts)
    async with bench_servers(run.folder / f"accounts-{accounts}") as servers, servers.gateway(setup) as gateway:
        async with servers.client(gateway.url) as client:
            for name in setup.names:
                (await client.get(f"/v1/accounts/{name}/assets")).raise_for_status()
        request = Request(gateway.url + ASSET, (servers.authorization,))
        await load(request, 1, CONNECTIONS)
        rate, cpu = await cost(Target("", gateway.process, request), run.seconds)
        return f"{accounts:,}", f"{rate:,.0f}", f"{cpu:.0f}", f"{gateway.process.resident / 2**20:.0f}"


async def by_replicas(run: Run) -> str:
    """A fleet under load: the exchange is asked no more often."""
    lines = list[Row]()
    for replicas in REPLICAS:
        lines.append(await _with_replicas(run, replicas))
        run.say(f"{replicas} replicas: {lines[-1]}")
    return f"""## Replicas under load

One asset at full speed, of all replicas at once, which share one core here.

{grid("replicas|reads/s, all on one core|account calls/s", lines)}
"""


async def _with_replicas(run: Run, replicas: int) -> Row:
    async with bench_servers(run.folder / f"replicas-{replicas}") as servers, AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(servers.gateway(Setup(fleet="one"))) for _ in range(replicas)]
        requests = [Request(each.url + ASSET, (servers.authorization,)) for each in fleet]
        await asyncio.gather(*(load(request, 1, CONNECTIONS // replicas) for request in requests))
        calls, began = await servers.calls(), time.monotonic()
        loads = await asyncio.gather(*(load(each, 3 * run.seconds, CONNECTIONS // replicas) for each in requests))
        rate = (await servers.calls() - calls) / (time.monotonic() - began)
        return f"{replicas}", f"{sum(each.rate for each in loads):,.0f}", f"{rate:.2f}"
