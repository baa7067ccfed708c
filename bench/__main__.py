"""`python -m bench`: measure, and write the results beside this file."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import click

from bench.circumstances import beside_others, beside_scrapes, starting
from bench.curves import by_accounts, by_replicas, by_rows
from bench.headline import headline
from bench.measure import Run
from bench.processes import LOAD_CORE
from bench.refreshes import by_size, of_many_accounts
from bench.report import machine
from bench.world import ROWS

HERE = Path(__file__).parent
PROGRAMS = ("wrk", "nginx", "redis-server", "taskset")
PARTS: Mapping[str, Callable[[Run], Awaitable[str]]] = {
    "headline": headline,
    "rows": by_rows,
    "accounts": by_accounts,
    "replicas": by_replicas,
    "refresh": by_size,
    "fleet": of_many_accounts,
    "start": starting,
    "scrapes": beside_scrapes,
    "scheduling": beside_others,
}
"""Each gives its section of the results."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Of every target, interleaved.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each load in a round.")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="A part; repeatable. Writes no file.")
@click.option("--write/--no-write", default=True, show_default=True, help="Whether to replace RESULTS.md and its plot.")
def main(*, rounds: int, seconds: float, only: Sequence[str], write: bool) -> None:
    """Compare the gateway with its peers, on two cores: one serves, the other asks. Takes some fourteen minutes."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise click.ClickException(f"needs {', '.join(missing)}")
    os.sched_setaffinity(0, {LOAD_CORE})  # what this process does while it measures isn't done beside a server
    write = write and not only
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), rounds, seconds, say, HERE / "results.svg" if write else None)
        text = asyncio.run(_measured(run, [part for part in PARTS if part in only or not only]))
    if write:
        (HERE / "RESULTS.md").write_text(text)
    click.echo(text)


async def _measured(run: Run, parts: Sequence[str]) -> str:
    sections = [TEXT.format(machine=machine(), rows=ROWS)]
    for part in parts:
        run.say(f"- {part}")
        sections.append(await PARTS[part](run))
    return "\n".join(sections)


def say(line: str) -> None:
    click.echo(line, err=True)


TEXT = """# What a read costs, and a refresh

Written by `make bench`; all figures are of one run on one machine: {machine}.
Only ratios within a run say something about another machine.

One core serves; the other has the load (wrk), the exchange, Redis and the program that measures, whose CPU is not
counted. Where a section doesn't say otherwise, gateways are as installed: all settings at their defaults, every read
logged (to `/dev/null` here). Accounts have {rows} position rows, 84 KB.
"""

if __name__ == "__main__":
    main(prog_name="python -m bench")
