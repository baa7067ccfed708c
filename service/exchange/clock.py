"""The exchange's time, measured: timestamps that it accepts, and ages that hold whatever the local clock says.

The offset is kept against the monotonic clock, so that a jump of the machine's clock moves nothing.
"""

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

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


EARLIEST, LATEST = 1_483_228_800_000, 4_102_444_800_000
"""Epoch ms of 2017, before which there was no such exchange, and of 2100: a clock outside of them is not one."""

MAX_DATE_LEAD = 2 * 24 * 60 * 60 * 1000
"""Ms that a `Date` may differ from this machine's clock. A machine's clock is rarely wrong by so much; a `Date` that is
would put the end of a ban years away."""
DATE_ERROR = 1_000
"""Ms by which an HTTP `Date` may be behind: it has whole seconds (RFC 9110 §5.6.7)."""


class Offset(msgspec.Struct, frozen=True):
    """Exchange's epoch ms = local monotonic ms + `value`, give or take `error` (half a round trip)."""

    value: int
    error: int
    measured: int | None
    """Monotonic ms; `None`: only glimpsed in an answer's `Date`."""


def estimate(samples: Sequence[Sample]) -> Offset:
    """The offset by the sample with the shortest round trip, read at its midpoint.

    One slow reply would over-correct into the future; the shortest bounds the error best.
    """
    best = min(samples, key=lambda sample: sample.round_trip)
    midpoint = best.sent + best.round_trip // 2
    error = (best.round_trip + 1) // 2
    return Offset(best.server - midpoint, error, best.received)


def from_date(date: str, received: int) -> Offset | None:
    """A coarse offset from an answer's `Date`, received at this monotonic ms; `None` if it is no date."""
    try:
        server = int(parsedate_to_datetime(date).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return Offset(server - received, DATE_ERROR, None) if EARLIEST <= server <= LATEST else None


class ExchangeClock:
    """What time it is at the exchange; until it has answered anything, what this machine believes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic = clock.monotonic
        self.offset: Offset | None = None

    def now(self) -> int:
        """Epoch ms, as near as known."""
        if self.offset is None:
            return self._clock.epoch()
        return self.monotonic() + self.offset.value

    def earliest(self) -> int:
        """Epoch ms that it is at the least: behind by the error's bound.

        A ban has not passed, nor a minute of weight ended, before it has here.
        """
        return self.now() - (self.offset.error if self.offset else 0)

    def latest(self) -> int:
        """Epoch ms that it is at the most, where an offset is known."""
        return self.now() + (self.offset.error if self.offset else 0)

    def timestamp(self) -> int:
        """Epoch ms for signing.

        1000 ms ahead is refused whatever the receive window, while behind has the whole window to spare.
        """
        return self.earliest()

    def see(self, date: str) -> None:
        """Take what an answer's `Date` tells, until the clock is measured.

        Also a refusal has one: a ban that the first call of all meets is understood by the exchange's clock.
        """
        if self.offset is None:
            found = from_date(date, self.monotonic())
            if found is not None and abs(self.monotonic() + found.value - self._clock.epoch()) <= MAX_DATE_LEAD:
                self.offset = found

    def hear(self, server: int) -> None:
        """Take the exchange's epoch ms as other replicas know it, until this one has an offset of its own.

        So a replica with a wrong clock that starts during a ban doesn't take the ban for over.
        """
        if self.offset is None and EARLIEST <= server <= LATEST:
            self.offset = Offset(server - self.monotonic(), DATE_ERROR, None)

    @property
    def measured(self) -> bool:
        """Whether the offset is good to half a round trip."""
        return self.offset is not None and self.offset.measured is not None

    @property
    def due(self) -> bool:
        """Whether the offset should be measured, for the first time or again."""
        offset = self.offset
        return offset is None or offset.measured is None or self.monotonic() - offset.measured > MAX_AGE

    @property
    def skew(self) -> int | None:
        """Ms the exchange is ahead of this machine's clock; `None` while not measured."""
        return None if self.offset is None else self.now() - self._clock.epoch()
