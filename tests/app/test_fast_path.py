"""The way past the framework answers as the framework does, and only what it may."""

import asyncio
import gc
import io
import random
import re
import weakref
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, cast

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.account import documents
from service.account.snapshot import MAX_VIEWS
from service.kubernetes.token_review import ACCEPTED_FOR
from service.web import reads
from service.web.edge import Edge
from service.web.fast_path import MAX_PARSED_READS
from service.web.reads import Reads
from tests.app.conftest import MakeStage
from tests.app.harness import (
    ACCOUNT,
    ASSETS,
    BALANCE,
    BRACKETS,
    BTC,
    LISTS,
    POSITIONS,
    RISK,
    SYMBOL,
    Json,
    Replica,
    Stage,
    logged,
)
from tests.app.pods import CLIENTS, KUBERNETES, Pods, ask, outcomes
from tests.support import TOKENS, bearer

REQUESTS = 3_000
PAST = 350
"""Of them go past the framework at the least; some 400 do. Others are refused, malformed, new, or demand too much."""
PATHS = (
    *(ACCOUNT, ASSETS, POSITIONS, BTC, SYMBOL, f"{SYMBOL}/BOTH", f"{SYMBOL}/LONG", f"{ASSETS}/ETH", f"{ASSETS}/NONE"),
    *(f"{ASSETS}?asset=BTC", f"{ASSETS}?asset=ETH,BTC&nonzero=true", f"{ASSETS}?nonzero=false", f"{ASSETS}?asset=btc"),
    *(f"{POSITIONS}?open=true", f"{POSITIONS}?symbol=BTCUSD_PERP", f"{POSITIONS}?positionSide=LONG&open=true"),
    *(f"{ASSETS}?asset=BTC,XBT", f"{POSITIONS}?symbol=BTCUSDPERP", f"{POSITIONS}?symbol=BTCUSD_201225,BTCUSD_PERP"),
    *(f"{ASSETS}?asset=%zz", f"{ASSETS}/%ff", f"{ASSETS}?asset=BTC&&", f"{ASSETS}?asset=%E5%B8%81"),
    *(BALANCE, f"{BALANCE}/BTC", f"{BALANCE}/SOL", f"{BALANCE}?asset=BTC,ETH", f"{BALANCE}?asset=btc", RISK),
    *(f"{RISK}?positionSide=LONG&open=true", f"{RISK}/BTCUSD_PERP", f"{RISK}/BTCUSD_PERP/BOTH", f"{RISK}?asset=BTC"),
    *(BRACKETS, f"{BRACKETS}/BTCUSD_PERP", f"{BRACKETS}/NONE", f"{BRACKETS}?symbol=BTCUSD_PERP&asset=ETH"),
    *(f"{ACCOUNT}?asset=BTC&open=true", f"{ACCOUNT}?x=1", f"{POSITIONS}/NONE", "/v1/accounts/other", "/v1/accounts"),
)
DEMANDS = (
    None,
    None,
    None,
    "max-age=5",
    "no-cache",
    "min-fresh=1",
    "min-fresh=9",
    "only-if-cached",
    "max-age=x",
    "max-stale",
    "a=b",
)
CODINGS = ("gzip", "gzip", "gzip", "identity", "gzip;q=0", "br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip;q=soon", "x" * 600)
UNUSABLE = "not one"
"""As a request id."""
HOSTS = [[("host", "a")], [("host", "a"), ("host", "a")], [("host", "")]]

Headers = list[tuple[str, str]]


def delivered(number: int) -> str:
    """A contract whose day has passed: one of thousands of names that are known."""
    return f"ETHUSD_{date(2020, 9, 25) + timedelta(number):%y%m%d}"


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage(freshness={"fresh_for": "5s"}, clients={"treasury": {"requests_per_second": 30_000}})


def generated(seed: int, count: int) -> Iterator[tuple[str, Headers]]:
    """Paths and headers of requests: mostly ordinary ones, each in every spelling now and then."""
    draw = random.Random(seed)
    for _ in range(count):
        headers = [("x-request-id", draw.choice(["given", "also-given", UNUSABLE]))]
        token = draw.choice([*TOKENS.values(), *TOKENS.values(), "cgw_wrong", ""])
        headers += [("authorization", f"{draw.choice(['Bearer', 'Bearer', 'bearer', 'Basic'])} {token}")]
        headers += [("authorization", "Bearer another")] if draw.random() < 0.05 else []
        headers += [("x-mbx-apikey", "another")] if draw.random() < 0.05 else []
        demand = draw.choice(DEMANDS)
        headers += [("cache-control", demand)] if demand else []
        headers += [("pragma", draw.choice(["no-cache", "x"]))] if draw.random() < 0.1 else []
        headers += [("if-none-match", draw.choice(["*", '"x"', "W/*", "x" * 9_000]))] if draw.random() < 0.2 else []
        headers += [("accept-encoding", draw.choice(CODINGS))] if draw.random() < 0.3 else []
        headers += draw.choice(HOSTS) if draw.random() < 0.1 else []
        yield draw.choice(PATHS), headers


class BothWays:
    """One gateway: callers who go the whole way each time, and those who may go past the framework."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.quick = replica.app.edge

    @property
    def whole(self) -> Edge:
        """An edge that has seen nothing yet."""
        return Edge(self.replica.app.litestar, self.replica.gateway, Reads(self.replica.gateway))

    async def ask(self, edge: Edge, path: str, headers: Headers) -> httpx.Response:
        transport = httpx.ASGITransport(cast("Any", edge))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as caller:
            return await caller.get(path, headers=headers)

    def figures(self) -> dict[str, float]:
        """Every counter but those of durations, whose sums are never twice the same."""
        families = text_string_to_metric_families(self.replica.metrics())
        samples = [sample for family in families if family.name.startswith("coinm") for sample in family.samples]
        counted = [each for each in samples if each.name.endswith(("_total", "_count"))]
        return {f"{each.name}{sorted(each.labels.items())}": each.value for each in counted}


def told(answer: httpx.Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """All of an answer but the id that it was given, where nobody named one, and what is left of a limit."""
    own = {b"ratelimit"}
    if answer.request.headers["x-request-id"] == UNUSABLE:
        own |= {b"x-request-id"}
    body = answer.content if answer.status_code < 400 else b""
    return answer.status_code, [(name, value) for name, value in answer.headers.raw if name not in own], body


async def warm_in_all(stage: Stage) -> Replica:
    """A replica with a snapshot of each document."""
    gateway = await stage.warm()
    for path in LISTS:
        await gateway.get(path)
    return gateway


async def test_generated_requests_are_answered_alike_both_ways(stage: Stage) -> None:
    ways = BothWays(await warm_in_all(stage))
    statuses = set[int]()
    for number, (path, headers) in enumerate(generated(1, REQUESTS)):
        if number % 200 == 0:
            await stage.advance(40)  # in all less than fresh_for
        expected = told(await ways.ask(ways.whole, path, headers))
        assert told(await ways.ask(ways.quick, path, headers)) == expected, (path, headers)
        statuses.add(expected[0])
    assert statuses == {200, 304, 400, 401, 403, 404, 504}
    assert ways.quick.hits > PAST


async def test_both_ways_leave_the_same_counts_log_lines_and_audit_lines(stage: Stage, log_text: io.StringIO) -> None:
    ways = BothWays(await warm_in_all(stage))
    asked = list(generated(2, 450))
    for path, headers in asked:
        await ways.ask(ways.quick, path, headers)
    seen: list[tuple[dict[str, float], list[Json]]] = []
    for edge in (None, ways.quick):
        before, earlier = ways.figures(), len(logged(log_text))
        for path, headers in asked:
            await ways.ask(edge or ways.whole, path, headers)
        grown = {name: value - before.get(name, 0) for name, value in ways.figures().items()}
        seen.append((grown, [facts(line) for line in logged(log_text)[earlier:]]))
    hits = ways.quick.hits
    whole, quick = seen
    assert whole == quick
    assert hits > 100
    audited = [facts(msgspec.to_builtins(line)) for line in await stage.audited()]
    assert audited[-900:-450] == audited[-450:]


def facts(line: Json) -> Json:
    """What a line says, but for when, how long it took, and the ids that were made up."""
    return {key: value for key, value in line.items() if key not in {"time", "duration_ms", "request_id"}}


async def test_a_limit_is_taken_from_once_a_request_either_way(stage: Stage) -> None:
    gateway = await stage.warm()
    limits = [(await gateway.get(BTC, "treasury")).headers["ratelimit"] for _ in range(5)]
    left = [int(re.findall(r"r=([0-9]+)", limit)[0]) for limit in limits]
    assert left == list(range(left[0], left[0] - 5, -1))
    assert gateway.app.edge.hits >= 4


async def test_who_asks_too_often_is_refused_on_hits_too(make_stage: MakeStage) -> None:
    stage = make_stage(clients={"treasury": {"requests_per_second": 9}})  # three a replica
    gateway = await stage.warm()
    assert [(await gateway.get(BTC, "treasury")).status_code for _ in range(5)] == [200, 200, 200, 429, 429]


async def test_hits_may_be_logged_now_and_then_and_are_counted_and_audited_all_the_same(
    make_stage: MakeStage, log_text: io.StringIO
) -> None:
    stage = make_stage(log={"hits": 10})
    gateway = await stage.warm()
    for _ in range(50):
        await gateway.get()
    await gateway.get(f"{ASSETS}/NONE")
    assert [line["status"] for line in logged(log_text)] == [200] * 6 + [404]
    route = "/v1/accounts/{account}/assets/{asset}"
    assert gateway.figure(f'coinm_requests_total{{method="GET",route="{route}",status="200"}}') == 51
    assert len(await stage.audited()) == 52


async def test_requests_are_forgotten_before_they_are_too_many(stage: Stage) -> None:
    gateway = await stage.warm()
    for number in range(MAX_PARSED_READS + 10):
        await gateway.get(f"{POSITIONS}?symbol={delivered(number)}")
    hits = gateway.app.edge.hits
    await gateway.get(f"{POSITIONS}?symbol={delivered(MAX_PARSED_READS)}")
    assert gateway.app.edge.hits == hits + 1
    await gateway.get(f"{POSITIONS}?symbol={delivered(0)}")
    assert gateway.app.edge.hits == hits + 1


async def test_no_snapshot_is_kept_longer_than_it_is_served(stage: Stage) -> None:
    gateway = await stage.warm()
    await gateway.get()
    old = weakref.ref(gateway.gateway.config.caches["main"].documents[documents.ACCOUNT].state.snapshot)
    await stage.advance(60_000)
    await gateway.get()
    await gateway.get()
    gc.collect()
    assert old() is None


async def test_a_read_that_comes_back_late_brings_no_older_snapshot_back(make_stage: MakeStage) -> None:
    pods = Pods(make_stage(kubernetes=KUBERNETES, clients=CLIENTS, exchange={"timeout": "30s"}))
    stage, gateway = pods.stage, await pods.stage.start()
    stage.exchange.hold()
    late = asyncio.create_task(ask(gateway, pods.token()))
    await stage.exchange.wait_held()
    await stage.advance(ACCEPTED_FOR)  # the caller is looked up again after the wait, and that takes a review
    pods.cluster.gate.hold()
    stage.exchange.release()
    await pods.cluster.gate.wait_held()
    old = weakref.ref(gateway.gateway.config.caches["main"].documents[documents.ACCOUNT].state.snapshot)
    await stage.advance(60_000)
    newer = await gateway.get()
    pods.cluster.gate.release()
    assert (await late).headers["gateway-snapshot-time"] == newer.headers["gateway-snapshot-time"]
    gc.collect()
    assert old() is None


async def test_a_service_account_goes_past_the_framework_for_as_long_as_its_review_holds(
    make_stage: MakeStage, log_text: io.StringIO
) -> None:
    pods = Pods(make_stage(kubernetes=KUBERNETES, clients=CLIENTS, freshness={"fresh_for": "60s"}))
    gateway, token = await pods.stage.warm(), pods.token()
    for _ in range(3):
        assert (await ask(gateway, token)).status_code == 200
    hits, last = gateway.app.edge.hits, logged(log_text)[-1]
    assert (last["service_account"], last["client"]) == ("desk/treasury", "treasury")
    assert outcomes(gateway) == {"accepted": 1, "remembered": 2}
    pods.cluster.delete(pods.caller)
    await pods.stage.advance(ACCEPTED_FOR)
    assert (await ask(gateway, token)).status_code == 401
    assert gateway.app.edge.hits == hits


async def test_a_stale_answer_goes_past_the_framework_once_its_refresh_is_under_way(stage: Stage) -> None:
    gateway = await stage.warm(age=5_500)
    stage.exchange.hold()
    first = await gateway.get()
    await stage.exchange.wait_held()
    hits = gateway.app.edge.hits
    second = await gateway.get()
    stage.exchange.release()
    assert gateway.app.edge.hits == hits + 1
    assert first.headers["cache-status"] == second.headers["cache-status"] == "coinm-gateway; hit; ttl=-1; detail=swr"
    assert (await gateway.get(cache_control="no-cache")).headers["cache-status"].endswith("collapsed")
    assert stage.account_calls == 2


async def test_more_answers_than_a_snapshot_keeps_are_still_answered_right(stage: Stage) -> None:
    ways = BothWays(await stage.warm())
    headers = list(bearer(x_request_id="given").items())
    paths = [f"{POSITIONS}?symbol=BTCUSD_PERP,{delivered(number)}" for number in range(MAX_VIEWS + 20)]
    for path in paths:
        await ways.ask(ways.quick, path, headers)
    hits = ways.quick.hits
    for path in paths[:3] + paths[-3:]:
        assert told(await ways.ask(ways.quick, path, headers)) == told(await ways.ask(ways.whole, path, headers))
    assert ways.quick.hits == hits + 6


async def test_reads_that_are_not_repeated_take_no_room_of_those_that_are(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await stage.warm()
    await gateway.get(ASSETS, "treasury")
    await stage.advance(60_000)
    for number in range(MAX_VIEWS):
        await gateway.get(f"{POSITIONS}?symbol=BTCUSD_PERP,{delivered(number)}")
    prepared, hits = await gateway.get(ASSETS, "treasury"), gateway.app.edge.hits
    monkeypatch.delattr(reads, "render_view")
    assert (await gateway.get(ASSETS, "treasury")).content == prepared.content
    assert gateway.app.edge.hits == hits + 1


async def test_nothing_is_kept_of_an_account_that_is_gone(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": None, "other": None}, freshness={"fresh_for": "5s"})
    gateway, reloader = await stage.start_watched()
    for _ in range(2):
        await gateway.get("/v1/accounts/other/assets/BTC")
        await gateway.get()
    old = weakref.ref(gateway.gateway.config.caches["other"].documents[documents.ACCOUNT].state.snapshot)
    stage.file.write_text(stage.file.read_text().replace("accounts.other", "accounts.another"))
    await reloader.check_now()
    assert (await gateway.get("/v1/accounts/other/assets/BTC")).status_code == 403
    await stage.advance(60_000)
    for _ in range(2):
        await gateway.get()
    gc.collect()
    assert old() is None
