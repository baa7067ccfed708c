import asyncio
import errno
import io
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from service.account.selection import Selection
from service.settings import Audit, Secret
from service.telemetry.audit import AuditLog, Filters, Line, has_room
from service.telemetry.logs import Redactor

WhenFull = Literal["drop", "refuse"]


class Paper:
    """A sink that takes what it is given; that stands still, or fails, as long as it is told to."""

    def __init__(self) -> None:
        self.text = b""
        self.failing = self.ended = False
        self.free = threading.Event()
        self.free.set()
        self.reached = threading.Event()

    def open(self) -> None:
        assert not self.ended

    def write(self, lines: bytes) -> bytes:
        self.reached.set()
        assert self.free.wait(30)
        if self.failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.text += lines
        return b""

    def close(self) -> None:
        self.ended = True

    def __str__(self) -> str:
        return "paper"

    @property
    def ids(self) -> list[str]:
        return [json.loads(line)["request_id"] for line in self.text.splitlines()]


class Desk:
    """An audit log on paper."""

    def __init__(self, when_full: WhenFull = "drop", queue: int = 3, *secrets: str) -> None:
        self.paper, self.dropped = Paper(), 0
        settings = Audit(queue=queue, when_full=when_full)
        self.log = AuditLog(settings, self.paper, Redactor(map(Secret, secrets)), self._drop)

    def _drop(self, lines: int) -> None:
        self.dropped += lines

    def put(self, *ids: str, reserved: bool = False) -> None:
        for each in ids:
            self.log.put(line(each), reserved=reserved)

    @asynccontextmanager
    async def stalled(self) -> AsyncIterator[None]:
        """Running, with the writer stuck on a first line, `stuck`."""
        async with self.log.running():
            self.paper.free.clear()
            self.put("stuck")
            await asyncio.to_thread(self.paper.reached.wait, 30)
            try:
                yield
            finally:
                self.paper.free.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """The writer is a thread: what it does is waited for, within 30 s."""
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)


def line(request_id: str) -> Line:
    return Line(
        time="2026-01-02T03:04:05.678Z",
        request_id=request_id,
        environment="testing",
        client=None,
        account=None,
        method="GET",
        route="/v1/accounts",
        shape="accounts",
        filters=Filters(assets=("BTC",)),
        status=200,
        problem=None,
        snapshot=None,
    )


@pytest.mark.parametrize(
    ("taken", "failing", "room"),
    [
        (0, False, True),
        (2, False, True),
        (3, False, False),  # exactly full
        (0, True, False),
    ],
)
def test_a_queue_has_room_below_its_bound_and_while_its_lines_get_anywhere(
    taken: int, *, failing: bool, room: bool
) -> None:
    assert has_room(taken, Audit(queue=3), failing=failing) is room


async def test_lines_are_written_in_their_order_and_all_of_them_at_the_end() -> None:
    desk, ids = Desk(queue=1_000), [f"r{number}" for number in range(1_000)]
    async with desk.log.running():
        desk.put(*ids)
    assert desk.paper.ids == ids
    assert (desk.dropped, desk.paper.ended) == (0, True)


def test_a_line_has_every_filter_that_a_read_can_have() -> None:
    granted = {"visible_assets", "visible_sides"}
    assert set(Filters.__struct_fields__) == set(Selection.__struct_fields__) - {"shape"} - granted


async def test_a_line_says_first_that_it_is_of_the_audit() -> None:
    desk = Desk()
    async with desk.log.running():
        desk.put("r1")
    assert desk.paper.text.startswith(b'{"time":"2026-01-02T03:04:05.678Z","stream":"audit","version":1,')


async def test_what_could_be_a_secret_is_masked() -> None:
    desk = Desk("drop", 3, "planted-secret")
    async with desk.log.running():
        desk.put("planted-secret", "cgw_0123456789planted")
    assert desk.paper.ids == ["…", "…"]


async def test_a_full_queue_loses_lines_counts_them_and_never_waits(log_text: io.StringIO) -> None:
    desk = Desk("drop", queue=3)
    async with desk.stalled():
        desk.put("r1", "r2", "r3", "r4")
        assert desk.dropped == 2
    assert desk.paper.ids == ["stuck", "r1", "r2"]
    assert [told["event"] for told in map(json.loads, log_text.getvalue().splitlines())] == ["audit_no_room"]


async def test_a_place_is_kept_for_each_read_under_way(log_text: io.StringIO) -> None:
    desk = Desk("refuse", queue=3)
    async with desk.stalled():
        assert [desk.log.reserve() for _ in range(3)] == [True, True, False]
        desk.put("r1", "r2", reserved=True)
        desk.put("refused")
        assert desk.dropped == 1
    assert desk.paper.ids == ["stuck", "r1", "r2"]
    assert log_text.getvalue().count("audit_no_room") == 1


async def test_lines_without_a_place_of_their_own_leave_half_of_the_queue_to_reads() -> None:
    desk = Desk("refuse", queue=6)
    async with desk.stalled():
        desk.put("n1", "n2", "n3", "n4")
        assert desk.dropped == 2
        assert [desk.log.reserve() for _ in range(4)] == [True, True, True, False]
        desk.put("r1", "r2", "r3", reserved=True)
    assert desk.paper.ids == ["stuck", "n1", "n2", "r1", "r2", "r3"]


async def test_a_written_line_makes_room() -> None:
    desk = Desk("refuse", queue=1)
    async with desk.log.running():
        for each in ("r1", "r2", "r3"):
            await desk.until(desk.log.reserve)
            desk.put(each, reserved=True)
    assert (desk.paper.ids, desk.dropped) == (["r1", "r2", "r3"], 0)


async def test_while_the_sink_fails_no_read_begins_and_nothing_is_lost(log_text: io.StringIO) -> None:
    desk = Desk("refuse", queue=10)
    async with desk.log.running():
        desk.paper.failing = True
        desk.put("r1")
        await desk.until(lambda: "audit_unwritable" in log_text.getvalue())
        assert not desk.log.reserve()
        desk.put("refused")  # the refusal itself has its line, once there is one
        desk.paper.failing = False
        await desk.until(desk.log.reserve)
        desk.put("r2", reserved=True)
    assert (desk.paper.ids, desk.dropped) == (["r1", "refused", "r2"], 0)
    told = [json.loads(text) for text in log_text.getvalue().splitlines()]
    assert [(each["event"], each.get("error")) for each in told] == [
        ("audit_unwritable", "No space left on device"),
        ("audit_no_room", None),
        ("audit_written_again", None),
    ]


async def test_what_a_failing_sink_never_takes_is_counted_at_the_end(log_text: io.StringIO) -> None:
    desk = Desk("drop", queue=3)
    desk.paper.failing = True
    async with desk.log.running():
        desk.put("r1", "r2", "r3", "r4")
    assert (desk.paper.ids, desk.dropped) == ([], 4)
    told = [json.loads(text) for text in log_text.getvalue().splitlines()]
    assert sum(each["lines"] for each in told if each["event"] == "audit_lines_lost") == 3


async def test_a_line_that_comes_after_the_end_is_counted() -> None:
    desk = Desk("refuse")
    async with desk.log.running():
        assert desk.log.reserve()
    desk.put("late", reserved=True)
    assert (desk.paper.ids, desk.dropped) == ([], 1)
