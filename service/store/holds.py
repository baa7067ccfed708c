"""Not-befores as they stand in Redis."""

from service.exchange.budget import MAX_HOLD, NO_HOLD, Hold
from service.exchange.ports import Holds

HOLD_MEMORY = 10 * MAX_HOLD
"""Ms past its end that a hold and its epoch are remembered: far longer than any hold the epoch could void."""


def holds_of(address: list[bytes | None], address_ttl: int, credential: list[bytes | None], ttl: int) -> Holds:
    """Both as they were found, and what time it is at the exchange by the life they have left."""
    found = [(hold_of(address), address_ttl), (hold_of(credential), ttl)]
    times = [hold.until - (left - HOLD_MEMORY) for hold, left in found if hold.until > 0 and left > 0]
    return Holds(found[0][0], found[1][0], times[0] if times else None)


def hold_of(fields: list[bytes | None]) -> Hold:
    """A not-before as it stands in Redis; what somebody else wrote there counts as none."""
    epoch, problem, until, opened = fields
    try:
        return Hold(int(epoch or 0), int(until or 0), opened == b"1", (problem or b"").decode())
    except ValueError:  # UnicodeDecodeError is one too
        return NO_HOLD


def life_of(hold: Hold, now: int) -> int:
    """Ms to remember a hold, from `now` on the exchange's clock; so that what is left of them tells that time."""
    return max(1, hold.until - now + HOLD_MEMORY)
