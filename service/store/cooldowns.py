"""Not-befores as they stand in Redis."""

import re

from service.exchange.budget import MAX_COOLDOWN, NO_COOLDOWN, Cooldown, joined
from service.exchange.clock import EARLIEST, LATEST, ExchangeClock
from service.exchange.errors import ERRORS, ExchangeBannedError
from service.exchange.ports import Cooldowns
from service.store.scripts import Found
from service.store.values import whole

COOLDOWN_MEMORY = 10 * MAX_COOLDOWN
"""Ms past its end that a hold and a resume are remembered: far longer than any hold the resume could void."""

_PROBLEM = re.compile("[a-z-]{1,64}")

SLACK = 24 * 60 * 60 * 1000
"""Ms by which this machine's clock may be behind before it is measured; a long ban must not count as none for that."""

CLOCK_ERROR = 5_000
"""Ms by which another replica's clock may be ahead of one that the exchange has told: a `Date` has whole seconds."""


def cooldowns_of(found: Found, clock: ExchangeClock) -> Cooldowns:
    """The address's and the credential's, and what time it is at the exchange by the life they have left."""
    (address, one), (credential, other) = (_told(fields, left, clock) for fields, left in found)
    return Cooldowns(address, credential, one or other)


def cooldown_of(fields: list[bytes | None], now: int, latest: int) -> Cooldown:
    """A not-before as it stands in Redis; what no replica can have written by `now` counts as none.

    A resume after `latest`, or a probe that was answered before it could be sent, would free the fleet of a ban.
    Problem types that a newer release wrote count as a ban: what stands there reaches callers, and so is ours.
    """
    resumed, imposed, until, opened, problem = (fields + 5 * [None])[:5]
    voided, deadline = whole(resumed, latest) or 0, whole(until, latest_until(now)) or 0
    name = (problem or b"").decode("latin-1")
    if not deadline or not _PROBLEM.fullmatch(name):
        return Cooldown(voided)
    told = min(whole(imposed, LATEST) or 0, latest)
    name = name if name in ERRORS else ExchangeBannedError.problem
    return joined(NO_COOLDOWN, Cooldown(voided, deadline, opened == b"1" and deadline <= now + CLOCK_ERROR, name, told))


def latest_moment(clock: ExchangeClock) -> int:
    """Epoch ms, of what has happened at another replica by now."""
    return clock.now() + (SLACK if clock.offset is None else CLOCK_ERROR)


def latest_until(now: int) -> int:
    return now + MAX_COOLDOWN + SLACK


def _told(fields: list[bytes | None], left: int, clock: ExchangeClock) -> tuple[Cooldown, int | None]:
    """A hold, and the time that its life tells: none where it has no end, or one that no replica gave it."""
    until = whole(fields[2] if len(fields) > 2 else None, LATEST)
    now = until - (left - COOLDOWN_MEMORY) if until and 0 < left <= COOLDOWN_MEMORY + MAX_COOLDOWN else None
    if now is not None and not EARLIEST <= now <= LATEST:
        now = None
    if clock.offset is not None or now is None:
        return cooldown_of(fields, clock.now(), latest_moment(clock)), now
    return cooldown_of(fields, now, now + CLOCK_ERROR), now
