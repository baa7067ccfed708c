"""Cooldowns as they are stored in Redis."""

# `budget.merged` merges two copies of a cooldown, and `cool_down.lua` applies the same rule to the stored one. The
# latest `until` wins there. So one forged or mistaken `until` would bind the fleet for ever; and a resume dated in the
# future, or a probe that was answered before it could be sent, would free the fleet of a ban. Everything read here is
# therefore limited to what a replica can have written by now.
#
# "Now" is the exchange's time. A replica that hasn't measured it yet takes it from the cooldown itself: the script sets
# the key's life to `until - now + COOLDOWN_MEMORY_MS`, so `now` is `until` less what is left beyond COOLDOWN_MEMORY_MS.

import re

from service.exchange.clock import EARLIEST, LATEST, ExchangeClock
from service.fleet.budget import MAX_COOLDOWN, NO_COOLDOWN, Cooldown, merged
from service.fleet.errors import ERRORS, ExchangeBannedError
from service.fleet.ledger import Cooldowns
from service.store.scripts import ScriptResult
from service.store.values import whole

COOLDOWN_MEMORY_MS = 10 * MAX_COOLDOWN
"""How long a cooldown or a resume is remembered after its end: far longer than any cooldown a resume could void."""

_PROBLEM = re.compile("[a-z-]{1,64}")

CLOCK_SLACK_MS = 24 * 60 * 60 * 1000
"""How far this machine's clock may be behind before it is measured: a long ban must not be refused for that."""

CLOCK_ERROR_MS = 5_000
"""How far another replica's clock may be ahead of one that the exchange has set: a `Date` has whole seconds."""


def cooldowns_of(stored: ScriptResult, clock: ExchangeClock) -> Cooldowns:
    """Decode the address's and the credential's, and the exchange's time by the life that they have left."""
    (address, one), (credential, other) = (_with_time(fields, left_ms, clock) for fields, left_ms in stored)
    return Cooldowns(address, credential, one or other)


def cooldown_of(fields: list[bytes | None], now: int, latest: int) -> Cooldown:
    """Decode a cooldown; one that no replica can have written by `now` counts as none.

    Args:
        fields: resumed, imposed, until, opened, problem.
        now: epoch ms on the exchange's clock.
        latest: epoch ms of the latest moment at which a replica can have resumed or imposed anything.
    """
    resumed, imposed, until, opened, problem = (fields + 5 * [None])[:5]
    voided, deadline = whole(resumed, latest) or 0, whole(until, latest_until(now)) or 0
    name = (problem or b"").decode("latin-1")
    if not deadline or not _PROBLEM.fullmatch(name):
        return Cooldown(voided)
    imposed_at = min(whole(imposed, LATEST) or 0, latest)
    # A newer release's problem type counts as a ban, for this name reaches callers.
    name = name if name in ERRORS else ExchangeBannedError.problem
    # A probe is only sent after the deadline, so one that was answered before it never took place.
    answered = opened == b"1" and deadline <= now + CLOCK_ERROR_MS
    return merged(NO_COOLDOWN, Cooldown(voided, deadline, answered, name, imposed_at))


def latest_moment(clock: ExchangeClock) -> int:
    """Epoch ms by which everything that has happened at another replica is dated."""
    return clock.now() + (CLOCK_SLACK_MS if clock.offset is None else CLOCK_ERROR_MS)


def latest_until(now: int) -> int:
    """Epoch ms of the latest end that a replica can have written by now."""
    return now + MAX_COOLDOWN + CLOCK_SLACK_MS


def _with_time(fields: list[bytes | None], left_ms: int, clock: ExchangeClock) -> tuple[Cooldown, int | None]:
    """Decode a cooldown, and the time by its life: `None` if it has no life, or one that no replica gave it."""
    until = whole(fields[2] if len(fields) > 2 else None, LATEST)
    now = until - (left_ms - COOLDOWN_MEMORY_MS) if until and 0 < left_ms <= COOLDOWN_MEMORY_MS + MAX_COOLDOWN else None
    if now is not None and not EARLIEST <= now <= LATEST:
        now = None
    if clock.offset is not None or now is None:
        return cooldown_of(fields, clock.now(), latest_moment(clock)), now
    return cooldown_of(fields, now, now + CLOCK_ERROR_MS), now
