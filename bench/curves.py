"""How costs grow: with an account's rows, with accounts, with replicas, with a neighbour on the core."""

import asyncio
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import msgspec

from bench.exchange import statement_of
from bench.measure import CONNECTIONS, cost
from bench.processes import Process, Request, load
from bench.world import Setup, Target, ground
from service.account.selection import Views
from service.account.snapshot import Snapshot, parse
from service.settings import Scheduling
from simulator.exchange import Exchange

ROWS = (30, 300, 3_000)
ACCOUNTS = (1, 20, 200)
REPLICAS = (1, 2, 4)
SCHEDULINGS: tuple[Scheduling, ...] = ("batch", "normal")
FEW, NOW_AND_THEN = 4, 20
"""Connections, and ms between two requests of each: some 200 a second, as a desk's services ask."""
BUSY = "while True: pass"
PARSES = 50
"""Of one body: the fastest counts, for everything else on the machine only adds."""

Say = Callable[[str], None]
Row = tuple[str, ...]


class Curves(msgspec.Struct):
    """Rows of the tables."""

    rows: list[Row]
    accounts: list[Row]
    replicas: list[Row]
    neighbours: list[Row]

    def tables(self) -> list[list[str]]:
        return [
            _table("position rows|hit, requests/s|hit, CPU µs|parse a refresh, ms|snapshot in memory, KiB", self.rows),
            _table("accounts|hit, requests/s|hit, CPU µs|resident, MiB", self.accounts),
            _table("replicas|reads/s, all on one core|account calls/s", self.replicas),
            _table("server.scheduling|alone: p50, ms|p99, ms|beside a busy process: p50, ms|p99, ms", self.neighbours),
        ]


async def curves(folder: Path, seconds: float, say: Say) -> Curves:
    found = Curves([], [], [], [])
    for rows in ROWS:
        found.rows.append(await _by_rows(folder / f"rows-{rows}", rows, seconds))
        say(f"{rows} rows: {found.rows[-1]}")
    for accounts in ACCOUNTS:
        found.accounts.append(await _by_accounts(folder / f"accounts-{accounts}", accounts, seconds))
        say(f"{accounts} accounts: {found.accounts[-1]}")
    for replicas in REPLICAS:
        found.replicas.append(await _by_replicas(folder / f"replicas-{replicas}", replicas, seconds))
        say(f"{replicas} replicas: {found.replicas[-1]}")
    for scheduling in SCHEDULINGS:
        found.neighbours.append(await _by_neighbours(folder / f"scheduled-{scheduling}", scheduling, seconds))
        say(f"scheduling {scheduling}: {found.neighbours[-1]}")
    return found


async def _by_rows(folder: Path, rows: int, seconds: float) -> Row:
    async with ground(folder, rows) as shared, shared.gateway() as (process, url):
        request = Request(f"{url}/v1/accounts/main/assets/BTC", (shared.authorization,))
        await load(request, 1, CONNECTIONS)
        rate, cpu = await cost(Target("", process, request), request, seconds)
    milliseconds, kib = refresh_cost(statement_of(Exchange(), rows))
    return f"{rows:,}", f"{rate:,.0f}", f"{cpu:.0f}", f"{milliseconds:.2f}", f"{kib:,.0f}"


def refresh_cost(body: bytes) -> tuple[float, float]:
    """Milliseconds to check and index a body, and KiB that the snapshot takes."""
    times = []
    for _ in range(PARSES):
        began = time.perf_counter()
        _snapshot(body)
        times.append(time.perf_counter() - began)
    tracemalloc.start()
    kept = Views(_snapshot(bytes(bytearray(body))))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return min(times) * 1000, size / 1024


def _snapshot(body: bytes) -> Snapshot:
    return parse(body, 0, {})


async def _by_accounts(folder: Path, accounts: int, seconds: float) -> Row:
    async with ground(folder) as shared, shared.gateway(Setup(accounts=accounts)) as (process, url):
        headers = {"authorization": f"Bearer {shared.token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
            for each in (await client.get("/v1/accounts")).raise_for_status().json():
                (await client.get(f"/v1/accounts/{each['account']}/assets")).raise_for_status()
        request = Request(f"{url}/v1/accounts/main/assets/BTC", (shared.authorization,))
        await load(request, 1, CONNECTIONS)
        rate, cpu = await cost(Target("", process, request), request, seconds)
        return f"{accounts:,}", f"{rate:,.0f}", f"{cpu:.0f}", f"{process.resident / 2**20:.0f}"


async def _by_replicas(folder: Path, replicas: int, seconds: float) -> Row:
    async with ground(folder) as shared, AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(shared.gateway(Setup(fleet="one"))) for _ in range(replicas)]
        requests = [Request(f"{url}/v1/accounts/main/assets/BTC", (shared.authorization,)) for _, url in fleet]
        await asyncio.gather(*(load(request, 1, CONNECTIONS // replicas) for request in requests))
        calls, began = await shared.calls(), time.monotonic()
        loads = await asyncio.gather(*(load(request, 3 * seconds, CONNECTIONS // replicas) for request in requests))
        rate = (await shared.calls() - calls) / (time.monotonic() - began)
        return f"{replicas}", f"{sum(each.rate for each in loads):,.0f}", f"{rate:.2f}"


async def _by_neighbours(folder: Path, scheduling: Scheduling, seconds: float) -> Row:
    """What few callers wait for, on a core of its own and on one that another process fills."""
    async with ground(folder) as shared, shared.gateway(Setup(scheduling=scheduling)) as (_, url):
        request = Request(f"{url}/v1/accounts/main/assets/BTC", (shared.authorization,))
        await load(request, 1, CONNECTIONS)
        alone = await load(request, 3 * seconds, FEW, NOW_AND_THEN)
        async with Process(sys.executable, "-c", BUSY):
            beside = await load(request, 3 * seconds, FEW, NOW_AND_THEN)
    return (scheduling, *(f"{micros / 1000:.2f}" for each in (alone, beside) for micros in (each.p50, each.p99)))


def _table(head: str, rows: list[Row]) -> list[str]:
    columns = head.split("|")
    lines = [f"| {' | '.join(columns)} |", f"|{'--:|' * len(columns)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
