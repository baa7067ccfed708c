"""What a test watches and turns: recorded calls, the gate that holds answers back, the clock.

Everything here belongs to one event loop; nothing sleeps or polls.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

import msgspec

# A demo runs for days; totals go on counting when the oldest calls are forgotten.
KEPT_CALLS = 10_000


class Condition:
    """Wakes coroutines that wait until some plain state has changed: asyncio's, without its lock."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Return when *predicate* holds; it is checked again at every notification."""
        while not predicate():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)


class Call(msgspec.Struct, rename="camel"):
    """One request to the exchange; `at` is ms on its clock, `status` None until it was answered."""

    path: str
    at: int
    client: str
    api_key: str | None
    status: int | None = None


class Calls:
    """Every request to the exchange in the order of arrival, control calls excepted."""

    def __init__(self) -> None:
        self._kept: deque[Call] = deque(maxlen=KEPT_CALLS)
        self._totals: Counter[tuple[str, str]] = Counter()
        self._changed = Condition()

    def record(self, call: Call) -> None:
        self._kept.append(call)
        self._totals[call.path, call.client] += 1
        self._changed.notify_all()

    def kept(self) -> list[Call]:
        """The newest `KEPT_CALLS` calls, oldest first."""
        return list(self._kept)

    def count(self, path: str | None = None, client: str | None = None) -> int:
        """How many calls arrived, answered or not; None means any path or client."""
        return sum(
            total
            for (to, by), total in self._totals.items()
            if path in (None, to) and client in (None, by)
        )  # fmt: skip

    def by_path(self) -> dict[str, int]:
        return {path: self.count(path) for path in sorted({path for path, _ in self._totals})}

    def by_client(self) -> dict[str, int]:
        return {client: self.count(client=client) for client in sorted({by for _, by in self._totals})}

    def clear(self) -> None:
        self._kept.clear()
        self._totals.clear()

    async def wait_for(self, path: str, count: int = 1) -> None:
        """Return once *count* calls of *path* have arrived since the last `clear`."""
        await self._changed.wait_for(lambda: self.count(path) >= count)


class Gate:
    """Holds coroutines back. Open at first; `release` lets all of them go and opens it again."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: set[object] = set()
        self._changed = Condition()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def hold(self) -> None:
        self.closed = True

    def release(self) -> None:
        self.closed = False
        self._waiting.clear()
        self._changed.notify_all()

    async def stop(self) -> None:
        """Wait for the next `release`, whether the gate is open or not."""
        ticket = object()
        self._waiting.add(ticket)
        self._changed.notify_all()
        try:
            await self._changed.wait_for(lambda: ticket not in self._waiting)
        finally:
            self._waiting.discard(ticket)

    async def wait_held(self, count: int = 1) -> None:
        """Return once *count* coroutines are waiting."""
        await self._changed.wait_for(lambda: self.waiting >= count)


class Clock:
    """The exchange's own time: a source in seconds since the epoch, skewed by whole ms or stopped."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self.skew_ms = 0
        self.frozen_at_ms: int | None = None

    def now_ms(self) -> int:
        if self.frozen_at_ms is not None:
            return self.frozen_at_ms
        return int(self._source() * 1000) + self.skew_ms

    def freeze(self, at_ms: int | None = None) -> None:
        """Stop at *at_ms*, or now."""
        self.frozen_at_ms = self.now_ms() if at_ms is None else at_ms

    def resume(self) -> None:
        """Run again from the source's time and the skew."""
        self.frozen_at_ms = None

    def set(self, now_ms: int) -> None:
        """Make it *now_ms*; it goes on running from there unless it is frozen."""
        if self.frozen_at_ms is None:
            self.skew_ms += now_ms - self.now_ms()
        else:
            self.frozen_at_ms = now_ms

    def advance(self, by_ms: int) -> None:
        self.set(self.now_ms() + by_ms)
