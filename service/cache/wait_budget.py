"""How long the work of one refresh may wait for the shared store, all operations together.

A budget counts ticks of the event loop, so that a stalled loop isn't mistaken for a slow store. A tick that ends late
isn't counted: the loop was busy, perhaps with a burst of callers. What ends within its first tick costs nothing: that
is a round trip, not a wait.
"""

import asyncio
import contextlib
from collections.abc import Iterator
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
        now = asyncio.get_running_loop().time
        end = now() + LONGEST_WAIT_S  # a loop that is late every time would count no tick
        while not task.done() and self.ticks > 0 and now() < end:
            began = now()
            await asyncio.wait({task}, timeout=TICK_S)
            if now() - began < 2 * TICK_S and not task.done():
                self.ticks -= 1
        return task.done()


_wait_budget: ContextVar[WaitBudget | None] = ContextVar("wait_budget", default=None)


def current() -> WaitBudget:
    """The block's budget; outside of a block, a new one."""
    return _wait_budget.get() or WaitBudget()


@contextlib.contextmanager
def one_budget() -> Iterator[None]:
    """Within the block, operations without a budget of their own share one; together they wait at most 250 ms."""
    token = _wait_budget.set(WaitBudget())
    try:
        yield
    finally:
        _wait_budget.reset(token)


async def wait_within_budget(task: asyncio.Task[Any]) -> None:
    """Wait for a task within the block's budget; the task goes on when the budget is spent."""
    await current().wait(task)
