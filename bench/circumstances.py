"""How the gateway starts, and how it fares on a core that is not its own."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import CONNECTIONS, median
from bench.processes import Load, Process, Request, load
from bench.report import Row, grid
from bench.world import ASSET, Setup, ground
from service.settings import Scheduling

STARTS = 5
SCHEDULINGS: tuple[Scheduling, ...] = ("batch", "normal")
FEW, NOW_AND_THEN = 4, 20
"""Connections, and ms between two requests of each: some 200 a second, as a desk's services ask."""
BUSY = "while True: pass"

Say = Callable[[str], None]


async def starting(folder: Path, say: Say) -> list[str]:
    """How soon it is ready after its command was given, and what it has resident before anybody asks."""
    seconds, resident = list[float](), list[float]()
    async with ground(folder / "starts") as shared:
        for number in range(1, STARTS + 1):
            began = time.perf_counter()
            async with shared.gateway() as (process, _):
                seconds.append(time.perf_counter() - began)
                resident.append(process.resident / 2**20)
            say(f"start {number} of {STARTS}: {seconds[-1]:.2f} s, {resident[-1]:.0f} MiB")
    return grid("ready after, s|resident when idle, MiB", [(_told(seconds, ".2f"), _told(resident, ".0f"))])


async def beside_others(folder: Path, seconds: float, say: Say) -> list[str]:
    """What few callers wait for on a core of its own, and on one that another process fills."""
    lines = list[Row]()
    for scheduling in SCHEDULINGS:
        async with ground(folder / f"{scheduling}") as shared, shared.gateway(Setup(scheduling=scheduling)) as (_, url):
            request = Request(url + ASSET, (shared.authorization,))
            await load(request, 1, CONNECTIONS)
            alone = await load(request, 3 * seconds, FEW, NOW_AND_THEN)
            async with Process(sys.executable, "-c", BUSY):
                beside = await load(request, 3 * seconds, FEW, NOW_AND_THEN)
        lines.append((scheduling, *_waited(alone), *_waited(beside)))
        say(f"scheduling {lines[-1]}")
    return grid("server.scheduling|alone: p50, ms|p99, ms|beside a busy process: p50, ms|p99, ms", lines)


def _waited(seen: Load) -> tuple[str, str]:
    return f"{seen.p50 / 1000:.2f}", f"{seen.p99 / 1000:.2f}"


def _told(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
