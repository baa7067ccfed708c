"""What was measured, as a plot. Apart from the rest: importing pygal changes how this process imports."""

from pathlib import Path

import pygal  # type: ignore[import-untyped]  # it has no annotations
from pygal.style import CleanStyle  # type: ignore[import-untyped]

from bench.measure import Results, median


def plot(results: Results, file: Path) -> None:
    """Requests a second, a bar a target."""
    chart = pygal.HorizontalBar(
        style=CleanStyle, js=[], show_legend=False, print_values=True, height=60 + 40 * len(results.rounds)
    )
    chart.title = "Requests a second, one core, median of the rounds"
    chart.value_formatter = lambda value: f"{value:,.0f}"
    names = list(results.rounds)[::-1]
    chart.x_labels = names
    chart.add("", [median([each.rate for each in results.rounds[name]]) for name in names])
    file.write_bytes(chart.render())
