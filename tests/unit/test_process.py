"""What is asked of the kernel, and what if it says no."""

import os
import sys
from typing import Literal

import pytest
from structlog.testing import capture_logs

from service import process
from service.settings import Scheduling


class Kernel:
    """Takes note of what it is asked; or forbids it."""

    def __init__(self, *, forbids: bool = False) -> None:
        self.asked: list[tuple[int, int]] = []
        self._forbids = forbids

    def __call__(self, thread: int, policy: int, _: object) -> None:
        if self._forbids:
            raise PermissionError(1, "Operation not permitted")
        self.asked.append((thread, policy))


def test_the_thread_that_serves_takes_its_turns_in_batches() -> None:
    kernel = Kernel()
    process.schedule("batch", kernel)
    assert kernel.asked == [(0, os.SCHED_BATCH)]


def test_a_sandbox_that_forbids_it_is_told_of_and_ends_nothing() -> None:
    with capture_logs() as logged:
        process.schedule("batch", Kernel(forbids=True))
    assert logged == [
        {
            "event": "scheduling_refused",
            "log_level": "warning",
            "wanted": "batch",
            "reason": "Operation not permitted",
        }
    ]


@pytest.mark.parametrize("how", ["batch", "normal"])
def test_where_it_is_not_wanted_or_not_known_nothing_is_said(how: Scheduling) -> None:
    kernel = Kernel(forbids=True)
    with capture_logs() as logged:
        process.schedule(how, kernel if how == "normal" else None)
    assert logged == []


def test_a_thread_that_computes_hands_over_well_within_what_a_hit_takes_at_the_slowest() -> None:
    usual = sys.getswitchinterval()
    try:
        process.hand_over_soon()
        assert sys.getswitchinterval() <= 0.001
    finally:
        sys.setswitchinterval(usual)


@pytest.mark.parametrize(
    ("files", "encrypted", "connections"),
    [
        (1 << 30, False, 10_000),
        (1024, False, 896),
        (20_000, True, 8_912),
        (144, False, 16),
        (143, False, None),
        (2_207, True, None),
        (2_208, True, 16),
    ],
)
def test_connections_are_what_the_limit_of_open_files_leaves(
    files: int, encrypted: Literal[True, False], connections: int | None
) -> None:
    assert process.connections(files, encrypted=encrypted) == connections


def test_too_few_says_what_is_enough() -> None:
    assert "expected 144 or more" in process.too_few(100, encrypted=False)
    assert "expected 2208 or more" in process.too_few(100, encrypted=True)
