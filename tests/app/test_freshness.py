"""How fresh: every row of the contract's table, on caches of every age, whether or not the exchange may be asked."""

import asyncio

import httpx
import pytest

from simulator.faults import ACCOUNT_PATH, Fault
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, NO_CACHE, Replica, Stage, cache_status, problem, told
from tests.support import START, bearer

COLD = None
ASKED = "fwd=request; fwd-status=200; stored"
EXPIRED = "fwd=stale; fwd-status=200; stored"
UNMET = "freshness-unmet"
BANNED = "exchange-banned"

Row = tuple[int | None, str, str, int]
"""Age of the snapshot in ms; what the caller demands; what it is told; calls to the exchange for it."""

# fresh_for 1 s, stale_while_revalidate 2 s, stale_if_error 60 s, min_refresh_interval 1 s
WHILE_THE_EXCHANGE_IS_WELL: list[Row] = [
    (COLD, "", "fwd=miss; stored", 1),
    (COLD, "no-cache", "fwd=miss; stored", 1),
    (COLD, "max-age=5", "fwd=miss; stored", 1),
    (COLD, "max-stale", "fwd=miss; stored", 1),
    (COLD, "min-fresh=0", "fwd=miss; stored", 1),
    (COLD, "min-fresh=1", UNMET, 0),
    (COLD, "only-if-cached", UNMET, 0),
    (COLD, "only-if-cached, max-stale", UNMET, 0),
    # fresh
    (0, "", "hit; ttl=1", 0),
    (500, "", "hit; ttl=0", 0),
    (500, "max-age=1", "hit; ttl=0", 0),
    (500, "no-cache", "hit; ttl=0", 0),
    (500, "max-age=0", "hit; ttl=0", 0),
    (500, "pragma", "hit; ttl=0", 0),
    (500, "min-fresh=0", "hit; ttl=0", 0),
    (500, "min-fresh=1", UNMET, 0),
    (500, "max-stale", "hit; ttl=0", 0),
    (500, "only-if-cached", "hit; ttl=0", 0),
    (500, 'no-transform, future="a, b", no-store', "hit; ttl=0", 0),
    (999, "", "hit; ttl=0", 0),
    # within stale-while-revalidate
    (1_000, "", "hit; ttl=0; detail=swr", 1),
    (1_000, "no-cache", "hit; ttl=0", 0),  # as young as min_refresh_interval
    (1_001, "no-cache", ASKED, 1),
    (2_000, "", "hit; ttl=-1; detail=swr", 1),
    (2_000, "max-age=2", "hit; ttl=-1; detail=swr", 1),
    (2_000, "max-age=60", "hit; ttl=-1; detail=swr", 1),
    (2_001, "max-age=2", ASKED, 1),
    (2_000, "max-age=1", ASKED, 1),
    (2_000, "max-age=0", ASKED, 1),
    (2_000, "no-cache", ASKED, 1),
    (2_000, "pragma", ASKED, 1),
    (2_000, "min-fresh=0", ASKED, 1),
    (2_000, "max-stale=0", "hit; ttl=-1; detail=swr", 1),
    (2_000, "only-if-cached", "hit; ttl=-1; detail=swr", 0),
    (2_000, "only-if-cached, max-age=1", UNMET, 0),
    (2_999, "", "hit; ttl=-2; detail=swr", 1),
    # expired
    (3_000, "", EXPIRED, 1),
    (10_000, "", EXPIRED, 1),
    (10_000, "no-cache", ASKED, 1),
    (10_000, "max-age=60", EXPIRED, 1),  # no looser than the windows
    (10_000, "max-stale=8", EXPIRED, 1),
    (10_000, "max-stale=9", "hit; ttl=-9; detail=max-stale", 1),
    (10_000, "max-stale", "hit; ttl=-9; detail=max-stale", 1),
    (10_000, "only-if-cached", UNMET, 0),
    (10_000, "only-if-cached, max-stale=9", "hit; ttl=-9; detail=max-stale", 0),
    # the hard cap
    (61_000, "max-stale", "hit; ttl=-60; detail=max-stale", 1),
    (61_001, "max-stale", EXPIRED, 1),
    (61_001, "only-if-cached, max-stale", UNMET, 0),
]

WHILE_IT_MAY_NOT_BE_ASKED: list[Row] = [
    (COLD, "", BANNED, 0),
    (COLD, "no-cache", BANNED, 0),
    (COLD, "only-if-cached", UNMET, 0),
    (500, "", "hit; ttl=0", 0),
    (500, "no-cache", "hit; ttl=0", 0),
    (2_000, "", "hit; ttl=-1; detail=not-before", 0),
    (2_000, "max-age=2", "hit; ttl=-1; detail=not-before", 0),
    (2_000, "max-age=1", BANNED, 0),
    (2_000, "no-cache", BANNED, 0),
    (2_000, "pragma", BANNED, 0),
    (2_000, "min-fresh=0", BANNED, 0),
    (2_000, "min-fresh=1", UNMET, 0),
    (2_000, "only-if-cached", "hit; ttl=-1; detail=swr", 0),
    (10_000, "", "hit; ttl=-9; detail=not-before", 0),
    (10_000, "max-stale=5", "hit; ttl=-9; detail=not-before", 0),
    (10_000, "max-stale", "hit; ttl=-9; detail=not-before", 0),
    (10_000, "max-age=20", "hit; ttl=-9; detail=not-before", 0),
    (10_000, "max-age=9", BANNED, 0),
    (10_000, "no-cache", BANNED, 0),
    (10_000, "only-if-cached", UNMET, 0),
    (60_999, "", "hit; ttl=-60; detail=not-before", 0),
    (61_001, "", BANNED, 0),
    (61_001, "max-stale", BANNED, 0),
]

MALFORMED = [
    "max-age",
    "max-age=",
    "max-age=x",
    "max-age=-1",
    "max-age=1.5",
    "max-age=1s",
    "max-age=1 2",
    "max-age=1, max-age=2",
    "min-fresh",
    "min-fresh=x",
    "max-stale=x",
    "max-stale=-1",
    "no-cache=1",
    "only-if-cached=true",
    'max-age="1',
    "=1",
    "no-cache; max-age=1",
]


async def _started(stage: Stage, age: int | None) -> Replica:
    return await stage.start() if age is None else await stage.warm(age)


async def _ask(gateway: Replica, demand: str) -> httpx.Response:
    if demand == "pragma":
        return await gateway.get(pragma="no-cache")
    return await gateway.get(cache_control=demand) if demand else await gateway.get()


def _told(answer: httpx.Response) -> str:
    return cache_status(answer) if answer.status_code == 200 else problem(answer)


@pytest.mark.parametrize(("age", "demand", "expected", "calls"), WHILE_THE_EXCHANGE_IS_WELL)
async def test_a_demand_is_met_as_the_table_says(
    stage: Stage, age: int | None, demand: str, expected: str, calls: int
) -> None:
    gateway = await _started(stage, age)
    stage.exchange.calls.clear()
    answer = await _ask(gateway, demand)
    assert _told(answer) == expected
    if calls:
        await stage.exchange.calls.wait_for(ACCOUNT_PATH, calls)
    assert stage.account_calls == calls
    if expected.startswith("hit"):
        assert (answer.headers["gateway-snapshot-age"], answer.headers["age"]) == (str(age), str((age or 0) // 1000))
    elif expected == UNMET:
        assert (answer.status_code, stage.exchange.calls.count()) == (504, 0)
    else:
        assert (answer.headers["gateway-snapshot-age"], answer.headers["age"]) == ("0", "0")


@pytest.mark.parametrize(("age", "demand", "expected", "calls"), WHILE_IT_MAY_NOT_BE_ASKED)
async def test_a_demand_is_met_as_the_table_says_while_the_exchange_may_not_be_asked(
    make_stage: MakeStage, age: int | None, demand: str, expected: str, calls: int
) -> None:
    stage = make_stage(accounts={"main": None, "other": None})
    gateway = await _started(stage, age)
    stage.fail(Fault("418", count=1))
    assert problem(await gateway.get("/v1/accounts/other")) == BANNED  # the ban is on the address, so on main too
    stage.exchange.calls.clear()
    answer = await _ask(gateway, demand)
    assert _told(answer) == expected
    assert answer.headers.get("retry-after") == ("120" if expected == BANNED else None)
    assert stage.exchange.calls.count() == calls


async def test_a_malformed_directive_is_a_400_that_says_where(gateway: Replica, stage: Stage) -> None:
    for value in MALFORMED:
        answer = await gateway.get(cache_control=value)
        assert (answer.status_code, problem(answer)) == (400, "invalid-parameter"), value
        assert "Cache-Control" in answer.json()["detail"]
    assert stage.exchange.calls.count() == 0


@pytest.mark.parametrize(
    "value", ["NO-CACHE", ", no-cache ,", "no-cache, no-cache", "no-cache,max-age=9", 'max-age="0"']
)
async def test_directives_are_read_as_the_rfc_says(stage: Stage, value: str) -> None:
    gateway = await stage.warm(age=2_000)
    assert cache_status(await gateway.get(cache_control=value)) == ASKED


@pytest.mark.parametrize("value", ["max-age=99999999999999999999", "max-stale=99999999999999999999"])
async def test_an_endless_number_is_a_large_one(stage: Stage, value: str) -> None:
    gateway = await stage.warm(age=2_000)
    assert cache_status(await gateway.get(cache_control=value)) == "hit; ttl=-1; detail=swr"


async def test_several_cache_control_headers_are_one_list(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    headers = [*bearer().items(), ("cache-control", "x=1"), ("cache-control", "no-cache")]
    assert cache_status(await gateway.caller.get(ACCOUNT, headers=headers)) == ASKED


async def test_pragma_counts_only_without_cache_control(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    answer = await gateway.get(pragma="no-cache", cache_control="max-age=60")
    assert cache_status(answer) == "hit; ttl=-1; detail=swr"


@pytest.mark.parametrize(("age", "expected"), [(2_500, "hit; ttl=2"), (3_000, "hit; ttl=2"), (3_001, ASKED)])
async def test_min_fresh_asks_for_freshness_to_be_left(make_stage: MakeStage, age: int, expected: str) -> None:
    gateway = await make_stage(freshness={"fresh_for": "5s"}).warm(age)
    assert cache_status(await gateway.get(cache_control="min-fresh=2")) == expected


async def test_an_account_may_have_windows_of_its_own(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": {"fresh_for": "30s"}, "other": None})
    gateway = await stage.warm(age=10_000)
    assert cache_status(await gateway.get()) == "hit; ttl=20"
    assert cache_status(await gateway.get("/v1/accounts/other")) == "fwd=miss; stored"
    await stage.advance(10_000)
    assert cache_status(await gateway.get("/v1/accounts/other")) == EXPIRED


@pytest.mark.parametrize(
    ("windows", "age", "expected"),
    [
        ({"stale_while_revalidate": "0s"}, 1_000, EXPIRED),
        ({"stale_if_error": "0s"}, 2_999, "hit; ttl=-2; detail=swr"),
        ({"stale_if_error": "0s"}, 3_001, EXPIRED),
        ({"min_refresh_interval": "0s", "fresh_for": "5s"}, 1_000, "hit; ttl=4"),
    ],
)
async def test_windows_may_be_shut(make_stage: MakeStage, windows: dict[str, str], age: int, expected: str) -> None:
    gateway = await make_stage(freshness=windows).warm(age)
    assert cache_status(await gateway.get()) == expected


async def test_nothing_older_than_the_hard_cap_is_served_in_an_outage(make_stage: MakeStage) -> None:
    stage = make_stage(freshness={"stale_if_error": "5s"})
    gateway = await stage.warm(age=5_999)
    stage.fail("not-json")
    assert cache_status(await gateway.get()) == "fwd=stale; fwd-status=200; ttl=-5; detail=stale-if-error"
    await stage.advance(2)
    assert told(await gateway.get()) == (502, "exchange-answer-invalid", "1")


async def test_within_stale_while_revalidate_all_are_served_at_once_and_one_refresh_runs_behind(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    stage.exchange.hold()
    answers = await asyncio.gather(*(gateway.get() for _ in range(20)))
    assert {cache_status(answer) for answer in answers} == {"hit; ttl=-1; detail=swr"}
    await stage.exchange.wait_held()
    assert stage.account_calls == 2
    waiting = asyncio.create_task(gateway.get(cache_control="max-age=1"))
    await stage.exchange.wait_held()
    stage.exchange.release()
    assert cache_status(await waiting) == "fwd=request; collapsed"
    assert cache_status(await gateway.get()) == "hit; ttl=1"
    assert stage.account_calls == 2


async def test_a_refresh_behind_that_fails_is_told_to_nobody_until_the_windows_end(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    stage.fail("not-json")
    stage.exchange.hold()
    assert cache_status(await gateway.get()) == "hit; ttl=-1; detail=swr"
    await stage.exchange.wait_held()
    waiting = asyncio.create_task(gateway.get(cache_control="max-age=1"))
    stage.exchange.release()
    assert told(await waiting) == (502, "exchange-answer-invalid", "1")
    assert cache_status(await gateway.get()) == "hit; ttl=-1; detail=backoff"
    assert stage.account_calls == 2


async def test_twenty_who_insist_at_once_cost_one_call(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    answers = await asyncio.gather(*(gateway.get(**NO_CACHE) for _ in range(20)))
    assert sorted(map(cache_status, answers)) == sorted([ASKED, *["fwd=request; collapsed"] * 19])
    again = await asyncio.gather(*(gateway.get(**NO_CACHE) for _ in range(20)))
    assert {cache_status(answer) for answer in again} == {"hit; ttl=1"}
    assert stage.account_calls == 2


async def test_who_insists_is_met_by_what_another_replica_has_just_fetched(stage: Stage) -> None:
    one, other = await stage.warm(), await stage.warm()
    await stage.advance(2_000)
    assert cache_status(await one.get(**NO_CACHE)) == ASKED
    await stage.advance(500)
    after = stage.exchange.calls.count()
    assert cache_status(await other.get(**NO_CACHE)) == "hit; ttl=0"
    assert stage.exchange.calls.count() == after


async def test_who_insists_is_not_met_by_a_refresh_that_began_too_long_before(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    early = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    await stage.advance(1_500)
    late = asyncio.create_task(gateway.get(**NO_CACHE))
    await asyncio.sleep(0)
    stage.exchange.release()
    assert (await early).headers["gateway-snapshot-age"] == "1500"
    assert (await late).headers["gateway-snapshot-age"] == "0"
    assert stage.account_calls == 2


async def test_an_age_runs_from_when_the_exchange_was_asked(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    waiting = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    await stage.advance(2_700)
    stage.exchange.release()
    answer = await waiting
    assert cache_status(answer) == "fwd=miss; stored"
    assert (answer.headers["age"], answer.headers["gateway-snapshot-age"]) == ("2", "2700")
    assert answer.headers["gateway-snapshot-time"] == "2026-09-21T14:14:00.000Z"
    assert START % 60_000 == 0


async def test_an_answer_slower_than_it_may_be_old_is_refused_not_asked_for_again(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    waiting = asyncio.create_task(gateway.get(cache_control="max-age=2"))
    await stage.exchange.wait_held()
    await stage.advance(2_500)
    stage.exchange.release()
    answer = await waiting
    assert (answer.status_code, problem(answer)) == (504, UNMET)
    assert stage.account_calls == 1


@pytest.mark.parametrize("milliseconds", [-3_600_000, 3_600_000])
async def test_ages_hold_when_somebody_turns_this_machines_clock(stage: Stage, milliseconds: int) -> None:
    gateway = await stage.warm(age=500)
    stage.exchange.clock.skew_ms = -milliseconds  # the exchange's own clock stays right
    stage.clock.misset(milliseconds)
    answer = await gateway.get()
    assert (cache_status(answer), answer.headers["gateway-snapshot-age"]) == ("hit; ttl=0", "500")
    await stage.advance(10_000)
    assert cache_status(await gateway.get()) == EXPIRED
    assert (await gateway.status())["clockOffsetMs"] == -milliseconds
