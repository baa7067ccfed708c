"""How long an operation on the shared store may be waited for, or all operations of one round of a refresh together.

A budget counts ticks of the event loop, so that a stalled loop isn't mistaken for a slow store. A tick that ends late
isn't counted: the loop was busy, perhaps with a burst of callers. What ends within its first tick costs nothing: that
is a round trip, not a wait.
"""

# The refresher passes a round's budget to `SharedStore` itself. The ledger's share of it has to cross the exchange's
# room, which doesn't know that there is a Redis: some twenty signatures there would only hand it on. A context variable
# carries it instead, as the loop carries the deadline of `asyncio.timeout`: `carry` in `cache`, `carried` in `store`.

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from contextvars import ContextVar
from typing import Any

TICK_S = 0.025
"""Length of one tick of a wait budget."""
WAIT_TICKS = 10
"""For one operation, or for all operations of a refresh between two waits for other replicas: 250 ms."""
LONGEST_WAIT_S = 2.0
"""An operation is given up after this time, however busy the loop is."""


class WaitBudget:
    """The ticks that may still be spent on waiting for Redis."""

    def __init__(self, ticks: int = WAIT_TICKS) -> None:
        self.ticks = ticks

    async def wait(self, task: asyncio.Task[Any]) -> bool:
        """Wait for a task while ticks are left; return whether it is done. The task goes on either way."""
        if not task.done() and self.ticks > 0:
            with contextlib.suppress(TimeoutError):
                async with self.bound():
                    await asyncio.wait({task})
        return task.done()

    @contextlib.asynccontextmanager
    async def bound(self) -> AsyncGenerator[None, None]:
        """Give the block up when no ticks are left.

        Raises:
            TimeoutError: that has happened.
            asyncio.CancelledError: the task was cancelled, even if the block went on or failed otherwise.
        """
        # redis-py waits by `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that comes as what it waits
        # for ends. It must not be lost: who cancels waits for the task's end. A task counts its cancellations.
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - a coroutine that awaits timers is run by one
        cancellations = task.cancelling()
        began = loop.time()
        end = began + LONGEST_WAIT_S  # a loop that is late every time would count no tick
        ticking: asyncio.TimerHandle
        async with asyncio.timeout(None) as timeout:

            def tick() -> None:
                nonlocal began, ticking
                now = loop.time()
                if now - began < 2 * TICK_S:
                    self.ticks -= 1
                if self.ticks > 0 and now < end:
                    began, ticking = now, loop.call_later(TICK_S, tick)
                else:
                    timeout.reschedule(now)

            ticking = loop.call_later(TICK_S, tick)
            try:
                yield
            finally:
                ticking.cancel()
                if task.cancelling() > cancellations:
                    raise asyncio.CancelledError


_carried: ContextVar[WaitBudget | None] = ContextVar("wait_budget", default=None)


@contextlib.contextmanager
def carry(budget: WaitBudget | None) -> Iterator[None]:
    """Within the block, what the exchange's room does in the shared store shares this budget; `None`: it doesn't."""
    token = _carried.set(budget)
    try:
        yield
    finally:
        _carried.reset(token)


def carried() -> WaitBudget | None:
    """The budget of the block of `carry`."""
    return _carried.get()
