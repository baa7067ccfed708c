import time

import pytest

from service.clock import SystemClock, timestamp


@pytest.mark.parametrize(
    ("epoch", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_591_702_613_943, "2020-06-09T11:36:53.943Z"),
        (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
        (-1, "1970-01-01T00:00:00.000Z"),
        (10**15, "9999-12-31T23:59:59.000Z"),  # no date has five digits of years
        (1_767_225_600_007, "2026-01-01T00:00:00.007Z"),
    ],
)
def test_a_timestamp_is_rfc_3339_with_milliseconds(epoch: int, text: str) -> None:
    assert timestamp(epoch) == text


def test_the_machines_clocks_are_whole_milliseconds() -> None:
    clock, before = SystemClock(), time.time()
    assert before - 1 <= clock.epoch() / 1_000 <= time.time() + 1
    assert clock.monotonic() <= clock.monotonic()
