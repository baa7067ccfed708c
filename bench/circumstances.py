"""How the gateway starts, and how it fares beside scrapes, and on a core that is not its own."""

import asyncio
import sys
import time

import httpx

from bench.measure import CONNECTIONS, Run, at_half, cost, median
from bench.processes import Load, Process, Request, load
from bench.report import Row, grid, spread
from bench.world import ASSET, Setup, Target, bench_servers
from service.access import tokens
from service.settings import Scheduling

STARTS = 5
SCHEDULINGS: tuple[Scheduling, ...] = ("batch", "normal")
FEW, NOW_AND_THEN_MS = 4, 20
"""Connections, and the time between two requests of each: some 200 a second, as a desk's services ask."""
BUSY = "while True: pass"
CLIENTS, ACCOUNTS = 50, 10
"""Of the gateway that is scraped: each client has read each account, and each pair has its series."""
SCRAPE_EVERY_S = 1.0
OPEN_METRICS = "application/openmetrics-text;version=1.0.0"
"""What Prometheus prefers."""


async def starting(run: Run) -> str:
    """How soon it is ready after its command was given, and what it has resident before anybody asks."""
    seconds, cpu, resident = list[float](), list[float](), list[float]()
    async with bench_servers(run.folder / "starts") as servers:
        for number in range(1, STARTS + 1):
            began = time.perf_counter()
            async with servers.gateway() as gateway:
                seconds.append(time.perf_counter() - began)
                cpu.append(gateway.process.cpu)
                resident.append(gateway.process.resident / 2**20)
            run.say(f"start {number} of {STARTS}: {seconds[-1]:.2f} s, {cpu[-1]:.2f} s CPU, {resident[-1]:.0f} MiB")
    figures = grid(
        "ready after, s|CPU until then, s|resident when idle, MiB",
        [(spread(seconds, ".2f"), spread(cpu, ".2f"), spread(resident, ".0f"))],
    )
    return f"""## A start

{STARTS} starts, one after the other, of a gateway with one account.

{figures}
"""


async def beside_others(run: Run) -> str:
    """What few callers wait for on a core of its own, and on one that another process fills."""
    lines = list[Row]()
    for scheduling in SCHEDULINGS:
        setup = Setup(scheduling=scheduling)
        async with bench_servers(run.folder / scheduling) as servers, servers.gateway(setup) as gateway:
            request = Request(gateway.url + ASSET, (servers.authorization,))
            await load(request, 1, CONNECTIONS)
            alone = await load(request, 3 * run.seconds, FEW, NOW_AND_THEN_MS)
            async with Process(sys.executable, "-c", BUSY):
                beside = await load(request, 3 * run.seconds, FEW, NOW_AND_THEN_MS)
        lines.append((scheduling, *(f"{each:.2f}" for each in (*_waited(alone)[:2], *_waited(beside)[:2]))))
        run.say(f"scheduling {lines[-1]}")
    head = "server.scheduling|alone: p50, ms|p99, ms|beside a busy process: p50, ms|p99, ms"
    return f"""## On a core of its own, and beside a busy process

200 requests a second. A gateway that is scheduled normally interrupts a neighbour that fills the core; one in batches
waits for its turn.

{grid(head, lines)}
"""


async def beside_scrapes(run: Run) -> str:
    """Whether readers notice that Prometheus scrapes a gateway with many series."""
    others = tuple(tokens.generate() for _ in range(CLIENTS - 1))
    setup = Setup(accounts=ACCOUNTS, tokens=others)
    quiet, scraped, took, sizes = list[Load](), list[Load](), list[float](), list[int]()
    async with bench_servers(run.folder / "scrapes") as servers, servers.gateway(setup) as gateway:
        for token in (servers.token, *others):
            async with servers.client(gateway.url, token) as client:
                for name in setup.names:
                    (await client.get(f"/v1/accounts/{name}/assets/BTC")).raise_for_status()
        request, seconds = Request(gateway.url + ASSET, (servers.authorization,)), 2 * run.seconds

        async def scrape() -> None:
            async with httpx.AsyncClient(trust_env=False, headers={"accept": OPEN_METRICS}) as prometheus:
                for _ in range(round(seconds / SCRAPE_EVERY_S)):
                    await asyncio.sleep(SCRAPE_EVERY_S / 2)
                    began = time.perf_counter()
                    sizes.append(len((await prometheus.get(gateway.metrics_url)).raise_for_status().content))
                    took.append(time.perf_counter() - began)
                    await asyncio.sleep(max(0, SCRAPE_EVERY_S / 2 - took[-1]))

        await load(request, 1, CONNECTIONS)
        rate, _ = await cost(Target("", gateway.process, request), run.seconds)
        for number in range(1, run.rounds + 1):
            quiet.append(await at_half(request, rate, seconds))
            scraped.append((await asyncio.gather(at_half(request, rate, seconds), scrape()))[0])
            tails = f"p99 {quiet[-1].p99 / 1000:.2f} ms, {scraped[-1].p99 / 1000:.2f} ms beside scrapes"
            run.say(f"round {number} of {run.rounds}: {tails}")
    ratio = median([own.p99 / other.p99 for own, other in zip(scraped, quiet, strict=True)])
    lines = [
        (name, *(f"{median(each):.2f}" for each in zip(*map(_waited, loads), strict=True)), compared)
        for name, loads, compared in (("none", quiet, "1.00"), ("one a second", scraped, f"{ratio:.2f}"))
    ]
    return f"""## Reads beside scrapes

{CLIENTS} clients have each read {ACCOUNTS} accounts. One asset at nearly half of the rate that the gateway reached,
without scrapes of `/metrics` and with one each second: {run.rounds} rounds of {seconds:.0f} s each, in turn. A scrape
is of {median(sizes) / 1024:,.0f} KiB and takes {median(took) * 1000:.0f} ms.

{grid("scrapes|p50, ms|p99, ms|p99.9, ms|p99 to without", lines)}
"""


def _waited(seen: Load) -> tuple[float, float, float]:
    """The percentiles in milliseconds."""
    return seen.p50 / 1000, seen.p99 / 1000, seen.p999 / 1000
