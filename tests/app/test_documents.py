"""An account's documents: each by itself where it is read, aged and failed; together where the exchange counts."""

import asyncio
import copy
import io
from collections.abc import Iterable, Mapping
from typing import Any, cast

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from service import check
from service.app import create_app
from service.telemetry.audit import Filters
from simulator.faults import Fault
from simulator.signature import DEMO_API_KEY
from tests.app.conftest import MakeStage
from tests.app.harness import (
    ACCOUNT,
    ADDRESS,
    NEW_IDENTITY,
    NEW_KEY,
    NO_CACHE,
    Replica,
    Stage,
    ages,
    cache_status,
    decided,
    fresh,
    keys,
    logged,
    problem,
    settle,
    told,
)
from tests.support import IDENTITY, TOKENS, write_settings

BALANCE, POSITION_RISK, BRACKETS = (f"{ACCOUNT}/{name}" for name in ("balance", "position-risk", "leverage-brackets"))

AT_EXCHANGE = {
    ACCOUNT: "/dapi/v1/account",
    BALANCE: "/dapi/v1/balance",
    POSITION_RISK: "/dapi/v1/positionRisk",
    BRACKETS: "/dapi/v2/leverageBracket",
}
"""Where the exchange has what these paths read."""
PATHS = tuple(AT_EXCHANGE)
FURTHER = (BALANCE, POSITION_RISK, BRACKETS)
WEIGHT = {ACCOUNT: 5, BALANCE: 1, POSITION_RISK: 1, BRACKETS: 2}
NAME = {ACCOUNT: "account", BALANCE: "balance", POSITION_RISK: "position-risk", BRACKETS: "leverage-brackets"}
START_UP = 4
"""Weight of what the first refresh needs besides: the time, thrice, and the listing."""

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
FRESH_FOR = {ACCOUNT: SECOND, BALANCE: SECOND, POSITION_RISK: SECOND, BRACKETS: HOUR}
"""By the settings of a stage; the brackets' own."""

DROP_IN = "/binance/main/dapi"
CHANNEL = "coinm:testing:127.0.0.1:1:news"
SCOPE = "coinm:{account:testing:127.0.0.1:1:main}"


def calls(stage: Stage) -> dict[str, int]:
    """How often each document was requested, by the path that reads it."""
    return {path: count for path, upstream in AT_EXCHANGE.items() if (count := stage.exchange.calls.count(upstream))}


def requests(stage: Stage, since: int) -> list[tuple[str, str | None]]:
    """What the exchange was asked for after so many calls, and by which key."""
    return [(call.path, call.api_key) for call in stage.exchange.calls.kept()[since:]]


def key(kind: str, path: str, identity: str = IDENTITY) -> str:
    """A key in Redis; the account's name no document."""
    return ":".join((SCOPE, *([] if path == ACCOUNT else [NAME[path]]), kind, identity))


async def read_all(replica: Replica, paths: Iterable[str] = PATHS, **headers: str) -> dict[str, httpx.Response]:
    """Each of these, at once."""
    answers = await asyncio.gather(*(replica.get(path, **headers) for path in paths))
    return dict(zip(paths, answers, strict=True))


async def warm(stage: Stage, age: int = 0, paths: Iterable[str] = PATHS) -> Replica:
    """A replica with every document at hand, `age` ms old."""
    gateway = await stage.start()
    assert fresh(list((await read_all(gateway, paths)).values()))
    await stage.advance(age)
    return gateway


def statuses(answers: Mapping[str, httpx.Response]) -> dict[str, str]:
    """What each answer says of the cache, or which problem it is."""
    return {path: cache_status(each) if each.is_success else problem(each) for path, each in answers.items()}


# Each by itself.


@pytest.mark.parametrize("path", PATHS)
async def test_a_document_is_requested_only_when_it_is_read(stage: Stage, path: str) -> None:
    gateway = await stage.start()
    assert cache_status(await gateway.get(path)) == "fwd=miss; stored"
    assert cache_status(await gateway.get(path)) == f"hit; ttl={FRESH_FOR[path] // 1000}"
    assert calls(stage) == {path: 1}
    await stage.advance(FRESH_FOR[path] + 3 * SECOND)
    assert cache_status(await gateway.get(path)) == "fwd=stale; fwd-status=200; stored"
    assert calls(stage) == {path: 2}


@pytest.mark.parametrize("path", PATHS)
async def test_a_read_of_one_document_neither_requests_nor_refreshes_another(stage: Stage, path: str) -> None:
    gateway = await warm(stage, 10 * SECOND)
    await gateway.get(path, cache_control="max-age=1")
    assert calls(stage) == dict.fromkeys(PATHS, 1) | {path: 2}
    seen = await read_all(gateway, cache_control="only-if-cached, max-stale")
    assert {each: ages([answer]) for each, answer in seen.items()} == {
        each: {0 if each == path else 10 * SECOND} for each in PATHS
    }
    assert calls(stage) == dict.fromkeys(PATHS, 1) | {path: 2}


@pytest.mark.parametrize("path", [BALANCE, POSITION_RISK])
async def test_an_account_of_which_one_further_document_is_read_costs_a_fifth(stage: Stage, path: str) -> None:
    gateway = await stage.start()
    answers: list[httpx.Response] = []
    for second in range(60):
        await stage.advance(SECOND if second else 0)
        answers.append(await gateway.get(path))
    await settle()
    assert max(ages(answers)) <= SECOND
    assert stage.exchange.limits.tally(ADDRESS, stage.exchange.now_ms()).used == 60 + START_UP
    assert (await gateway.status())["weight"]["used"] == 60 + START_UP


async def test_every_document_has_an_age_an_entity_tag_and_a_time_of_its_own(stage: Stage) -> None:
    gateway = await stage.start()
    for path in PATHS:
        await gateway.get(path)
        await stage.advance(200)
    seen = await read_all(gateway)
    assert [ages([seen[path]]) for path in PATHS] == [{800}, {600}, {400}, {200}]
    for name in ("etag", "gateway-snapshot-time"):
        assert len({answer.headers[name] for answer in seen.values()}) == 4
    again = [await gateway.get(path, if_none_match=seen[path].headers["etag"]) for path in PATHS]
    assert {answer.status_code for answer in again} == {304}
    crossed = await gateway.get(BALANCE, if_none_match=seen[POSITION_RISK].headers["etag"])
    assert crossed.status_code == 200


@pytest.mark.parametrize("hedge", [False, True])
async def test_the_position_mode_is_told_where_rows_have_sides(stage: Stage, *, hedge: bool) -> None:
    stage.exchange.book().set_mode(hedge=hedge)
    seen = await read_all(await stage.start())
    mode = "hedge" if hedge else "one-way"
    modes = {path: answer.headers.get("gateway-position-mode") for path, answer in seen.items()}
    assert modes == {ACCOUNT: mode, BALANCE: None, POSITION_RISK: mode, BRACKETS: None}


@pytest.mark.parametrize("path", FURTHER)
async def test_a_document_has_the_windows_of_an_account(stage: Stage, path: str) -> None:
    """Past the time for which it is fresh."""
    gateway, left = await warm(stage, FRESH_FOR[path], [path]), FRESH_FOR[path] // 1000
    assert cache_status(await gateway.get(path)) == "hit; ttl=0; detail=swr"
    await settle()
    assert cache_status(await gateway.get(path)) == f"hit; ttl={left}"
    await stage.advance(FRESH_FOR[path] + 1_999)
    stage.exchange.hold()
    behind = [cache_status(await gateway.get(path)) for _ in range(5)]
    assert set(behind) == {"hit; ttl=-2; detail=swr"}
    await stage.exchange.wait_held()
    stage.exchange.release()
    await settle()
    assert calls(stage) == {path: 3}
    await stage.advance(FRESH_FOR[path] + 3_000)
    assert cache_status(await gateway.get(path)) == "fwd=stale; fwd-status=200; stored"


@pytest.mark.parametrize("path", FURTHER)
async def test_a_document_is_served_stale_on_an_error_up_to_the_hard_cap(stage: Stage, path: str) -> None:
    gateway = await warm(stage, FRESH_FOR[path] + 9_000, [path])
    stage.fail(Fault("not-json", path=AT_EXCHANGE[path]))
    failed = "fwd=stale; fwd-status=200; ttl={}; detail=stale-if-error"
    assert cache_status(await gateway.get(path)) == failed.format(-9)
    assert cache_status(await gateway.get(path)) == "hit; ttl=-9; detail=backoff"
    await stage.advance(50_999)
    assert cache_status(await gateway.get(path)) == failed.format(-60)
    await stage.advance(2_001)
    assert told(await gateway.get(path)) == (502, "exchange-answer-invalid", "4")
    assert told(await gateway.get(path, cache_control="max-stale"))[:2] == (502, "exchange-answer-invalid")
    assert (await gateway.get(path, cache_control="only-if-cached, max-stale")).status_code == 504


# Leverage brackets.


@pytest.mark.parametrize(
    ("age", "demand", "expected", "requested"),
    [
        (59 * MINUTE, "", "hit; ttl=60", 0),
        (HOUR - 1, "", "hit; ttl=0", 0),
        (HOUR, "", "hit; ttl=0; detail=swr", 1),
        (30 * SECOND, "no-cache", "hit; ttl=3570", 0),
        (MINUTE, "no-cache", "hit; ttl=3540", 0),
        (MINUTE + 1, "no-cache", "fwd=request; fwd-status=200; stored", 1),
        (MINUTE + 1, "max-age=0", "fwd=request; fwd-status=200; stored", 1),
        (MINUTE + 1, "max-age=61", "hit; ttl=3539", 0),
        (30 * MINUTE, "min-fresh=1800", "hit; ttl=1800", 0),
        (30 * MINUTE + 1, "min-fresh=1800", "fwd=request; fwd-status=200; stored", 1),
        (30 * MINUTE, "only-if-cached", "hit; ttl=1800", 0),
    ],
)
@pytest.mark.parametrize("path", [BRACKETS, f"{BRACKETS}/BTCUSD_PERP"])
async def test_leverage_brackets_are_fresh_for_an_hour_and_asked_for_once_a_minute(
    stage: Stage, *, path: str, age: int, demand: str, expected: str, requested: int
) -> None:
    gateway = await warm(stage, age, [BRACKETS])
    answer = await gateway.get(path, cache_control=demand) if demand else await gateway.get(path)
    await settle()
    assert (cache_status(answer), calls(stage)) == (expected, {BRACKETS: 1 + requested})


async def test_twenty_who_insist_on_new_brackets_cost_one_call_a_minute_in_the_fleet(stage: Stage) -> None:
    replicas = await stage.start_fleet(2)
    await replicas[0].get(BRACKETS)
    for count in (2, 3):
        await stage.advance(MINUTE + 1)
        for _ in range(2):
            answers = await asyncio.gather(*(each.get(BRACKETS, **NO_CACHE) for each in replicas for _ in range(10)))
            assert fresh(answers)
        assert calls(stage) == {BRACKETS: count}


async def test_windows_that_a_reload_changes_are_not_those_of_the_brackets(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    await read_all(gateway)
    for old, new in (("", 'fresh_for = "10s"\nmin_refresh_interval = "5s"'), ('"10s"', '"3h"'), ('"5s"', '"2h"')):
        stage.edit(old or "[freshness]", new if old else f"[freshness]\n{new}")
        await reloader.check_now()
        await stage.advance(20 * SECOND)
        assert cache_status(await gateway.get(BRACKETS)).startswith("hit; ttl=35")
        assert cache_status(await gateway.get(BRACKETS, **NO_CACHE)).startswith("hit; ttl=35")
    assert calls(stage) == dict.fromkeys(PATHS, 1)
    assert (await gateway.get(POSITION_RISK)).headers["cache-status"].endswith("hit; ttl=10740")  # these are
    await stage.advance(SECOND)
    assert cache_status(await gateway.get(BRACKETS, **NO_CACHE)) == "fwd=request; fwd-status=200; stored"
    await stage.advance(HOUR + 10 * SECOND)
    assert cache_status(await gateway.get(BRACKETS)) == "fwd=stale; fwd-status=200; stored"
    assert calls(stage) == dict.fromkeys(PATHS, 1) | {BRACKETS: 3}
    objective = 'coinm_snapshot_objective_seconds{{account="main",document="{}"}}'
    assert [gateway.figure(objective.format(NAME[path])) for path in (BALANCE, BRACKETS)] == [10_802, 3_602]


# Failures of one, and refusals that bind all.


FAILURES = {
    "404-path": "exchange-endpoint-gone",
    "not-json": "exchange-answer-invalid",
    "maintenance": "exchange-unavailable",
}
"""Of one call alone: the exchange may be asked for anything else."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", FAILURES)
async def test_a_document_that_fails_pauses_alone_and_for_the_whole_fleet(stage: Stage, path: str, fault: str) -> None:
    one, other = await stage.start_fleet(2)
    rest = [each for each in PATHS if each != path]
    stage.fail(Fault(fault, path=AT_EXCHANGE[path]))
    for each in (one, other):
        assert told(await each.get(path))[1:] == (FAILURES[fault], "1")
        assert fresh(list((await read_all(each, rest)).values()))
    assert calls(stage) == dict.fromkeys(PATHS, 1)
    await stage.advance(1_000)
    assert told(await one.get(path))[1:] == (FAILURES[fault], "2")
    await stage.advance(1_500)
    assert told(await other.get(path, **NO_CACHE))[1:] == (FAILURES[fault], "1")
    assert fresh(list((await read_all(other, rest, cache_control="max-age=1")).values()))
    assert calls(stage) == dict.fromkeys(PATHS, 2)
    stage.fail()
    await stage.advance(500)
    assert fresh([await other.get(path)])


HOLDS = {"418": "exchange-banned", "429": "exchange-rate-limited", "-2015": "exchange-rejected-credentials"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", HOLDS)
async def test_a_refusal_that_one_document_meets_bars_all_of_the_fleet(stage: Stage, path: str, fault: str) -> None:
    one, other = await warm(stage), await stage.start()
    await stage.advance(10_000)
    stage.fail(Fault(fault, path=AT_EXCHANGE[path], count=1))
    insisting = {"cache_control": "max-age=5"}
    assert told(await one.get(path, **insisting))[1] == HOLDS[fault]
    since = stage.exchange.calls.count()
    for each in (one, other):
        assert set(statuses(await read_all(each, **insisting)).values()) == {HOLDS[fault]}
        stale = dict.fromkeys(PATHS, "hit; ttl=-9; detail=not-before")
        assert statuses(await read_all(each)) == stale | {BRACKETS: "hit; ttl=3590"}
    assert requests(stage, since) == []


async def test_a_document_that_hangs_holds_up_no_other_on_any_replica(stage: Stage) -> None:
    one, other = await stage.start_fleet(2)
    stage.fail(Fault("hang", path=AT_EXCHANGE[POSITION_RISK]))
    waiting = [asyncio.create_task(one.get(POSITION_RISK))]
    await stage.exchange.wait_held()
    waiting.append(asyncio.create_task(other.get(POSITION_RISK)))
    rest = [path for path in PATHS if path != POSITION_RISK]
    for each in (one, other):
        assert fresh(list((await read_all(each, rest)).values()))
    assert not any(task.done() for task in waiting)  # the end of another's lease is none of its
    stage.exchange.release()
    assert fresh(await asyncio.gather(*waiting))
    assert calls(stage) == dict.fromkeys(PATHS, 1)


async def test_callers_who_leave_one_document_take_no_other_with_them(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    leaving, staying = ([asyncio.create_task(gateway.get(path)) for path in PATHS] for _ in range(2))
    await stage.exchange.wait_held(4)
    for task in (*leaving, staying[1]):
        task.cancel()
    await asyncio.wait([*leaving, staying[1]])
    late = asyncio.create_task(gateway.get(PATHS[1]))  # nobody waits for it any more, and yet it goes on
    stage.exchange.release()
    assert fresh(await asyncio.gather(late, *(task for number, task in enumerate(staying) if number != 1)))
    assert calls(stage) == dict.fromkeys(PATHS, 1)


# The weight.


async def test_a_burst_over_all_documents_keeps_to_the_ceiling(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"weight_limit": 100, "weight_share": 0.5}, freshness={"fresh_for": "100ms"})
    replicas = await stage.start_fleet()
    for turn in range(30):
        await read_all(replicas[turn % 3])
        await stage.advance(200)
    assert 45 <= stage.exchange.limits.tally(ADDRESS, stage.exchange.now_ms()).used <= 50


async def test_the_documents_of_an_account_share_its_equal_slice(make_stage: MakeStage) -> None:
    stage = make_stage(
        accounts={"main": {"fresh_for": "1ms", "stale_while_revalidate": "0ms"}, "other": None},
        exchange={"weight_limit": 1_000, "weight_share": 0.4},
    )
    one, other = await stage.start_fleet(2)
    modest: list[httpx.Response] = []
    greedy: list[dict[str, str]] = []
    for turn in range(360):
        if turn % 40 == 0:
            modest += (await read_all(other, [path.replace("main", "other") for path in FURTHER[:2]])).values()
        greedy.append(statuses(await read_all(one)))
        await stage.advance(100)
    assert fresh(modest)
    for path in (ACCOUNT, BALANCE, POSITION_RISK):
        waited = [each[path].endswith("detail=weight-budget") for each in greedy]
        assert 0 < sum(waited) < len(greedy)
        first = waited.index(True)
        assert 175 <= 7 * first + WEIGHT[BRACKETS] <= 215  # half of the minute's weight goes at any pace
    assert not all(each.endswith("detail=weight-budget") for turn in greedy[-20:] for each in turn.values())


# Replicas.


async def test_a_replica_has_in_memory_what_another_was_told_of_any_document(stage: Stage) -> None:
    one, other = await stage.start_fleet(2)
    for path in PATHS:
        await one.get(path)
        await settle()
    stage.redis_server.connected = False
    assert set(statuses(await read_all(other, cache_control="only-if-cached")).values()) == {
        "hit; ttl=1",
        "hit; ttl=3600",
    }
    assert calls(stage) == dict.fromkeys(PATHS, 1)


async def test_a_replica_that_is_started_adopts_every_document_without_a_call(stage: Stage) -> None:
    before = await read_all(await warm(stage, 500))
    since, restarted = stage.exchange.calls.count(), await stage.start()
    after = await read_all(restarted)
    assert statuses(after) == dict.fromkeys(PATHS, "hit; ttl=0") | {BRACKETS: "hit; ttl=3599"}
    for name in ("etag", "gateway-snapshot-time"):
        assert [each.headers[name] for each in after.values()] == [each.headers[name] for each in before.values()]
    assert requests(stage, since) == []


async def test_a_failed_document_is_announced_as_that_document(stage: Stage) -> None:
    one, other = await stage.start_fleet(2)
    stage.fail(Fault("not-json", path=AT_EXCHANGE[BALANCE]))
    await one.get(BALANCE)
    await settle()
    stage.redis_server.connected = False  # what it knows, it has been told
    assert problem(await other.get(BALANCE)) == "exchange-answer-invalid"
    assert calls(stage) == {BALANCE: 1}
    assert fresh([await other.get(POSITION_RISK)])


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (f"main {IDENTITY}", {ACCOUNT}),
        (f"main/balance {IDENTITY}", {BALANCE}),
        (f"main/invented-later {IDENTITY}", set[str]()),
        (f"main/balance {NEW_IDENTITY}", set[str]()),
        (f"other/balance {IDENTITY}", set[str]()),
    ],
)
async def test_a_message_has_a_replica_read_its_document_and_no_other(
    stage: Stage, log_text: io.StringIO, message: str, read: set[str]
) -> None:
    """Of an older release, which names none, it is the account; of a newer one there may be others."""
    gateway = await warm(stage)
    async with stage.redis() as redis:
        for path in PATHS:  # as if all of them had been requested a second later, by a replica that then died
            await redis.hincrby(key("snapshot", path), "asked_at", SECOND)
        await stage.advance(SECOND)
        await redis.publish(CHANNEL, message)
    await settle()
    stage.redis_server.connected = False
    seen = await read_all(gateway, cache_control="only-if-cached, max-stale")
    times = {path: answer.headers["gateway-snapshot-time"][-8:] for path, answer in seen.items()}
    assert {path for path, time in times.items() if time == ":01.000Z"} == read
    assert logged(log_text, "announcements_fault") == []


async def test_a_redis_that_is_back_is_asked_for_the_documents_in_use_alone(make_stage: MakeStage) -> None:
    """And for the account, of which there may be news that are no document's."""
    stage = make_stage(freshness={"fresh_for": "3s"})
    line = copy.copy(stage.redis_server)  # to the same Redis, for one replica alone
    others = await warm(stage)
    redis = cast("Any", FakeAsyncRedis(server=line))
    gateway = await stage.start_app(
        create_app(stage.settings, transport=stage.transport, redis=redis, clock=stage.clock)
    )
    await gateway.get(POSITION_RISK)
    line.connected = False
    await stage.advance(5_000)
    await gateway.get(POSITION_RISK)  # notices, and goes alone
    await stage.advance(5_000)
    await read_all(others, cache_control="max-age=1")
    line.connected = True
    await stage.advance(1_000)
    async with asyncio.timeout(10):
        while not gateway.gateway.redis.up:  # its heartbeat notices; nobody asks
            await asyncio.sleep(0.01)
    await settle()
    since = stage.exchange.calls.count()
    line.connected = False
    seen = statuses(await read_all(gateway, cache_control="only-if-cached"))
    unread = dict.fromkeys((BALANCE, BRACKETS), "freshness-unmet")
    assert seen == dict.fromkeys((ACCOUNT, POSITION_RISK), "hit; ttl=2") | unread
    assert requests(stage, since) == []


async def test_an_operators_resume_clears_the_failures_and_leases_of_every_document(stage: Stage) -> None:
    await stage.start()
    gateway = await stage.start()
    stage.fail(*(Fault("404-path", path=upstream) for upstream in AT_EXCHANGE.values()))
    await read_all(gateway)
    await stage.end(gateway)
    stage.fail()
    async with stage.redis() as redis:
        for path in PATHS:
            await redis.set(key("lease", path), "nobody's")
    cleared = await check.resume(stage.app().gateway, ["main"])
    of = ["", " of balance", " of position-risk", " of leverage-brackets"]
    assert cleared == [
        text
        for name in of
        for text in (
            f"main: 1 failed refresh(es) in a row{name} cleared",
            f"main: a lease{name} that would not have ended cleared",
        )
    ]
    assert fresh(list((await read_all(await stage.start())).values()))
    assert await check.resume(stage.app().gateway, ["main"]) == []


# Credentials.


async def test_a_rotated_account_goes_on_with_every_document_and_requests_it_with_the_new_key(stage: Stage) -> None:
    gateway, files = await stage.start_watched()
    await read_all(gateway)
    await stage.advance(500)
    since = stage.exchange.calls.count()
    stage.change_key(NEW_KEY)
    await files.check_now()
    await decided()
    proof = (AT_EXCHANGE[ACCOUNT], NEW_KEY)
    assert requests(stage, since) == [proof]
    seen = await read_all(gateway)
    assert {path: ages([each]) for path, each in seen.items()} == {
        path: {0 if path == ACCOUNT else 500} for path in PATHS
    }
    assert requests(stage, since) == [proof]
    await stage.advance(5_000)
    await read_all(gateway)
    async with stage.redis() as redis:
        shared = {name.decode() for name in await keys(redis) if b":snapshot:" in name}
    # Brackets too, though fresh for an hour: the new key may be another exchange account's.
    assert {name for name in shared if name.endswith(NEW_IDENTITY)} == {
        key("snapshot", path, NEW_IDENTITY) for path in PATHS
    }
    await stage.advance(HOUR + 5_000)
    assert fresh(list((await read_all(gateway)).values()))
    assert set(requests(stage, since + 1)) >= {(upstream, NEW_KEY) for upstream in AT_EXCHANGE.values()}
    assert DEMO_API_KEY not in {by for _, by in requests(stage, since)}


async def test_what_the_old_credential_requested_is_not_shared_as_the_new_ones(stage: Stage) -> None:
    """A replica that is started with the new one alone finds only what the new one requested."""
    gateway, files = await stage.start_watched()
    await read_all(gateway)
    stage.change_key(NEW_KEY)
    await files.check_now()
    await decided()
    since, started = stage.exchange.calls.count(), await stage.start()
    await read_all(started)
    asked = [each for each in requests(stage, since) if each[0] in AT_EXCHANGE.values()]
    assert sorted(asked) == sorted((upstream, NEW_KEY) for upstream in AT_EXCHANGE.values())


@pytest.mark.parametrize("path", PATHS)
async def test_a_superseded_replica_has_the_document_refreshed_that_it_wants_and_no_other(
    stage: Stage, path: str
) -> None:
    old, (_, files) = await warm(stage), await stage.start_watched()
    stage.change_key(NEW_KEY)
    await files.check_now()
    await decided()
    for demand in ({"cache_control": "max-age=5"}, NO_CACHE):
        await stage.advance(MINUTE + 1)  # a credential is followed for twice as long after its last use
        since = stage.exchange.calls.count()
        assert fresh([await old.get(path, **demand)])
        asked = [each for each in requests(stage, since) if each[0] in AT_EXCHANGE.values()]
        assert asked == [(AT_EXCHANGE[path], NEW_KEY)]


async def test_failures_with_the_old_credential_do_not_count_against_the_new_one_for_any_document(
    stage: Stage,
) -> None:
    gateway, files = await stage.start_watched()
    stage.fail(*(Fault("404-path", path=AT_EXCHANGE[path]) for path in FURTHER))
    for pause in (1, 2, 4, 8):
        assert {told(each)[2] for each in (await read_all(gateway, FURTHER)).values()} == {str(pause)}
        await stage.advance(pause * SECOND)
    await read_all(gateway, FURTHER)
    stage.change_key(NEW_KEY)
    await files.check_now()
    await decided()
    assert {told(each)[2] for each in (await read_all(gateway, FURTHER)).values()} == {"1"}
    assert sorted(requests(stage, -3)) == sorted((AT_EXCHANGE[path], NEW_KEY) for path in FURTHER)


# Accounts that come and go, and ends.


async def test_documents_of_an_account_that_goes_are_nobodys_and_their_leases_end(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": None, "other": None})
    gateway, reloader = await stage.start_watched()
    paths = [path.replace("main", "other") for path in PATHS]
    await gateway.get(paths[1])
    await stage.advance(10_000)
    stage.exchange.hold()
    waiting = [asyncio.create_task(gateway.get(path)) for path in paths]
    await stage.exchange.wait_held(4)
    write_settings(stage.folder)
    await reloader.check_now()
    assert {problem(each) for each in (await read_all(gateway, paths)).values()} == {"forbidden"}
    stage.exchange.release()
    assert {problem(await each) for each in waiting} == {"forbidden"}
    await decided()
    since = stage.exchange.calls.count()
    await stage.advance(10_000)
    assert {problem(each) for each in (await read_all(gateway, paths)).values()} == {"forbidden"}
    assert requests(stage, since) == []
    async with stage.redis() as redis:
        assert [name for name in await keys(redis) if b":lease:" in name] == []
    assert 'account="other",document' not in gateway.metrics().partition("coinm_snapshot_age_seconds")[2]
    assert fresh(list((await read_all(gateway)).values()))


@pytest.mark.parametrize("accounts", [["main"], ["main", "other"]])
async def test_a_replica_that_ends_gives_every_documents_lease_back_though_redis_is_slow(
    make_stage: MakeStage, log_text: io.StringIO, accounts: list[str]
) -> None:
    stage = make_stage(accounts=dict.fromkeys(accounts), exchange={"timeout": "10s"})
    paths = [path.replace("main", account) for account in accounts for path in PATHS]
    for lag in (0, 0.2):  # seconds; the first loads the scripts. An operation may take a quarter of one
        gateway = await stage.start_lagging()
        stage.exchange.hold()
        waiting = [asyncio.create_task(gateway.get(path)) for path in paths]
        await stage.exchange.wait_held(len(paths))
        async with stage.redis() as redis:
            assert len([name for name in await keys(redis) if b":lease:" in name]) == len(paths)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        stage.redis_server.lag = lag
        await stage.end(gateway)
        async with stage.redis() as redis:
            assert [name for name in await keys(redis) if b":lease:" in name] == []
        stage.redis_server.lag = 0
        stage.exchange.release()
        stage.clock.advance(HOUR + 10 * SECOND)
    assert logged(log_text, "closing_unfinished") == []


# What operators see.


async def test_metrics_tell_documents_apart(stage: Stage) -> None:
    gateway = await stage.start()
    for _ in range(3):
        await gateway.get(POSITION_RISK)
    await stage.advance(2_000)
    await gateway.get(f"{POSITION_RISK}/BTCUSD_PERP")
    await settle()
    labels = 'account="main",document="position-risk"'
    own = 'account="main",client="risk",document="{}",result="{}"'
    results = [("position-risk", "stored"), ("position-risk", "fresh"), ("position-risk", "swr"), ("account", "stored")]
    counts = [gateway.figure(f"coinm_cache_results_total{{{own.format(*each)}}}") for each in results]
    assert counts == [1, 2, 1, None]
    assert gateway.figure(f'coinm_refreshes_total{{{labels},outcome="fetched"}}') == 2
    assert gateway.figure(f"coinm_refresh_duration_seconds_count{{{labels}}}") == 2
    assert gateway.figure(f"coinm_snapshot_age_seconds{{{labels}}}") == 0
    assert gateway.figure('coinm_snapshot_age_seconds{account="main",document="balance"}') is None
    assert gateway.figure('coinm_exchange_calls_total{endpoint="positionRisk",outcome="ok"}') == 2
    assert gateway.figure('coinm_weight_spent_total{client="risk",endpoint="positionRisk"}') == 2


async def test_weight_saved_counts_each_document_with_its_own(stage: Stage) -> None:
    gateway = await warm(stage)
    saved = 0
    for path in PATHS:
        for _ in range(10):
            await gateway.get(path)
        saved += 10 * WEIGHT[path]
        assert gateway.figure('coinm_weight_saved_total{account="main",client="risk"}') == saved
    assert (await gateway.status())["weight"]["savedTotal"] == saved == 90


async def test_the_status_is_of_the_account_object_and_of_what_is_read_in_its_stead(stage: Stage) -> None:
    gateway = await stage.start()
    await gateway.get(POSITION_RISK)
    await stage.advance(3_000)
    stage.fail(Fault("404-path", path=AT_EXCHANGE[POSITION_RISK]))
    await gateway.get(POSITION_RISK, cache_control="max-age=1")
    (instead,) = (await gateway.status())["accounts"]
    assert (instead["ageMs"], instead["positionMode"]) == (3_000, "one-way")
    assert instead["lastRefresh"]["outcome"] == "exchange-endpoint-gone"
    await gateway.get(ACCOUNT)
    (account,) = (await gateway.status())["accounts"]
    assert (account["ageMs"], account["lastRefresh"]["outcome"]) == (0, "ok")


@pytest.mark.parametrize(
    ("path", "shape", "filters"),
    [
        (f"{BALANCE}?asset=ETH,BTC", "balance", Filters(assets=("BTC", "ETH"))),
        (f"{BALANCE}/BTC", "balance/asset", Filters(assets=("BTC",))),
        (f"{POSITION_RISK}?open=true&positionSide=BOTH", "position-risk", Filters(sides=("BOTH",), open=True)),
        (f"{POSITION_RISK}/BTCUSD_PERP", "position-risk/symbol", Filters(symbols=("BTCUSD_PERP",))),
        (
            f"{POSITION_RISK}/BTCUSD_PERP/BOTH",
            "position-risk/symbol/positionSide",
            Filters(symbols=("BTCUSD_PERP",), sides=("BOTH",)),
        ),
        (f"{BRACKETS}?asset=BTC", "leverage-brackets", Filters(assets=("BTC",))),
        (f"{BRACKETS}/BTCUSD_PERP", "leverage-brackets/symbol", Filters(symbols=("BTCUSD_PERP",))),
        (f"{DROP_IN}/v1/balance", "balance", Filters()),
        (f"{DROP_IN}/v1/positionRisk?pair=BTCUSD", "position-risk", Filters(pairs=("BTCUSD",))),
        (f"{DROP_IN}/v1/positionRisk?marginAsset=BTC", "position-risk", Filters(assets=("BTC",))),
        (
            f"{DROP_IN}/v2/leverageBracket?symbol=BTCUSD_PERP",
            "leverage-brackets",
            Filters(symbols=("BTCUSD_PERP",)),
        ),
    ],
)
async def test_the_audit_log_has_a_reads_shape_and_filters(
    stage: Stage, path: str, shape: str, filters: Filters
) -> None:
    gateway = await stage.start()
    own = path.startswith(DROP_IN)
    token = {"x_mbx_apikey": TOKENS["risk"]} if own else {}
    for _ in range(2):  # the second by the fast path
        assert (await gateway.get(path, client=None if own else "risk", **token)).status_code == 200
    lines = await stage.audited()
    assert [(line.shape, line.filters, line.account, line.client) for line in lines] == [
        (shape, filters, "main", "risk")
    ] * 2
    assert all(line.snapshot for line in lines)
