import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.limits import Bucket, Quota, Rate, RequestLimits, quota, take


def test_a_burst_of_a_seconds_worth_passes_and_the_next_one_waits() -> None:
    bucket, rate = None, Rate(3)
    for _ in range(3):
        bucket, wait = take(rate, bucket, 1_000)
        assert wait == 0
    assert take(rate, bucket, 1_000)[1] == 334  # a third of a second, rounded up


@pytest.mark.parametrize(
    ("later", "wait"),
    [
        (0, 500),
        (250, 250),
        (500, 0),  # exactly one token
        (10_000, 0),
    ],
)
def test_tokens_come_back_with_time(later: int, wait: int) -> None:
    assert take(Rate(2), Bucket(0, 1_000), 1_000 + later)[1] == wait


def test_a_long_rest_gains_no_more_than_the_burst() -> None:
    assert take(Rate(2), Bucket(0, 0), 3_600_000)[0] == Bucket(1, 3_600_000)


def test_a_rate_below_one_a_second_still_lets_one_pass() -> None:
    bucket, wait = take(Rate(0.5), None, 0)
    assert wait == 0
    assert take(Rate(0.5), bucket, 0)[1] == 2_000


def test_who_is_refused_loses_nothing_by_asking() -> None:
    bucket, _ = take(Rate(1), Bucket(0, 0), 400)
    assert take(Rate(1), bucket, 1_000)[1] == 0


@given(st.floats(0.01, 1_000), st.lists(st.integers(0, 5_000), max_size=50))
def test_no_more_pass_than_the_burst_and_the_rate_allow(per_second: float, pauses: list[int]) -> None:
    rate, bucket, now, passed = Rate(per_second), None, 0, 0
    for pause in pauses:
        now += pause
        bucket, wait = take(rate, bucket, now)
        passed += wait == 0
    assert passed <= rate.burst + now * per_second / 1_000 + 1e-6


@given(st.floats(0.01, 1_000), st.floats(0, 0.99), st.integers(0, 10**9))
def test_waiting_as_told_is_long_enough(per_second: float, tokens: float, now: int) -> None:
    bucket, wait = take(Rate(per_second), Bucket(tokens, now), now)
    assert wait > 0
    assert take(Rate(per_second), bucket, now + wait + 1)[1] == 0


def test_each_client_has_its_own_bucket_and_a_replicas_share_of_its_limit() -> None:
    limits = RequestLimits(replicas=3)
    assert [limits.take("risk", 6, 0) for _ in range(3)] == [
        Quota(2, 1, remaining=1, gain=500, admitted=True),
        Quota(2, 1, remaining=0, gain=500, admitted=True),
        Quota(2, 1, remaining=0, gain=500, admitted=False),
    ]
    assert [limits.take("treasury", 3, 0) for _ in range(2)] == [
        Quota(1, 1, remaining=0, gain=1_000, admitted=True),
        Quota(1, 1, remaining=0, gain=1_000, admitted=False),
    ]


def test_another_limit_begins_with_a_full_bucket_and_the_same_one_goes_on() -> None:
    limits = RequestLimits(replicas=1)
    remaining = [limits.take("risk", per_second, 0).remaining for per_second in (2, 2, 4, 4, 2)]
    assert remaining == [1, 0, 3, 2, 1]


@pytest.mark.parametrize(
    ("per_second", "limit", "window"),
    [
        (200, 200, 1),
        (66.67, 66, 1),  # two thirds of a request never pass
        (1, 1, 1),
        (0.75, 1, 2),
        (0.1, 1, 10),
    ],
)
def test_a_limit_is_told_in_whole_requests_and_seconds(per_second: float, limit: int, window: int) -> None:
    told = quota(Rate(per_second), Bucket(0, 0), admitted=True)
    assert (told.limit, told.window) == (limit, window)


@pytest.mark.parametrize(
    ("tokens", "remaining", "gain"),
    [
        (3.0, 3, 250),
        (2.75, 2, 63),  # a quarter of 250 ms, rounded up
        (0.5, 0, 125),
        (0.0, 0, 250),
    ],
)
def test_what_is_left_is_whole_and_the_next_one_comes_when_it_is_whole(
    tokens: float, remaining: int, gain: int
) -> None:
    told = quota(Rate(4), Bucket(tokens, 0), admitted=True)
    assert (told.remaining, told.gain) == (remaining, gain)


@given(st.floats(0.01, 1_000), st.lists(st.integers(0, 5_000), max_size=30))
def test_as_many_pass_as_are_said_to_remain_and_one_more_after_the_gain(per_second: float, pauses: list[int]) -> None:
    rate, bucket, now, wait = Rate(per_second), None, 0, 0
    for pause in [0, *pauses]:
        now += pause
        bucket, wait = take(rate, bucket, now)
    assert bucket is not None
    told = quota(rate, bucket, admitted=wait == 0)
    assert 0 <= told.remaining <= told.limit
    later = bucket
    for _ in range(told.remaining):
        later, wait = take(rate, later, now)
        assert wait == 0
    assert take(rate, later, now)[1] > 0
    assert take(rate, later, now + told.gain + 1)[1] == 0
