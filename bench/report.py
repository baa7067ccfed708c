"""What was measured, as Markdown."""

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import Results, Round, median
from bench.world import BARE

READS = ("gateway: one asset", "gateway: one position")
"""What a poll asks, most often."""

Row = tuple[str, ...]


def machine() -> str:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def table(results: Results) -> list[str]:
    """A row a target: rate, CPU and latencies, the medians of the rounds, with ratios and spread."""
    lines = [
        "| | requests/s | to bare | CPU, µs a request | to bare | p50, ms | p99, ms | p99.9, ms | resident, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, rounds in results.rounds.items():
        rate, cpu = _of(results, name, lambda each: each.rate), _of(results, name, lambda each: each.cpu)
        tails = [f"{median([pick(each) for each in rounds]) / 1000:.2f}" for pick in _LATENCIES]
        cells = [name, *rate, *cpu, *tails, f"{results.resident[name] / 2**20:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def grid(head: str, rows: Sequence[Row]) -> list[str]:
    """A table of figures; `|` between the columns' names."""
    columns = head.split("|")
    lines = [f"| {' | '.join(columns)} |", f"|{'--:|' * len(columns)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def ratios(results: Results) -> list[str]:
    """A row a peer: how the commonest reads compare with it, the medians of the rounds' ratios."""
    cells = [f"{read.partition(': ')[2]}: {what}" for read in READS for what in ("requests/s", "CPU", "p99")]
    lines = [f"| ratio to | {' | '.join(cells)} |", f"|---{'|--:' * len(cells)}|"]
    for peer in (name for name in results.rounds if not name.startswith("gateway")):
        found = [median(results.ratios(read, peer, pick)) for read in READS for pick in _COMPARED]
        lines.append(f"| {peer} | {' | '.join(f'{ratio:.2f}' for ratio in found)} |")
    return lines


def _of(results: Results, name: str, pick: Callable[[Round], float]) -> tuple[str, str]:
    values = [pick(each) for each in results.rounds[name]]
    ratio = median(results.ratios(name, BARE, pick))
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})", f"{ratio:.2f}"


_COMPARED: Sequence[Callable[[Round], float]] = (
    lambda each: each.rate,
    lambda each: each.cpu,
    lambda each: each.steady.p99,
)
_LATENCIES: Sequence[Callable[[Round], float]] = (
    lambda each: each.steady.p50,
    lambda each: each.steady.p99,
    lambda each: each.steady.p999,
)
