"""When the exchange may be asked: weight, not-before, back-off. Pure: values and times in, values out.

Times are epoch ms on the exchange's clock, because its minutes and bans are what is counted; our own pauses are
monotonic ms, because they are only ours.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from service.exchange.errors import (
    ERRORS,
    ExchangeBannedError,
    ExchangeBlockedError,
    ExchangeError,
    ExchangeRateLimitedError,
    ExchangeRejectedCredentialsError,
    WeightBudgetSpentError,
)

MINUTE = 60_000
ACCOUNT_WEIGHT = 5
"""Of `GET /dapi/v1/account`, by the exchange's page on it."""
MAX_COOLDOWN = 3 * 24 * 60 * MINUTE
"""Ms. The exchange's longest ban; also keeps a misread time from being an outage for ever."""
UNDATED_BAN = 10 * MINUTE
"""Ms. For a 418 that doesn't say until when: the ban lengths start at 2 minutes, asking early lengthens them."""
BLOCKED = 5 * MINUTE
"""Ms. For a 403 or a challenge of its firewall, which names no time."""
CREDENTIAL_PROBE = 10 * MINUTE
"""Ms between tries with a rejected credential: repeating never helps, but an operator may mend it over there."""
MINUTE_MARGIN = 500
"""Ms past the minute's turn: our idea of the exchange's clock may be early by half a round trip."""
FIRST_BACKOFF = 1_000
MAX_BACKOFF = 30_000
FORCED_SHARE = 0.25
"""Of our ceiling, for refreshes that callers force on a snapshot that is still fresh."""
NEWCOMERS = 0.125
"""Of that share, kept for the first refresh of clients that have forced none this minute; half of it, also for their
first on another account."""
EASE = 0.5
"""Of our ceiling, that may be spent at any pace; beyond it, who has had its equal slice waits for the others."""
PROBE_PAUSE = 1_000
"""Ms after which to ask again how a probe went that another replica has under way."""

BarrierReason: TypeAlias = Literal["not-before", "backoff", "weight-budget", "stale-if-error"]
"""`stale-if-error`: a call was made just now, and failed."""


class Barrier(msgspec.Struct, frozen=True):
    """Why the exchange can't be asked now; the error says until when."""

    reason: BarrierReason
    error: ExchangeError


class Cooldown(msgspec.Struct, frozen=True):
    """A not-before, and until when an operator has voided any; `joined` says which one overrides."""

    resumed: int = 0
    """When an operator's resume voided what had been imposed; 0: never."""
    until: int = 0
    """0: there is none."""
    opened: bool = False
    """Whether a probe after it was answered."""
    problem: str = ""
    """The problem type of the refusal that it comes from."""
    imposed: int = 0
    """When the exchange told it."""

    def binds(self, now: int) -> bool:
        return self.until > now and not self.opened

    def opens(self, now: int) -> bool:
        """Whether its time has passed, but no probe has told yet that the exchange agrees."""
        return 0 < self.until <= now and not self.opened


NO_COOLDOWN = Cooldown()


def joined(one: Cooldown, other: Cooldown) -> Cooldown:
    """What two of one scope come to, in whatever order they are learned; `one`, where they say the same.

    The later resume counts for both, and voids what was imposed before it; a refusal after it is a new one, whether or
    not whoever met it had heard of the resume. Of those that stand the latest `until` wins, and then that a probe was
    answered, which voids just the one that it was sent after.
    """
    resumed = max(one.resumed, other.resumed)
    standing = [hold for hold in (one, other) if hold.until and hold.imposed >= resumed]
    if not standing:
        return Cooldown(resumed)
    latest = max(standing, key=lambda hold: (hold.until, hold.opened))
    return replace(latest, resumed=resumed, imposed=max(hold.imposed for hold in standing))


class Failures(msgspec.Struct, frozen=True):
    """Refreshes that failed in a row, the last one's error, and when the next may be tried (ms, monotonic)."""

    count: int
    error: ExchangeError
    until: int


class Charge(msgspec.Struct, frozen=True):
    """What a call wants of the address's weight, and for whom."""

    weight: int
    account: str = ""
    """Empty for what serves all accounts: time, exchangeInfo, a probe."""
    credential: str = ""
    """The identity of the credential it is signed with; empty: unsigned."""
    forced: bool = False
    client: str = ""
    """Whose read caused it; empty: the gateway's own doing."""


ClientAccount: TypeAlias = tuple[str, str]
"""A client's name, and an account's."""

NOBODY: Mapping[str, int] = MappingProxyType({})
NO_CLIENT: Mapping[ClientAccount, int] = MappingProxyType({})


class Window(msgspec.Struct, frozen=True):
    """The weight of one minute at one public address, spent by one replica or by the fleet.

    `reported` is the exchange's own count, neighbours included; `spent` is ours where an answer came back,
    `pending` is in flight, `unanswered` got no answer: it may have been counted, so it stays for its minute.
    """

    minute: int
    reported: int = 0
    spent: int = 0
    pending: int = 0
    unanswered: int = 0
    forced: int = 0
    accounts: Mapping[str, int] = NOBODY
    """What each account's calls have cost."""
    before: frozenset[str] = frozenset()
    """The accounts that were asked for in the minute before."""
    forced_by: Mapping[ClientAccount, int] = NO_CLIENT
    """What each client has forced on each account."""
    forced_before: frozenset[ClientAccount] = frozenset()
    """Who forced refreshes of what in the minute before."""

    @property
    def used(self) -> int:
        return max(self.reported, self.spent) + self.pending + self.unanswered

    @property
    def own(self) -> int:
        return self.spent + self.pending + self.unanswered


def window_at(window: Window, now: int) -> Window:
    """The window in force: a new minute starts at zero but for what is still under way."""
    minute = now // MINUTE
    if minute > window.minute:
        if minute > window.minute + 1:
            return Window(minute, pending=window.pending)
        before, forced_before = frozenset(window.accounts), frozenset(window.forced_by)
        return Window(minute, pending=window.pending, before=before, forced_before=forced_before)
    # The clock has been put right: what was counted under a minute that is yet to come counts for this one.
    return window if minute == window.minute else replace(window, minute=minute)


def reserve(window: Window, claim: Charge) -> Window:
    accounts = dict(window.accounts)
    if claim.account:
        accounts[claim.account] = accounts.get(claim.account, 0) + claim.weight
    forced, forced_by = window.forced, dict(window.forced_by)
    if claim.forced:
        forced += claim.weight
        caused = (claim.client, claim.account)
        forced_by[caused] = forced_by.get(caused, 0) + claim.weight
    pending = window.pending + claim.weight
    return replace(window, pending=pending, forced=forced, forced_by=forced_by, accounts=accounts)


def settle(window: Window, weight: int, reported: int | None) -> Window:
    """An answer came; `reported` is the exchange's count, `None` where it has no figure for this minute."""
    figure = max(window.reported, reported or 0)
    return replace(window, pending=window.pending - weight, spent=window.spent + weight, reported=figure)


def abandon(window: Window, weight: int) -> Window:
    """No answer came: the reservation is kept."""
    return replace(window, pending=window.pending - weight, unanswered=window.unanswered + weight)


class Ceiling(msgspec.Struct, frozen=True):
    """What may be spent a minute: by everyone on the address, and by who counts in the window at hand."""

    address: float
    own: float
    """The same for the fleet's window; an equal part of it for a replica's while Redis is away."""


def weight_barrier(window: Window, claim: Charge, ceiling: Ceiling, now: int) -> Barrier | None:
    """Why one more call would pass our share of the address's weight, or `None`."""
    turn = (window.minute + 1) * MINUTE
    if window.used + claim.weight > ceiling.address:
        return _spent("our share of the address's request weight is spent until the exchange's next minute", turn)
    if window.own + claim.weight > ceiling.own:
        return _spent("this replica's part of the request weight is spent until the exchange's next minute", turn)
    if claim.forced and not _may_force(window, claim, ceiling.own * FORCED_SHARE, now):
        share = ceiling.own * FORCED_SHARE * (1 - NEWCOMERS)
        paced = window.minute * MINUTE + int((window.forced + claim.weight) / max(1, share) * MINUTE) + 1
        return _spent("the weight for refreshes on demand is spent for now", min(turn, max(now + 1_000, paced)))
    wait = _wait_for_the_others(window, claim, ceiling, now)
    if wait > 0:
        detail = f"account {claim.account} has had its equal slice of the request weight for now"
        return _spent(detail, min(turn, now + wait))
    return None


def _may_force(window: Window, claim: Charge, share: float, now: int) -> bool:
    """Whether a refresh on demand leaves room for other clients' and for other accounts'.

    Who has had none this minute goes first: a part of the share is kept for them. Of the rest half may be spent at any
    pace. Beyond that, and beyond an even pace over the minute, each client has an equal slice by now, and in it each of
    its accounts, among those that were forced in this minute or the one before. So one client alone has nearly all, but
    never so fast that another finds nothing.
    """
    client, caused, total = claim.client, (claim.client, claim.account), window.forced + claim.weight
    common = share * (1 - NEWCOMERS)
    if not window.forced_by.get(caused):
        had_none = not any(weight for (who, _), weight in window.forced_by.items() if who == client)
        return total <= (share if had_none else share * (1 - NEWCOMERS / 2))
    filled = common * max(EASE, now % MINUTE / MINUTE)
    if total <= filled:
        return True
    forcing = set(window.forced_by) | window.forced_before
    clients, accounts = {who for who, _ in forcing}, [each for each in forcing if each[0] == client]
    had = window.forced_by[caused] + claim.weight
    return total <= common and had <= filled / len(clients) / len(accounts)


def _wait_for_the_others(window: Window, claim: Charge, ceiling: Ceiling, now: int) -> int:
    """Ms that an account has to wait: the minute's weight is going fast, and it has had an equal slice by now.

    Going fast: more than `EASE` of it is spent, and more than evenly over the minute. So nobody waits for an
    account that doesn't ask, and nobody's asking starves another account.
    """
    asking = (set(window.accounts) | window.before | {claim.account}) - {""}
    if not claim.account or len(asking) == 1:
        return 0
    elapsed = now % MINUTE / MINUTE
    filled = max((window.used + claim.weight) / ceiling.address, (window.own + claim.weight) / ceiling.own)
    had = window.accounts.get(claim.account, 0) + claim.weight
    if filled <= max(EASE, elapsed) or had <= ceiling.own * max(EASE, elapsed) / len(asking):
        return 0
    return int((filled - elapsed) * MINUTE) + 1


def _spent(detail: str, until: int) -> Barrier:
    return Barrier("weight-budget", WeightBudgetSpentError(detail, retry_at=until))


def cooldown_barrier(hold: Cooldown) -> Barrier:
    """A remembered refusal as a barrier; problem types that a newer release wrote count as a ban."""
    error = ERRORS.get(hold.problem, ExchangeBannedError)
    detail = f"{error.title.lower()}; it is not asked until then"
    return Barrier("not-before", error(detail, retry_at=hold.until))


def probe_barrier(hold: Cooldown, now: int) -> Barrier:
    """A refusal whose time has passed, while no probe has told how the exchange sees it."""
    return cooldown_barrier(replace(hold, until=now + PROBE_PAUSE))


def next_minute(now: int) -> int:
    return (now // MINUTE + 1) * MINUTE + MINUTE_MARGIN


def hold_after(error: ExchangeError, now: int) -> Cooldown | None:
    """The not-before that an answer imposes: on the address, or on the credential (`is_credential`).

    A time that the answer names only ever lengthens it; `MAX_COOLDOWN` is the longest.
    """
    named = error.retry_at or 0
    match error:
        case ExchangeRateLimitedError() if error.answered != 503 or error.code is not None:
            until = max(named, next_minute(now))
        case ExchangeBannedError():
            until = named if named > now else now + UNDATED_BAN
        case ExchangeBlockedError(answered=answered) if answered != 451:
            until = max(named, now + BLOCKED)
        case ExchangeRejectedCredentialsError():
            until = max(named, now + CREDENTIAL_PROBE)
        case _ if named > now:  # whatever else refuses, and says for how long
            until = named
        case _:
            return None
    return Cooldown(0, min(until, now + MAX_COOLDOWN), problem=error.problem)


def is_credential(hold: Cooldown) -> bool:
    """Whether a hold is about one credential, not about the whole address."""
    return hold.problem == ExchangeRejectedCredentialsError.problem


def failures_after(before: Failures | None, error: ExchangeError, now: int) -> Failures:
    """1 s after the first failure in a row, doubling to 30 s."""
    count = before.count + 1 if before else 1
    pause = min(FIRST_BACKOFF * 2 ** min(count - 1, 10), MAX_BACKOFF)
    return Failures(count, error.again(), now + pause)
