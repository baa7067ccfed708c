"""The one seam to time.

Every decision takes its time as an argument; this is where the argument comes from. All times in the gateway
are whole milliseconds.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

# Linux' monotonic clock stands still while the machine is suspended, and ages must not.
_STEADY: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z: what RFC 3339 can say."""


class Clock(Protocol):
    """What a process knows of time by itself; the exchange's time is `service.exchange.clock`'s."""

    def monotonic(self) -> int:
        """Milliseconds since an arbitrary start; never goes back. Ages and deadlines are differences of it."""
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
    """RFC 3339, milliseconds, UTC; what is out of its range is told as its end."""
    seconds, milliseconds = divmod(max(0, epoch_ms), 1000)
    moment = datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
