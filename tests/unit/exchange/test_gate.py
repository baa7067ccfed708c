from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.exchange.clock import ExchangeClock, Offset
from service.exchange.gate import ADDRESS, AddressBudget, Gate, admit
from service.fleet.budget import MINUTE, NO_COOLDOWN, Ceiling, Charge, Cooldown, Window
from service.fleet.errors import ExchangeRateLimitedError
from service.settings import Exchange
from service.telemetry.metrics import Metrics
from tests.support import START, FakeClock

BAN = Cooldown(0, START + 5_000, problem="exchange-banned")
LATCH = Cooldown(0, START + 9_000, problem="exchange-rejected-credentials")


@pytest.fixture
def budget(clock: FakeClock) -> AddressBudget:
    return AddressBudget(Exchange(weight_limit=100, weight_share=0.5, expected_replicas=2), ExchangeClock(clock))


def test_a_cooldown_of_the_address_binds_every_credential(budget: AddressBudget, clock: FakeClock) -> None:
    budget.impose(ADDRESS, BAN)
    for credential in ("one", "two", ADDRESS):
        barrier = budget.refresh_barrier(Charge(1, "a", credential))
        assert barrier is not None
        assert (barrier.reason, barrier.failure.problem, barrier.failure.retry_at) == (
            "not-before",
            "exchange-banned",
            BAN.until,
        )
    clock.advance(5_000)
    assert budget.refresh_barrier(Charge(1, "a", "one")) is None


def test_a_latched_credential_binds_no_other(budget: AddressBudget) -> None:
    budget.impose("one", LATCH)
    assert budget.refresh_barrier(Charge(1, "a", "one")) is not None
    assert budget.refresh_barrier(Charge(1, "a", "two")) is None


def test_a_cooldown_only_grows_until_a_resume_voids_it(budget: AddressBudget) -> None:
    budget.learn(ADDRESS, BAN)
    budget.learn(ADDRESS, Cooldown(0, START + 1, problem="exchange-banned"))
    assert budget.cooldown(ADDRESS) == BAN
    budget.learn(ADDRESS, Cooldown(1))
    assert budget.refresh_barrier(Charge(1, "a", "one")) is None
    budget.learn(ADDRESS, BAN)
    assert budget.refresh_barrier(Charge(1, "a", "one")) is None


def test_a_refusal_after_a_resume_stands_whether_or_not_the_resume_was_known(budget: AddressBudget) -> None:
    resume = Cooldown(START - 1)
    budget.impose(ADDRESS, BAN)
    budget.learn(ADDRESS, resume)
    assert budget.cooldown(ADDRESS) == replace(BAN, resumed=START - 1, imposed=START)
    budget.learn("one", resume)
    budget.impose("one", LATCH)
    assert budget.cooldown("one") == replace(LATCH, resumed=START - 1, imposed=START)


def test_a_refusal_by_a_clock_that_is_behind_is_later_than_a_resume_that_is_known(budget: AddressBudget) -> None:
    budget.learn(ADDRESS, Cooldown(START + 1_000))
    budget.impose(ADDRESS, BAN)
    assert budget.refresh_barrier(Charge(1)) is not None


def test_the_exchanges_own_limit_lowers_the_ceiling_and_never_raises_it(budget: AddressBudget) -> None:
    ceilings: list[float] = []
    for live in (None, 60, 5_000):
        budget.live_limit = live
        ceilings.append(budget.ceiling)
    assert ceilings == [50, 30, 50]


def test_without_redis_a_replica_has_its_part_of_the_share(budget: AddressBudget) -> None:
    budget.degraded = True
    for _ in range(5):
        assert budget.refresh_barrier(Charge(5, "a", "one")) is None
        budget.reserve(Charge(5))
    barrier = budget.refresh_barrier(Charge(5, "a", "one"))
    assert barrier is not None
    assert barrier.reason == "weight-budget"
    budget.degraded = False
    assert budget.refresh_barrier(Charge(5, "a", "one")) is None


def test_a_neighbours_spending_bars_us_until_the_exchanges_next_minute(budget: AddressBudget, clock: FakeClock) -> None:
    budget.reserve(Charge(5))
    budget.settle(5, 49, START // MINUTE)
    barrier = budget.refresh_barrier(Charge(2, "a", "one"))
    assert barrier is not None
    assert barrier.failure.retry_at == (START // MINUTE + 1) * MINUTE
    clock.advance(barrier.failure.retry_at - START)
    assert budget.refresh_barrier(Charge(2, "a", "one")) is None


def test_a_count_of_the_minute_before_says_nothing_of_this_one(budget: AddressBudget, clock: FakeClock) -> None:
    budget.reserve(Charge(5))
    minute = budget.window.minute
    clock.advance(MINUTE)
    budget.settle(5, 49, minute)
    assert budget.window.used == 5


def test_a_minute_of_weight_ends_when_it_surely_has_at_the_exchange(budget: AddressBudget, clock: FakeClock) -> None:
    """Our idea of its clock is good to half a round trip: what is sent early counts for the minute that is spent."""
    error = 30
    budget.clock.offset = Offset(START - clock.monotonic(), error, clock.monotonic())
    clock.advance(MINUTE // 2)
    budget.reserve(Charge(5))
    budget.settle(5, 49, budget.window.minute)
    clock.advance(MINUTE // 2 + error - 1)
    assert budget.refresh_barrier(Charge(2, "a", "one")) is not None
    clock.advance(1)
    assert budget.refresh_barrier(Charge(2, "a", "one")) is None


def test_a_not_before_from_elsewhere_is_capped_at_three_days(budget: AddressBudget, clock: FakeClock) -> None:
    budget.learn(ADDRESS, Cooldown(0, 9_999_999_999_999, problem="exchange-banned"))
    assert budget.cooldown(ADDRESS).until == START + 3 * 24 * 60 * MINUTE


def test_a_lost_answer_stays_counted_for_its_minute(budget: AddressBudget, clock: FakeClock) -> None:
    budget.reserve(Charge(5, forced=True))
    budget.abandon(5)
    assert budget.window.used == 5
    clock.advance(MINUTE)
    assert budget.window.used == 0


def test_what_the_fleet_has_spent_counts_for_its_minute(budget: AddressBudget, clock: FakeClock) -> None:
    budget.learn_window(Window(START // MINUTE, spent=48))
    assert budget.used == 48
    assert budget.refresh_barrier(Charge(5)) is not None
    assert budget.refresh_barrier(Charge(2)) is None
    clock.advance(MINUTE)
    assert budget.used == 0
    assert budget.refresh_barrier(Charge(5)) is None


def test_what_is_entered_after_the_fleets_figures_counts_on_top_of_them(budget: AddressBudget) -> None:
    budget.learn_window(Window(START // MINUTE, spent=40))
    budget.reserve(Charge(5))
    minute = budget.window.minute
    assert budget.used == 45
    budget.settle(5, 47, minute)
    assert budget.used == 47


def test_a_refusal_whose_time_has_passed_bars_while_another_replica_probes(
    budget: AddressBudget, clock: FakeClock
) -> None:
    budget.impose(ADDRESS, BAN)
    clock.advance(5_000)
    budget.defer_probe()
    barrier = budget.refresh_barrier(Charge(5))
    assert barrier is not None
    assert barrier.failure.retry_at == START + 6_000
    budget.learn(ADDRESS, Cooldown(0, BAN.until, cleared=True))  # its probe was answered
    assert budget.refresh_barrier(Charge(5)) is None


def test_the_probe_itself_is_not_barred_by_another_that_waits_for_it(budget: AddressBudget, clock: FakeClock) -> None:
    budget.impose(ADDRESS, BAN)
    clock.advance(5_000)
    budget.defer_probe()
    assert budget.barrier(Charge(1), probes=True) is None


class ProbedElsewhere:
    """A ledger by which another replica sends the probe; a read brings an operator's resume before it says so."""

    def __init__(self, budget: AddressBudget) -> None:
        self._budget = budget

    async def acquire_probe(self, life_ms: int) -> bool | None:
        self._budget.learn(ADDRESS, Cooldown(self._budget.clock.now()))
        return False


async def test_a_resume_during_the_try_for_the_probe_makes_no_ban_of_a_rate_limit(
    budget: AddressBudget, clock: FakeClock
) -> None:
    budget.impose(ADDRESS, replace(BAN, problem="exchange-rate-limited"))
    clock.advance(5_000)
    unused = cast("Any", None)
    with pytest.raises(ExchangeRateLimitedError) as refused:
        await Gate(unused, budget, cast("Any", ProbedElsewhere(budget)), Metrics()).probe(1_000)
    assert refused.value.failure.retry_at == START + 6_000


def test_an_answered_probe_frees_the_address_of_no_later_refusal(budget: AddressBudget) -> None:
    cleared = Cooldown(0, BAN.until, problem=BAN.problem, cleared=True)
    budget.impose(ADDRESS, BAN)
    budget.learn(ADDRESS, cleared)
    assert budget.refresh_barrier(Charge(1)) is None
    budget.impose(ADDRESS, Cooldown(0, BAN.until + 1, problem=BAN.problem))
    budget.learn(ADDRESS, cleared)
    assert budget.refresh_barrier(Charge(1)) is not None


EXPIRED = replace(BAN, until=START)
SPENT = (Window(START // MINUTE, spent=50), Ceiling(50, 50))
FREE = (Window(START // MINUTE), Ceiling(50, 50))


def reason(
    address: Cooldown, credential: Cooldown, *windows: tuple[Window, Ceiling], probes: bool = False
) -> tuple[str, str, int | None] | None:
    """What forbids an account call: the barrier's reason, its problem, and until when."""
    barrier = admit(Charge(5, "a", "one"), address, credential, windows, probes=probes, earliest=START, now=START + 30)
    return (barrier.reason, barrier.failure.problem, barrier.failure.retry_at) if barrier else None


def test_a_cooldown_is_named_before_a_probe_that_is_due_and_that_before_the_weight() -> None:
    rejected = ("not-before", "exchange-rejected-credentials", LATCH.until)
    half_open = ("not-before", "exchange-banned", START + 30 + 1_000)
    spent = ("weight-budget", "weight-budget-spent", (START // MINUTE + 1) * MINUTE)
    assert reason(BAN, LATCH, SPENT) == rejected  # the later one
    assert reason(EXPIRED, LATCH, SPENT, probes=True) == rejected
    assert reason(EXPIRED, NO_COOLDOWN, SPENT) == half_open
    assert reason(EXPIRED, NO_COOLDOWN, FREE, SPENT, probes=True) == spent
    assert reason(replace(EXPIRED, cleared=True), NO_COOLDOWN, SPENT, FREE) == spent
    assert reason(EXPIRED, EXPIRED, FREE, FREE, probes=True) is None


COOLDOWNS = st.builds(
    Cooldown,
    until=st.sampled_from([0, START - 1, START, START + 1]),
    cleared=st.booleans(),
    problem=st.sampled_from([BAN.problem, LATCH.problem]),
)
WINDOWS = st.lists(st.sampled_from([SPENT, FREE]), max_size=2)


@given(COOLDOWNS, COOLDOWNS, WINDOWS)
def test_a_refresh_and_its_call_are_held_by_the_same_but_for_a_probe_that_is_due(
    address: Cooldown, credential: Cooldown, windows: list[tuple[Window, Ceiling]]
) -> None:
    refresh, call = (reason(address, credential, *windows, probes=probes) for probes in (True, False))
    if refresh != call:
        assert address.awaits_probe(START)
        assert not credential.binds(START)
        assert call == ("not-before", address.problem, START + 30 + 1_000)


def test_a_half_open_address_lets_a_refresh_begin_and_none_of_its_calls_before_the_probe(
    budget: AddressBudget, clock: FakeClock
) -> None:
    budget.impose(ADDRESS, BAN)
    assert budget.in_cooldown
    clock.advance(5_000)
    assert (budget.refresh_barrier(Charge(5)), budget.in_cooldown) == (None, True)
    assert budget.barrier(Charge(5)) is not None
    budget.learn(ADDRESS, replace(BAN, cleared=True))
    assert (budget.barrier(Charge(5)), budget.in_cooldown) == (None, False)


def test_a_call_without_weight_is_bound_by_cooldowns_alone(budget: AddressBudget) -> None:
    budget.learn_window(Window(START // MINUTE, reported=1_000))
    assert budget.barrier(Charge(1)) is not None
    assert budget.barrier(Charge(0, credential="one")) is None
    budget.impose("one", LATCH)
    assert budget.barrier(Charge(0, credential="one")) is not None
