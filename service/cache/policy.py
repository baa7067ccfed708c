"""How a read is met: from the snapshot at hand, by a refresh, or not at all.

Pure: every input is in `Situation`, and each decision carries its reason. The rules are RFC 9111's (max-age,
min-fresh, max-stale, only-if-cached, no-cache) and RFC 5861's (the two stale windows), with two differences: a
hard cap that no caller can lift, and a bound on waiting. All times are milliseconds; an age runs from when the exchange
was asked.

A slow exchange must not make callers slow. Two rules see to that:

- A caller that waited for a refresh accepts what it brings, however old that is by then: a second refresh would bring
  nothing younger. Only a bound of the caller's own (`max-age`, `min-fresh`, `no-cache`) can refuse it.
- Once a refresh has taken `SLOW_AFTER`, a snapshot within `stale_if_error` is served to every caller whose own bound it
  meets, as it is while the exchange can't be asked at all; the refresh goes on.
"""

from typing import Literal, TypeAlias

import msgspec

from service.exchange.budget import Barrier, BarrierReason
from service.exchange.errors import ExchangeError

SLOW_AFTER = 500
"""Ms that a caller waits for a slow exchange while something within `stale_if_error` is at hand. An ordinary answer
takes 50 to 200; callers' own time limits start at about a second."""


class FreshnessUnmetError(Exception):
    """The caller's own bound can't be met; not the exchange's fault."""

    problem, status, title = "freshness-unmet", 504, "The demanded freshness cannot be met"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Windows(msgspec.Struct, frozen=True):
    """How old an answer may be; the stale windows count from the end of `fresh_for`."""

    fresh_for: int
    stale_while_revalidate: int
    stale_if_error: int
    min_refresh_interval: int

    @property
    def revalidate_until(self) -> int:
        return self.fresh_for + self.stale_while_revalidate

    @property
    def error_until(self) -> int:
        return self.fresh_for + self.stale_if_error

    @property
    def hard_cap(self) -> int:
        return max(self.revalidate_until, self.error_until)


class RequestDirectives(msgspec.Struct, frozen=True):
    """What a caller asks of freshness (its `Cache-Control`), in ms; `None`: nothing."""

    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    no_cache: bool = False
    only_if_cached: bool = False


NO_DIRECTIVES = RequestDirectives()
"""The windows alone decide."""


class Situation(msgspec.Struct, frozen=True):
    """Everything a decision depends on."""

    windows: Windows
    demand: RequestDirectives
    age: int | None
    """Of the snapshot at hand; `None` without one."""
    waited: int = 0
    """Since the caller arrived. A snapshot younger than this was asked for on its behalf."""
    barrier: Barrier | None = None
    """Why the exchange can't be asked now."""
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
    """Answer with the snapshot at hand."""

    reason: ServeReason


class ServeAndRefresh(msgspec.Struct, frozen=True):
    """Answer with the snapshot at hand, and refresh it behind the caller's back."""

    reason: StaleReason


class Refresh(msgspec.Struct, frozen=True):
    """Wait for a snapshot, to be asked for unless there is one younger than `max_age_ms` when the refresh starts.

    `forced`: the windows alone would not have asked for it; such refreshes have a smaller share of the weight.
    `bounded`: by the caller itself; what another replica's refresh under way brings may be too old for it.
    `patience`: ms after which to decide again, because something at hand may do then; `None`: wait for the end.
    """

    reason: RefreshReason
    max_age_ms: int
    forced: bool
    bounded: bool = False
    patience: int | None = None


class Refuse(msgspec.Struct, frozen=True):
    """There is no answer that this caller would accept."""

    error: ExchangeError | FreshnessUnmetError


Decision: TypeAlias = Serve | ServeAndRefresh | Refresh | Refuse


def decide(situation: Situation) -> Decision:
    """How to meet a read."""
    unmeetable = _unmeetable(situation)
    if unmeetable is not None:
        return Refuse(FreshnessUnmetError(unmeetable))
    age = _usable_age(situation)
    if age is not None and _meets_demand(situation, age):
        served = _from_hand(situation, age)
        if served is not None:
            return served
    return _from_exchange(situation, age)


def is_forced(windows: Windows, age: int | None) -> bool:
    """Whether a refresh now would be more than the windows ask for: what is there is still fresh."""
    return age is not None and age < windows.fresh_for


def _unmeetable(situation: Situation) -> str | None:
    demand = situation.demand
    if demand.min_fresh is not None and demand.min_fresh >= situation.windows.fresh_for:
        return "min-fresh asks for more than a new snapshot has: it is fresh for less"
    return None


def _usable_age(situation: Situation) -> int | None:
    """The age of a snapshot that may be served to anyone at all."""
    age = situation.age
    return age if age is not None and age <= situation.windows.hard_cap else None


def _meets_demand(situation: Situation, age: int) -> bool:
    """Whether the caller accepts a snapshot of this age, whatever the windows say."""
    demand, windows = situation.demand, situation.windows
    if demand.no_cache and age - situation.waited > windows.min_refresh_interval:
        return False
    if demand.max_age is not None and age > demand.max_age:
        return False
    return demand.min_fresh is None or windows.fresh_for - age >= demand.min_fresh


def _from_hand(situation: Situation, age: int) -> Serve | ServeAndRefresh | None:
    """The answer at once, if the windows allow it; the caller accepts this age."""
    windows, demand = situation.windows, situation.demand
    if age < windows.fresh_for:
        return Serve("fresh")
    if demand.no_cache or age <= situation.waited or situation.joined:
        return Serve("recent")  # met, or asked for on this caller's behalf: nothing younger can be had
    reason = _stale_reason(situation, age)
    if demand.only_if_cached:
        return Serve(reason) if reason else None
    if situation.barrier is not None:
        return Serve(situation.barrier.reason) if reason or age < windows.error_until else None
    if reason is None and situation.slow_for >= SLOW_AFTER and age < windows.error_until:
        reason = "slow"
    return ServeAndRefresh(reason) if reason else None


def _stale_reason(situation: Situation, age: int) -> StaleReason | None:
    """Why a snapshot past `fresh_for` may be served without waiting, the exchange being well."""
    windows, demand = situation.windows, situation.demand
    if age < windows.revalidate_until:
        return "swr"
    willing = demand.max_stale is not None and age <= windows.fresh_for + demand.max_stale
    return "max-stale" if willing else None


def _from_exchange(situation: Situation, age: int | None) -> Refresh | Refuse:
    demand, windows = situation.demand, situation.windows
    if demand.only_if_cached:
        return Refuse(FreshnessUnmetError("only-if-cached, and no snapshot is fresh enough"))
    if situation.age is not None and situation.age <= situation.waited:
        return Refuse(FreshnessUnmetError("the exchange took longer to answer than an answer may be old"))
    if situation.barrier is not None:
        return Refuse(situation.barrier.error)
    bounded = demand.no_cache or demand.max_age is not None or demand.min_fresh is not None
    impatient = not demand.no_cache and demand.min_fresh is None and situation.slow_for < SLOW_AFTER
    return Refresh(
        _why(situation, age),
        _acceptable(situation),
        forced=is_forced(windows, age),
        bounded=bounded,
        patience=SLOW_AFTER - situation.slow_for if impatient else None,
    )


def _why(situation: Situation, age: int | None) -> RefreshReason:
    if age is None:
        return "absent" if situation.age is None else "expired"
    if situation.demand.no_cache:
        return "revalidate"
    return "too-old" if age < situation.windows.revalidate_until else "expired"


def _acceptable(situation: Situation) -> int:
    """The age in ms below which a snapshot, now, spares this caller a call to the exchange."""
    demand, windows = situation.demand, situation.windows
    bounds = [windows.min_refresh_interval + situation.waited if demand.no_cache else windows.fresh_for]
    if demand.max_age is not None:
        bounds.append(demand.max_age)
    if demand.min_fresh is not None:
        bounds.append(windows.fresh_for - demand.min_fresh)
    return min(bounds)
