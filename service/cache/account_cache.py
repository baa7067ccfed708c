"""Keeps one account's snapshot fresh enough, and carries out what `policy` decides.

Memory first: what can be served at once is served without an await. Then one flight a process, in which `refresher`
sees what other replicas have, or asks the exchange for all of them.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from msgspec.structs import replace

from service.cache import policy
from service.cache.account_state import AccountState
from service.cache.flight import SingleFlight
from service.cache.policy import (
    Decision,
    FreshnessUnmetError,
    Refresh,
    Refuse,
    RequestDirectives,
    Serve,
    ServeAndRefresh,
    Situation,
    Windows,
)
from service.cache.ports import ActiveCredential, CacheSettings, Held, Outcome, RefreshWait, Result, Served, Source
from service.cache.refresher import GRACE, Refresher
from service.cache.rotation import Rotation
from service.exchange.budget import Barrier
from service.exchange.errors import ExchangeError, ExchangeTimeoutError
from service.store.entries import Notification, RefreshRequest
from service.telemetry.metrics import Metrics

LOOK_INTERVAL = 200
"""Ms between looks in Redis by a replica that may not ask the exchange itself."""

ANNOUNCEMENTS = 50
"""That are heard a second; replicas make some three a refresh, and a stranger any number."""

MAX_WAITS = 3
"""Refreshes that one read waits for: that of others which is under way, its own, and one for bad luck."""

_BARRED = frozenset({"not-before", "backoff", "weight-budget"})
_BROUGHT = frozenset({"fetched", "joined"})
_AT_HAND = (Serve, ServeAndRefresh)
"""Faster to ask for than their union, which would be made anew each time."""


class _Read:
    """One caller's way to its answer."""

    def __init__(self, demand: RequestDirectives, arrival: int, *, looked: bool) -> None:
        self.demand = demand
        self.arrival = arrival
        self.looked = looked
        """Whether what other replicas have is known, to within `LOOK_INTERVAL`."""
        self.waits = 0
        self.waited: RefreshWait | None = None

    @property
    def failure(self) -> ExchangeError | None:
        return self.waited.failure if self.waited else None

    @property
    def joined(self) -> bool:
        """Whether a refresh that it waited for has brought a snapshot."""
        return self.waited is not None and self.waited.outcome in _BROUGHT


class AccountCache:
    """One account's snapshot in this process."""

    def __init__(self, settings: CacheSettings, active: ActiveCredential, metrics: Metrics) -> None:
        self.account = settings.account
        self.state = AccountState(settings.account, active)
        self.rotation = Rotation(settings, self.state, metrics)
        self._windows = settings.windows
        self._timeout = settings.timeout
        self._monotonic = active.source.clock.monotonic
        self._refresher = Refresher(settings, self.state, metrics)
        self._flight = SingleFlight[Outcome]()
        self._looking = SingleFlight[None]()
        self._refreshed = self._looked = self._monotonic() - LOOK_INTERVAL
        """When the last refresh, and the last look, began."""
        self._look_again = False
        self._heard: deque[float] = deque(maxlen=ANNOUNCEMENTS)
        """When the latest announcements were heard, by the loop's clock."""
        self._postponed: asyncio.TimerHandle | None = None
        """Hears one that came too soon."""
        self._last: Served | None = None
        self._last_demand = policy.NO_DIRECTIVES
        """What was at hand last, and for whom: at full speed dozens ask alike in one millisecond."""

    @property
    def source(self) -> Source:
        """The way to the exchange, with the credential in use."""
        return self.state.active.source

    @property
    def held(self) -> Held | None:
        """The snapshot in memory."""
        return self.state.held

    @property
    def margin_assets(self) -> Mapping[str, str] | None:
        """Symbols to margin assets, as the views are cut by; `None`: not known before the next refresh."""
        return self.held.margin_assets if self.held else self.source.margin_assets

    def change(self, windows: Windows) -> None:
        """Keep it by other windows from now on."""
        self._windows = windows
        self._last = None
        self._refresher.windows = windows

    def on_news(self, news: Notification) -> None:
        """Somebody has announced something, and says whom it is about; whoever can write to Redis can say that.

        What is about another credential than those this replica reads is nobody's business here. A wish is answered by
        one refresh if it comes from a replica whose credential this one's has replaced, no sooner than any caller could
        have one, and as one that is forced.
        """
        active = self.state.active
        wish = news.wish
        if wish is not None and news.identity == active.source.identity and wish.identity in active.lineage.replaced:
            self._answer(wish)
        elif news.identity in (active.source.identity, active.shared.followed):
            self.on_notification()  # a wish of who isn't known yet too: whoever waits for it repeats it

    def on_notification(self) -> None:
        """Another replica may have announced something: look what, unless a refresh under way does anyhow.

        It is heard `ANNOUNCEMENTS` times a second at the most; the last one is heard late, not missed.
        """
        loop = asyncio.get_running_loop()
        if self._postponed is not None:
            return
        early = self._heard[0] + 1 - loop.time() if len(self._heard) == ANNOUNCEMENTS else 0
        if early > 0:
            self._postponed = loop.call_later(early, self._hear_now)
        else:
            self._hear_now()

    def _hear_now(self) -> None:
        self._postponed = None
        self._heard.append(asyncio.get_running_loop().time())
        self._refresher.on_notification()
        self.rotation.on_notification()
        self._look_again = True
        if not self._flight.active:
            self._looking.start(self._look)

    async def get(self, demand: RequestDirectives) -> Served:
        """A snapshot that meets a demand, waited for if need be.

        Raises:
            ExchangeError: none can be had, and none at hand may be served instead.
            FreshnessUnmetError: the demand itself can't be met.
        """
        read = self._read(demand)
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                while True:
                    served = self._step(read)
                    if isinstance(served, Served):
                        return served
                    await self._wait(read, served)
        except TimeoutError:
            return self._without_waiting(read)

    def at_once(self, demand: RequestDirectives) -> Served | None:
        """The same without waiting; `None`: `get` has to. It may start a refresh.

        Raises:
            ExchangeError: as `get`.
            FreshnessUnmetError: as `get`.
        """
        served = self._step(self._read(demand))
        return served if isinstance(served, Served) else None

    def from_memory(self, demand: RequestDirectives) -> Served | None:
        """A snapshot in memory that meets a demand at once, where that starts nothing; `None`: `get` has to see.

        It decides as `get` does. A stale one is served while the refresh that it calls for is under way already.
        """
        held = self.state.held
        if held is None:
            return None
        age, last = self.state.age_of(held), self._last
        if last is not None and demand is self._last_demand and last.held is held and last.age == age:
            return last
        stale = age >= self._windows.fresh_for
        if stale and not self._flight.active:
            return None
        decision = policy.decide(Situation(self._windows, demand, age, 0, None, self._refreshing if stale else 0))
        if not isinstance(decision, _AT_HAND):
            return None
        if stale and self.state.barrier(forced=False) is not None:  # after the rest, for it costs most
            return None  # `get` marks what is served then
        served = Served(held, age, self._windows.fresh_for - age, decision.reason)
        if decision.reason == "fresh":  # so that nothing but what is compared above has decided
            self._last, self._last_demand = served, demand
        return served

    async def close(self) -> None:
        """End what is under way; nobody is waiting for it any more."""
        if self._postponed is not None:
            self._postponed.cancel()
        await self.rotation.close()
        await self._flight.close()
        await self._looking.close()
        await self._refresher.close()
        await self.state.active.source.close()

    async def retire(self) -> None:
        """The same once who waits now has an answer: the account is no longer kept."""
        await self.rotation.close()
        await self._flight.land()
        await self.close()

    def _answer(self, wish: RefreshRequest) -> None:
        if self.state.active.superseded or self.state.barrier(forced=True) is not None:
            return
        max_age_ms = max(wish.max_age_ms, self._windows.min_refresh_interval)
        self._flight.start(lambda: self._refresh(max_age_ms, forced=True, bounded=True))

    def _read(self, demand: RequestDirectives) -> _Read:
        now = self._monotonic()
        return _Read(demand, now, looked=now - self._looked < LOOK_INTERVAL and not self._looking.active)

    def _step(self, read: _Read) -> Served | Refresh | None:
        """Decide: the answer, or the refresh to wait for; `None`: a look at what other replicas have comes first.

        Raises:
            ExchangeError: there is no answer.
            FreshnessUnmetError: the same.
        """
        decision = policy.decide(self._situation(read))
        served = self._served_now(decision, read)
        if served is not None:
            return served
        if isinstance(decision, Refresh):
            return decision
        if isinstance(decision, Refuse) and read.looked:
            if isinstance(decision.error, ExchangeError):
                self.state.note(decision.error)
            raise decision.error
        return None

    async def _wait(self, read: _Read, refresh: Refresh | None) -> None:
        """Wait for what may change the decision."""
        if refresh is not None:
            await self._wait_for_refresh(read, refresh)
        else:
            await self._looking.join(self._look)  # this replica may not ask, but another may have an answer already
            read.looked = True

    def _without_waiting(self, read: _Read) -> Served:
        """The answer at a waiter's own deadline."""
        late = ExchangeTimeoutError("the exchange did not answer in time")
        read.looked = True
        read.waited = RefreshWait("expired", initiated=False, failure=late)
        served = self._served_now(policy.decide(self._situation(read)), read)
        if served is None:
            raise late
        return served

    def _served_now(self, decision: Decision, read: _Read) -> Served | None:
        """The answer that needs no waiting, if there is one."""
        if self.held is None or not isinstance(decision, Serve | ServeAndRefresh):
            return None
        if decision.reason in _BARRED and not read.looked:
            return None
        if decision.reason in _BARRED:
            self._note_barrier()
        if isinstance(decision, ServeAndRefresh):
            self._flight.start(lambda: self._refresh(self._windows.fresh_for, forced=False, bounded=False))
        return self._served(self.held, decision.reason, read)

    async def _wait_for_refresh(self, read: _Read, decision: Refresh) -> None:
        """Wait for one refresh, as long as the decision has patience; what is at hand may do then."""
        if read.waits >= MAX_WAITS:
            raise FreshnessUnmetError("what refreshes bring is too old for the demand")
        waited, patience = RefreshWait(decision.reason, initiated=not self._flight.active), decision.patience
        if read.waited is not None and read.waited.outcome is None and read.failure is None:
            waited = read.waited  # the same refresh, once patience has run out
        read.waited = waited
        try:
            outcome = await self._flight.join(
                lambda: self._refresh(decision.max_age_ms, forced=decision.forced, bounded=decision.bounded),
                None if patience is None else patience / 1000,
            )
        except TimeoutError:
            left = policy.SLOW_AFTER - self._situation(read).slow_for
            if left > 0:  # the timer's clock and ours differ by a little
                return await self._wait_for_refresh(read, replace(decision, patience=left))
            if self.held is not None and self.held.asked >= self._refreshed:  # it is there, but not shared yet
                read.waited = replace(waited, outcome="fetched")
            return None
        except ExchangeError as exc:
            read.waited = replace(waited, failure=exc.again())
        else:
            read.waited = replace(waited, outcome=outcome)
        read.waits += 1
        return None

    def _note_barrier(self) -> None:
        barrier = self.state.barrier(forced=False)
        if barrier is not None:
            self.state.note(barrier.error)

    def _situation(self, read: _Read) -> Situation:
        age = self.state.age
        if read.failure is not None:
            barrier: Barrier | None = Barrier("stale-if-error", read.failure)
        else:
            barrier = self.state.barrier(forced=policy.is_forced(self._windows, age))
        waited = self._monotonic() - read.arrival
        return Situation(self._windows, read.demand, age, waited, barrier, self._refreshing, read.joined)

    @property
    def _refreshing(self) -> int:
        """Ms that the refresh under way has taken; 0 without one."""
        return self._monotonic() - self._refreshed if self._flight.active else 0

    def _served(self, held: Held, reason: Result, read: _Read) -> Served:
        age, waited, result = self.state.age_of(held), read.waited, reason
        if waited is not None and read.joined and reason in ("fresh", "recent"):
            result = "stored" if waited.initiated and waited.outcome == "fetched" else "collapsed"
        answered = read.failure.answered if read.failure else None
        refresh = waited.reason if waited else None
        return Served(held, age, self._windows.fresh_for - age, result, refresh, answered)

    def _refresh(self, max_age_ms: int, *, forced: bool, bounded: bool) -> Coroutine[Any, Any, Outcome]:
        """A refresh that begins now."""
        self._refreshed = self._monotonic()
        return self._refresher.refresh(max_age_ms, forced=forced, bounded=bounded)

    async def _look(self) -> None:
        self._look_again = True
        while self._look_again:  # what is announced during a look may be later than what it sees
            self._look_again = False
            self._looked = self._monotonic()
            await self._refresher.look()
