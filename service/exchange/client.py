"""The signed account call, and the unsigned ones it needs: time and exchangeInfo."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import httpx
import msgspec
import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from service.account import snapshot
from service.account.snapshot import Snapshot
from service.exchange import budget, listing
from service.exchange.answers import Answer, MalformedAnswerError
from service.exchange.budget import Claim
from service.exchange.clock import EARLIEST, LATEST, SAMPLES, ExchangeClock, Sample, estimate
from service.exchange.egress import ADDRESS, Egress
from service.exchange.errors import (
    ExchangeClockSkewError,
    ExchangeError,
    ExchangeTimeoutError,
    WeightBudgetSpentError,
)
from service.exchange.gate import ACCOUNT, EXCHANGE_INFO, PING, TIME, Call, Gate
from service.exchange.listing import Listing
from service.exchange.ports import Holds, Ledger
from service.exchange.signing import Credential
from service.settings import Exchange
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.exchange")

ATTEMPTS = 3
"""Tries of one refresh; the docs advise 3 to 5, and each costs the account call's weight."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 0.8
"""Seconds between them: 200, 400, 800 ms is the exchange's own advice for 503."""
SIDE_SHARE = 0.25
"""Of the refresh's time, for measuring the clock and for exchangeInfo each: a refresh can do without either."""
SIDE_PAUSE = 30_000
"""Ms between tries of either after a failure."""
LISTING_MAX_AGE = 60 * 60 * 1000
"""Ms. Contracts are listed and delivered by the quarter."""
REFRESH_WEIGHT = ACCOUNT.weight + SAMPLES * TIME.weight + EXCHANGE_INFO.weight + PING.weight
"""What the first refresh of all costs."""


class _Time(msgspec.Struct, rename="camel"):
    server_time: Annotated[int, msgspec.Meta(ge=EARLIEST, le=LATEST)]


class Fetched(msgspec.Struct, frozen=True):
    """A new snapshot, and when it was asked for by this machine's steady clock (monotonic ms)."""

    snapshot: Snapshot
    asked: int
    margin_assets: Mapping[str, str]
    """What it was indexed by: exchangeInfo may have been read anew since, for another account's sake."""


class Way(msgspec.Struct, frozen=True):
    """What leads out of the process: to the exchange, and to the ledger of what is spent there."""

    http: httpx.AsyncClient
    ledger: Ledger


class _Refresh:
    """One refresh under way: what it is for, and what has happened to it."""

    def __init__(self, account: str, credential: Credential, *, forced: bool) -> None:
        self.account = account
        self.credential = credential
        self.forced = forced
        self.resynchronised = False
        self.failure: ExchangeError | None = None


class ExchangeClient:
    """The exchange, asked through one public address."""

    def __init__(self, settings: Exchange, clock: ExchangeClock, way: Way, metrics: Metrics) -> None:
        self._settings = settings
        self._monotonic = clock.monotonic
        self.clock = clock
        self.egress = Egress(settings, clock)
        self._gate = Gate(way.http, self.egress, way.ledger, metrics)
        self.listing: Listing | None = None
        self._listing_due = self._clock_due = self._monotonic()
        self._measuring = asyncio.Lock()

    async def account(self, account: str, credential: Credential, *, forced: bool) -> Fetched:
        """One refresh: the account as the exchange has it now, within the configured time.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        try:
            async with asyncio.timeout(self._settings.timeout.seconds):
                await self._prepare()
                return await _retrying()(self._account, _Refresh(account, credential, forced=forced))
        except TimeoutError:
            raise ExchangeTimeoutError("the exchange did not answer in time") from None

    async def synchronise(self) -> None:
        """Measure the exchange's clock.

        Raises:
            ExchangeError: no sample could be had.
        """
        self.clock.offset = estimate([await self._sample() for _ in range(SAMPLES)])

    async def load_listing(self) -> None:
        """Fetch exchangeInfo.

        Raises:
            ExchangeError: no answer, or not the documented shape.
        """
        self.listing = await self._gate.send(Call(EXCHANGE_INFO), lambda answer: listing.parse(answer.body))
        self._heed(self.listing.weight_limit)
        self._listing_due = self._monotonic() + LISTING_MAX_AGE

    async def reopen(self) -> None:
        """If a refusal of the address has passed, see whether the exchange agrees, before anything else is sent.

        Raises:
            ExchangeError: it refuses still, or can't be asked.
        """
        if self.egress.hold(ADDRESS).opens(self.clock.now()):
            await self._gate.probe(self._settings.timeout)

    async def reconcile(self, claim: Claim, holds: Holds) -> None:
        """Take over the not-befores that replicas share, and share those that they don't know of."""
        await self._gate.reconcile(claim, holds)

    async def close(self) -> None:
        await self._gate.close()

    def _heed(self, live_limit: int | None) -> None:
        """The exchange's own limit lowers ours; one that no refresh would fit in is taken for a misprint."""
        if live_limit is not None and live_limit * self._settings.weight_share < REFRESH_WEIGHT:
            log.error("exchange_limit_ignored", limit=live_limit)
            return
        self.egress.live_limit = live_limit

    async def _prepare(self) -> None:
        """What a signed call wants to know first; one account at a time, the others find it done.

        A probe is not waited for: it may take all the time there is.
        """
        hold, now = self.egress.hold(ADDRESS), self.clock.now()
        if self._measuring.locked() and hold.opens(now):
            self.egress.leave_to_another()
            raise budget.probe_barrier(hold, now).error
        async with self._measuring:
            await self.reopen()
            now = self._monotonic()
            if self.clock.due and now >= self._clock_due and not await self._on_the_side(self.synchronise):
                self._clock_due = now + SIDE_PAUSE
            if now >= self._listing_due and not await self._on_the_side(self.load_listing):
                self._listing_due = now + SIDE_PAUSE

    async def _on_the_side(self, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether a call worked that a refresh can do without; if not, the refresh goes on as it is."""
        try:
            async with asyncio.timeout(self._settings.timeout.seconds * SIDE_SHARE):
                await call()
        except (ExchangeError, TimeoutError) as exc:
            log.warning("exchange_preparation_failed", call=call.__name__, error=type(exc).__name__)
            return False
        return True

    async def _account(self, refresh: _Refresh) -> Fetched:
        """One try. What is told in the end is what the exchange said, not that there was no weight for another."""
        try:
            return await self._in_time(refresh)
        except WeightBudgetSpentError:
            if refresh.failure is None:
                raise
            raise refresh.failure from None
        except ExchangeError as exc:
            refresh.failure = exc
            raise

    async def _in_time(self, refresh: _Refresh) -> Fetched:
        """The signed call; if the exchange rejects our clock, measured anew and tried again, once a refresh."""
        try:
            return await self._signed(refresh)
        except ExchangeClockSkewError as skew:
            if refresh.resynchronised:
                raise
            refresh.resynchronised = True
            try:
                await self.synchronise()
            except ExchangeError:
                raise skew from None
            return await self._signed(refresh)

    async def _signed(self, refresh: _Refresh) -> Fetched:
        asked, asked_at = self._monotonic(), self.clock.now()
        query = refresh.credential.signed_query(self.clock.timestamp(), self._settings.recv_window)
        margin_assets = self.listing.margin_assets if self.listing else {}
        call = Call(ACCOUNT, query, refresh.credential, refresh.account, refresh.forced)
        found = await self._gate.send(call, lambda answer: snapshot.parse(answer.body, asked_at, margin_assets))
        return Fetched(found, asked, margin_assets)

    async def _sample(self) -> Sample:
        sent = self._monotonic()
        server_time = await self._gate.send(Call(TIME), _server_time)
        return Sample(sent, self._monotonic(), server_time)


def _server_time(answer: Answer) -> int:
    try:
        return msgspec.json.decode(answer.body, type=_Time).server_time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswerError("the exchange's time is not of the documented shape") from None


def _retrying() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE) + wait_random(0, FIRST_PAUSE / 2),
        reraise=True,
    )


def _is_transient(exc: BaseException) -> bool:
    return isinstance(exc, ExchangeError) and exc.transient
