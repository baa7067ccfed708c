"""How costs grow: with an account's rows, with accounts, with replicas."""

import asyncio
import time
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import msgspec

from bench.exchange import statement_of
from bench.measure import CONNECTIONS, cost, median
from bench.processes import Request, load
from bench.report import Row, grid
from bench.world import ASSET, Ground, Setup, Target, ground
from service.account.parsing import parse
from service.account.snapshot import Snapshot
from simulator.exchange import Exchange

ROWS = (30, 300, 3_000)
ACCOUNTS = (1, 20, 200)
REPLICAS = (1, 2, 4)
ROUNDS = 5
"""Of the accounts with more or fewer rows, interleaved."""
PARSES = 50
"""Of one body: the fastest counts, for everything else on the machine only adds."""

Say = Callable[[str], None]


class Seen(msgspec.Struct):
    """A gateway's costs, round by round: requests/s, and microseconds of CPU a request."""

    ground: Ground
    target: Target
    costs: list[tuple[float, float]] = []


async def by_rows(folder: Path, seconds: float, say: Say) -> list[str]:
    """An account with few positions beside one with many."""
    async with AsyncExitStack() as stack:
        seen = {rows: await _with_rows(stack, folder / f"rows-{rows}", rows) for rows in ROWS}
        for each in seen.values():
            await load(each.target.request, 1, CONNECTIONS)
        for number in range(1, ROUNDS + 1):
            for rows, each in seen.items():
                each.costs.append(await cost(each.target, each.target.request, seconds))
                say(f"round {number} of {ROUNDS}: {rows} rows: {each.costs[-1][1]:.1f} µs")
        refreshes = {rows: await _refreshing(each.ground, seconds, say) for rows, each in seen.items()}
    fewest = seen[ROWS[0]].costs
    lines = []
    for rows, each in seen.items():
        milliseconds, kib = parse_cost(statement_of(Exchange(), rows))
        rate, cpu = (median([found[part] for found in each.costs]) for part in (0, 1))
        ratio = median([own[1] / few[1] for own, few in zip(each.costs, fewest, strict=True)])
        hit = f"{rate:,.0f}", f"{cpu:.1f}", f"{ratio:.2f}"
        lines.append((f"{rows:,}", *hit, f"{refreshes[rows]:.1f}", f"{milliseconds:.2f}", f"{kib:,.0f}"))
    slope = (refreshes[ROWS[-1]] - refreshes[ROWS[0]]) * 1000 / (ROWS[-1] - ROWS[0])
    head = "position rows|hit, requests/s|hit, CPU µs|to the fewest|refresh, CPU ms|of it parsing|snapshot, KiB"
    return [
        *grid(head, lines),
        "",
        f"A refresh costs {slope:.1f} µs more for each row more; the read that causes it is counted in.",
    ]


async def _with_rows(stack: AsyncExitStack, folder: Path, rows: int) -> Seen:
    shared = await stack.enter_async_context(ground(folder, rows))
    process, url = await stack.enter_async_context(shared.gateway())
    return Seen(shared, Target("", process, Request(url + ASSET, (shared.authorization,))))


async def _refreshing(shared: Ground, seconds: float, say: Say) -> float:
    """Milliseconds of the gateway's CPU that a refresh takes, whole: asked, checked, shared in Redis."""
    async with shared.gateway(Setup(fresh_for="10ms")) as (process, url):
        request = Request(url + ASSET, (shared.authorization,))
        await load(request, 1, 1, pause=20)
        calls, before = await shared.calls(), process.cpu
        await load(request, 2 * seconds, 1, pause=20)
        cost = (process.cpu - before) * 1000 / (await shared.calls() - calls)
    say(f"a refresh: {cost:.1f} ms")
    return cost


def parse_cost(body: bytes) -> tuple[float, float]:
    """Milliseconds to check and index a body, and KiB that the snapshot takes."""
    times = []
    for _ in range(PARSES):
        began = time.perf_counter()
        _snapshot(body)
        times.append(time.perf_counter() - began)
    tracemalloc.start()
    kept = _snapshot(bytes(bytearray(body)))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return min(times) * 1000, size / 1024


def _snapshot(body: bytes) -> Snapshot:
    return parse(body, 0, 0, {})


async def by_accounts(folder: Path, seconds: float, say: Say) -> list[str]:
    """One gateway that keeps many accounts, all of them read once."""
    lines = []
    for accounts in ACCOUNTS:
        lines.append(await _with_accounts(folder / f"accounts-{accounts}", accounts, seconds))
        say(f"{accounts} accounts: {lines[-1]}")
    return grid("accounts|hit, requests/s|hit, CPU µs|resident, MiB", lines)


async def _with_accounts(folder: Path, accounts: int, seconds: float) -> Row:
    async with ground(folder) as shared, shared.gateway(Setup(accounts=accounts)) as (process, url):
        headers = {"authorization": f"Bearer {shared.token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
            for each in (await client.get("/v1/accounts")).raise_for_status().json():
                (await client.get(f"/v1/accounts/{each['account']}/assets")).raise_for_status()
        request = Request(url + ASSET, (shared.authorization,))
        await load(request, 1, CONNECTIONS)
        rate, cpu = await cost(Target("", process, request), request, seconds)
        return f"{accounts:,}", f"{rate:,.0f}", f"{cpu:.0f}", f"{process.resident / 2**20:.0f}"


async def by_replicas(folder: Path, seconds: float, say: Say) -> list[str]:
    """A fleet under load: the exchange is asked no more often."""
    lines = []
    for replicas in REPLICAS:
        lines.append(await _with_replicas(folder / f"replicas-{replicas}", replicas, seconds))
        say(f"{replicas} replicas: {lines[-1]}")
    return grid("replicas|reads/s, all on one core|account calls/s", lines)


async def _with_replicas(folder: Path, replicas: int, seconds: float) -> Row:
    async with ground(folder) as shared, AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(shared.gateway(Setup(fleet="one"))) for _ in range(replicas)]
        requests = [Request(url + ASSET, (shared.authorization,)) for _, url in fleet]
        await asyncio.gather(*(load(request, 1, CONNECTIONS // replicas) for request in requests))
        calls, began = await shared.calls(), time.monotonic()
        loads = await asyncio.gather(*(load(request, 3 * seconds, CONNECTIONS // replicas) for request in requests))
        rate = (await shared.calls() - calls) / (time.monotonic() - began)
        return f"{replicas}", f"{sum(each.rate for each in loads):,.0f}", f"{rate:.2f}"
