"""Refreshes one account for all replicas: whoever has the lease asks the exchange, the others wait for what it brings.

Nobody asks without the lease, but for the time that Redis is away: then each replica goes by itself, within its part
of the weight.
"""

import asyncio
import contextlib
import random
import secrets

import structlog

from service.cache.memory import Memory
from service.cache.ports import KeeperSettings, Outcome, SharedStore, Source
from service.exchange.client import Fetched
from service.exchange.errors import (
    ExchangeError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
    WeightBudgetSpentError,
)
from service.store.connection import patience
from service.store.entries import Entry, Failed, Look, Try
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

    def __init__(self, acceptable: int, began: int, metrics: Metrics, *, forced: bool) -> None:
        self.token = secrets.token_hex(16)
        self.acceptable = acceptable
        self.began = began
        self.metrics = metrics
        self.forced = forced
        self.waited = False
        self.alone = False


class Refresher:
    """One account's refreshes in this process; one at a time, its caller sees to that."""

    def __init__(self, settings: KeeperSettings, memory: Memory, source: Source, shared: SharedStore) -> None:
        self.memory = memory
        self._settings = settings
        self._source = source
        self._shared = shared
        self._monotonic = source.clock.monotonic
        self._news = asyncio.Event()
        self._generation: int | None = None

    def hear(self) -> None:
        """Another replica has announced something: end a wait."""
        self._news.set()

    async def look(self) -> Look | None:
        """Learn what other replicas know: a newer snapshot, a not-before, a failure."""
        return await self._learn(await self._shared.look(self.memory.known))

    async def refresh(self, acceptable: int, metrics: Metrics, *, forced: bool) -> Outcome:
        """See to it that the snapshot at hand is younger than `acceptable` ms, or was asked for after now.

        Raises:
            ExchangeError: the exchange was asked in vain.
        """
        attempt, ended = _Attempt(acceptable, self._monotonic(), metrics, forced=forced), "failed"
        try:
            with patience():
                outcome = await self._refresh(attempt)
            ended = "alone" if attempt.alone and outcome == "fetched" else outcome
        finally:
            metrics.refreshes.labels(self.memory.account, ended).inc()
        return outcome

    async def _refresh(self, attempt: _Attempt) -> Outcome:
        spared = attempt.acceptable
        while True:
            self._news.clear()
            waited = self._monotonic() - attempt.began
            look = await self._take(Try(attempt.token, spared and spared + waited, self._generation or 0))
            if look is None:
                return await self._alone(attempt)
            outcome = self._without_asking(attempt)
            if outcome is not None:
                if look.lease == "taken":
                    await self._shared.release(attempt.token)
                return outcome
            if look.lease == "taken":
                return await self._lead(attempt)
            if look.lease == "needless":
                spared = 0  # by the life it has left it would do; by the exchange's clock it is older
                continue
            await self._wait(attempt, look)

    async def _take(self, wanted: Try) -> Look | None:
        return await self._learn(await self._shared.take(self.memory.known, wanted))

    async def _learn(self, look: Look | None) -> Look | None:
        self._source.degrade(degraded=look is None)
        if look is not None:
            await self._source.reconcile(look.holds)
            if look.entry is not None:
                self.memory.adopt_shared(look, look.entry)
            if look.failed is not None:
                self.memory.learn(look.failed)
        return look

    def _without_asking(self, attempt: _Attempt) -> Outcome | None:
        """How the refresh ends if there is no need to ask, or no use in it."""
        age, waited = self.memory.age, self._monotonic() - attempt.began
        if age is not None and age < attempt.acceptable + waited:
            return "joined" if attempt.waited else "adopted"
        barrier = self.memory.barrier(forced=attempt.forced)
        if barrier is None:
            return None
        self.memory.note(barrier.error)
        return "barred"

    async def _wait(self, attempt: _Attempt, look: Look) -> None:
        """Wait for another replica's news, or a while."""
        if look.lease == "superseded":
            raise ExchangeRejectedCredentialsError("a newer credential is in use; this replica has an older one")
        if self._monotonic() - attempt.began > (self._settings.timeout + GRACE) * 1000:
            raise ExchangeTimeoutError("no replica had an answer of the exchange in time")
        attempt.waited = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(*POLL)):  # noqa: S311 - spreads replicas, keeps no secret
                await self._news.wait()

    async def _alone(self, attempt: _Attempt) -> Outcome:
        """Without Redis: by what this replica knows itself."""
        outcome = self._without_asking(attempt)
        if outcome is not None:
            return outcome
        attempt.alone = True
        try:
            _ = await self._ask(attempt)
        except ExchangeError as exc:
            _ = self._count(exc)
            raise
        return "fetched"

    async def _lead(self, attempt: _Attempt) -> Outcome:
        """Ask on behalf of all replicas, and tell them; the lease is given back whatever happens."""
        renewing = asyncio.create_task(self._renew(attempt.token))
        try:
            await self._share(await self._ask(attempt), attempt.token)
        except ExchangeError as exc:
            await self._tell(exc, attempt.token)
            raise
        except asyncio.CancelledError:
            await self._shared.release(attempt.token)  # the process ends: nobody should wait for the lease to expire
            raise
        finally:
            renewing.cancel()
        return "fetched"

    async def _renew(self, token: str) -> None:
        while True:
            await asyncio.sleep(RENEWAL)
            if await self._shared.renew(token) is False:
                log.warning("lease_lost", account=self.memory.account)
                return

    async def _ask(self, attempt: _Attempt) -> Fetched:
        with attempt.metrics.refresh_duration.labels(self.memory.account).time():
            try:
                fetched = await self._source.fetch(forced=attempt.forced)
            except ExchangeError:
                raise
            except Exception as exc:
                log.exception("refresh_fault", account=self.memory.account)
                raise RefreshFaultError("the gateway failed; its log has the trace") from exc
        self.memory.failures = None
        self.memory.note()
        self.memory.adopt(fetched.snapshot, fetched.asked, self._source.margin_assets or {})
        return fetched

    async def _share(self, fetched: Fetched, token: str) -> None:
        """Hand a snapshot to the replicas; the lease goes back with it."""
        if self._generation is None:
            self._generation = await self._shared.prove()
        snapshot, life = fetched.snapshot, self._settings.windows.hard_cap
        remaining = life - (self._monotonic() - fetched.asked)
        # Without an offset others would take this machine's clock for the exchange's.
        if self._generation is None or remaining <= 0 or self._source.clock.offset is None:
            await self._shared.release(token)
            return
        entry = Entry(snapshot.body, snapshot.asked_at, self._generation, life, self._source.margin_assets or {})
        kept = await self._shared.keep(entry, remaining, token)
        if kept != "kept":
            log.warning("snapshot_not_shared", account=self.memory.account, reason=kept or "away")
            _ = await self.look()  # what stands in its place is later

    async def _tell(self, error: ExchangeError, token: str) -> None:
        """Tell the replicas of a failure, and give the lease back."""
        failed = self._count(error)
        if failed is None:
            await self._shared.release(token)
        else:
            await self._shared.fail(failed, token)

    def _count(self, error: ExchangeError) -> Failed | None:
        """What a failed refresh leaves behind: a pause, unless a not-before stands already or just weight lacks."""
        self.memory.note(error)
        log.warning(
            "refresh_failed",
            account=self.memory.account,
            problem=error.problem,
            answered=error.answered,
            code=error.code,
        )
        if isinstance(error, WeightBudgetSpentError) or self._source.barrier(forced=False) is not None:
            return None
        return self.memory.count(error)
