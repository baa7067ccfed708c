"""The exchange's time, measured: timestamps that it accepts, and ages that hold whatever the local clock says.

The offset is kept against the monotonic clock, so that a jump of the machine's clock moves nothing.
"""

from collections.abc import Sequence

import msgspec

from service.clock import Clock

SAMPLES = 3
"""Requests to `/time` a measurement: the best of three leaves out a slow one, at weight 3."""

MAX_AGE = 30 * 60 * 1000
"""Ms. Quartz drifts up to 50 ppm, 90 ms in this time: far inside the exchange's tolerance."""


class Sample(msgspec.Struct, frozen=True):
    """One answer of `/time`: local monotonic ms around it, and the exchange's epoch ms in it."""

    sent: int
    received: int
    server: int

    @property
    def round_trip(self) -> int:
        return self.received - self.sent


class Offset(msgspec.Struct, frozen=True):
    """Exchange's epoch ms = local monotonic ms + `value`, give or take `error` (half a round trip)."""

    value: int
    error: int
    measured: int
    """Monotonic ms."""


def estimate(samples: Sequence[Sample]) -> Offset:
    """The offset by the sample with the shortest round trip, read at its midpoint.

    One slow reply would over-correct into the future; the shortest bounds the error best.
    """
    best = min(samples, key=lambda sample: sample.round_trip)
    midpoint = best.sent + best.round_trip // 2
    error = (best.round_trip + 1) // 2
    return Offset(best.server - midpoint, error, best.received)


class ExchangeClock:
    """What time it is at the exchange; until measured, what this machine believes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic = clock.monotonic
        self.offset: Offset | None = None

    def now(self) -> int:
        """Epoch ms, as near as known."""
        if self.offset is None:
            return self._clock.epoch()
        return self._clock.monotonic() + self.offset.value

    def timestamp(self) -> int:
        """Epoch ms for signing: behind the exchange by the error's bound.

        1000 ms ahead is refused whatever the receive window, while behind has the whole window to spare.
        """
        return self.now() - (self.offset.error if self.offset else 0)

    @property
    def due(self) -> bool:
        """Whether the offset is missing or old enough to be measured again."""
        return self.offset is None or self._clock.monotonic() - self.offset.measured > MAX_AGE

    @property
    def skew(self) -> int | None:
        """Ms the exchange is ahead of this machine's clock; `None` while not measured."""
        return None if self.offset is None else self.now() - self._clock.epoch()
