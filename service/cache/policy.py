"""How a read is answered: from the snapshot in memory, by a refresh, or not at all.

Pure: every input is an argument, and each decision carries its reason. `from_memory` decides nearly every read, and
needs no knowledge of the exchange. `beyond` decides the rest, and knows what bars a call.

The rules are RFC 9111's (max-age, min-fresh, max-stale, only-if-cached, no-cache) and RFC 5861's (the two stale
windows), with two differences: a hard cap that no caller can lift, and a bound on waiting. All times are milliseconds;
an age runs from the request to the exchange.
"""

# An age, and what it allows without a caller's directives:
#
#   0 ─────────── fresh_for ──────────── revalidate_until ──────────── error_until ─────
#     fresh                 swr: serve                    while barred or slow: serve   as without a snapshot
#                           and refresh                   otherwise: wait for a refresh
#
# The stale windows both start at `fresh_for`, and either may be the longer one: the hard cap is the later end.
#
# A slow exchange must not make callers slow. Two rules prevent that:
#
# - A caller that waited for a refresh accepts what it brings, however old that is by then: a second refresh would bring
#   nothing younger. Only a bound of the caller's own (`max-age`, `min-fresh`, `no-cache`) can refuse it.
# - Once a refresh has taken `SLOW_AFTER_MS`, a snapshot within `stale_if_error` is served to every caller whose own
#   bound it meets, as it is while the exchange can't be called at all; the refresh goes on.

from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from service.account.documents import Document
from service.fleet.budget import Barrier, BarrierReason
from service.fleet.errors import ExchangeError
from service.settings import Duration, Freshness

SLOW_AFTER_MS = 500
"""Ms that a caller waits for a slow exchange while memory has something within `stale_if_error`. An ordinary answer
takes 50 to 200; callers' own time limits start at about a second."""


class FreshnessUnmetError(Exception):
    """The caller's own bound can't be met; not the exchange's fault."""

    problem, status, title = "freshness-unmet", 504, "The demanded freshness cannot be met"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class RequestDirectives(msgspec.Struct, frozen=True):
    """What a caller requires of freshness (its `Cache-Control`), in ms; `None`: nothing."""

    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    no_cache: bool = False
    only_if_cached: bool = False


NO_DIRECTIVES = RequestDirectives()
"""Only the settings decide."""


class Situation(msgspec.Struct, frozen=True):
    """Everything a decision depends on, but for the barrier."""

    freshness: Freshness
    directives: RequestDirectives
    age: int | None
    """Of the snapshot in memory; `None` without one."""
    waited: int = 0
    """Since the caller arrived. A snapshot younger than this was requested on its behalf."""
    refreshing: int = 0
    """How long the refresh under way has taken; 0 without one."""
    joined: bool = False
    """Whether this caller waited for a refresh, and it brought a snapshot."""

    @property
    def slow_for(self) -> int:
        """How long the exchange has been slow, for this caller: as long as it waited, or the refresh before it came."""
        return max(self.waited, self.refreshing)


ServeReason: TypeAlias = Literal["fresh", "recent", "swr", "max-stale", "slow"] | BarrierReason
RefreshReason: TypeAlias = Literal["absent", "expired", "too-old", "revalidate"]
StaleReason: TypeAlias = Literal["swr", "max-stale", "slow"]


class Serve(msgspec.Struct, frozen=True):
    """Answer with the snapshot in memory."""

    reason: ServeReason


FRESH = Serve("fresh")


class ServeAndRefresh(msgspec.Struct, frozen=True):
    """Answer with the snapshot in memory, and refresh it in the background."""

    reason: StaleReason


class Refresh(msgspec.Struct, frozen=True):
    """Wait for a snapshot, which is requested unless one is younger than `max_age_ms` when the refresh starts.

    `forced`: the settings alone would not request it; such refreshes have a smaller share of the weight.
    `bounded`: by the caller itself; the answer of another replica's refresh under way may be too old for it.
    `decide_again_ms`: ms after which to decide again, because memory may do then; `None`: wait for the end.
    """

    reason: RefreshReason
    max_age_ms: int
    forced: bool
    bounded: bool = False
    decide_again_ms: int | None = None


class Refuse(msgspec.Struct, frozen=True):
    """There is no answer that this caller would accept."""

    error: ExchangeError | FreshnessUnmetError


Decision: TypeAlias = Serve | ServeAndRefresh | Refresh | Refuse


def windows(document: Document, freshness: Freshness) -> Freshness:
    """The account's windows, except for those that the document has of its own; without any, the same object."""
    own = {"fresh_for": document.fresh_for, "min_refresh_interval": document.min_refresh_interval}
    changes = {name: Duration(value) for name, value in own.items() if value is not None}
    return replace(freshness, **changes) if changes else freshness


def from_memory(situation: Situation) -> Serve | None:
    """The answer that needs neither the exchange nor a word about it; `None`: `beyond` decides."""
    freshness, directives, age = situation.freshness, situation.directives, situation.age
    if age is None or not _meets_directives(situation, age):
        return None
    if age < freshness.fresh_for:
        return FRESH
    if age > freshness.hard_cap:
        return None
    # Met by `_meets_directives`, or requested on this caller's behalf: a refresh would bring nothing younger.
    if directives.no_cache or age <= situation.waited or situation.joined:
        return Serve("recent")
    if directives.only_if_cached and (reason := _stale_reason(situation, age)):
        return Serve(reason)
    return None


def beyond(situation: Situation, barrier: Barrier | None) -> Decision:
    """How to answer what `from_memory` can't: with a stale snapshot, by the exchange, or not at all.

    `barrier`: why the exchange can't be called now.
    """
    freshness, directives, age = situation.freshness, situation.directives, situation.age
    if directives.min_fresh is not None and directives.min_fresh >= freshness.fresh_for:
        return Refuse(FreshnessUnmetError("min-fresh asks for more than a new snapshot has: it is fresh for less"))
    if age is not None and age > freshness.hard_cap:
        age = None  # no caller may have it
    if age is not None and _meets_directives(situation, age) and not directives.only_if_cached:
        reason = _stale_reason(situation, age)
        # Before "slow": while the exchange can't be called, a refresh in the background would only fail.
        if barrier is not None and (reason or age < freshness.error_until):
            return Serve(barrier.reason)
        if barrier is None and reason is None and situation.slow_for >= SLOW_AFTER_MS and age < freshness.error_until:
            reason = "slow"
        if barrier is None and reason is not None:
            return ServeAndRefresh(reason)
    if directives.only_if_cached:
        return Refuse(FreshnessUnmetError("only-if-cached, and no snapshot is fresh enough"))
    # Requested since the caller arrived, and yet too old for its own bound: the next one would be as old.
    if situation.age is not None and situation.age <= situation.waited:
        return Refuse(FreshnessUnmetError("the exchange took longer to answer than an answer may be old"))
    if barrier is not None:
        return Refuse(barrier.failure.error())

    why: RefreshReason = "expired"
    if age is None and situation.age is None:
        why = "absent"
    elif age is not None and directives.no_cache:
        why = "revalidate"
    elif age is not None and age < freshness.revalidate_until:
        why = "too-old"

    # A snapshot below all of these ages, when the refresh starts, makes the call unnecessary for this caller.
    max_ages_ms = [freshness.min_refresh_interval + situation.waited if directives.no_cache else freshness.fresh_for]
    if directives.max_age is not None:
        max_ages_ms.append(directives.max_age)
    if directives.min_fresh is not None:
        max_ages_ms.append(freshness.fresh_for - directives.min_fresh)

    # Deciding again early helps only where "slow" may serve: memory never comes to meet `no-cache` or `min-fresh`.
    patient = directives.no_cache or directives.min_fresh is not None or situation.slow_for >= SLOW_AFTER_MS
    return Refresh(
        why,
        min(max_ages_ms),
        forced=is_forced(freshness, age),
        bounded=directives.no_cache or directives.max_age is not None or directives.min_fresh is not None,
        decide_again_ms=None if patient else SLOW_AFTER_MS - situation.slow_for,
    )


def is_too_old(freshness: Freshness, directives: RequestDirectives, age: int) -> bool:
    """Whether a snapshot that a caller waited for has become too old before the answer could leave."""
    # `no-cache` was met when the snapshot came: it counts from the caller's arrival.
    bounds = replace(directives, no_cache=False)
    return age > freshness.hard_cap or not _meets_directives(Situation(freshness, bounds, age), age)


def is_forced(freshness: Freshness, age: int | None) -> bool:
    """Whether a refresh now would be more than the settings require: the snapshot in memory is still fresh."""
    return age is not None and age < freshness.fresh_for


def _meets_directives(situation: Situation, age: int) -> bool:
    """Whether the caller accepts a snapshot of this age, whatever the settings say."""
    freshness, directives = situation.freshness, situation.directives
    # `min_refresh_interval` counts back from the caller's arrival: what it waited doesn't make a snapshot too old.
    if directives.no_cache and age - situation.waited > freshness.min_refresh_interval:
        return False
    if directives.max_age is not None and age > directives.max_age:
        return False
    # Not met by an age of 0 either, if it is all that a new snapshot has: else the answer would depend on luck.
    min_fresh = directives.min_fresh
    return min_fresh is None or (min_fresh < freshness.fresh_for and age + min_fresh <= freshness.fresh_for)


def _stale_reason(situation: Situation, age: int) -> StaleReason | None:
    """Why a snapshot past `fresh_for` may be served, whatever the exchange does."""
    freshness, max_stale = situation.freshness, situation.directives.max_stale
    if age < freshness.revalidate_until:
        return "swr"
    return "max-stale" if max_stale is not None and age <= freshness.fresh_for + max_stale else None
