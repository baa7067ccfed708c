"""Rounds of load, interleaved, so that a noisy minute falls on everybody."""

import statistics
from collections.abc import Callable, Sequence

import msgspec

from bench.processes import Load, Request, load
from bench.world import Target

CONNECTIONS = 32
PAUSE = 10
"""Ms between two requests of a connection where the rate is fixed; the number of connections makes the rate."""


class Round(msgspec.Struct, frozen=True):
    """One target in one round."""

    rate: float
    """Requests a second, as many as it takes."""
    cpu: float
    """Microseconds of the serving process a request, then."""
    steady: Load
    """At half of that rate."""


class Results(msgspec.Struct):
    """All rounds of each target, and what it had resident in the end (bytes)."""

    rounds: dict[str, list[Round]]
    resident: dict[str, int]

    def ratios(self, name: str, to: str, of: Callable[[Round], float]) -> list[float]:
        """Round by round, to another target in the same round."""
        return [of(own) / of(other) for own, other in zip(self.rounds[name], self.rounds[to], strict=True)]


async def measured(targets: Sequence[Target], rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    results = Results({target.name: [] for target in targets}, {})
    for target in targets:
        await load(target.request, 1, CONNECTIONS)  # caches fill, code warms up
    for number in range(1, rounds + 1):
        for target in targets:
            one = await _round(target, seconds)
            results.rounds[target.name].append(one)
            say(f"round {number} of {rounds}: {target.name}: {one.rate:,.0f}/s, {one.cpu:.0f} µs")
    for target in targets:
        results.resident[target.name] = target.server.resident
    return results


async def _round(target: Target, seconds: float) -> Round:
    rate, cpu = await cost(target, target.request, seconds)
    steady = await load(target.request, seconds, connections=max(1, round(rate / 2 * PAUSE / 1000)), pause=PAUSE)
    return Round(rate, cpu, steady)


async def cost(target: Target, request: Request, seconds: float) -> tuple[float, float]:
    """Requests a second at full speed, and microseconds of CPU a request."""
    before = target.server.cpu
    full = await load(request, seconds, CONNECTIONS)
    return full.rate, (target.server.cpu - before) * 1e6 / full.requests


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
