"""What a read costs, of a gateway as installed and of others, and what it costs of peers."""

from bench.measure import Run, measured
from bench.plot import plot
from bench.processes import Request
from bench.report import BATCHES, INSTALLED, SAMPLED, ratios, table
from bench.world import ASSET, BenchServers, Gateway, Setup, Target, bench_servers, peers

POSITION = "/v1/accounts/main/positions/BTCUSD_PERP/BOTH"
FILTERED = "/v1/accounts/main/positions?asset=BTC&open=true"
WHOLE = "/v1/accounts/main"
GZIP = "Accept-Encoding: gzip"


async def headline(run: Run) -> str:
    """Every kind of read of a gateway as installed, two other gateways, and the peers, in the same rounds."""
    async with (
        bench_servers(run.folder / "headline") as servers,
        servers.gateway() as installed,
        servers.gateway(Setup(log_hits=100)) as sampled,
        servers.gateway(Setup(scheduling="batch")) as batches,
    ):
        async with servers.client(installed.url) as client:
            row = (await client.get(ASSET)).raise_for_status().content
        token = servers.authorization
        targets = [
            *await _installed(servers, installed),
            Target(SAMPLED, sampled.process, Request(sampled.url + ASSET, (token,))),
            Target(BATCHES, batches.process, Request(batches.url + ASSET, (token,))),
        ]
        async with peers(servers, row) as others:
            targets += [Target(name, server, Request(url)) for name, (server, url) in others.items()]
            results = await measured(targets, run)
        dropped = await installed.count("coinm_log_lines_dropped_total")
    if run.plot is not None:
        plot(results, run.plot)
    return TEXT.format(
        rounds=run.rounds,
        seconds=f"{run.seconds:.0f}",
        table=table(results),
        ratios=ratios(results),
        dropped=f"{dropped:,.0f}",
    )


async def _installed(servers: BenchServers, gateway: Gateway) -> list[Target]:
    """The reads of the gateway that is as installed."""
    async with servers.client(gateway.url) as client:
        tag = (await client.get(ASSET)).raise_for_status().headers["etag"]
        encoded_tag = (await client.get(WHOLE, headers={"accept-encoding": "gzip"})).raise_for_status().headers["etag"]
    reads = {
        INSTALLED: (ASSET,),
        "gateway: one position": (POSITION,),
        "gateway: a filtered list": (FILTERED,),
        "gateway: the whole account": (WHOLE,),
        "gateway: the whole account, gzip": (WHOLE, GZIP),
        "gateway: one asset, unchanged (304)": (ASSET, f"If-None-Match: {tag}"),
        "gateway: the whole account, gzip, unchanged (304)": (WHOLE, GZIP, f"If-None-Match: {encoded_tag}"),
        "gateway: one asset, max-age=5": (ASSET, "Cache-Control: max-age=5"),
    }
    return [
        Target(name, gateway.process, Request(gateway.url + path, (servers.authorization, *headers)))
        for name, (path, *headers) in reads.items()
    ]


TEXT = """## Reads

{rounds} rounds, interleaved: in each every row is requested by 32 connections at full speed for {seconds} s, and then
for {seconds} s at nearly half of the rate that it reached (latencies). Medians of the rounds, in brackets the lowest
and the highest; ratios are of the same round.

{table}

{ratios}

![requests a second](results.svg)

The gateway is as installed: default settings, and scheduled as processes usually are, as every peer is that doesn't say
otherwise. It authenticates each request, applies the grant, counts it, writes a log line (to `/dev/null` here; of those
it dropped {dropped}), and says how old the data is. Its default windows hold (`fresh_for` is 1 s), so it also refreshes
the account once a second meanwhile. Two further gateways differ from it in one setting each: one logs one hit in a
hundred (`log.hits = 100`), one is scheduled in batches (`server.scheduling = "batch"`), where its threads don't
interrupt each other. The bare app, which has the same server, stands here twice as well: scheduled normally and in
batches.

The bare app, on the gateway's server and set up like it, and nginx send the bytes of the same asset, and do none of
that. Both FastAPI apps find the asset for each request, and log nothing: the first in the account's JSON, which it gets
from Redis, the second in a cache in its memory, which the decorator of a public library keeps.
"""
