"""Not-befores as they stand in Redis."""

import re

from service.exchange.budget import MAX_HOLD, NO_HOLD, Hold
from service.exchange.clock import EARLIEST, LATEST, ExchangeClock
from service.exchange.errors import ERRORS, ExchangeBannedError
from service.exchange.ports import Holds
from service.store.scripts import Found
from service.store.values import whole

HOLD_MEMORY = 10 * MAX_HOLD
"""Ms past its end that a hold and its epoch are remembered: far longer than any hold the epoch could void."""

_PROBLEM = re.compile("[a-z-]{1,64}")

SLACK = 24 * 60 * 60 * 1000
"""Ms by which this machine's clock may be behind before it is measured; a long ban must not count as none for that."""


def holds_of(found: Found, clock: ExchangeClock) -> Holds:
    """The address's and the credential's, and what time it is at the exchange by the life they have left."""
    (address, one), (credential, other) = (_told(fields, left, clock) for fields, left in found)
    return Holds(address, credential, one or other)


def hold_of(fields: list[bytes | None], now: int) -> Hold:
    """A not-before as it stands in Redis; what no replica can have written by `now` counts as none.

    Problem types that a newer release wrote count as a ban: what stands there reaches callers, and so is ours.
    """
    epoch, problem, until, opened = (fields + 4 * [None])[:4]
    number, deadline = whole(epoch, latest_epoch(now)), whole(until, latest_until(now))
    if number is None and deadline is None:
        return NO_HOLD
    name = (problem or b"").decode("latin-1")
    if not deadline or not _PROBLEM.fullmatch(name):
        return Hold(number or 0)
    return Hold(number or 0, deadline, opened == b"1", name if name in ERRORS else ExchangeBannedError.problem)


def latest_epoch(now: int) -> int:
    """Epochs are seconds of when an operator began them; with room for those that were begun in one."""
    return (now + SLACK) // 1000


def latest_until(now: int) -> int:
    return now + MAX_HOLD + SLACK


def life_of(hold: Hold, now: int) -> int:
    """Ms to remember a hold, from `now` on the exchange's clock; so that what is left of them tells that time."""
    return max(1, hold.until - now + HOLD_MEMORY)


def _told(fields: list[bytes | None], left: int, clock: ExchangeClock) -> tuple[Hold, int | None]:
    """A hold, and the time that its life tells: none where it has no end, or one that no replica gave it."""
    until = whole(fields[2] if len(fields) > 2 else None, LATEST)
    now = until - (left - HOLD_MEMORY) if until and 0 < left <= HOLD_MEMORY + MAX_HOLD else None
    if now is not None and not EARLIEST <= now <= LATEST:
        now = None
    ours = clock.now()
    by_whom = ours if clock.offset is not None or now is None else now
    return hold_of(fields, by_whom), now
