"""Who has a place, who must go, and that nothing of a wait outlives its caller."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.waiting import (
    EACH_TURN,
    CallerLeftError,
    NoRoomError,
    Receive,
    WaitingRoom,
    who_leaves,
)
from service.telemetry.metrics import Metrics
from service.web.edge import TURN_S, Turns


@pytest.mark.parametrize(
    ("waiting", "client", "room", "leaver"),
    [
        ({}, "a", 1, None),
        ({"a": 9}, "a", 10, None),  # one alone may fill it
        ({"a": 10}, "a", 10, "a"),
        ({"a": 10}, "b", 10, "a"),
        ({"a": 6, "b": 4}, "b", 10, "a"),
        ({"a": 5, "b": 5}, "b", 10, "b"),  # both have their part: neither displaces the other
        ({"a": 5, "b": 5}, "a", 10, "a"),
        ({"a": 5, "b": 5}, "c", 10, "a"),
        ({"a": 4, "b": 3, "c": 3}, "c", 10, "c"),  # one more would be above a third of ten
        ({"a": 2, "b": 6, "c": 2}, "c", 10, "b"),
        ({"a": 1}, "b", 1, "b"),  # more clients than places
    ],
)
def test_who_leaves_when_a_read_comes(waiting: dict[str, int], client: str, room: int, leaver: str | None) -> None:
    assert who_leaves(waiting, client, room) == leaver


@given(st.lists(st.sampled_from("abcde"), max_size=200), st.integers(1, 30))
def test_the_room_is_never_overfull_and_everybody_below_its_part_gets_in(comers: list[str], room: int) -> None:
    waiting = Counter[str]()
    for client in comers:
        leaver = who_leaves(+waiting, client, room)
        clients = len(+waiting | Counter([client]))
        assert leaver != client or (waiting[client] + 1) * clients > room
        assert leaver in (None, client) or waiting[leaver] * clients > room
        waiting[client] += leaver != client
        waiting[leaver or ""] -= leaver not in (None, client)
        assert waiting.total() <= room


class Caller:
    """A connection: its request has come, and it hangs up when told to."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.sent = False

    async def receive(self) -> dict[str, object]:
        if not self.sent:
            self.sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}


Ask = Callable[..., "asyncio.Task[str]"]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def room(metrics: Metrics) -> WaitingRoom:
    return WaitingRoom("refresh", 2, metrics)


def asking(room: WaitingRoom, answer: "asyncio.Future[str]", client: str, receive: Receive) -> "asyncio.Task[str]":
    async def work() -> str:
        return await asyncio.shield(answer)

    return asyncio.create_task(room.wait(client, receive, work))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def outcome(task: Awaitable[str]) -> str:
    try:
        return await task
    except (NoRoomError, CallerLeftError) as exc:
        return type(exc).__name__


async def test_a_wait_ends_with_its_work(room: WaitingRoom) -> None:
    answer = asyncio.get_running_loop().create_future()
    task = asking(room, answer, "a", Caller().receive)
    await settle()
    assert room.waiting == 1
    answer.set_result("done")
    assert await task == "done"
    assert room.waiting == 0


async def test_a_wait_ends_when_its_caller_hangs_up_and_the_work_goes_on_for_others(room: WaitingRoom) -> None:
    answer, leaving = asyncio.get_running_loop().create_future(), Caller()
    left, stayed = (asking(room, answer, "a", each.receive) for each in (leaving, Caller()))
    await settle()
    leaving.gone.set()
    assert await outcome(left) == "CallerLeftError"
    assert room.waiting == 1
    answer.set_result("done")
    assert await stayed == "done"


async def test_nothing_is_left_of_a_wait(room: WaitingRoom) -> None:
    before, answer = asyncio.all_tasks(), asyncio.get_running_loop().create_future()
    callers = [Caller() for _ in range(2)]
    tasks = [asking(room, answer, "a", each.receive) for each in callers]
    await settle()
    callers[0].gone.set()
    answer.set_result("done")
    await asyncio.gather(*map(outcome, tasks))
    await settle()
    assert asyncio.all_tasks() == before


async def test_a_full_room_refuses_at_once_and_counts_whom(room: WaitingRoom, metrics: Metrics) -> None:
    answer = asyncio.get_running_loop().create_future()
    kept = [asking(room, answer, "a", Caller().receive) for _ in range(2)]
    await settle()
    assert await outcome(asking(room, answer, "a", Caller().receive)) == "NoRoomError"
    answer.set_result("done")
    assert await asyncio.gather(*kept) == ["done", "done"]
    assert metrics.registry.get_sample_value("coinm_overloaded_total", {"client": "a"}) == 1


async def test_a_client_below_its_part_displaces_the_newest_of_the_one_above(room: WaitingRoom) -> None:
    answer = asyncio.get_running_loop().create_future()
    oldest, newest = (asking(room, answer, "a", Caller().receive) for _ in range(2))
    await settle()
    other = asking(room, answer, "b", Caller().receive)
    assert await outcome(newest) == "NoRoomError"
    answer.set_result("done")
    assert [await oldest, await other] == ["done", "done"]


async def test_a_read_that_is_cancelled_from_outside_frees_its_place(room: WaitingRoom) -> None:
    task = asking(room, asyncio.get_running_loop().create_future(), "a", Caller().receive)
    await settle()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert room.waiting == 0


async def test_a_time_out_of_the_work_is_its_own(room: WaitingRoom) -> None:
    async def work() -> str:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await room.wait("a", Caller().receive, work)


async def test_a_connection_that_fails_is_one_that_has_gone(room: WaitingRoom) -> None:
    async def receive() -> dict[str, object]:
        raise OSError

    assert await outcome(asking(room, asyncio.get_running_loop().create_future(), "a", receive)) == "CallerLeftError"


async def test_requests_begin_for_so_long_in_a_turn_and_the_others_in_the_next_ones_in_order() -> None:
    turns, begun, now = Turns(), list[int](), itertools.count()

    async def begin(number: int) -> None:
        if turns.is_over(next(now) * TURN_S / 2):
            await turns.next()
        begun.append(number)

    tasks = [asyncio.create_task(begin(number)) for number in range(EACH_TURN + 10)]
    await asyncio.sleep(0)
    assert begun == [0, 1, 2]  # at 0, a half, and the whole of it
    await asyncio.gather(*tasks)
    assert begun == list(range(EACH_TURN + 10))


async def test_no_more_begin_in_a_turn_however_many_come_in_each_of_those_before() -> None:
    """A turn's end is scheduled once, not by every turn in which somebody came."""
    turns, begun, now = Turns(), list[int](), itertools.count()

    async def begin(number: int) -> None:
        if turns.is_over(next(now) * TURN_S / 4):
            await turns.next()
        begun.append(number)

    tasks, begun_in_turns = list[asyncio.Task[None]](), list[int]()
    for _ in range(10):
        before = len(begun)
        tasks += [asyncio.create_task(begin(number)) for number in range(5 * EACH_TURN)]
        await asyncio.sleep(0)
        begun_in_turns.append(len(begun) - before)
    assert EACH_TURN // 2 < max(begun_in_turns) <= EACH_TURN
    await asyncio.gather(*tasks)


async def test_many_that_hang_up_at_once_free_their_places_and_end_by_and_by(metrics: Metrics) -> None:
    room, callers = WaitingRoom("refresh", 10 * EACH_TURN, metrics), [Caller() for _ in range(3 * EACH_TURN)]
    answer = asyncio.get_running_loop().create_future()
    tasks = [asyncio.create_task(outcome(asking(room, answer, "a", caller.receive))) for caller in callers]
    await settle()
    for caller in callers:
        caller.gone.set()
    ended, most = 0, 0
    while ended < len(tasks):
        await asyncio.sleep(0)
        done = sum(task.done() for task in tasks)
        assert not done or room.waiting == 0
        ended, most = done, max(most, done - ended)
    assert most <= EACH_TURN
    assert [await task for task in tasks] == ["CallerLeftError"] * len(tasks)


async def test_a_request_that_comes_in_a_turn_of_its_own_never_waits() -> None:
    turns = Turns()
    for second in range(3):
        assert not turns.is_over(second)
        await asyncio.sleep(0)
