import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.exchange.clock import ExchangeClock, Offset, Sample, estimate, from_date
from tests.support import START, FakeClock

calls = st.tuples(st.integers(0, 10**9), st.integers(0, 5_000), st.integers(0, 5_000))
"""When each is sent, and how long the way there and the way back take."""


@given(st.integers(-(10**6), 10**13), st.lists(calls, min_size=1, max_size=5))
def test_the_error_bounds_the_truth_however_uneven_the_delays(truth: int, made: list[tuple[int, int, int]]) -> None:
    samples = [Sample(sent, sent + there + back, sent + there + truth) for sent, there, back in made]
    offset = estimate(samples)
    assert abs(offset.value - truth) <= offset.error
    assert offset.error <= (min(sample.round_trip for sample in samples) + 1) // 2


def test_the_sample_with_the_shortest_round_trip_wins() -> None:
    slow, fast = Sample(0, 2_000, 10_000), Sample(3_000, 3_100, 13_050)
    assert estimate([slow, fast, slow]) == Offset(10_000, 50, 3_100)


def test_until_measured_the_exchange_has_this_machines_time(clock: FakeClock) -> None:
    exchange = ExchangeClock(clock)
    assert (exchange.now(), exchange.timestamp(), exchange.skew, exchange.due) == (START, START, None, True)


def test_a_measured_clock_does_not_follow_the_machines_jumps(clock: FakeClock) -> None:
    exchange = ExchangeClock(clock)
    exchange.offset = Offset(START + 700 - clock.monotonic(), 40, clock.monotonic())
    assert exchange.skew == 700
    clock.misset(-3_600_000)
    clock.advance(1_000)
    assert exchange.now() == START + 1_700
    assert exchange.skew == 3_600_700


def test_signing_stays_behind_the_exchange_by_the_error(clock: FakeClock) -> None:
    exchange = ExchangeClock(clock)
    exchange.offset = Offset(START - clock.monotonic(), 40, clock.monotonic())
    assert exchange.timestamp() == START - 40


def test_an_answers_date_is_taken_until_the_clock_is_measured(clock: FakeClock) -> None:
    exchange = ExchangeClock(clock)
    exchange.observe_date("Mon, 21 Sep 2026 14:14:05 GMT")
    assert (exchange.now(), exchange.timestamp()) == (1_790_000_045_000, 1_790_000_044_000)  # it has whole seconds
    assert (exchange.measured, exchange.due) == (False, True)
    exchange.observe_date("Mon, 21 Sep 2026 14:14:09 GMT")
    assert exchange.now() == 1_790_000_045_000
    exchange.offset = Offset(7, 0, clock.monotonic())
    assert (exchange.measured, exchange.due) == (True, False)


@pytest.mark.parametrize(
    "date",
    [
        "",
        "yesterday",
        "2026-09-21T14:14:05Z",
        "Mon, 99 Sep 2026 14:14:05 GMT",
        "Mon, 21 Sep 2026 14:14:05 +9999999999999999",
        "Mon, 21 Sep 99999999999999999999 14:14:05 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",  # there was no such exchange
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ],
)
def test_a_date_that_is_none_tells_nothing(date: str) -> None:
    assert from_date(date, 0) is None


def test_a_date_that_is_days_off_this_machines_clock_is_not_taken_for_the_exchanges(clock: FakeClock) -> None:
    exchange = ExchangeClock(clock)
    for date in ("Tue, 03 Jan 2017 00:00:00 GMT", "Fri, 31 Dec 2099 00:00:00 GMT"):
        exchange.observe_date(date)
        assert (exchange.offset, exchange.now()) == (None, START)


def test_an_offset_is_due_again_after_half_an_hour(clock: FakeClock) -> None:
    exchange = ExchangeClock(clock)
    exchange.offset = Offset(0, 0, clock.monotonic())
    clock.advance(30 * 60 * 1_000)
    assert not exchange.due
    clock.advance(1)
    assert exchange.due
