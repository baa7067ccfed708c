"""What was measured, as Markdown."""

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import Results, Round, median
from bench.world import BARE

INSTALLED = "gateway: one asset"
SAMPLED = "gateway: one asset, one hit in a hundred logged"
BATCHES = "gateway: one asset, in batches"

Row = tuple[str, ...]


def machine() -> str:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def table(results: Results) -> str:
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
    return "\n".join(lines)


def grid(head: str, rows: Sequence[Row]) -> str:
    """A table of figures; `|` between the columns' names."""
    columns = head.split("|")
    lines = [f"| {' | '.join(columns)} |", f"|{'--:|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def ratios(results: Results) -> str:
    """A row a peer: how the commonest read compares with it, the medians of the rounds' ratios."""
    reads = (INSTALLED, SAMPLED, BATCHES)
    cells = [f"{read.partition(': ')[2]}: {what}" for read in reads for what in ("requests/s", "CPU", "p99")]
    lines = [f"| ratio to | {' | '.join(cells)} |", f"|---{'|--:' * len(cells)}|"]
    for peer in (name for name in results.rounds if not name.startswith("gateway")):
        found = [median(results.ratios(read, peer, pick)) for read in reads for pick in _COMPARED]
        lines.append(f"| {peer} | {' | '.join(f'{ratio:.2f}' for ratio in found)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], form: str) -> str:
    """The median, in brackets the lowest and the highest."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _of(results: Results, name: str, pick: Callable[[Round], float]) -> tuple[str, str]:
    ratio = median(results.ratios(name, BARE, pick))
    return spread([pick(each) for each in results.rounds[name]], ",.0f"), f"{ratio:.2f}"


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
