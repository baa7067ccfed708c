"""The contract's table of freshness, row by row, then what must hold for any input at all."""

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cache.policy import (
    SLOW_AFTER_MS,
    Decision,
    FreshnessUnmetError,
    Refresh,
    Refuse,
    RequestDirectives,
    Serve,
    ServeAndRefresh,
    Situation,
    beyond,
    from_memory,
    is_forced,
    is_too_old,
)
from service.fleet.budget import Barrier
from service.fleet.errors import ExchangeBannedError
from tests.support import freshness

WINDOWS = freshness(fresh_for=1_000, stale_while_revalidate=2_000, stale_if_error=60_000, min_refresh_interval=500)
SLOW = freshness(fresh_for=10_000, stale_while_revalidate=0, stale_if_error=0, min_refresh_interval=1_000)
BARRIER = Barrier("not-before", ExchangeBannedError("x", retry_at=9).failure)

MaybeBarrier: TypeAlias = Barrier | None

NONE = RequestDirectives()
NO_CACHE = RequestDirectives(no_cache=True)
CACHED = RequestDirectives(only_if_cached=True)


def decide(situation: Situation, barrier: Barrier | None = None) -> Decision:
    """As a read does: memory first."""
    return from_memory(situation) or beyond(situation, barrier)


def told(decision: Decision) -> str:
    """A decision in a few words."""
    match decision:
        case Serve(reason):
            return f"serve {reason}"
        case ServeAndRefresh(reason):
            return f"serve {reason}, refresh"
        case Refresh(reason=reason, max_age_ms=max_age_ms, forced=forced):
            return f"refresh {reason} {max_age_ms}{' forced' if forced else ''}"
        case Refuse(error):
            return f"refuse {error.problem}"


@pytest.mark.parametrize(
    ("demand", "age", "expected"),
    [
        (NONE, None, "refresh absent 1000"),
        (NONE, 0, "serve fresh"),
        (NONE, 999, "serve fresh"),
        (NONE, 1_000, "serve swr, refresh"),  # fresh_for is over
        (NONE, 2_999, "serve swr, refresh"),
        (NONE, 3_000, "refresh expired 1000"),  # both windows are over
        (NONE, 61_001, "refresh expired 1000"),
        (RequestDirectives(max_age=500), 500, "serve fresh"),
        (RequestDirectives(max_age=500), 501, "refresh too-old 500 forced"),
        (RequestDirectives(max_age=2_000), 1_500, "serve swr, refresh"),
        (RequestDirectives(max_age=2_000), 2_001, "refresh too-old 1000"),
        (RequestDirectives(max_age=60_000), 3_000, "refresh expired 1000"),  # no looser than the windows
        (NO_CACHE, None, "refresh absent 500"),
        (NO_CACHE, 500, "serve fresh"),
        (NO_CACHE, 501, "refresh revalidate 500 forced"),
        (NO_CACHE, 1_500, "refresh revalidate 500"),
        (RequestDirectives(no_cache=True, max_age=100), 101, "refresh revalidate 100 forced"),
        (RequestDirectives(min_fresh=400), 600, "serve fresh"),
        (RequestDirectives(min_fresh=400), 601, "refresh too-old 600 forced"),
        (RequestDirectives(min_fresh=999), 1, "serve fresh"),
        (RequestDirectives(min_fresh=1_000), 0, "refuse freshness-unmet"),
        (RequestDirectives(max_stale=5_000), 1_500, "serve swr, refresh"),
        (RequestDirectives(max_stale=5_000), 6_000, "serve max-stale, refresh"),
        (RequestDirectives(max_stale=5_000), 6_001, "refresh expired 1000"),
        (RequestDirectives(max_stale=10**12), 61_000, "serve max-stale, refresh"),  # the hard cap
        (RequestDirectives(max_stale=10**12), 61_001, "refresh expired 1000"),
        (RequestDirectives(max_stale=5_000, max_age=4_000), 4_001, "refresh expired 1000"),
        (CACHED, None, "refuse freshness-unmet"),
        (CACHED, 999, "serve fresh"),
        (CACHED, 2_999, "serve swr"),
        (CACHED, 3_000, "refuse freshness-unmet"),
        (RequestDirectives(only_if_cached=True, max_age=500), 501, "refuse freshness-unmet"),
        (RequestDirectives(only_if_cached=True, no_cache=True), 501, "refuse freshness-unmet"),
        (RequestDirectives(only_if_cached=True, max_stale=5_000), 6_000, "serve max-stale"),
    ],
)
def test_while_the_exchange_may_be_asked(demand: RequestDirectives, age: int | None, expected: str) -> None:
    assert told(decide(Situation(WINDOWS, demand, age))) == expected


@pytest.mark.parametrize(
    ("demand", "age", "expected"),
    [
        (NONE, None, "refuse exchange-banned"),
        (NONE, 999, "serve fresh"),
        (NONE, 1_000, "serve not-before"),
        (NONE, 60_999, "serve not-before"),
        (NONE, 61_000, "refuse exchange-banned"),  # stale-if-error is over
        (RequestDirectives(max_age=500), 501, "refuse exchange-banned"),
        (RequestDirectives(max_age=30_000), 30_000, "serve not-before"),
        (RequestDirectives(max_age=30_000), 30_001, "refuse exchange-banned"),
        (NO_CACHE, 500, "serve fresh"),
        (NO_CACHE, 501, "refuse exchange-banned"),
        (RequestDirectives(min_fresh=400), 601, "refuse exchange-banned"),
        (RequestDirectives(min_fresh=1_000), 0, "refuse freshness-unmet"),
        (RequestDirectives(max_stale=0), 30_000, "serve not-before"),
        (RequestDirectives(max_stale=10**12), 61_001, "refuse exchange-banned"),
        (CACHED, 2_999, "serve swr"),
        (CACHED, 3_000, "refuse freshness-unmet"),
    ],
)
def test_while_the_exchange_can_not_be_asked(demand: RequestDirectives, age: int | None, expected: str) -> None:
    assert told(decide(Situation(WINDOWS, demand, age), BARRIER)) == expected


@pytest.mark.parametrize(
    ("demand", "age", "waited", "expected"),
    [
        (NONE, 1_500, 1_500, "serve recent"),  # asked for since the caller came: nothing younger can be had
        (NONE, 1_501, 1_500, "serve swr, refresh"),
        (NO_CACHE, 1_500, 1_000, "serve recent"),  # 500 ms older than the caller
        (NO_CACHE, 1_501, 1_000, "refresh revalidate 1500"),
        (RequestDirectives(max_age=1_000), 1_500, 1_500, "refuse freshness-unmet"),  # asked for as the caller came
        (RequestDirectives(max_age=1_000), 1_500, 2_000, "refuse freshness-unmet"),  # the exchange was too slow for it
        (RequestDirectives(min_fresh=500), 600, 700, "refuse freshness-unmet"),
    ],
)
def test_after_a_wait_the_snapshot_asked_for_meanwhile_counts(
    demand: RequestDirectives, age: int, waited: int, expected: str
) -> None:
    assert told(decide(Situation(WINDOWS, demand, age, waited))) == expected


@pytest.mark.parametrize(
    ("demand", "age", "waited", "expected"),
    [
        (NONE, 3_500, 2_500, "serve recent"),  # asked for before this caller came, and too old for it by the windows
        (NONE, 61_000, 500, "serve recent"),
        (NONE, 61_001, 500, "refresh expired 1000"),  # the hard cap
        (RequestDirectives(max_stale=0), 3_500, 2_500, "serve recent"),
        (RequestDirectives(max_age=4_000), 3_500, 2_500, "serve recent"),
        (RequestDirectives(max_age=3_000), 3_500, 2_500, "refresh expired 1000"),  # one asked for now may be in time
        (RequestDirectives(max_age=3_000), 3_500, 3_500, "refuse freshness-unmet"),  # and this was
        (RequestDirectives(min_fresh=0), 3_500, 2_500, "refresh expired 1000"),
        (NO_CACHE, 3_500, 3_000, "serve recent"),
        (NO_CACHE, 3_501, 3_000, "refresh revalidate 3500"),
    ],
)
def test_who_joined_a_refresh_accepts_what_it_brings(
    demand: RequestDirectives, age: int, waited: int, expected: str
) -> None:
    assert told(decide(Situation(WINDOWS, demand, age, waited, joined=True))) == expected


@pytest.mark.parametrize(("waited", "refreshing"), [(500, 0), (0, 500)], ids=["waited", "slow already"])
@pytest.mark.parametrize(
    ("demand", "age", "expected"),
    [
        (NONE, None, "refresh absent 1000"),  # nothing is at hand
        (NONE, 999, "serve fresh"),
        (NONE, 2_999, "serve swr, refresh"),
        (NONE, 3_000, "serve slow, refresh"),
        (NONE, 60_999, "serve slow, refresh"),
        (NONE, 61_000, "refresh expired 1000"),  # stale-if-error is over
        (RequestDirectives(max_stale=0), 5_000, "serve slow, refresh"),
        (RequestDirectives(max_age=6_000), 5_000, "serve slow, refresh"),
        (RequestDirectives(max_age=4_000), 5_000, "refresh expired 1000"),
        (RequestDirectives(min_fresh=0), 5_000, "refresh expired 1000"),
        (CACHED, 5_000, "refuse freshness-unmet"),
    ],
)
def test_nobody_without_a_bound_of_its_own_waits_longer_than_half_a_second(
    waited: int, refreshing: int, demand: RequestDirectives, age: int | None, expected: str
) -> None:
    assert told(decide(Situation(WINDOWS, demand, age, waited, refreshing=refreshing))) == expected


@pytest.mark.parametrize(("waited", "refreshing"), [(9_000, 0), (0, 9_000)])
def test_no_cache_waits_for_a_slow_exchange_as_long_as_it_takes(waited: int, refreshing: int) -> None:
    decision = decide(Situation(WINDOWS, NO_CACHE, 20_000, waited, refreshing=refreshing))
    assert isinstance(decision, Refresh)
    assert decision.decide_again_ms is None


@pytest.mark.parametrize(
    ("demand", "waited", "refreshing", "patience"),
    [
        (NONE, 0, 0, 500),
        (NONE, 0, 200, 300),  # known to be under way for so long
        (NONE, 400, 100, 100),
        (NONE, 500, 0, None),  # nothing at hand would do by now
        (RequestDirectives(max_age=2_000), 0, 0, 500),
        (NO_CACHE, 0, 0, None),
        (RequestDirectives(min_fresh=0), 0, 0, None),
    ],
)
def test_a_wait_is_as_long_as_nothing_at_hand_would_do(
    demand: RequestDirectives, waited: int, refreshing: int, patience: int | None
) -> None:
    decision = decide(Situation(WINDOWS, demand, None, waited, refreshing=refreshing))
    assert isinstance(decision, Refresh)
    assert decision.decide_again_ms == patience


@pytest.mark.parametrize(
    ("demand", "bounded"),
    [
        (NONE, False),
        (RequestDirectives(max_stale=9), False),
        (NO_CACHE, True),
        (RequestDirectives(max_age=9), True),
        (RequestDirectives(min_fresh=9), True),
    ],
)
def test_only_a_bound_of_the_callers_own_refuses_what_a_refresh_under_way_brings(
    demand: RequestDirectives,
    bounded: bool,  # noqa: FBT001 - a table's column
) -> None:
    decision = decide(Situation(WINDOWS, demand, None))
    assert isinstance(decision, Refresh)
    assert decision.bounded is bounded


@pytest.mark.parametrize(
    ("age", "expected"), [(9_999, "serve fresh"), (10_000, "refresh expired 10000"), (10_001, "refresh expired 10000")]
)
def test_windows_of_nothing_leave_nothing_between_fresh_and_expired(age: int, expected: str) -> None:
    assert told(decide(Situation(SLOW, NONE, age))) == expected


def test_a_forced_refresh_is_one_the_windows_would_not_ask_for() -> None:
    assert [is_forced(WINDOWS, age) for age in (None, 0, 999, 1_000)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("demand", "last"),
    [
        (NONE, 61_000),  # the hard cap
        (NO_CACHE, 61_000),
        (RequestDirectives(max_age=1_500), 1_500),
        (RequestDirectives(max_age=100_000), 61_000),
        (RequestDirectives(min_fresh=400), 600),
    ],
)
def test_what_was_waited_for_is_too_old_beyond_the_hard_cap_and_the_callers_own_bound(
    demand: RequestDirectives, last: int
) -> None:
    assert [is_too_old(WINDOWS, demand, age) for age in (0, last, last + 1)] == [False, False, True]


def test_the_hard_cap_is_the_longer_of_the_stale_windows() -> None:
    assert WINDOWS.hard_cap == 61_000
    assert freshness(1_000, 90_000, 60_000).hard_cap == 91_000


_ms = st.integers(0, 5_000)
_maybe = st.none() | _ms
_windows = st.builds(freshness, st.integers(1, 5_000), _ms, _ms, _ms)
_demands = st.builds(RequestDirectives, _maybe, _maybe, _maybe | st.just(2**31 * 1_000), st.booleans(), st.booleans())
situations = st.builds(
    Situation,
    _windows,
    _demands,
    st.none() | st.integers(0, 20_000),
    _ms,
    _ms,
    st.booleans(),
)
barriers = st.none() | st.just(BARRIER)


@given(situations, barriers)
def test_whatever_the_input_there_is_a_decision_within_its_bounds(
    situation: Situation, barrier: Barrier | None
) -> None:
    windows, demand, age = situation.freshness, situation.directives, situation.age
    decision = decide(situation, barrier)
    if isinstance(decision, Serve | ServeAndRefresh):
        assert age is not None
        assert age <= windows.hard_cap
        assert demand.max_age is None or age <= demand.max_age
        assert demand.min_fresh is None or windows.fresh_for - age >= demand.min_fresh
        assert not demand.no_cache or age - situation.waited <= windows.min_refresh_interval
    if barrier is not None:
        assert not isinstance(decision, Refresh | ServeAndRefresh)
    if demand.only_if_cached:
        assert not isinstance(decision, Refresh | ServeAndRefresh)


@given(situations, barriers)
def test_a_wait_without_a_bound_decides_again_within_half_a_second(
    situation: Situation, barrier: Barrier | None
) -> None:
    decision = decide(situation, barrier)
    if isinstance(decision, Refresh) and decision.decide_again_ms is not None:
        assert 0 < decision.decide_again_ms <= SLOW_AFTER_MS
    unbounded = not situation.directives.no_cache and situation.directives.min_fresh is None
    if isinstance(decision, Refresh) and unbounded and situation.slow_for < SLOW_AFTER_MS:
        assert decision.decide_again_ms == SLOW_AFTER_MS - situation.slow_for


@given(situations, barriers)
def test_a_refusal_blames_the_exchange_only_where_it_can_not_be_asked(
    situation: Situation, barrier: Barrier | None
) -> None:
    decision = decide(situation, barrier)
    if isinstance(decision, Refuse) and not isinstance(decision.error, FreshnessUnmetError):
        assert barrier is not None
        assert decision.error.failure is barrier.failure


@given(situations, barriers)
def test_what_a_refresh_brings_meets_the_demand_that_asked_for_it(
    situation: Situation, barrier: Barrier | None
) -> None:
    decision = decide(situation, barrier)
    if isinstance(decision, Refresh):
        assert decision.max_age_ms >= 0
        brought = Situation(situation.freshness, situation.directives, 0, situation.waited)
        assert told(decide(brought, barrier)) == "serve fresh"


@given(situations, barriers)
def test_a_snapshot_that_is_acceptable_needs_no_call(situation: Situation, barrier: MaybeBarrier) -> None:
    decision = decide(situation, barrier)
    if isinstance(decision, Refresh) and decision.max_age_ms <= situation.freshness.hard_cap:
        adopted = Situation(
            situation.freshness, situation.directives, max(0, decision.max_age_ms - 1), situation.waited
        )
        assert not isinstance(decide(adopted), Refresh)
