"""One load, many waiters.

The load is a task of its own, so that the caller who started it may hang up without ending it for the others.
"""

# Invariants: at most one load is under way; a caller that joins gets the result of the load that ran when it joined;
# a load without waiters still runs to its end. The order in `_land` keeps them: the flight is cleared before its
# waiters wake, so a waiter that joins again starts a new load instead of meeting the one that has ended.

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

ENDING_S = 0.5
"""Seconds after which a cancelled task is cancelled again; it may have to release a lease first."""


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end.

    More than once if necessary: before Python 3.12, `asyncio.wait_for` loses a cancellation that comes with its result.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=ENDING_S)


class SingleFlight(Generic[T]):
    """Collapses concurrent loads into one.

    Every caller of a flight gets its one result, or its one exception. A flight ends with its load; nothing is kept
    after that.
    """

    def __init__(self) -> None:
        self._flight: asyncio.Task[T] | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        """One future per waiter. If thousands waited for the task itself, each that leaves would be searched for among
        the callbacks of all of them."""

    @property
    def active(self) -> bool:
        return self._flight is not None

    def start(self, load: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Start a flight unless one is under way, without waiting for it."""
        _ = self._take_off(load)

    async def join(self, load: Callable[[], Coroutine[Any, Any, T]], timeout_s: float | None = None) -> T:
        """The result of the flight under way, else of a new one.

        Raises:
            TimeoutError: it is still under way after `timeout_s` seconds, and goes on.
        """
        flight = self._take_off(load)
        landed = asyncio.get_running_loop().create_future()
        self._waiting.add(landed)
        try:
            await asyncio.wait({landed}, timeout=timeout_s)  # not for the flight: it goes on if this caller hangs up
        finally:
            self._waiting.discard(landed)
        if not flight.done():
            raise TimeoutError
        return flight.result()

    async def land(self) -> None:
        """Wait for the end of what is under way, whether it succeeds or fails."""
        if self._flight is not None:
            await asyncio.wait({self._flight})

    async def close(self) -> None:
        """Cancel what is under way and wait for its end."""
        if self._flight is not None:
            await cancel_and_wait(self._flight)

    def _take_off(self, load: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        if self._flight is None:
            self._flight = asyncio.create_task(load())
            self._flight.add_done_callback(self._land)
        return self._flight

    def _land(self, flight: asyncio.Task[T]) -> None:
        self._flight = None
        waiting, self._waiting = self._waiting, set()
        for landed in waiting:
            landed.set_result(None)
        if not flight.cancelled():
            flight.exception()  # marks it retrieved, in case every caller left before it failed
