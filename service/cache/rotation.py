"""Replaces an account's credential without a restart: the exchange must accept the new one before the old one goes.

One replica proves the new credential for all; the others find in Redis that it has replaced the one they use. Until
then every replica goes on with the old one.
"""

# States of a candidate: proposed → *adopted* (Redis says that it replaced ours) or *accepted* (our own proof worked),
# or given up (`close`, or another is proposed). Both ends activate it; only *accepted* writes the link to Redis, before
# it activates: a replica that dies in between leaves the link for the others.
#
# One try, in order:
#   1. Read Redis: a link from our credential to the candidate ends the matter, unless the candidate is replaced too.
#      That the candidate is in use elsewhere is not enough: a process that was started with it can't know that it
#      belongs to the same account. `fleet.lineage` has the theory.
#   2. Our own back-off, and what bars any call to the exchange (not-before, weight).
#   3. The right to prove it, for the fleet: it expires after a refresh's timeout, so a replica that dies holds up
#      the others no longer. `None` (Redis unavailable) lets this replica try alone.
#   4. The signed call. A rejected credential waits for its not-before, any other failure for our back-off.
# Between tries it sleeps, until a notification wakes it: another replica may have proved the candidate.

import asyncio
import contextlib

import structlog

from service.account.documents import ACCOUNT
from service.account.snapshot import Snapshot
from service.cache.account_state import AccountState
from service.cache.flight import cancel_and_wait
from service.cache.ports import ActiveCredential
from service.fleet.errors import ExchangeError, ExchangeRejectedCredentialsError
from service.fleet.lineage import used_by_strangers
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.cache")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between tries for which the exchange names no time: the same as after failed refreshes."""


class Rotation:
    """One account's change of credentials in this process; at most one is under way, to the latest proposed."""

    def __init__(self, state: AccountState, timeout_s: float, metrics: Metrics) -> None:
        self._state = state
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._clock = state.active.source.clock
        self._notified = asyncio.Event()
        self._candidate: ActiveCredential | None = None
        self._proving: asyncio.Task[None] | None = None
        self._failures, self._next_attempt_ms = 0, 0
        """Consecutive failures, and the earliest next attempt (monotonic)."""

    @property
    def pending(self) -> bool:
        """Whether a credential waits for the exchange to accept it."""
        return self._candidate is not None

    async def propose(self, candidate: ActiveCredential) -> None:
        """Activate a credential as soon as the exchange accepts it; the active one cancels any change under way."""
        latest = self._candidate or self._state.active
        if latest.source.identity == candidate.source.identity:
            return
        await self.close()
        if self._state.active.source.identity != candidate.source.identity:
            self._candidate, self._failures, self._next_attempt_ms = candidate, 0, 0
            self._proving = asyncio.create_task(self._prove(candidate))

    def on_notification(self) -> None:
        """Another replica has announced something: perhaps that the credential is accepted."""
        self._notified.set()

    async def close(self) -> None:
        """Give up the change under way."""
        if self._proving is not None:
            await cancel_and_wait(self._proving)
        if self._candidate is not None:
            await self._candidate.source.close()
        self._candidate = None

    async def _prove(self, candidate: ActiveCredential) -> None:
        """Try until the candidate is active."""
        pause_ms: int | None = 0
        while pause_ms is not None:
            try:
                pause_ms = await self._try(candidate)
            except Exception:  # a bug backs off like a failure, and doesn't end the rotation
                log.exception("credential_proof_fault", account=self._state.account)
                pause_ms = self._back_off()
            if pause_ms is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(FIRST_PAUSE_S, pause_ms / 1000)):
                        await self._notified.wait()

    async def _try(self, candidate: ActiveCredential) -> int | None:
        """Activate the candidate if the exchange accepts it or has accepted it: `None`; else ms until the next try."""
        self._notified.clear()  # before the read: what is announced during it wakes the next sleep
        active = self._state.active
        store = candidate.shared[ACCOUNT]
        shared = await store.read_state(self._state.documents[ACCOUNT].known_request_time)
        candidate.source.degrade(degraded=shared is None)
        lineage = None if shared is None else shared.lineage
        candidate.strangers = used_by_strangers(
            candidate.source.identity, lineage, active.source.identity, active.replaced
        )
        if shared is not None:
            candidate.lineage = shared.lineage
            await candidate.source.reconcile(shared.cooldowns)
            if active.source.identity in shared.lineage.replaced and not shared.lineage.superseded:
                await self._activate(candidate, "adopted")
                return None
        pause_ms = self._next_attempt_ms - self._clock.monotonic()
        if pause_ms > 0:
            return pause_ms
        barrier = candidate.source.barrier(ACCOUNT, forced=False)
        if barrier is not None:
            return (barrier.failure.retry_at or 0) - self._clock.now()
        if await store.acquire_once(int(self._timeout_s * 1000)) is False:
            return 0  # another replica is trying it; if the exchange accepts it, a notification ends the pause
        try:
            snapshot = await candidate.source.fetch(ACCOUNT, forced=False)
        except ExchangeError as exc:
            rejected = isinstance(exc, ExchangeRejectedCredentialsError)
            self._count("rejected" if rejected else "failed")
            log.error(  # noqa: TRY400 - what the exchange answers has no traceback of interest
                "credential_not_accepted",
                account=self._state.account,
                credential=candidate.source.fingerprint,
                in_use=active.source.fingerprint,
                problem=exc.problem,
                code=exc.failure.code,
            )
            if not rejected:  # a rejected one has a not-before, which says when
                pause_ms = self._back_off()
            return pause_ms if exc.failure.retry_at is None else exc.failure.retry_at - self._clock.now()
        await store.record_rotation(active.source.identity, self._state.link_to(candidate))
        await self._activate(candidate, "accepted", snapshot)
        return None

    async def _activate(self, candidate: ActiveCredential, outcome: str, snapshot: Snapshot | None = None) -> None:
        replaced = self._state.active
        log.info(
            "credential_replaced",
            account=self._state.account,
            credential=candidate.source.fingerprint,
            replaced=replaced.source.fingerprint,
            outcome=outcome,
        )
        self._count(outcome)
        self._state.activate(candidate)
        self._candidate = None  # before the await: from here on `close` must not close what is active
        if snapshot is not None:
            self._state.documents[ACCOUNT].adopt(snapshot, candidate.source.identity)
        await replaced.source.close()

    def _count(self, outcome: str) -> None:
        self._metrics.credential_proofs.labels(self._state.account, outcome).inc()

    def _back_off(self) -> int:
        """Count a failure; returns ms until the next attempt."""
        self._failures += 1
        pause_ms = int(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 5)) * 1000)
        self._next_attempt_ms = self._clock.monotonic() + pause_ms
        return pause_ms
