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

from service.cache.memory import Memory
from service.cache.ports import KeeperSettings, Outcome, Tenure
from service.exchange.client import Fetched
from service.exchange.errors import (
    ExchangeError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
    WeightBudgetSpentError,
)
from service.store.accounts import LEASE
from service.store.connection import patience, while_patient
from service.store.entries import Entry, Failed, Lineage, Look, Try
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

    def __init__(self, acceptable: int, memory: Memory, *, forced: bool, bounded: bool) -> None:
        tenure = memory.tenure
        self.token = secrets.token_hex(16)
        self.acceptable = acceptable
        self.bounded = bounded
        self.known = memory.known
        """When the exchange was asked for what was at hand as this refresh began to wait."""
        self.spared = acceptable
        """The age below which a shared snapshot spares the call, by the life it has left."""
        self.tenure = tenure
        self.began = self.tried = tenure.source.clock.monotonic()
        self.forced = forced
        self.waited = False
        self.alone = False


class Refresher:
    """One account's refreshes in this process; one at a time, its caller sees to that."""

    def __init__(self, settings: KeeperSettings, memory: Memory, metrics: Metrics) -> None:
        self.memory = memory
        self._metrics = metrics
        self._foreign_entries = metrics.foreign_entries.labels(memory.account)  # at 0 from the start, for alerts
        self.windows = settings.windows
        self._timeout = settings.timeout
        self._monotonic = memory.tenure.source.clock.monotonic
        self._news = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    def hear(self) -> None:
        """Another replica has announced something: end a wait."""
        self._news.set()

    async def look(self) -> None:
        """Learn what other replicas know: a newer snapshot, a not-before, a failure."""
        tenure = self.memory.tenure
        await self._learn(tenure, await tenure.shared.look(self.memory.known))

    async def refresh(self, acceptable: int, *, forced: bool, bounded: bool) -> Outcome:
        """See to it that the snapshot at hand is younger than `acceptable` ms, or was asked for after now.

        Unless it is `bounded` by a caller, it also ends with what another replica was asking for as it began: that
        took the exchange as long as the next answer would.

        Raises:
            ExchangeError: the exchange was asked in vain.
        """
        attempt, ended = _Attempt(acceptable, self.memory, forced=forced, bounded=bounded), "failed"
        try:
            outcome = await self._refresh(attempt)
            ended = "alone" if attempt.alone and outcome == "fetched" else outcome
        except WeightBudgetSpentError as exc:
            self.memory.note(exc)  # the ledger knew more than this replica: who waits decides again
            outcome = ended = "barred"
        except ExchangeError:
            raise
        except Exception as exc:
            fault = _fault(exc)
            _ = self._count(self.memory.tenure, fault)
            raise fault from exc
        finally:
            self._metrics.refreshes.labels(self.memory.account, ended).inc()
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
        tenure = attempt.tenure = self.memory.tenure
        waited = attempt.tried - attempt.began
        bound = attempt.spared and attempt.spared + waited
        look = await tenure.shared.take(self.memory.known, Try(attempt.token, bound))
        await self._learn(tenure, look)
        if tenure is not self.memory.tenure:  # rotated out meanwhile: the one in office looks for itself
            if look is not None and look.lease == "taken":
                await tenure.shared.release(attempt.token)
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
        held = self.memory.held
        foreign = held is None or held.identity != attempt.tenure.source.identity
        if outcome == "barred" or held is None or foreign or self._joined(attempt):
            await attempt.tenure.shared.release(attempt.token)
        else:
            await self._share(Fetched(held.snapshot, held.asked, held.margin_assets), attempt)

    def _leave_to_newer(self, attempt: _Attempt) -> None:
        """Ask who has the newest credential to refresh, again with every look; and wait, while that may help."""
        waited = self._monotonic() - attempt.began
        if waited > self._timeout * 1000:
            error = ExchangeRejectedCredentialsError("a newer credential is in use; this replica has an older one")
            _ = self._count(attempt.tenure, error)
            raise error
        attempt.tenure.shared.wish(attempt.acceptable + waited)

    async def _learn(self, tenure: Tenure, look: Look | None) -> None:
        """Take over what a look has found; `None`: Redis is away."""
        tenure.source.degrade(degraded=look is None)
        if look is None:
            return
        self._note_lineage(tenure, look.lineage)
        await tenure.source.reconcile(look.holds)
        if tenure is not self.memory.tenure:
            return
        if look.entry is not None:
            self.memory.adopt_shared(look, look.entry)
        if look.failed is not None:
            self.memory.learn(look.failed)

    def _note_lineage(self, tenure: Tenure, lineage: Lineage) -> None:
        """Who else uses the account; others that have nothing to do with this one are told of once a change."""
        foreign = lineage.foreign
        if foreign:
            self._foreign_entries.inc()
        if foreign > tenure.lineage.foreign:
            log.error(
                "foreign_entry", account=self.memory.account, credential=tenure.source.fingerprint, others=foreign
            )
        tenure.lineage = lineage

    def _without_asking(self, attempt: _Attempt) -> Outcome | None:
        """How the refresh ends if there is no need to ask, or no use in it."""
        age, waited = self.memory.age, self._monotonic() - attempt.began
        if self._joined(attempt) or (age is not None and age < attempt.acceptable + waited):
            return "joined" if attempt.waited else "adopted"
        barrier = self.memory.barrier(forced=attempt.forced)
        if barrier is None:
            return None
        self.memory.note(barrier.error)
        return "barred"

    def _joined(self, attempt: _Attempt) -> bool:
        """Whether another replica's refresh, which this one waited for, has brought something that will do."""
        return attempt.waited and not attempt.bounded and self.memory.known > attempt.known

    async def _wait(self, attempt: _Attempt) -> None:
        """Wait for another replica's news, or a while."""
        if self._monotonic() - attempt.began > (self._timeout + GRACE) * 1000:
            raise ExchangeTimeoutError("no replica had an answer of the exchange in time")
        if not attempt.waited:
            attempt.known, attempt.waited = self.memory.known, True
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
                told, failed = True, self._count(attempt.tenure, exc)
                await self._afterwards(self._tell(failed, attempt), over, renewing)
                raise
            told = True
            await self._afterwards(self._share(fetched, attempt), over, renewing)
        finally:
            if not told:  # the process ends: nobody should wait for the lease to expire
                renewing.cancel()
                await attempt.tenure.shared.release(attempt.token)
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
            log.exception("refresh_untold", account=self.memory.account)  # the answer is good all the same

    async def _renew(self, attempt: _Attempt, over: asyncio.Event) -> None:
        renewed = attempt.tried
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEWAL):
                    await over.wait()
            if over.is_set():
                return
            began = self._monotonic()
            held = await attempt.tenure.shared.renew(attempt.token, in_time=began - renewed < LEASE)
            if held is False and not attempt.alone:
                log.warning("lease_lost", account=self.memory.account)
                return
            renewed = began if held else renewed

    async def _ask(self, attempt: _Attempt) -> Fetched:
        source = attempt.tenure.source
        with self._metrics.refresh_duration.labels(self.memory.account).time():
            try:
                fetched = await source.fetch(forced=attempt.forced)
            except ExchangeError:
                raise
            except Exception as exc:
                raise _fault(exc) from exc
        if attempt.tenure is self.memory.tenure:  # else it was rotated out meanwhile: whoever waits asks anew
            self.memory.failures = None
            self.memory.note()
            self.memory.adopt(fetched.snapshot, fetched.asked, fetched.margin_assets)
        return fetched

    async def _share(self, fetched: Fetched, attempt: _Attempt) -> None:
        """Hand a snapshot to the replicas; the lease goes back with it."""
        snapshot, life, tenure, token = fetched.snapshot, self.windows.hard_cap, attempt.tenure, attempt.token
        remaining = life - (self._monotonic() - fetched.asked)
        # Without an offset others would take this machine's clock for the exchange's.
        if remaining <= 0 or tenure.source.clock.offset is None:
            await tenure.shared.release(token)
            return
        entry = Entry(snapshot.body, snapshot.asked_at, life, fetched.margin_assets)
        replaced = tenure.replaced if tenure.bond == "lasting" else ""
        verdict = await tenure.shared.keep(entry, remaining, token, replaced)
        if verdict is not None and verdict != "kept":
            log.warning("snapshot_not_shared", account=self.memory.account, reason=verdict)
            await self.look()  # what stands in its place is later

    async def _tell(self, failed: Failed | None, attempt: _Attempt) -> None:
        """Tell the replicas of a failure, and give the lease back."""
        if failed is None:
            await attempt.tenure.shared.release(attempt.token)
        else:
            await attempt.tenure.shared.fail(failed, attempt.token)

    def _count(self, tenure: Tenure, error: ExchangeError) -> Failed | None:
        """What a failed refresh leaves behind: a pause, unless a not-before stands already or just weight lacks."""
        self.memory.note(error)
        log.warning(
            "refresh_failed",
            account=self.memory.account,
            problem=error.problem,
            answered=error.answered,
            code=error.code,
        )
        rotated = tenure is not self.memory.tenure
        if isinstance(error, WeightBudgetSpentError) or rotated or self.memory.barrier(forced=False) is not None:
            return None
        return self.memory.count(error)


def _fault(exc: Exception) -> RefreshFaultError:
    """What nobody foresaw, as a failure that is remembered like the exchange's."""
    log.error("refresh_fault", exc_info=exc)
    return RefreshFaultError("the gateway failed; its log has the trace")
