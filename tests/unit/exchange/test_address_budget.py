import pytest
from msgspec.structs import replace

from service.exchange.address_budget import ADDRESS, AddressBudget
from service.exchange.clock import ExchangeClock, Offset
from service.fleet.budget import MINUTE, Charge, Cooldown, Window
from service.settings import Exchange
from tests.support import START, FakeClock

BAN = Cooldown(0, START + 5_000, problem="exchange-banned")
LATCH = Cooldown(0, START + 9_000, problem="exchange-rejected-credentials")


@pytest.fixture
def egress(clock: FakeClock) -> AddressBudget:
    return AddressBudget(Exchange(weight_limit=100, weight_share=0.5, expected_replicas=2), ExchangeClock(clock))


def test_a_hold_on_the_address_binds_every_credential(egress: AddressBudget, clock: FakeClock) -> None:
    egress.impose(ADDRESS, BAN)
    for credential in ("one", "two", ADDRESS):
        barrier = egress.barrier(Charge(1, "a", credential))
        assert barrier is not None
        assert (barrier.reason, barrier.error.problem, barrier.error.retry_at) == (
            "not-before",
            "exchange-banned",
            BAN.until,
        )
    clock.advance(5_000)
    assert egress.barrier(Charge(1, "a", "one")) is None


def test_a_latched_credential_binds_no_other(egress: AddressBudget) -> None:
    egress.impose("one", LATCH)
    assert egress.barrier(Charge(1, "a", "one")) is not None
    assert egress.barrier(Charge(1, "a", "two")) is None


def test_a_hold_only_grows_until_a_resume_voids_it(egress: AddressBudget) -> None:
    egress.learn(ADDRESS, BAN)
    egress.learn(ADDRESS, Cooldown(0, START + 1, problem="exchange-banned"))
    assert egress.cooldown(ADDRESS) == BAN
    egress.learn(ADDRESS, Cooldown(1))
    assert egress.barrier(Charge(1, "a", "one")) is None
    egress.learn(ADDRESS, BAN)
    assert egress.barrier(Charge(1, "a", "one")) is None


def test_a_refusal_after_a_resume_stands_whether_or_not_the_resume_was_known(egress: AddressBudget) -> None:
    resume = Cooldown(START - 1)
    egress.impose(ADDRESS, BAN)
    egress.learn(ADDRESS, resume)
    assert egress.cooldown(ADDRESS) == replace(BAN, resumed=START - 1, imposed=START)
    egress.learn("one", resume)
    egress.impose("one", LATCH)
    assert egress.cooldown("one") == replace(LATCH, resumed=START - 1, imposed=START)


def test_a_refusal_by_a_clock_that_is_behind_is_later_than_a_resume_that_is_known(egress: AddressBudget) -> None:
    egress.learn(ADDRESS, Cooldown(START + 1_000))
    egress.impose(ADDRESS, BAN)
    assert egress.barrier(Charge(1)) is not None


def test_the_exchanges_own_limit_lowers_the_ceiling_and_never_raises_it(egress: AddressBudget) -> None:
    ceilings: list[float] = []
    for live in (None, 60, 5_000):
        egress.live_limit = live
        ceilings.append(egress.ceiling)
    assert ceilings == [50, 30, 50]


def test_without_redis_a_replica_has_its_part_of_the_share(egress: AddressBudget) -> None:
    egress.degraded = True
    for _ in range(5):
        assert egress.barrier(Charge(5, "a", "one")) is None
        egress.reserve(Charge(5))
    barrier = egress.barrier(Charge(5, "a", "one"))
    assert barrier is not None
    assert barrier.reason == "weight-budget"
    egress.degraded = False
    assert egress.barrier(Charge(5, "a", "one")) is None


def test_a_neighbours_spending_bars_us_until_the_exchanges_next_minute(egress: AddressBudget, clock: FakeClock) -> None:
    egress.reserve(Charge(5))
    egress.settle(5, 49, START // MINUTE)
    barrier = egress.barrier(Charge(2, "a", "one"))
    assert barrier is not None
    assert barrier.error.retry_at == (START // MINUTE + 1) * MINUTE
    clock.advance(barrier.error.retry_at - START)
    assert egress.barrier(Charge(2, "a", "one")) is None


def test_a_count_of_the_minute_before_says_nothing_of_this_one(egress: AddressBudget, clock: FakeClock) -> None:
    egress.reserve(Charge(5))
    minute = egress.window.minute
    clock.advance(MINUTE)
    egress.settle(5, 49, minute)
    assert egress.window.used == 5


def test_a_minute_of_weight_ends_when_it_surely_has_at_the_exchange(egress: AddressBudget, clock: FakeClock) -> None:
    """Our idea of its clock is good to half a round trip: what is sent early counts for the minute that is spent."""
    error = 30
    egress.clock.offset = Offset(START - clock.monotonic(), error, clock.monotonic())
    clock.advance(MINUTE // 2)
    egress.reserve(Charge(5))
    egress.settle(5, 49, egress.window.minute)
    clock.advance(MINUTE // 2 + error - 1)
    assert egress.barrier(Charge(2, "a", "one")) is not None
    clock.advance(1)
    assert egress.barrier(Charge(2, "a", "one")) is None


def test_a_not_before_from_elsewhere_is_capped_at_three_days(egress: AddressBudget, clock: FakeClock) -> None:
    egress.learn(ADDRESS, Cooldown(0, 9_999_999_999_999, problem="exchange-banned"))
    assert egress.cooldown(ADDRESS).until == START + 3 * 24 * 60 * MINUTE


def test_a_lost_answer_stays_counted_for_its_minute(egress: AddressBudget, clock: FakeClock) -> None:
    egress.reserve(Charge(5, forced=True))
    egress.abandon(5)
    assert egress.window.used == 5
    clock.advance(MINUTE)
    assert egress.window.used == 0


def test_what_the_fleet_has_spent_counts_for_its_minute(egress: AddressBudget, clock: FakeClock) -> None:
    egress.learn_window(Window(START // MINUTE, spent=48))
    assert egress.used == 48
    assert egress.barrier(Charge(5)) is not None
    assert egress.barrier(Charge(2)) is None
    clock.advance(MINUTE)
    assert egress.used == 0
    assert egress.barrier(Charge(5)) is None


def test_what_is_entered_after_the_fleets_figures_counts_on_top_of_them(egress: AddressBudget) -> None:
    egress.learn_window(Window(START // MINUTE, spent=40))
    egress.reserve(Charge(5))
    minute = egress.window.minute
    assert egress.used == 45
    egress.settle(5, 47, minute)
    assert egress.used == 47


def test_a_refusal_whose_time_has_passed_bars_while_another_replica_probes(
    egress: AddressBudget, clock: FakeClock
) -> None:
    egress.impose(ADDRESS, BAN)
    clock.advance(5_000)
    egress.defer_probe()
    barrier = egress.barrier(Charge(5))
    assert barrier is not None
    assert barrier.error.retry_at == START + 6_000
    egress.learn(ADDRESS, Cooldown(0, BAN.until, cleared=True))  # its probe was answered
    assert egress.barrier(Charge(5)) is None


def test_the_probe_itself_is_not_barred_by_another_that_waits_for_it(egress: AddressBudget, clock: FakeClock) -> None:
    egress.impose(ADDRESS, BAN)
    clock.advance(5_000)
    egress.defer_probe()
    assert egress.barrier(Charge(1), probing=True) is None


def test_an_answered_probe_frees_the_address_of_no_later_refusal(egress: AddressBudget) -> None:
    cleared = Cooldown(0, BAN.until, problem=BAN.problem, cleared=True)
    egress.impose(ADDRESS, BAN)
    egress.learn(ADDRESS, cleared)
    assert egress.barrier(Charge(1)) is None
    egress.impose(ADDRESS, Cooldown(0, BAN.until + 1, problem=BAN.problem))
    egress.learn(ADDRESS, cleared)
    assert egress.barrier(Charge(1)) is not None
