import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest

from service.cache.flight import SingleFlight


class Load:
    """A load that lasts until it is told to end."""

    def __init__(self) -> None:
        self.calls = 0
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.calls += 1
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self.calls


async def test_many_waiters_share_one_load() -> None:
    flight, load = SingleFlight[int](), Load()
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(flight.join(load)) for _ in range(100)]
        await load.started.wait()
        load.release.set()
    assert {waiter.result() for waiter in waiters} == {1}
    assert load.calls == 1


async def test_the_leader_who_hangs_up_does_not_end_it_for_the_others() -> None:
    flight, load = SingleFlight[int](), Load()
    leader = asyncio.create_task(flight.join(load))
    await load.started.wait()
    follower = asyncio.create_task(flight.join(load))
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    load.release.set()
    assert await follower == 1
    assert not load.cancelled


async def test_every_waiter_gets_the_one_exception() -> None:
    flight, load = SingleFlight[int](), Load()
    load.error = ValueError("once")
    waiters = [asyncio.create_task(flight.join(load)) for _ in range(3)]
    load.release.set()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert results == [load.error] * 3
    assert load.calls == 1


class Watched(asyncio.Task[Any]):
    """A task that counts what is called when it ends: each of those is looked for among all as it is taken back."""

    callbacks = 0

    def add_done_callback(self, fn: Callable[..., object], /, *, context: Context | None = None) -> None:
        self.callbacks += 1
        super().add_done_callback(fn, context=context)


async def test_who_leaves_is_not_looked_for_among_all_who_wait() -> None:
    flight, load = SingleFlight[int](), Load()
    loads: list[Watched] = []

    async def watched() -> int:
        task = asyncio.current_task()
        assert isinstance(task, Watched)
        loads.append(task)
        return await load()

    asyncio.get_running_loop().set_task_factory(lambda loop, work, **_: Watched(work, loop=loop))
    leavers = [asyncio.create_task(flight.join(watched, timeout_s=0)) for _ in range(100)]
    stayers = [asyncio.create_task(flight.join(watched)) for _ in range(100)]
    assert {type(left) for left in await asyncio.gather(*leavers, return_exceptions=True)} == {TimeoutError}
    load.release.set()
    assert await asyncio.gather(*stayers) == [1] * 100
    assert [task.callbacks for task in loads] == [1]


async def test_nothing_is_kept_after_a_flight() -> None:
    flight, load = SingleFlight[int](), Load()
    load.release.set()
    assert await flight.join(load) == 1
    assert not flight.active
    assert await flight.join(load) == 2


async def test_a_failure_is_not_kept_either() -> None:
    flight, load = SingleFlight[int](), Load()
    load.release.set()
    load.error = ValueError("once")
    with pytest.raises(ValueError, match="once"):
        await flight.join(load)
    load.error = None
    assert await flight.join(load) == 2


async def test_a_failure_that_nobody_waits_for_is_no_unhandled_error() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    flight, load = SingleFlight[int](), Load()
    load.error = ValueError("unheard")
    flight.start(load)
    await load.started.wait()
    load.release.set()
    while flight.active:
        await asyncio.sleep(0)
    assert complaints == []


async def test_starting_twice_starts_once_and_a_joiner_takes_part() -> None:
    flight, load = SingleFlight[int](), Load()
    flight.start(load)
    flight.start(load)
    joiner = asyncio.create_task(flight.join(load))
    await load.started.wait()
    load.release.set()
    assert await joiner == 1


async def test_closing_cancels_the_load_and_waits_for_its_end() -> None:
    flight, load = SingleFlight[int](), Load()
    flight.start(load)
    await load.started.wait()
    await flight.close()
    assert load.cancelled
    assert not flight.active
    await flight.close()
