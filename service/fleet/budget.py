"""The rules for when the exchange may be called: weight, cooldowns, back-off. Pure: values and times in, values out.

Times are epoch ms on the exchange's clock, because the exchange counts minutes and bans by it. Only our own back-off
uses monotonic ms.
"""

# Weight (`Window`). The exchange counts request weight per address and per minute of its own clock, and reports the sum
# in each answer. Two windows count it here: this replica's, and the fleet's as the ledger in Redis last showed it.
# - A call is charged before it is sent (`pending`). With an answer it moves to `spent`, without one to `unanswered`.
#   Nothing else lowers a minute's count, so a lost answer can't buy a second call.
# - `reported` only grows within a minute. It includes other users of the address, so the larger of it and `spent`
#   counts. What is in flight or unanswered comes on top: the report may not include it yet.
# - `pending` survives the end of the minute: such a call may arrive at the exchange in the new one.
#
# Cooldowns. A refusal binds the whole address or one credential. The states of one scope:
#     none -> binding (until > now) -> awaiting a probe (until <= now) -> cleared (the probe was answered)
# An operator's resume leads from any state to none. `merged` is commutative and idempotent, so replicas may learn
# cooldowns in any order and more than once, and still agree.

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from service.fleet.errors import (
    ERRORS,
    ExchangeBannedError,
    ExchangeBlockedError,
    ExchangeError,
    ExchangeRateLimitedError,
    ExchangeRejectedCredentialsError,
    Failure,
    WeightBudgetSpentError,
)

MINUTE = 60_000
MAX_COOLDOWN = 3 * 24 * 60 * MINUTE
"""Ms. The exchange's longest ban. The cap also keeps a misread time from causing an endless outage."""
UNDATED_BAN = 10 * MINUTE  # for a 418 without an end: bans start at 2 minutes, and calling too early lengthens them
BLOCKED_COOLDOWN = 5 * MINUTE  # for a 403 or a challenge of its firewall, which names no time
CREDENTIAL_PROBE = 10 * MINUTE
"""Ms between calls with a rejected credential: repeating never helps, but an operator may fix it at the exchange."""
MINUTE_MARGIN = 500  # ms after the minute ends: our estimate of the exchange's clock may be early by half a round trip
FIRST_BACKOFF = 1_000
MAX_BACKOFF = 30_000
FORCED_SHARE = 0.25
"""Of our ceiling, for refreshes that callers force while the snapshot is still fresh."""
NEWCOMER_SHARE = 0.125
"""Of that share, reserved for the first refresh of clients that have forced none this minute. Half of it also serves a
client's first refresh of another account."""
UNPACED_SHARE = 0.5
"""Of our ceiling, may be spent at any pace. Beyond it, an account that has had its equal slice waits for the others."""
PROBE_PAUSE = 1_000
"""Ms after which to check again how another replica's probe went."""

BarrierReason: TypeAlias = Literal["not-before", "backoff", "weight-budget", "stale-if-error"]
"""`stale-if-error`: a call was made just now, and failed."""


class Barrier(msgspec.Struct, frozen=True):
    """Why the exchange can't be called now; the failure says until when."""

    reason: BarrierReason
    failure: Failure


class Cooldown(msgspec.Struct, frozen=True):
    """A time before which nothing may be sent, and the last resume by an operator. `merged` says which one wins."""

    resumed: int = 0
    """When an operator's resume voided what had been imposed until then; 0: never."""
    until: int = 0
    """0: there is no cooldown."""
    cleared: bool = False
    """Whether the exchange answered a probe that was sent after `until`."""
    problem: str = ""
    """The problem type of the refusal that imposed it."""
    imposed: int = 0
    """When the exchange refused."""

    def binds(self, now: int) -> bool:
        return self.until > now and not self.cleared

    def awaits_probe(self, now: int) -> bool:
        """Whether it has expired, but no probe has confirmed that the exchange agrees (half-open)."""
        return 0 < self.until <= now and not self.cleared


NO_COOLDOWN = Cooldown()


def merged(one: Cooldown, other: Cooldown) -> Cooldown:
    """The cooldown that two of one scope amount to, whichever was learned first; `one` where they are equal.

    Ordering is precedence: the later resume, then the latest `until` of those imposed since, then `cleared`.
    """
    # A refusal after the resume is a new one, whether or not the replica that met it knew of the resume.
    resumed = max(one.resumed, other.resumed)
    standing = [cooldown for cooldown in (one, other) if cooldown.until and cooldown.imposed >= resumed]
    if not standing:
        return Cooldown(resumed)
    # An answered probe clears just the cooldown that it was sent after: a longer one overrides it.
    latest = max(standing, key=lambda cooldown: (cooldown.until, cooldown.cleared))
    return replace(latest, resumed=resumed, imposed=max(cooldown.imposed for cooldown in standing))


class Failures(msgspec.Struct, frozen=True):
    """Consecutive failed refreshes, the last one, and the earliest next attempt (ms, monotonic)."""

    count: int
    last: Failure
    until: int


class Charge(msgspec.Struct, frozen=True):
    """The weight that a call takes from the address's budget, and for whom."""

    weight: int
    account: str = ""
    """Empty for calls that serve all accounts: time, exchangeInfo, a probe."""
    credential: str = ""
    """The identity of the credential that signs it; empty: unsigned."""
    forced: bool = False
    client: str = ""
    """The client whose read caused it; empty: the gateway itself."""


ClientAccount: TypeAlias = tuple[str, str]
"""A client's name, and an account's."""

NO_ACCOUNTS: Mapping[str, int] = MappingProxyType({})
NO_CLIENTS: Mapping[ClientAccount, int] = MappingProxyType({})


class Window(msgspec.Struct, frozen=True):
    """The weight of one minute at one public address, spent by one replica or by the fleet.

    `reported` is the exchange's own count, other users of the address included. `spent` is ours where an answer came
    back, `pending` is in flight. `unanswered` got no answer: it may have been counted, so it stays for its minute.
    """

    minute: int
    reported: int = 0
    spent: int = 0
    pending: int = 0
    unanswered: int = 0
    forced: int = 0
    accounts: Mapping[str, int] = NO_ACCOUNTS
    """The weight of each account's calls."""
    before: frozenset[str] = frozenset()
    """The accounts that were called for in the previous minute."""
    forced_by: Mapping[ClientAccount, int] = NO_CLIENTS
    """The weight that each client has forced on each account."""
    forced_before: frozenset[ClientAccount] = frozenset()
    """The clients that forced refreshes in the previous minute, and of which accounts."""

    @property
    def used(self) -> int:
        return max(self.reported, self.spent) + self.pending + self.unanswered

    @property
    def own(self) -> int:
        return self.spent + self.pending + self.unanswered


def window_at(window: Window, now: int) -> Window:
    """The window in force: a new minute starts at zero, except for calls that are still in flight."""
    minute = now // MINUTE
    if minute > window.minute:
        if minute > window.minute + 1:
            return Window(minute, pending=window.pending)
        before, forced_before = frozenset(window.accounts), frozenset(window.forced_by)
        return Window(minute, pending=window.pending, before=before, forced_before=forced_before)
    # The clock was corrected backwards: weight counted under a future minute counts for this one.
    return window if minute == window.minute else replace(window, minute=minute)


def reserve(window: Window, charge: Charge) -> Window:
    accounts = dict(window.accounts)
    if charge.account:
        accounts[charge.account] = accounts.get(charge.account, 0) + charge.weight
    forced, forced_by = window.forced, dict(window.forced_by)
    if charge.forced:
        forced += charge.weight
        client_account = (charge.client, charge.account)
        forced_by[client_account] = forced_by.get(client_account, 0) + charge.weight
    pending = window.pending + charge.weight
    return replace(window, pending=pending, forced=forced, forced_by=forced_by, accounts=accounts)


def settle(window: Window, weight: int, reported: int | None) -> Window:
    """An answer came; `reported` is the exchange's count, `None` where it has no figure for this minute."""
    highest = max(window.reported, reported or 0)
    return replace(window, pending=window.pending - weight, spent=window.spent + weight, reported=highest)


def abandon(window: Window, weight: int) -> Window:
    """No answer came: the reservation is kept."""
    return replace(window, pending=window.pending - weight, unanswered=window.unanswered + weight)


class Ceiling(msgspec.Struct, frozen=True):
    """The weight that may be spent per minute: by everyone on the address, and by those that the window counts."""

    address: float
    own: float
    """Equal to `address` for the fleet's window; an equal part of it for a replica's while Redis is unavailable."""


def weight_barrier(window: Window, charge: Charge, ceiling: Ceiling, now: int) -> Barrier | None:
    """Why one more call would exceed our share of the address's weight, or `None`."""
    # From hard limits to fairness: the address, this replica's part, forced refreshes, then the other accounts.
    minute_end = (window.minute + 1) * MINUTE
    if window.used + charge.weight > ceiling.address:
        return _spent("our share of the address's request weight is spent until the exchange's next minute", minute_end)
    if window.own + charge.weight > ceiling.own:
        return _spent("this replica's part of the request weight is spent until the exchange's next minute", minute_end)
    if charge.forced and not _may_force(window, charge, ceiling.own * FORCED_SHARE, now):
        # Try again when an even pace has room for this one: not within a second, and at the latest in the next minute.
        common = ceiling.own * FORCED_SHARE * (1 - NEWCOMER_SHARE)
        paced = window.minute * MINUTE + int((window.forced + charge.weight) / max(1, common) * MINUTE) + 1
        until = min(minute_end, max(now + 1_000, paced))
        return _spent("the weight for refreshes on demand is spent for now", until)
    wait_ms = _fairness_wait_ms(window, charge, ceiling, now)
    if wait_ms > 0:
        detail = f"account {charge.account} has had its equal slice of the request weight for now"
        return _spent(detail, min(minute_end, now + wait_ms))
    return None


def _may_force(window: Window, charge: Charge, share: float, now: int) -> bool:
    """Whether a refresh on demand leaves room for other clients and for other accounts.

    One client alone gets nearly the whole share, but never so fast that another client finds nothing.
    """
    client, client_account = charge.client, (charge.client, charge.account)
    total, common = window.forced + charge.weight, share * (1 - NEWCOMER_SHARE)
    # First come those that have forced none this minute: a part of the share is reserved for them.
    if not window.forced_by.get(client_account):
        had_none = not any(weight for (each, _), weight in window.forced_by.items() if each == client)
        return total <= (share if had_none else share * (1 - NEWCOMER_SHARE / 2))
    # Half of the rest may be spent at any pace, and an even pace over the minute is always fine.
    paced = common * max(UNPACED_SHARE, now % MINUTE / MINUTE)
    if total <= paced:
        return True
    # Beyond that pace, each client has an equal slice by now, and in it each of its accounts. Those that forced in the
    # previous minute count too, because they are likely to come again.
    forcing = set(window.forced_by) | window.forced_before
    clients, accounts = {each for each, _ in forcing}, [each for each in forcing if each[0] == client]
    had = window.forced_by[client_account] + charge.weight
    return total <= common and had <= paced / len(clients) / len(accounts)


def _fairness_wait_ms(window: Window, charge: Charge, ceiling: Ceiling, now: int) -> int:
    """Ms that an account has to wait: the minute's weight is going fast, and the account has had an equal slice by now.

    Going fast means that more than `UNPACED_SHARE` of it is spent, and more than evenly over the minute. So no account
    waits for one that is idle, and no account's reads starve another account.
    """
    active = (set(window.accounts) | window.before | {charge.account}) - {""}
    if not charge.account or len(active) == 1:
        return 0
    elapsed = now % MINUTE / MINUTE
    filled = max((window.used + charge.weight) / ceiling.address, (window.own + charge.weight) / ceiling.own)
    had = window.accounts.get(charge.account, 0) + charge.weight
    if filled <= max(UNPACED_SHARE, elapsed) or had <= ceiling.own * max(UNPACED_SHARE, elapsed) / len(active):
        return 0
    # Until then the minute will have caught up with what is spent.
    return int((filled - elapsed) * MINUTE) + 1


def _spent(detail: str, until: int) -> Barrier:
    return Barrier("weight-budget", Failure(WeightBudgetSpentError.problem, detail, retry_at=until))


def cooldown_barrier(cooldown: Cooldown) -> Barrier:
    """A remembered refusal as a barrier; problem types that a newer release wrote count as a ban."""
    kind = ERRORS.get(cooldown.problem, ExchangeBannedError)
    detail = f"{kind.title.lower()}; it is not asked until then"
    return Barrier("not-before", Failure(kind.problem, detail, retry_at=cooldown.until))


def probe_barrier(cooldown: Cooldown, now: int) -> Barrier:
    """The barrier of an expired cooldown that no probe has confirmed yet."""
    return cooldown_barrier(replace(cooldown, until=now + PROBE_PAUSE))


def cooldown_after(error: ExchangeError, now: int) -> Cooldown | None:
    """The cooldown that an answer imposes: on the address, or on the credential (`is_credential`).

    A time that the answer names can only lengthen it; `MAX_COOLDOWN` is the longest.
    """
    failure = error.failure
    named = failure.retry_at or 0
    match error:
        case ExchangeRateLimitedError() if failure.answered != 503 or failure.code is not None:
            until = max(named, (now // MINUTE + 1) * MINUTE + MINUTE_MARGIN)
        case ExchangeBannedError():
            until = named if named > now else now + UNDATED_BAN
        case ExchangeBlockedError() if failure.answered != 451:
            until = max(named, now + BLOCKED_COOLDOWN)
        case ExchangeRejectedCredentialsError():
            until = max(named, now + CREDENTIAL_PROBE)
        case _ if named > now:  # any other refusal that says for how long
            until = named
        case _:  # a failure of this call alone: back-off handles it
            return None
    return Cooldown(0, min(until, now + MAX_COOLDOWN), problem=error.problem)


def is_credential(cooldown: Cooldown) -> bool:
    """Whether a cooldown binds one credential, not the whole address."""
    return cooldown.problem == ExchangeRejectedCredentialsError.problem


def failures_after(before: Failures | None, failure: Failure, now: int) -> Failures:
    """1 s after the first failure in a row, doubling to 30 s."""
    count = before.count + 1 if before else 1
    # The exponent is capped because 2 ** count would grow without end; 2 ** 10 s is far over the longest pause.
    pause_ms = min(FIRST_BACKOFF * 2 ** min(count - 1, 10), MAX_BACKOFF)
    return Failures(count, failure, now + pause_ms)
