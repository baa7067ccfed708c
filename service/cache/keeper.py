"""Keeps one account's snapshot fresh enough, and carries out what `policy` decides.

Memory first: what can be served at once is served without an await. Then one flight a process: look in Redis, where
another replica may have put a newer snapshot; else ask the exchange, adopt, and share. A failed refresh is
remembered, so that nobody waits to be told what is known.
"""

import asyncio
from collections.abc import Mapping

import structlog
from msgspec.structs import replace

from service.account import snapshot as snapshots
from service.account.selection import Views
from service.account.snapshot import MalformedAccountError, Snapshot
from service.cache import policy
from service.cache.flight import SingleFlight
from service.cache.policy import (
    Decision,
    Demand,
    FreshnessUnmetError,
    Refresh,
    Refuse,
    Serve,
    ServeAndRefresh,
    Situation,
)
from service.cache.ports import Held, KeeperSettings, LastRefresh, Outcome, Result, Served, SharedStore, Source, Waited
from service.exchange import budget
from service.exchange.budget import Barrier, Failures
from service.exchange.client import Fetched
from service.exchange.errors import ExchangeError, ExchangeTimeoutError, RefreshFaultError, WeightBudgetSpentError
from service.store.entries import Entry, Look
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.cache")

GRACE = 3.0
"""Seconds a waiter gives a refresh beyond the refresh's own deadline."""
LOOK_INTERVAL = 200
"""Ms between looks in Redis by a replica that may not ask the exchange itself."""

MAX_WAITS = 3
"""Refreshes that one read waits for: that of others which is under way, its own, and one for bad luck."""

_BARRED = frozenset({"not-before", "backoff", "weight-budget"})


class _Read:
    """One caller's way to its answer."""

    def __init__(self, demand: Demand, arrival: int) -> None:
        self.demand = demand
        self.arrival = arrival
        self.looked = False
        self.waits = 0
        self.waited: Waited | None = None

    @property
    def failure(self) -> ExchangeError | None:
        return self.waited.failure if self.waited else None


class SnapshotKeeper:
    """One account's snapshot in this process."""

    def __init__(self, settings: KeeperSettings, source: Source, shared: SharedStore, metrics: Metrics) -> None:
        self.account = settings.account
        self.source = source
        self.held: Held | None = None
        self.last_refresh: LastRefresh | None = None
        self._windows = settings.windows
        self._timeout = settings.timeout
        self._shared = shared
        self._metrics = metrics
        self._monotonic = source.clock.monotonic
        self._flight = SingleFlight[Outcome]()
        self._looking = SingleFlight[None]()
        self._looked = self._monotonic() - LOOK_INTERVAL
        self._failures: Failures | None = None
        self._generation: int | None = None

    @property
    def age(self) -> int | None:
        """Ms since the exchange was asked for the snapshot in memory."""
        return None if self.held is None else self._age_of(self.held)

    @property
    def margin_assets(self) -> Mapping[str, str] | None:
        """Symbols to margin assets, as the views are cut by; `None`: not known before the next refresh."""
        return self.held.margin_assets if self.held else self.source.margin_assets

    async def get(self, demand: Demand) -> Served:
        """A snapshot that meets a demand.

        Raises:
            ExchangeError: none can be had, and none at hand may be served instead.
            FreshnessUnmetError: the demand itself can't be met.
        """
        read = _Read(demand, self._monotonic())
        served = self._at_once(policy.decide(self._situation(read)), read)
        return served or await self._get(read)

    async def close(self) -> None:
        """End what is under way; nobody is waiting for it any more."""
        await self._flight.close()
        await self._looking.close()

    async def _get(self, read: _Read) -> Served:
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                while True:
                    served = await self._step(read)
                    if served is not None:
                        return served
        except TimeoutError:
            return self._without_waiting(read)

    def _without_waiting(self, read: _Read) -> Served:
        """The answer at a waiter's own deadline."""
        late = ExchangeTimeoutError("the exchange did not answer in time")
        read.looked = True
        read.waited = Waited("expired", led=False, failure=late)
        served = self._at_once(policy.decide(self._situation(read)), read)
        if served is None:
            raise late
        return served

    def _at_once(self, decision: Decision, read: _Read) -> Served | None:
        """The answer that needs no waiting, if there is one."""
        if self.held is None or not isinstance(decision, Serve | ServeAndRefresh):
            return None
        if decision.reason in _BARRED and not read.looked:
            return None
        if isinstance(decision, ServeAndRefresh):
            self._flight.start(lambda: self._refresh(self._windows.fresh_for, forced=False))
        return self._served(self.held, decision.reason, read)

    async def _step(self, read: _Read) -> Served | None:
        """Decide, and carry the decision out; `None`: something may have changed, decide again."""
        decision = policy.decide(self._situation(read))
        served = self._at_once(decision, read)
        if served is not None:
            return served
        if isinstance(decision, Refresh):
            await self._wait_for_refresh(read, decision)
        elif not read.looked:
            read.looked = True  # this replica may not ask, but another may have an answer already
            await self._look_now_and_then()
        elif isinstance(decision, Refuse):
            raise decision.error
        return None

    async def _wait_for_refresh(self, read: _Read, decision: Refresh) -> None:
        read.waits += 1
        if read.waits > MAX_WAITS:
            raise FreshnessUnmetError("what refreshes bring is too old for the demand")
        waited = Waited(decision.reason, led=not self._flight.active)
        try:
            outcome = await self._flight.join(lambda: self._refresh(decision.acceptable, forced=decision.forced))
        except ExchangeError as exc:
            read.waited = replace(waited, failure=exc.again())
        else:
            read.waited = replace(waited, outcome=outcome)

    def _age_of(self, held: Held) -> int:
        return max(0, self._monotonic() - held.asked)

    def _situation(self, read: _Read) -> Situation:
        age = self.age
        if read.failure is not None:
            barrier: Barrier | None = Barrier("stale-if-error", read.failure)
        else:
            barrier = self.barrier(forced=policy.is_forced(self._windows, age))
        return Situation(self._windows, read.demand, age, self._monotonic() - read.arrival, barrier)

    def barrier(self, *, forced: bool) -> Barrier | None:
        """Why the exchange can't be asked now: a not-before, failures of a moment ago, or the weight."""
        barrier = self.source.barrier(forced=forced)
        failures = self._failures
        if barrier is not None or failures is None:
            return barrier
        pause = failures.until - self._monotonic()
        return Barrier("backoff", failures.error.again(self.source.clock.now() + pause)) if pause > 0 else None

    def _served(self, held: Held, reason: Result, read: _Read) -> Served:
        age, waited, result = self._age_of(held), read.waited, reason
        if waited is not None and waited.outcome == "fetched" and reason in ("fresh", "recent"):
            result = "stored" if waited.led else "collapsed"
        answered = read.failure.answered if read.failure else None
        refresh = waited.reason if waited else None
        return Served(held, age, self._windows.fresh_for - age, result, refresh, answered)

    async def _refresh(self, acceptable: int, *, forced: bool) -> Outcome:
        """One flight: adopt what another replica has if it is young enough, else ask the exchange."""
        await self._look()
        if self.age is not None and self.age < acceptable:
            return "adopted"
        if self.barrier(forced=forced) is not None:
            return "barred"  # learnt just now, perhaps from another replica: nothing was asked, so nothing failed
        with self._metrics.refresh_duration.labels(self.account).time():
            await self._fetch(forced=forced)
        return "fetched"

    async def _fetch(self, *, forced: bool) -> None:
        try:
            fetched = await self.source.fetch(forced=forced)
        except ExchangeError as exc:
            await self._remember(exc)
            raise
        except Exception as exc:
            log.exception("refresh_fault", account=self.account)
            fault = RefreshFaultError("the gateway failed; its log has the trace")
            await self._remember(fault)
            raise fault from exc
        self._failures = None
        self.last_refresh = LastRefresh(self.source.clock.now(), "ok")
        self._adopt(fetched.snapshot, fetched.asked, self.source.margin_assets or {})
        await self._share(fetched)

    async def _remember(self, error: ExchangeError) -> None:
        """What a failed refresh leaves behind: a not-before for every replica, or a pause."""
        self.last_refresh = LastRefresh(self.source.clock.now(), error.problem)
        log.warning(
            "refresh_failed", account=self.account, problem=error.problem, answered=error.answered, code=error.code
        )
        if self.source.barrier(forced=False) is None and not isinstance(error, WeightBudgetSpentError):
            self._failures = budget.failures_after(self._failures, error, self._monotonic())
            error.retry_at = self.source.clock.now() + self._failures.until - self._monotonic()
        await self.share_holds(budget.NO_HOLD, budget.NO_HOLD)

    async def _look_now_and_then(self) -> None:
        if self._monotonic() - self._looked >= LOOK_INTERVAL:
            await self._looking.join(self._look)

    async def _look(self) -> None:
        """Learn what other replicas know: a newer snapshot, a not-before."""
        self._looked = self._monotonic()
        look = await self._shared.look(self.held.snapshot.asked_at if self.held else 0)
        self.source.degrade(degraded=look is None)
        if look is None:
            return
        self.source.learn(look.address, look.credential)
        await self.share_holds(look.address, look.credential)
        if look.entry is not None:
            self._adopt_shared(look, look.entry)

    async def share_holds(self, address: budget.Hold, credential: budget.Hold) -> None:
        """Share a not-before that Redis doesn't have: it is new, or Redis has lost it or was away."""
        if self.source.address_hold > address:
            await self._shared.hold_address(self.source.address_hold)
        if self.source.credential_hold > credential:
            await self._shared.hold_credential(self.source.credential_hold)

    def _adopt_shared(self, look: Look, entry: Entry) -> None:
        """Take over what another replica fetched.

        Its age is what its remaining life tells. By the exchange's clock it may be older, where this replica has
        measured that; never younger, however wrong the clock was of who stored it.
        """
        clock = self.source.clock
        lived = entry.life - look.remaining
        age = max(lived, clock.now() - entry.asked_at) if clock.measured else lived
        if look.remaining <= 0 or lived < 0:
            log.error("shared_snapshot_refused", account=self.account, reason="no replica stored it like this")
            return
        try:
            snapshot = snapshots.parse(entry.body, entry.asked_at, entry.margin_assets)
        except MalformedAccountError as exc:
            log.error("shared_snapshot_refused", account=self.account, reason=str(exc))  # noqa: TRY400 - no traceback
            return
        self._adopt(snapshot, self._monotonic() - age, entry.margin_assets)

    def _adopt(self, snapshot: Snapshot, asked: int, margin_assets: Mapping[str, str]) -> None:
        """Take a snapshot into memory unless what is there was asked for later, by this machine's steady clock."""
        if self.held is None or asked >= self.held.asked:
            self.held = Held(snapshot, Views(snapshot), asked, margin_assets)

    async def _share(self, fetched: Fetched) -> None:
        if self.source.clock.offset is None:
            return  # other replicas would take this machine's clock for the exchange's
        if self._generation is None:
            self._generation = await self._shared.prove()
        life, snapshot = self._windows.hard_cap, fetched.snapshot
        remaining = life - (self._monotonic() - fetched.asked)
        if self._generation is not None and remaining > 0:
            entry = Entry(snapshot.body, snapshot.asked_at, self._generation, life, self.source.margin_assets or {})
            await self._shared.keep(entry, remaining)
