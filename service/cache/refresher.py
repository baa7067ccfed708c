"""Refreshes one account for all replicas: whoever has the lease asks the exchange, the others wait for what it brings.

Nobody asks without the lease, but for the time that Redis is away: then each replica goes by itself, within its part
of the weight.

What a waiter takes for another's answer is what it knows beyond that of its first look, the one that found the lease
taken: what that look itself adopts was stored before, however old. What is learnt between that look and the wait may be
the answer already; then the next look decides by its age, at worst for one more call.

A credential may be replaced during any await. What was looked up or asked for with the one before is not taken into
memory then, and what memory has of it is not shared as the next one's.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Coroutine
from typing import Any

import structlog

from service.cache.account_state import AccountState
from service.cache.ports import ActiveCredential, CacheSettings, Outcome
from service.exchange.client import Fetched
from service.exchange.errors import (
    ExchangeError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
    WeightBudgetSpentError,
)
from service.store.accounts import LEASE
from service.store.entries import Entry, Failed, LeaseRequest, Lineage, SharedState
from service.store.guard import patience, while_patient
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.cache")

GRACE = 3.0
"""Seconds a waiter gives a refresh beyond the refresh's own deadline: for a lease to expire, and the next to begin."""
RENEWAL = 0.5
"""Seconds between renewals of the lease, which lasts for 2."""
POLL = (0.2, 0.4)
"""Seconds between looks of a waiter who hears nothing: announcements may be lost. Drawn, so that replicas spread."""


class _Attempt:
    """One refresh under way."""

    def __init__(self, max_age_ms: int, state: AccountState, *, forced: bool, bounded: bool) -> None:
        active = state.active
        self.token = secrets.token_hex(16)
        self.max_age_ms = max_age_ms
        self.bounded = bounded
        self.known = state.known
        """When the exchange was asked for what was at hand as this refresh began to wait."""
        self.spared = max_age_ms
        """The age below which a shared snapshot spares the call, by the life it has left."""
        self.active = active
        self.began = self.tried = active.source.clock.monotonic()
        self.forced = forced
        self.waited = False
        self.alone = False


class Refresher:
    """One account's refreshes in this process; one at a time, its caller sees to that."""

    def __init__(self, settings: CacheSettings, state: AccountState, metrics: Metrics) -> None:
        self.state = state
        self._metrics = metrics
        self._foreign_entries = metrics.foreign_entries.labels(state.account)  # at 0 from the start, for alerts
        self.windows = settings.windows
        self._timeout = settings.timeout
        self._monotonic = state.active.source.clock.monotonic
        self._news = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    def on_notification(self) -> None:
        """Another replica has announced something: end a wait."""
        self._news.set()

    async def look(self) -> None:
        """Learn what other replicas know: a newer snapshot, a not-before, a failure."""
        active = self.state.active
        await self._learn(active, await active.shared.read_state(self.state.known))

    async def refresh(self, max_age_ms: int, *, forced: bool, bounded: bool) -> Outcome:
        """See to it that the snapshot at hand is younger than `max_age_ms` ms, or was asked for after now.

        Unless it is `bounded` by a caller, it also ends with what another replica was asking for as it began: that
        took the exchange as long as the next answer would.

        Raises:
            ExchangeError: the exchange was asked in vain.
        """
        attempt, ended = _Attempt(max_age_ms, self.state, forced=forced, bounded=bounded), "failed"
        try:
            outcome = await self._refresh(attempt)
            ended = "alone" if attempt.alone and outcome == "fetched" else outcome
        except WeightBudgetSpentError as exc:
            self.state.note(exc)  # the ledger knew more than this replica: who waits decides again
            outcome = ended = "barred"
        except ExchangeError:
            raise
        except Exception as exc:
            fault = _fault(exc)
            _ = self._count(self.state.active, fault)
            raise fault from exc
        finally:
            self._metrics.refreshes.labels(self.state.account, ended).inc()
        return outcome

    async def close(self) -> None:
        """See that the replicas have been told of what was asked last."""
        if self._telling:
            await asyncio.wait(self._telling)

    async def _refresh(self, attempt: _Attempt) -> Outcome:
        while True:
            self._news.clear()
            with patience():
                outcome = await self._try_once(attempt)
            if outcome is not None:
                return outcome
            await self._wait(attempt)

    async def _try_once(self, attempt: _Attempt) -> Outcome | None:
        """A look, a try for the lease, and with it the refresh; `None`: another replica has it."""
        attempt.tried = self._monotonic()
        active = attempt.active = self.state.active
        waited = attempt.tried - attempt.began
        bound = attempt.spared and attempt.spared + waited
        look = await active.shared.try_acquire(self.state.known, LeaseRequest(attempt.token, bound))
        await self._learn(active, look)
        if active is not self.state.active:  # rotated out meanwhile: the one in office looks for itself
            if look is not None and look.lease == "taken":
                await active.shared.release(attempt.token)
            return await self._try_once(attempt)
        if look is None:
            return await self._ask_without_redis(attempt)
        outcome = self._without_asking(attempt)
        if outcome is not None:
            if look.lease == "taken":
                await self._hand_back(attempt, outcome)
            return outcome
        if look.lease == "superseded":
            self._leave_to_newer(attempt)
            return None
        if look.lease == "needless":
            attempt.spared = 0  # it would do by the life it has left; by the exchange's clock it is older
            return await self._try_once(attempt)
        return await self._ask_for_all(attempt) if look.lease == "taken" else None

    async def _hand_back(self, attempt: _Attempt, outcome: Outcome) -> None:
        """Give a lease back that there was no need for; what spared it is shared, for others may lack it."""
        held = self.state.held
        foreign = held is None or held.identity != attempt.active.source.identity
        if outcome == "barred" or held is None or foreign or self._joined(attempt):
            await attempt.active.shared.release(attempt.token)
        else:
            await self._share(Fetched(held.snapshot, held.asked, held.margin_assets), attempt)

    def _leave_to_newer(self, attempt: _Attempt) -> None:
        """Ask who has the newest credential to refresh, again with every look; and wait, while that may help."""
        waited = self._monotonic() - attempt.began
        if waited > self._timeout * 1000:
            error = ExchangeRejectedCredentialsError("a newer credential is in use; this replica has an older one")
            _ = self._count(attempt.active, error)
            raise error
        attempt.active.shared.request_refresh(attempt.max_age_ms + waited)

    async def _learn(self, active: ActiveCredential, look: SharedState | None) -> None:
        """Take over what a look has found; `None`: Redis is away."""
        active.source.degrade(degraded=look is None)
        if look is None:
            return
        self._note_lineage(active, look.lineage)
        await active.source.reconcile(look.holds)
        if active is not self.state.active:
            return
        if look.entry is not None:
            self.state.adopt_shared(look, look.entry)
        if look.failed is not None:
            self.state.learn(look.failed)

    def _note_lineage(self, active: ActiveCredential, lineage: Lineage) -> None:
        """Who else uses the account; others that have nothing to do with this one are told of once a change."""
        foreign = lineage.foreign
        if foreign:
            self._foreign_entries.inc()
        if foreign > active.lineage.foreign:
            log.error("foreign_entry", account=self.state.account, credential=active.source.fingerprint, others=foreign)
        active.lineage = lineage

    def _without_asking(self, attempt: _Attempt) -> Outcome | None:
        """How the refresh ends if there is no need to ask, or no use in it."""
        age, waited = self.state.age, self._monotonic() - attempt.began
        if self._joined(attempt) or (age is not None and age < attempt.max_age_ms + waited):
            return "joined" if attempt.waited else "adopted"
        barrier = self.state.barrier(forced=attempt.forced)
        if barrier is None:
            return None
        self.state.note(barrier.error)
        return "barred"

    def _joined(self, attempt: _Attempt) -> bool:
        """Whether another replica's refresh, which this one waited for, has brought something that will do."""
        return attempt.waited and not attempt.bounded and self.state.known > attempt.known

    async def _wait(self, attempt: _Attempt) -> None:
        """Wait for another replica's news, or a while."""
        if self._monotonic() - attempt.began > (self._timeout + GRACE) * 1000:
            raise ExchangeTimeoutError("no replica had an answer of the exchange in time")
        if not attempt.waited:
            attempt.known, attempt.waited = self.state.known, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(*POLL)):  # noqa: S311 - spreads replicas, keeps no secret
                await self._news.wait()

    async def _ask_without_redis(self, attempt: _Attempt) -> Outcome:
        """Without Redis: by what this replica knows itself."""
        outcome = self._without_asking(attempt)
        if outcome is not None:
            return outcome
        attempt.alone = True
        # And tell the others all the same: the lease is ours if it was only its answer that got lost.
        return await self._ask_for_all(attempt)

    async def _ask_for_all(self, attempt: _Attempt) -> Outcome:
        """Ask on behalf of all replicas, and tell them; the lease is given back whatever happens."""
        over, told = asyncio.Event(), False
        renewing = asyncio.create_task(self._renew(attempt, over))
        try:
            try:
                fetched = await self._ask(attempt)
            except ExchangeError as exc:
                told, failed = True, self._count(attempt.active, exc)
                await self._afterwards(self._tell(failed, attempt), over, renewing)
                raise
            told = True
            await self._afterwards(self._share(fetched, attempt), over, renewing)
        finally:
            if not told:  # the process ends: nobody should wait for the lease to expire
                renewing.cancel()
                await attempt.active.shared.release(attempt.token)
        return "fetched"

    async def _afterwards(
        self, telling: Coroutine[Any, Any, None], over: asyncio.Event, renewing: asyncio.Task[None]
    ) -> None:
        """Tell the replicas. Who waits for this refresh waits as long as its patience lasts; it goes on without."""
        over.set()
        task = asyncio.create_task(self._see_through(telling, renewing))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        await while_patient(task)

    async def _see_through(self, telling: Coroutine[Any, Any, None], renewing: asyncio.Task[None]) -> None:
        try:
            await renewing  # a renewal after the lease went back would take it again, for nobody
            with patience():
                await telling
        except Exception:
            log.exception("refresh_untold", account=self.state.account)  # the answer is good all the same

    async def _renew(self, attempt: _Attempt, over: asyncio.Event) -> None:
        renewed = attempt.tried
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEWAL):
                    await over.wait()
            if over.is_set():
                return
            began = self._monotonic()
            held = await attempt.active.shared.renew(attempt.token, in_time=began - renewed < LEASE)
            if held is False and not attempt.alone:
                log.warning("lease_lost", account=self.state.account)
                return
            renewed = began if held else renewed

    async def _ask(self, attempt: _Attempt) -> Fetched:
        source = attempt.active.source
        with self._metrics.refresh_duration.labels(self.state.account).time():
            try:
                fetched = await source.fetch(forced=attempt.forced)
            except ExchangeError:
                raise
            except Exception as exc:
                raise _fault(exc) from exc
        if attempt.active is self.state.active:  # else it was rotated out meanwhile: whoever waits asks anew
            self.state.failures = None
            self.state.note()
            self.state.adopt(fetched.snapshot, fetched.asked, fetched.margin_assets)
        return fetched

    async def _share(self, fetched: Fetched, attempt: _Attempt) -> None:
        """Hand a snapshot to the replicas; the lease goes back with it."""
        snapshot, life, active, token = (
            fetched.snapshot,
            self.windows.hard_cap,
            attempt.active,
            attempt.token,
        )
        remaining = life - (self._monotonic() - fetched.asked)
        # Without an offset others would take this machine's clock for the exchange's.
        if remaining <= 0 or active.source.clock.offset is None:
            await active.shared.release(token)
            return
        entry = Entry(snapshot.body, snapshot.request_time, life, fetched.margin_assets)
        replaced = active.replaced if active.bond == "lasting" else ""
        verdict = await active.shared.store_fenced(entry, remaining, token, replaced)
        if verdict is not None and verdict != "kept":
            log.warning("snapshot_not_shared", account=self.state.account, reason=verdict)
            await self.look()  # what stands in its place is later

    async def _tell(self, failed: Failed | None, attempt: _Attempt) -> None:
        """Tell the replicas of a failure, and give the lease back."""
        if failed is None:
            await attempt.active.shared.release(attempt.token)
        else:
            await attempt.active.shared.record_failure(failed, attempt.token)

    def _count(self, active: ActiveCredential, error: ExchangeError) -> Failed | None:
        """What a failed refresh leaves behind: a pause, unless a not-before stands already or just weight lacks."""
        self.state.note(error)
        log.warning(
            "refresh_failed",
            account=self.state.account,
            problem=error.problem,
            answered=error.answered,
            code=error.code,
        )
        rotated = active is not self.state.active
        if isinstance(error, WeightBudgetSpentError) or rotated or self.state.barrier(forced=False) is not None:
            return None
        return self.state.count(error)


def _fault(exc: Exception) -> RefreshFaultError:
    """What nobody foresaw, as a failure that is remembered like the exchange's."""
    log.error("refresh_fault", exc_info=exc)
    return RefreshFaultError("the gateway failed; its log has the trace")
