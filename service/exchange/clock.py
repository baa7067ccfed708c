"""The exchange's time, measured: timestamps that it accepts, and ages that don't depend on the local clock.

The offset is kept against the monotonic clock, so a jump of the machine's clock moves nothing.
"""

# Sources of the offset, from the worst to the best:
#     none            this machine's clock; nothing is known about its error
#     coarse          an answer's `Date`, even a refusal's, or the time that a cooldown in Redis implies; error 1 s
#     measured        `/time`, the best of three samples; error half a round trip; measured again after 30 minutes
# The first coarse source fills the gap; after that only a measurement replaces an offset. Coarse values are checked
# against bounds, because a wrong number must not put the end of a ban years away.
#
# The exchange's time lies within [earliest, latest]. Use the lower bound where being early is harmful (the end of a ban
# or a minute, a signature's timestamp), and the upper one to stamp what must not seem older than it is.

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

import msgspec

from service.clock import Clock

SAMPLES = 3
"""Requests to `/time` per measurement: the best of three leaves out a slow one, at weight 3."""

MAX_AGE = 30 * 60 * 1000  # ms: quartz drifts up to 50 ppm, 90 ms in this time, far inside the exchange's tolerance


class Sample(msgspec.Struct, frozen=True):
    """One answer of `/time`: local monotonic ms around it, and the exchange's epoch ms in it."""

    sent: int
    received: int
    server: int

    @property
    def round_trip(self) -> int:
        return self.received - self.sent


EARLIEST, LATEST = 1_483_228_800_000, 4_102_444_800_000
"""Epoch ms of 2017, before which there was no such exchange, and of 2100: a time outside of them is not a clock's."""

# Ms that a `Date` may differ from this machine's clock: machines are rarely wrong by more.
MAX_DATE_LEAD = 2 * 24 * 60 * 60 * 1000
# Ms by which an HTTP `Date` may be behind: it has whole seconds (RFC 9110 §5.6.7).
DATE_ERROR = 1_000


class Offset(msgspec.Struct, frozen=True):
    """Exchange's epoch ms = local monotonic ms + `value`, give or take `error` (half a round trip)."""

    value: int
    error: int
    measured: int | None
    """Monotonic ms; `None`: coarse, from an answer's `Date` or from the fleet's time."""


def estimate(samples: Sequence[Sample]) -> Offset:
    """The offset by the sample with the shortest round trip, read at its midpoint."""
    # An average would let one slow reply over-correct into the future; the shortest bounds the error best.
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
    """The exchange's time; until it has answered anything, this machine's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic = clock.monotonic
        self.offset: Offset | None = None

    def now(self) -> int:
        """Epoch ms, the best estimate."""
        if self.offset is None:
            return self._clock.epoch()
        return self.monotonic() + self.offset.value

    def earliest(self) -> int:
        """Epoch ms, the lower bound: a ban or a minute of weight ends here no earlier than at the exchange."""
        return self.now() - (self.offset.error if self.offset else 0)

    def latest(self) -> int:
        """Epoch ms, the upper bound, where an offset is known."""
        return self.now() + (self.offset.error if self.offset else 0)

    def timestamp(self) -> int:
        """Epoch ms for signing."""
        # The exchange refuses a timestamp 1000 ms ahead whatever the receive window; behind, it allows all of it.
        return self.earliest()

    def observe_date(self, date: str) -> None:
        """Use an answer's `Date`, until the clock is measured."""
        # Refusals carry one too: so a ban that the very first call meets is understood by the exchange's clock.
        if self.offset is None:
            offset = from_date(date, self.monotonic())
            if offset is not None and abs(self.monotonic() + offset.value - self._clock.epoch()) <= MAX_DATE_LEAD:
                self.offset = offset

    def adopt_fleet_time(self, server: int) -> None:
        """Adopt the exchange's epoch ms as other replicas know it, until this one has an offset of its own."""
        # So a replica with a wrong clock that starts during a ban doesn't believe that the ban is over.
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
