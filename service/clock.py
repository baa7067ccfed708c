"""The one seam to time.

Every decision takes its time as an argument; this is where the argument comes from. All times in the gateway
are whole milliseconds.
"""

import time
from typing import Protocol


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
        return time.monotonic_ns() // 1_000_000

    def epoch(self) -> int:
        return time.time_ns() // 1_000_000
