"""Keeps one document's snapshot fresh enough: carries out what `policy` decides.

Memory first: what can be served at once is served without an await. Otherwise one flight per process, in which
`refresher` reads what other replicas have, or calls the exchange for all of them.
"""

# One read is a loop of two steps: decide (no await), then wait for what may change the decision. A wait is a refresh,
# or a read of what other replicas have. What keeps the loop short:
#
# - Each decision sees all that has happened so far: memory, the caller's wait, the barrier, a failed refresh.
#   A failure counts as a barrier ("stale-if-error") for the caller that waited for it, and for no other.
# - A refusal, or a stale answer because the exchange can't be called, first reads Redis: another replica may have a
#   snapshot already. Once is enough, and not again within `READ_INTERVAL_MS`.
# - A read ends after `MAX_REFRESHES` refreshes, and in any case at `timeout` + `GRACE_S`, with what it accepts by then.
#
# Single flights make these safe against each other: `_flight` for refreshes, `_reading` for reads of Redis. A
# notification during a refresh reads nothing, for the refresh does; one during a read makes that read run once more,
# because what was announced may be later than what the read saw.

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from msgspec.structs import replace

from service.account.documents import ACCOUNT
from service.cache import policy
from service.cache.account_state import DocumentState
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
)
from service.cache.ports import Outcome, RefreshWait, Result, Served, Upstream
from service.cache.refresher import GRACE_S, Refresher
from service.fleet.budget import Barrier
from service.fleet.errors import ExchangeError, ExchangeTimeoutError, Failure
from service.fleet.shared_state import Notification
from service.settings import Freshness
from service.telemetry.metrics import Metrics

READ_INTERVAL_MS = 200
"""Between reads of Redis by a replica that may not call the exchange itself."""

MAX_NOTIFICATIONS = 50
"""Notifications that are handled per second; replicas send some three per refresh, an intruder any number."""

MAX_REFRESHES = 3
"""Refreshes that one read waits for: that of others which is under way, its own, and one for bad luck."""

_BARRED = frozenset({"not-before", "backoff", "weight-budget"})
"""Reasons to read Redis before they are given to a caller. One that waited for a failed refresh has read it there."""
_BROUGHT = frozenset({"fetched", "joined"})


class _Read:
    """One caller's way to its answer."""

    def __init__(self, directives: RequestDirectives, arrival: int, *, redis_read: bool) -> None:
        self.directives = directives
        self.arrival = arrival
        self.redis_read = redis_read
        """Whether what other replicas have is known, to within `READ_INTERVAL_MS`."""
        self.waits = 0
        self.waited: RefreshWait | None = None

    @property
    def failure(self) -> Failure | None:
        return self.waited.failure if self.waited else None

    @property
    def joined(self) -> bool:
        """Whether a refresh that it waited for has brought a snapshot."""
        return self.waited is not None and self.waited.outcome in _BROUGHT


class DocumentCache:
    """The snapshot of one of an account's documents in this process."""

    def __init__(
        self,
        state: DocumentState,
        freshness: Freshness,
        timeout_s: float,
        metrics: Metrics,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_news` is called with each notification that is handled."""
        self.state = state
        self._on_news = on_news
        self._of_account, self._own = freshness, policy.windows(state.document, freshness)
        self._timeout_s = timeout_s
        self._monotonic = self.source.clock.monotonic
        self._refresher = Refresher(self.state, self._own, timeout_s, metrics)
        self._flight = SingleFlight[Outcome]()
        self._reading = SingleFlight[None]()
        self._refresh_began = self._read_began = self._monotonic() - READ_INTERVAL_MS
        """When the last refresh, and the last read of Redis, began."""
        self._read_again = False
        self._handled: deque[float] = deque(maxlen=MAX_NOTIFICATIONS)
        """When the latest notifications were handled, by the loop's clock."""
        self._postponed: asyncio.TimerHandle | None = None
        """Handles a notification that came too soon."""
        self._last: Served | None = None
        self._last_directives = policy.NO_DIRECTIVES
        """What memory served last, and to which directives: at full speed dozens of equal reads come in one ms."""

    @property
    def source(self) -> Upstream:
        """The account at the exchange, with the credential in use."""
        return self.state.active.source

    @property
    def margin_assets(self) -> Mapping[str, str] | None:
        """Symbols to margin assets, as the views use them; `None`: not known before the next refresh."""
        return self.state.snapshot.margin_assets if self.state.snapshot else self.source.margin_assets

    @property
    def _freshness(self) -> Freshness:
        """The windows in force: those of the account, unless the document has its own and the snapshot deserves them.

        One that came before exchangeInfo is cut by the form of its symbols, and one that a replaced credential brought
        may be another exchange account's: neither must be served for longer than the account object is.
        """
        snapshot = self.state.snapshot
        if self._own is self._of_account or snapshot is None:
            return self._own
        followed = self.state.active.shared[self.state.document].followed
        is_current = self.state.snapshot_identity == followed
        return self._own if is_current and snapshot.margin_assets else self._of_account

    @property
    def in_use(self) -> bool:
        """Whether it is worth a read of Redis though nothing is announced of it: the account itself always is."""
        return self.state.document is ACCOUNT or self.state.snapshot is not None or self._flight.active

    def reconfigure(self, freshness: Freshness) -> None:
        """Apply other windows from now on."""
        self._of_account = freshness
        self._own = self._refresher.freshness = policy.windows(self.state.document, freshness)
        self._last = None

    def receive(self, notification: Notification) -> None:
        """Handle a notification that names its credential; anyone who can write to Redis can send one.

        A notification about a credential that this replica doesn't read is ignored. A requested refresh is carried out
        if it comes from a replica whose credential this one's has replaced: as one that is forced, and no sooner than
        any caller could have it.
        """
        active = self.state.active
        request = notification.refresh
        own = notification.identity == active.source.identity
        if request is not None and own and request.identity in active.lineage.replaced:
            if active.superseded or self.state.barrier(forced=True) is not None:
                return
            max_age_ms = max(request.max_age_ms, self._freshness.min_refresh_interval)
            self._flight.start(lambda: self._refresh(max_age_ms, forced=True, bounded=True))
        elif own or notification.identity == active.shared[self.state.document].followed:
            # A request from an unknown replica, too: this read may find its link, and the replica repeats the request.
            self.on_notification()

    def on_notification(self) -> None:
        """Another replica may have announced something: read it, unless a refresh under way does so anyhow.

        At most `MAX_NOTIFICATIONS` per second are handled; the last one is handled late, not lost.
        """
        loop = asyncio.get_running_loop()
        if self._postponed is not None:
            return
        early_s = self._handled[0] + 1 - loop.time() if len(self._handled) == MAX_NOTIFICATIONS else 0
        if early_s > 0:
            self._postponed = loop.call_later(early_s, self._handle_notification)
        else:
            self._handle_notification()

    def _handle_notification(self) -> None:
        self._postponed = None
        self._handled.append(asyncio.get_running_loop().time())
        self._refresher.on_notification()
        self._on_news()
        self._read_again = True
        if not self._flight.active:
            self._reading.start(self._read_redis)

    async def get(self, directives: RequestDirectives) -> Served:
        """A snapshot that meets the directives; waits for one if necessary.

        Raises:
            ExchangeError: none can be had, and memory has none that may be served instead.
            FreshnessUnmetError: the directives themselves can't be met.
        """
        read = self._begin_read(directives)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s + GRACE_S):
                while True:
                    served = self._step(read)
                    if isinstance(served, Served):
                        return served
                    if served is not None:
                        await self._wait_for_refresh(read, served)
                    else:  # this replica may not call the exchange, but another may have an answer already
                        await self._reading.join(self._read_redis)
                        read.redis_read = True
        # The caller's own deadline: decide once more, as after a failure. The refresh under way goes on for others.
        late = ExchangeTimeoutError("the exchange did not answer in time")
        read.redis_read = True
        read.waited = RefreshWait("expired", initiated=False, failure=late.failure)
        served = self._served_now(self._decide(read), read)
        if served is None:
            raise late
        return served

    def at_once(self, directives: RequestDirectives) -> Served | None:
        """Like `get`, but without waiting; `None`: only `get` can decide. It may start a refresh.

        Raises:
            ExchangeError: as `get`.
            FreshnessUnmetError: as `get`.
        """
        served = self._step(self._begin_read(directives))
        return served if isinstance(served, Served) else None

    def from_memory(self, directives: RequestDirectives) -> Served | None:
        """A snapshot in memory that meets the directives, if serving it starts nothing; `None`: `get` decides.

        It decides as `get` does. A stale one is served while the refresh that it requires is under way already.
        """
        snapshot = self.state.snapshot
        if snapshot is None:
            return None
        age, last = max(0, self._monotonic() - snapshot.requested_monotonic_ms), self._last
        # Directives by identity: the parser returns one object for equal headers, and comparing values costs more.
        if last is not None and directives is self._last_directives and last.snapshot is snapshot and last.age == age:
            return last
        situation = Situation(self._freshness, directives, age)
        decision: Serve | ServeAndRefresh | None = policy.from_memory(situation)
        if decision is None:
            # `get` marks what is served behind a barrier, and begins refreshes.
            if not self._flight.active or self.state.barrier(forced=False) is not None:
                return None
            stale = policy.beyond(replace(situation, refreshing=self._refreshing_ms), None)
            if not isinstance(stale, ServeAndRefresh):
                return None
            decision = stale
        served = Served(snapshot, age, self._freshness.fresh_for - age, decision.reason)
        if decision.reason == "fresh":  # the only reason that depends on nothing but what is compared above
            self._last, self._last_directives = served, directives
        return served

    def as_of_now(self, served: Served, directives: RequestDirectives) -> Served | None:
        """A snapshot that was served a while ago, as old as it is now; `None`: too old by now for its caller."""
        age = self.state.age_of(served.snapshot)
        if policy.is_too_old(self._freshness, directives, age):
            return None
        return replace(served, age=age, ttl=self._freshness.fresh_for - age)

    async def close(self) -> None:
        """End what is under way; no caller waits for it any more."""
        if self._postponed is not None:
            self._postponed.cancel()
        await self._flight.close()
        await self._reading.close()
        await self._refresher.close()

    async def land(self) -> None:
        """Wait for the refresh under way."""
        await self._flight.land()

    def _begin_read(self, directives: RequestDirectives) -> _Read:
        now = self._monotonic()
        known = now - self._read_began < READ_INTERVAL_MS and not self._reading.active
        return _Read(directives, now, redis_read=known)

    def _step(self, read: _Read) -> Served | Refresh | None:
        """Decide: the answer, or the refresh to wait for; `None`: a read of what other replicas have comes first.

        Raises:
            ExchangeError: there is no answer.
            FreshnessUnmetError: the same.
        """
        decision = self._decide(read)
        served = self._served_now(decision, read)
        if served is not None:
            return served
        if isinstance(decision, Refresh):
            return decision
        if isinstance(decision, Refuse) and read.redis_read:
            if isinstance(decision.error, ExchangeError):
                self.state.note(decision.error.failure)
            raise decision.error
        return None

    def _served_now(self, decision: Decision, read: _Read) -> Served | None:
        """The answer that needs no waiting, if there is one."""
        snapshot = self.state.snapshot
        if snapshot is None or not isinstance(decision, Serve | ServeAndRefresh):
            return None
        if decision.reason in _BARRED:
            if not read.redis_read:
                return None
            barrier = self.state.barrier(forced=False)
            if barrier is not None:
                self.state.note(barrier.failure)
        if isinstance(decision, ServeAndRefresh):
            self._flight.start(lambda: self._refresh(self._freshness.fresh_for, forced=False, bounded=False))
        age, waited = self.state.age_of(snapshot), read.waited
        result: Result = decision.reason
        if waited is not None and read.joined and result in ("fresh", "recent"):
            result = "stored" if waited.initiated and waited.outcome == "fetched" else "collapsed"
        answered = read.failure.answered if read.failure else None
        refresh = waited.reason if waited else None
        return Served(snapshot, age, self._freshness.fresh_for - age, result, refresh, answered)

    async def _wait_for_refresh(self, read: _Read, decision: Refresh) -> None:
        """Wait for one refresh, but no longer than the decision's patience: memory may do then.

        Raises:
            FreshnessUnmetError: it has waited for `MAX_REFRESHES` refreshes.
        """
        if read.waits >= MAX_REFRESHES:
            raise FreshnessUnmetError("what refreshes bring is too old for the demand")
        waited = RefreshWait(decision.reason, initiated=not self._flight.active)
        if read.waited is not None and read.waited.outcome is None and read.failure is None:
            waited = read.waited  # the same refresh, once patience has run out
        read.waited = waited
        try:
            outcome = await self._flight.join(
                lambda: self._refresh(decision.max_age_ms, forced=decision.forced, bounded=decision.bounded),
                None if decision.decide_again_ms is None else decision.decide_again_ms / 1000,
            )
        except TimeoutError:
            left_ms = policy.SLOW_AFTER_MS - self._situation(read).slow_for
            if left_ms > 0:  # the timer's clock and ours differ by a little
                return await self._wait_for_refresh(read, replace(decision, decide_again_ms=left_ms))
            # The flight also publishes. Its snapshot is in memory before that, and is what this caller waited for.
            snapshot = self.state.snapshot
            if snapshot is not None and snapshot.requested_monotonic_ms >= self._refresh_began:
                read.waited = replace(waited, outcome="fetched")
            return None
        except ExchangeError as exc:
            read.waited = replace(waited, failure=exc.failure)
        else:
            read.waited = replace(waited, outcome=outcome)
        read.waits += 1
        return None

    def _decide(self, read: _Read) -> Decision:
        situation = self._situation(read)
        decision = policy.from_memory(situation)
        if decision is not None:
            return decision
        if read.failure is not None:
            return policy.beyond(situation, Barrier("stale-if-error", read.failure))
        forced = policy.is_forced(self._freshness, situation.age)
        return policy.beyond(situation, self.state.barrier(forced=forced))

    def _situation(self, read: _Read) -> Situation:
        waited_ms = self._monotonic() - read.arrival
        return Situation(self._freshness, read.directives, self.state.age, waited_ms, self._refreshing_ms, read.joined)

    @property
    def _refreshing_ms(self) -> int:
        """How long the refresh under way has taken; 0 without one."""
        return self._monotonic() - self._refresh_began if self._flight.active else 0

    def _refresh(self, max_age_ms: int, *, forced: bool, bounded: bool) -> Coroutine[Any, Any, Outcome]:
        """A refresh that begins now."""
        self._refresh_began = self._monotonic()
        return self._refresher.refresh(max_age_ms, forced=forced, bounded=bounded)

    async def _read_redis(self) -> None:
        self._read_again = True
        while self._read_again:  # what is announced during a read may be later than what it sees
            self._read_again = False
            self._read_began = self._monotonic()
            await self._refresher.read()
