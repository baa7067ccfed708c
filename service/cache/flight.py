"""One load, many waiters.

The load is a task of its own, so that the caller who started it may hang up without ending it for the others.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

ENDING = 0.5
"""Seconds after which a task that was cancelled is cancelled again; it may have to give a lease back first."""


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end.

    More than once if need be: before Python 3.12, `asyncio.wait_for` loses a cancellation that comes with its result.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=ENDING)


class SingleFlight(Generic[T]):
    """Collapses concurrent loads into one.

    Every caller of a flight gets its one result, or its one exception. A flight ends when its load does; nothing
    is kept after that.
    """

    def __init__(self) -> None:
        self._flight: asyncio.Task[T] | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        """One for each that waits for it: of thousands that waited for the task itself, each that left would be looked
        for among the callbacks of all."""

    @property
    def active(self) -> bool:
        return self._flight is not None

    def start(self, load: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """See to it that a flight is under way; nobody waits for it."""
        _ = self._take_off(load)

    async def join(self, load: Callable[[], Coroutine[Any, Any, T]], patience: float | None = None) -> T:
        """The result of the flight under way, else of a new one.

        Raises:
            TimeoutError: it is still under way after `patience` seconds, and goes on.
        """
        flight = self._take_off(load)
        landed = asyncio.get_running_loop().create_future()
        self._waiting.add(landed)
        try:
            await asyncio.wait({landed}, timeout=patience)  # the flight goes on, also when this caller hangs up
        finally:
            self._waiting.discard(landed)
        if not flight.done():
            raise TimeoutError
        return flight.result()

    async def land(self) -> None:
        """Wait until nothing is under way, however it ends."""
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
