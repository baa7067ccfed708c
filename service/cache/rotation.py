"""Replaces an account's credential without a restart: the exchange must accept the new one before the old one goes.

One replica tries it out for all; the others find in Redis that it has replaced the one they use. Until then everything
goes on with the old one, and a credential that is rejected is tried again slowly, or when it changes. That it is in use
elsewhere is not enough: whoever was started with it can't know that it belongs to the same account. `store.lineage` has
the theory.
"""

import asyncio
import contextlib

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from service.cache.account_state import AccountState
from service.cache.flight import cancel_and_wait
from service.cache.ports import ActiveCredential, CacheSettings
from service.exchange.client import Fetched
from service.exchange.errors import (
    ExchangeError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
)
from service.store.entries import SharedState
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.cache")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between tries that nothing else tells when to repeat: as after failed refreshes."""


class Rotation:
    """One account's change of credentials in this process; at most one is under way, to the latest proposed."""

    def __init__(self, settings: CacheSettings, state: AccountState, metrics: Metrics) -> None:
        self._state = state
        self._timeout = settings.timeout
        self._metrics = metrics
        self._clock = state.active.source.clock
        self._news = asyncio.Event()
        self._candidate: ActiveCredential | None = None
        self._proving: asyncio.Task[None] | None = None
        self._failures, self._due = 0, 0
        """How often the exchange was asked in vain in a row, and before when it is not asked again (ms, monotonic)."""

    @property
    def pending(self) -> bool:
        """Whether a credential waits for the exchange to accept it."""
        return self._candidate is not None

    async def propose(self, candidate: ActiveCredential) -> None:
        """Put a credential in office as soon as the exchange accepts it; the one in use already ends the matter."""
        standing = self._candidate or self._state.active
        if standing.source.identity == candidate.source.identity:
            return
        await self.close()
        if self._state.active.source.identity != candidate.source.identity:
            self._candidate, self._failures, self._due = candidate, 0, 0
            self._proving = asyncio.create_task(self._prove(candidate))

    def on_notification(self) -> None:
        """Another replica has announced something: it may be that the credential is accepted."""
        self._news.set()

    async def close(self) -> None:
        """Give up what is under way."""
        if self._proving is not None:
            await cancel_and_wait(self._proving)
        if self._candidate is not None:
            await self._candidate.source.close()
        self._candidate = None

    async def _prove(self, candidate: ActiveCredential) -> None:
        trying = AsyncRetrying(
            retry=retry_if_exception_type(ExchangeError), wait=self._pause, sleep=self._rest, reraise=True
        )
        await trying(self._try_in_any_case, candidate)

    async def _try_in_any_case(self, candidate: ActiveCredential) -> None:
        """A bug pauses like a failure, and ends nothing."""
        try:
            await self._try(candidate)
        except ExchangeError:
            raise
        except Exception as exc:
            log.exception("credential_proof_fault", account=self._state.account)
            self._back_off()
            raise RefreshFaultError("the gateway failed; its log has the trace") from exc

    async def _try(self, candidate: ActiveCredential) -> None:
        """Put the candidate in office, if the exchange accepts it or has accepted it.

        Raises:
            ExchangeError: not now; the error says when to try again, if that is known.
        """
        self._news.clear()
        look = await candidate.shared.read_state(self._state.known)
        candidate.source.degrade(degraded=look is None)
        candidate.strangers = self._is_among_strangers(candidate, look)
        if look is not None:
            candidate.lineage = look.lineage
            await candidate.source.reconcile(look.holds)
            if self._state.active.source.identity in look.lineage.replaced and not look.lineage.superseded:
                await self._begin(candidate, "adopted")
                return
        if self._clock.monotonic() < self._due:
            raise ExchangeTimeoutError("it was asked in vain a moment ago")
        barrier = candidate.source.barrier(forced=False)
        if barrier is not None:
            raise barrier.error
        if await candidate.shared.claim(int(self._timeout * 1000)) is False:
            raise ExchangeTimeoutError("another replica is trying the credential out")
        fetched = await self._ask(candidate)
        await candidate.shared.link(self._state.active.source.identity, self._state.bond_to(candidate))
        await self._begin(candidate, "accepted", fetched)

    def _is_among_strangers(self, candidate: ActiveCredential, look: SharedState | None) -> bool:
        """Whether others use a candidate who may have nothing to do with us; without a look it may be."""
        active = self._state.active
        if active.replaced == candidate.source.identity:
            return False  # this process had it before
        if look is None or look.lineage.passing:
            return True
        return look.lineage.in_use and active.source.identity not in look.lineage.replaced

    async def _ask(self, candidate: ActiveCredential) -> Fetched:
        """The one signed call that tells."""
        try:
            return await candidate.source.fetch(forced=False)
        except ExchangeError as exc:
            rejected = isinstance(exc, ExchangeRejectedCredentialsError)
            self._count("rejected" if rejected else "failed")
            if not rejected:  # else a not-before tells when
                self._back_off()
            log.error(  # noqa: TRY400 - what the exchange answers has no traceback of interest
                "credential_not_accepted",
                account=self._state.account,
                credential=candidate.source.fingerprint,
                in_use=self._state.active.source.fingerprint,
                problem=exc.problem,
                code=exc.code,
            )
            raise

    async def _begin(self, candidate: ActiveCredential, outcome: str, fetched: Fetched | None = None) -> None:
        replaced = self._state.active
        log.info(
            "credential_replaced",
            account=self._state.account,
            credential=candidate.source.fingerprint,
            replaced=replaced.source.fingerprint,
            outcome=outcome,
        )
        self._count(outcome)
        self._state.begin(candidate)
        self._candidate = None
        if fetched is not None:
            self._state.adopt(fetched.snapshot, fetched.asked, fetched.margin_assets)
        await replaced.source.close()

    def _count(self, outcome: str) -> None:
        self._metrics.credential_proofs.labels(self._state.account, outcome).inc()

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until it makes sense to try again."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ExchangeError) and error.retry_at is not None:
            return max(FIRST_PAUSE, (error.retry_at - self._clock.now()) / 1000)
        return max(FIRST_PAUSE, (self._due - self._clock.monotonic()) / 1000)

    def _back_off(self) -> None:
        self._failures += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 5))
        self._due = self._clock.monotonic() + int(pause * 1000)

    async def _rest(self, seconds: float) -> None:
        """Sleep, but look at once when another replica has news."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
