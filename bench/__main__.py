"""`python -m bench`: measure, and write the results beside this file."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import click
import httpx

from bench.circumstances import beside_others, starting
from bench.curves import by_accounts, by_replicas, by_rows
from bench.measure import measured
from bench.plot import plot
from bench.processes import Process, Request
from bench.report import machine, ratios, table
from bench.world import ASSET, Ground, Setup, Target, ground, peers

HERE = Path(__file__).parent
PROGRAMS = ("wrk", "nginx", "redis-server", "taskset")
READS = {
    "one asset": ASSET,
    "one position": "/v1/accounts/main/positions/BTCUSD_PERP/BOTH",
    "a filtered list": "/v1/accounts/main/positions?asset=BTC&open=true",
    "the whole account": "/v1/accounts/main",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Of every target, interleaved.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each load in a round; there are two.")
@click.option("--write/--no-write", default=True, show_default=True, help="Whether to replace RESULTS.md and its plot.")
def main(*, rounds: int, seconds: float, write: bool) -> None:
    """Compare the gateway with its peers, on two cores: one serves, the other asks. Takes some nine minutes."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise click.ClickException(f"needs {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        text = asyncio.run(_run(Path(folder), rounds, seconds, HERE / "results.svg" if write else None))
    if write:
        (HERE / "RESULTS.md").write_text(text)
    click.echo(text)


async def _run(folder: Path, rounds: int, seconds: float, svg: Path | None) -> str:
    async with (
        ground(folder / "peers") as shared,
        shared.gateway() as (process, url),
        shared.gateway(Setup(log_hits=1)) as (talkative, loud),
        shared.gateway(Setup(scheduling="normal")) as (normal, usual),
    ):
        targets = await _targets(shared, process, url)
        for name, server, where in (("every hit logged", talkative, loud), ("scheduled normally", normal, usual)):
            request = Request(where + READS["one asset"], (shared.authorization,))
            targets.append(Target(f"gateway: one asset, {name}", server, request))
        async with peers(shared, await _body(shared, url + READS["one asset"])) as others:
            targets += [Target(name, server, Request(where)) for name, (server, where) in others.items()]
            results = await measured(targets, rounds, seconds, say)
    if svg is not None:
        plot(results, svg)
    grids = [
        await by_rows(folder, seconds, say),
        await by_accounts(folder, seconds, say),
        await by_replicas(folder, seconds, say),
        await starting(folder, say),
        await beside_others(folder, seconds, say),
    ]
    return TEXT.format(
        machine=machine(),
        rounds=rounds,
        seconds=f"{seconds:.0f}",
        table="\n".join(table(results)),
        ratios="\n".join(ratios(results)),
        grids="\n\n".join("\n".join(lines) for lines in grids),
    )


async def _targets(shared: Ground, process: Process, url: str) -> list[Target]:
    """The gateway's."""
    asset = url + READS["one asset"]
    headers = {"authorization": f"Bearer {shared.token}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        etag = (await client.get(asset)).headers["etag"]
    plain = {f"gateway: {name}": Request(url + path, (shared.authorization,)) for name, path in READS.items()}
    special = {
        "gateway: one asset, unchanged (304)": Request(asset, (shared.authorization, f"If-None-Match: {etag}")),
        "gateway: one asset, max-age=5": Request(asset, (shared.authorization, "Cache-Control: max-age=5")),
    }
    return [Target(name, process, request) for name, request in (plain | special).items()]


async def _body(shared: Ground, url: str) -> bytes:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url, headers={"authorization": f"Bearer {shared.token}"})).raise_for_status().content


def say(line: str) -> None:
    click.echo(line, err=True)


TEXT = """# What a read costs

Written by `make bench`; all figures are of one run on one machine: {machine}.

One core serves, the other asks (wrk) and has the exchange and Redis. {rounds} rounds, interleaved: in each every target
is asked by 32 connections at full speed for {seconds} s, and then for {seconds} s at half of the rate that it reached
(latencies). Medians of the rounds, in brackets the lowest and the highest; ratios are of the same round.

{table}

{ratios}

![requests a second](results.svg)

The gateway authenticates every request, applies the grant, counts it and says how old the data is. Its default windows
hold (`fresh_for` 1 s), so that it also refreshes once a second meanwhile. It logs one hit in a hundred, but for the one
that logs them all. The bare app and nginx send the bytes of the same asset, and do none of that.

Its threads don't interrupt each other (`server.scheduling = "batch"`). Where they share a core, that is
worth more than all that the gateway does to a request; so the bare app stands here twice, as its server comes, and
scheduled alike, which is the most that the server can do. One gateway is scheduled as processes usually are.

{grids}

The last table is of 200 requests a second. What is scheduled normally interrupts a neighbour that fills the core, the
rest waits for its turn.
"""

if __name__ == "__main__":
    main(prog_name="python -m bench")
