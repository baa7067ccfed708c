"""Refreshes one document for all replicas: the replica that holds the lease calls the exchange, the others wait for it.

No replica calls the exchange without the lease, except while Redis is unavailable: then each replica calls it on its
own, within its part of the weight.
"""

# One refresh, in order:
#
#   read + lease   one script reads what the replicas share and tries to acquire the lease (`try_acquire`)
#   request        only the holder; it renews the lease every `RENEWAL_S` seconds meanwhile
#   publish        the fenced store, or the failure, each with the release; runs on if every caller leaves
#   wait           all others: for a notification, or for `POLL_S` if it was lost; then read again
#
# A round (read, request, wait for publishing) has one budget of time for Redis (`WaitBudget`), the publishing task has
# its own. Memory decides after each read: a waiter ends when any replica has published, and a new holder never requests
# what it can already adopt.
#
# Interleavings that the order must survive:
#
#   A notification arrives while a read runs. The event is cleared before the read, so the next wait ends at once.
#   The holder dies. Its lease expires, and a waiter acquires it: waiters outlive a refresh by `GRACE_S`.
#   The holder publishes between a waiter's read and its wait. The waiter counts a snapshot as the other replica's
#       answer if it is newer than what the waiter knew after its first read, the one that found the lease held. What
#       that read itself adopts was stored before, however old it is. A snapshot
#       published in that gap isn't recognised as the other replica's answer: it is used if it is young enough, else one
#       more call is made.
#   The reply to `try_acquire` is lost. The lease may be ours, so a refresh without Redis publishes and releases too.
#   A renewal runs after the release. It would acquire the lease again, so the release waits until renewing has ended.
#   The credential is replaced during an await. What the old one read or requested isn't adopted into memory then, and
#       what memory has from the old one isn't shared as the new one's. So `active` is compared with
#       `self.state.active` after each await whose result goes into memory.

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable

import structlog

from service.account.snapshot import Snapshot
from service.cache.account_state import DocumentState
from service.cache.ports import ActiveCredential, Outcome, SharedStore
from service.cache.wait_budget import WaitBudget, carry
from service.fleet.errors import (
    ExchangeError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
    WeightBudgetSpentError,
)
from service.fleet.shared_state import LEASE_MS, Entry, Failed, LeaseRequest, SharedState
from service.settings import Freshness
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.cache")

GRACE_S = 3.0
"""Seconds that a waiter waits beyond a refresh's own deadline: for a lease to expire, and the next one to begin."""
RENEWAL_S = 0.5
"""Seconds between renewals of the lease, which lasts for 2."""
POLL_S = (0.2, 0.4)
"""Seconds between a waiter's reads without a notification, which can be lost. Random, so that replicas spread."""


class _Refresh:
    """One refresh under way; times are ms, monotonic."""

    def __init__(self, max_age_ms: int, state: DocumentState, *, forced: bool, bounded: bool) -> None:
        active = state.active
        self.token = secrets.token_hex(16)
        self.max_age_ms = max_age_ms
        self.bounded = bounded
        self.forced = forced
        self.shared_max_age_ms = max_age_ms
        """The age, by its remaining life in Redis, below which a shared snapshot makes the call unnecessary."""
        self.active = active
        self.document = state.document
        self.began = self.tried = active.source.clock.monotonic()
        self.known_request_time = state.known_request_time
        """Of the snapshot in memory when this refresh began to wait."""
        self.budget = WaitBudget()
        """Of the round under way."""
        self.waited = False
        self.without_redis = False

    @property
    def shared(self) -> SharedStore:
        """What the replicas share of the document, as the credential of this round may change it."""
        return self.active.shared[self.document]


class Refresher:
    """One document's refreshes in this process. The caller starts only one at a time."""

    def __init__(self, state: DocumentState, freshness: Freshness, timeout_s: float, metrics: Metrics) -> None:
        self.state = state
        self._metrics = metrics
        self._names = state.account, state.document.name
        self._foreign_entries = metrics.foreign_entries.labels(state.account)  # at 0 from the start, for alerts
        self.freshness = freshness
        self._timeout_s = timeout_s
        self._monotonic = state.active.source.clock.monotonic
        self._notified = asyncio.Event()
        self._publishing: set[asyncio.Task[None]] = set()

    def on_notification(self) -> None:
        """Another replica has announced something: end a wait."""
        self._notified.set()

    async def read(self, budget: WaitBudget | None = None) -> None:
        """Read what other replicas know: a newer snapshot, a not-before, a failure."""
        active = self.state.active
        shared = await active.shared[self.state.document].read_state(self.state.known_request_time, budget)
        await self._adopt(active, shared, budget)

    async def refresh(self, max_age_ms: int, *, forced: bool, bounded: bool) -> Outcome:
        """Make the snapshot in memory younger than `max_age_ms` ms, or requested after this call.

        A refresh that no caller's bound limits (`bounded`) also ends with the answer that another replica was
        requesting when it began: the next answer would take the exchange as long.

        Raises:
            ExchangeError: the call to the exchange failed.
        """
        refresh, result = _Refresh(max_age_ms, self.state, forced=forced, bounded=bounded), "failed"
        try:
            while True:
                self._notified.clear()  # before the read: what is announced during it ends the next wait at once
                outcome = await self._run_round(refresh)
                if outcome is not None:
                    result = "alone" if refresh.without_redis and outcome == "fetched" else outcome
                    return outcome
                if self._monotonic() - refresh.began > (self._timeout_s + GRACE_S) * 1000:
                    raise ExchangeTimeoutError("no replica had an answer of the exchange in time")
                if not refresh.waited:
                    refresh.known_request_time, refresh.waited = self.state.known_request_time, True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(*POLL_S)):  # noqa: S311 - spreads replicas, keeps no secret
                        await self._notified.wait()
                refresh.budget = WaitBudget()
        except WeightBudgetSpentError as exc:
            self.state.note(exc.failure)  # the ledger knew more than this replica: each waiting caller decides again
            result = "barred"
            return "barred"
        except ExchangeError:
            raise
        except Exception as exc:
            fault = _fault(exc)
            _ = self._record_failure(self.state.active, fault)
            raise fault from exc
        finally:
            self._metrics.refreshes.labels(*self._names, result).inc()

    async def close(self) -> None:
        """Wait until the last answer of the exchange is published."""
        if self._publishing:
            await asyncio.wait(self._publishing)

    async def _run_round(self, refresh: _Refresh) -> Outcome | None:
        """Read, acquire the lease and, with it, request and publish; `None`: another replica does that."""
        while True:
            refresh.tried = self._monotonic()
            active = refresh.active = self.state.active
            waited_ms = refresh.tried - refresh.began
            # What was shared while this refresh waits is young enough. 0 stays 0: no shared snapshot is.
            max_age_ms = refresh.shared_max_age_ms and refresh.shared_max_age_ms + waited_ms
            wanted = LeaseRequest(refresh.token, max_age_ms)
            shared = await refresh.shared.try_acquire(self.state.known_request_time, wanted, refresh.budget)
            await self._adopt(active, shared, refresh.budget)
            acquired = shared is not None and shared.lease == "acquired"
            if active is not self.state.active:  # replaced meanwhile: start again with the credential now in use
                if acquired:
                    await refresh.shared.release(refresh.token, refresh.budget)
                continue
            outcome = self._outcome_without_request(refresh)
            if outcome is not None:
                if acquired:
                    await self._release_unneeded(refresh, outcome)
                return outcome
            if shared is None or acquired:
                refresh.without_redis = shared is None
                return await self._request_and_publish(refresh)
            if shared.lease == "not-needed":
                refresh.shared_max_age_ms = 0  # young enough by its remaining life; older by the exchange's clock
                continue
            if shared.lease == "superseded":
                # Only the newest credential may store. Request a refresh of its holder, again after every read.
                waited_ms = self._monotonic() - refresh.began
                if waited_ms > self._timeout_s * 1000:
                    error = ExchangeRejectedCredentialsError(
                        "a newer credential is in use; this replica has an older one"
                    )
                    _ = self._record_failure(active, error)
                    raise error
                refresh.shared.request_refresh(refresh.max_age_ms + waited_ms)
            return None

    async def _release_unneeded(self, refresh: _Refresh, outcome: Outcome) -> None:
        """Release a lease that wasn't needed, and share what made it unnecessary: other replicas may lack it."""
        snapshot, own = self.state.snapshot, self.state.snapshot_identity == refresh.active.source.identity
        if outcome == "barred" or snapshot is None or not own or self._has_joined(refresh):
            await refresh.shared.release(refresh.token, refresh.budget)
        else:
            await self._publish_snapshot(snapshot, refresh, refresh.budget)

    async def _adopt(self, active: ActiveCredential, shared: SharedState | None, budget: WaitBudget | None) -> None:
        """Adopt what a read has found; `None`: Redis is unavailable."""
        active.source.degrade(degraded=shared is None)
        if shared is None:
            return
        foreign = shared.lineage.foreign
        if foreign:
            self._foreign_entries.inc()
        if foreign > active.lineage.foreign:  # logged once per change: other users of the account with no link to ours
            log.error("foreign_entry", account=self.state.account, credential=active.source.fingerprint, others=foreign)
        active.lineage = shared.lineage
        with carry(budget):
            await active.source.reconcile(shared.cooldowns)
        if active is not self.state.active:
            return
        if shared.entry is not None:
            self.state.adopt_shared(shared, shared.entry)
        if shared.failed is not None:
            self.state.adopt_failure(shared.failed)

    def _outcome_without_request(self, refresh: _Refresh) -> Outcome | None:
        """How the refresh ends if a call to the exchange isn't needed, or isn't possible; `None`: it is both."""
        age, waited_ms = self.state.age, self._monotonic() - refresh.began
        if self._has_joined(refresh) or (age is not None and age < refresh.max_age_ms + waited_ms):
            return "joined" if refresh.waited else "adopted"
        barrier = self.state.barrier(forced=refresh.forced)
        if barrier is None:
            return None
        self.state.note(barrier.failure)
        return "barred"

    def _has_joined(self, refresh: _Refresh) -> bool:
        """Whether another replica's refresh, which this one waited for, has brought an acceptable snapshot."""
        return refresh.waited and not refresh.bounded and self.state.known_request_time > refresh.known_request_time

    async def _request_and_publish(self, refresh: _Refresh) -> Outcome:
        """Call the exchange for all replicas and publish its answer; the lease is released in every case."""
        over, publishing = asyncio.Event(), False
        renewing = asyncio.create_task(self._renew(refresh, over))
        try:
            try:
                snapshot = await self._request(refresh)
            except ExchangeError as exc:
                shared, failed = refresh.shared, self._record_failure(refresh.active, exc)
                publishing = True
                release = shared.record_failure(failed, refresh.token) if failed else shared.release(refresh.token)
                await self._publish(release, refresh.budget, over, renewing)
                raise
            publishing = True
            publication = self._publish_snapshot(snapshot, refresh, WaitBudget())
            await self._publish(publication, refresh.budget, over, renewing)
        finally:
            if not publishing:  # the process ends: other replicas must not wait for the lease to expire
                renewing.cancel()
                await refresh.shared.release(refresh.token, refresh.budget)
        return "fetched"

    async def _request(self, refresh: _Refresh) -> Snapshot:
        """Call the exchange, and adopt its answer into memory.

        Raises:
            ExchangeError: it gave none, or a fault of ours prevented the call.
        """
        with self._metrics.refresh_duration.labels(*self._names).time():
            try:
                with carry(refresh.budget):
                    snapshot = await refresh.active.source.fetch(refresh.document, forced=refresh.forced)
            except ExchangeError:
                raise
            except Exception as exc:
                raise _fault(exc) from exc
        if refresh.active is self.state.active:  # else it was replaced meanwhile: each waiting caller decides again
            self.state.failures = None
            self.state.note()
            self.state.adopt(snapshot, refresh.active.source.identity)
        return snapshot

    async def _renew(self, refresh: _Refresh, over: asyncio.Event) -> None:
        """Renew the lease until the exchange has answered (`over`), or another replica holds it."""
        renewed = refresh.tried
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEWAL_S):
                    await over.wait()
            if over.is_set():
                return
            began = self._monotonic()
            # Within the lease's life only Redis can have lost it, by a restart; then it is written again.
            held = await refresh.shared.renew(refresh.token, in_time=began - renewed < LEASE_MS)
            if held is False and not refresh.without_redis:
                log.warning("lease_lost", account=self.state.account, document=refresh.document.name)
                return
            renewed = began if held else renewed

    async def _publish(
        self, publication: Awaitable[None], budget: WaitBudget, over: asyncio.Event, renewing: asyncio.Task[None]
    ) -> None:
        """Publish in a task of its own: the caller waits as long as the round's budget lasts, the task runs on."""

        async def run() -> None:
            try:
                await renewing  # a renewal after the release would acquire the lease again, for no holder
                await publication
            except Exception:  # the answer is good all the same
                log.exception("refresh_untold", account=self.state.account, document=self.state.document.name)

        over.set()
        task = asyncio.create_task(run())
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        await budget.wait(task)

    async def _publish_snapshot(self, snapshot: Snapshot, refresh: _Refresh, budget: WaitBudget) -> None:
        """Share a snapshot with the replicas; the same script releases the lease."""
        active, life_ms = refresh.active, self.freshness.hard_cap
        remaining_ms = life_ms - (self._monotonic() - snapshot.requested_monotonic_ms)
        # Without a measured offset, the others would read this machine's clock as the exchange's.
        if remaining_ms <= 0 or active.source.clock.offset is None:
            await refresh.shared.release(refresh.token, budget)
            return
        entry = Entry(snapshot.body, snapshot.request_time, life_ms, snapshot.margin_assets)
        replaced = active.replaced if active.link == "permanent" else ""
        result = await refresh.shared.store_fenced(entry, remaining_ms, refresh.token, replaced)
        if result is not None and result != "kept":
            log.warning(
                "snapshot_not_shared", account=self.state.account, document=refresh.document.name, reason=result
            )
            await self.read(budget)  # what is stored in its place was requested later

    def _record_failure(self, active: ActiveCredential, error: ExchangeError) -> Failed | None:
        """Log a failed refresh and count it as back-off; `None`: no back-off.

        None is due while a not-before already bars the call, where only weight was missing, and to a credential that
        has been replaced meanwhile.
        """
        self.state.note(error.failure)
        log.warning(
            "refresh_failed",
            account=self.state.account,
            document=self.state.document.name,
            problem=error.problem,
            answered=error.failure.answered,
            code=error.failure.code,
        )
        replaced = active is not self.state.active
        if isinstance(error, WeightBudgetSpentError) or replaced or self.state.barrier(forced=False) is not None:
            return None
        return self.state.count_failure(error)


def _fault(exc: Exception) -> RefreshFaultError:
    """An unforeseen exception, as a failure that is remembered like the exchange's own."""
    log.error("refresh_fault", exc_info=exc)
    return RefreshFaultError("the gateway failed; its log has the trace")
