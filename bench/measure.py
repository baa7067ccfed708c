"""Rounds of load, interleaved, so that a noisy minute falls on everybody."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.processes import Load, Request, load
from bench.world import Target

CONNECTIONS = 32
PAUSE_MS = 10
"""Between two requests of a connection where the rate is fixed; the number of connections makes the rate."""


class Run(msgspec.Struct, frozen=True):
    """How long everything is measured, and where."""

    folder: Path
    """For what servers write."""
    rounds: int
    seconds: float
    say: Callable[[str], None]
    """Called with each line of progress."""
    plot: Path | None = None
    """Where to draw the rates of all targets; `None`: not at all."""


class Round(msgspec.Struct, frozen=True):
    """One target in one round."""

    rate: float
    """Requests a second, as many as it takes."""
    cpu: float
    """Microseconds of the serving process a request, then."""
    steady: Load
    """At nearly half of that rate."""


class Results(msgspec.Struct):
    """All rounds of each target, and what it had resident in the end (bytes)."""

    rounds: dict[str, list[Round]]
    resident: dict[str, int]

    def ratios(self, name: str, to: str, of: Callable[[Round], float]) -> list[float]:
        """Round by round, to another target in the same round."""
        return [of(own) / of(other) for own, other in zip(self.rounds[name], self.rounds[to], strict=True)]


async def measured(targets: Sequence[Target], run: Run) -> Results:
    results = Results({target.name: [] for target in targets}, {})
    for target in targets:
        await load(target.request, 1, CONNECTIONS)  # caches fill, code warms up
    for number in range(1, run.rounds + 1):
        for target in targets:
            rate, cpu = await cost(target, run.seconds)
            results.rounds[target.name].append(Round(rate, cpu, await at_half(target.request, rate, run.seconds)))
            run.say(f"round {number} of {run.rounds}: {target.name}: {rate:,.0f}/s, {cpu:.0f} µs")
    for target in targets:
        results.resident[target.name] = target.server.resident
    return results


async def cost(target: Target, seconds: float) -> tuple[float, float]:
    """Requests a second at full speed, and microseconds of CPU a request."""
    before = target.server.cpu
    full = await load(target.request, seconds, CONNECTIONS)
    return full.rate, (target.server.cpu - before) * 1e6 / full.requests


async def at_half(request: Request, rate: float, seconds: float) -> Load:
    """At half of a rate, or a little less: the connections are as many as that takes of answers without a delay."""
    return await load(request, seconds, max(1, round(rate / 2 * PAUSE_MS / 1000)), PAUSE_MS)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
