"""The only source of time. All times in the gateway are whole milliseconds.

Decisions take the time as an argument; their callers get it here, and tests from a clock of their own.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

# Linux's CLOCK_MONOTONIC stops while the machine is suspended, but ages must go on.
_STEADY: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z: the last second that RFC 3339 can express."""


class Clock(Protocol):
    """The time of this machine; `service.exchange.clock` has the exchange's."""

    def monotonic(self) -> int:
        """Milliseconds since an arbitrary start; never goes back. Ages and deadlines are computed from it."""
        ...

    def epoch(self) -> int:
        """Milliseconds since the Unix epoch by this machine's clock, which may be wrong or jump."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> int:
        return time.clock_gettime_ns(_STEADY) // 1_000_000

    def epoch(self) -> int:
        return time.time_ns() // 1_000_000


def timestamp(epoch_ms: int) -> str:
    """RFC 3339, milliseconds, UTC. A time out of range becomes the nearest that RFC 3339 can express."""
    seconds, milliseconds = divmod(max(0, epoch_ms), 1000)
    moment = datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
