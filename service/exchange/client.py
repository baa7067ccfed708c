"""The signed account call, and the unsigned ones it needs: time and exchangeInfo.

Each passes the same gate: barrier, reservation, call, settlement. Paths are constants, never text from a request.
"""

import asyncio
from collections.abc import Coroutine, Mapping

import httpx
import msgspec
import structlog
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from service.account import snapshot
from service.account.snapshot import MalformedAccountError, Snapshot
from service.clock import Clock
from service.exchange import answers, budget, listing, transport
from service.exchange.answers import Answer
from service.exchange.clock import SAMPLES, ExchangeClock, Sample, estimate
from service.exchange.egress import ADDRESS, Egress
from service.exchange.errors import (
    ExchangeAnswerInvalidError,
    ExchangeClockSkewError,
    ExchangeError,
    ExchangeTimeoutError,
)
from service.exchange.listing import Listing
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


class Endpoint(msgspec.Struct, frozen=True):
    """One path of the exchange and what it costs."""

    name: str
    path: str
    weight: int


PING = Endpoint("ping", "/dapi/v1/ping", 1)
TIME = Endpoint("time", "/dapi/v1/time", 1)
EXCHANGE_INFO = Endpoint("exchangeInfo", "/dapi/v1/exchangeInfo", 1)
ACCOUNT = Endpoint("account", "/dapi/v1/account", 5)


class _Time(msgspec.Struct, rename="camel"):
    server_time: int


class Call(msgspec.Struct, frozen=True):
    """One request about to be sent."""

    endpoint: Endpoint
    query: bytes = b""
    credential: Credential | None = None
    forced: bool = False


class ExchangeClient:
    """The exchange, asked through one public address."""

    def __init__(self, settings: Exchange, http: httpx.AsyncClient, clock: Clock, metrics: Metrics) -> None:
        self._settings = settings
        self._http = http
        self._monotonic = clock.monotonic
        self._metrics = metrics
        self.clock = ExchangeClock(clock)
        self.egress = Egress(settings, self.clock)
        self.listing = Listing()
        self._listing_due = self._clock_due = self._monotonic()
        self._measuring = asyncio.Lock()

    async def account(self, credential: Credential, *, forced: bool = False) -> Snapshot:
        """One refresh: the account as the exchange has it now, within the configured time.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        try:
            async with asyncio.timeout(self._settings.timeout.seconds):
                await self._prepare()
                return await self._retrying()(self._account, credential, forced)
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
        answer = await self._send(Call(EXCHANGE_INFO))
        try:
            self.listing = listing.parse(answer.body)
        except ValueError as exc:
            raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None
        self.egress.live_limit = self.listing.weight_limit

    async def close(self) -> None:
        await self._http.aclose()

    async def _prepare(self) -> None:
        """What a signed call wants to know first; one account at a time, the others find it done."""
        async with self._measuring:
            now = self._monotonic()
            if self.clock.due and now >= self._clock_due:
                ready = await self._on_the_side(self.synchronise(), "clock")
                self._clock_due = now if ready else now + SIDE_PAUSE
            if now >= self._listing_due:
                ready = await self._on_the_side(self.load_listing(), "listing")
                self._listing_due = now + (LISTING_MAX_AGE if ready else SIDE_PAUSE)

    async def _on_the_side(self, call: Coroutine[object, object, None], what: str) -> bool:
        """Whether a call worked that a refresh can do without; if not, the refresh goes on as it is."""
        try:
            async with asyncio.timeout(self._settings.timeout.seconds * SIDE_SHARE):
                await call
        except (ExchangeError, TimeoutError) as exc:
            log.warning("exchange_preparation_failed", what=what, error=_name(exc))
            return False
        return True

    async def _account(self, credential: Credential, forced: bool) -> Snapshot:  # noqa: FBT001 - tenacity passes on
        """One try, measured anew once if the exchange rejects our clock."""
        try:
            return await self._signed(credential, forced=forced)
        except ExchangeClockSkewError:
            await self.synchronise()
            return await self._signed(credential, forced=forced)

    async def _signed(self, credential: Credential, *, forced: bool) -> Snapshot:
        asked_at = self.clock.now()
        query = credential.signed_query(self.clock.timestamp(), self._settings.recv_window)
        answer = await self._send(Call(ACCOUNT, query, credential, forced))
        try:
            return snapshot.parse(answer.body, asked_at, self.listing.margin_assets)
        except MalformedAccountError as exc:
            raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None

    async def _sample(self) -> Sample:
        sent = self._monotonic()
        answer = await self._send(Call(TIME))
        received = self._monotonic()
        try:
            return Sample(sent, received, msgspec.json.decode(answer.body, type=_Time).server_time)
        except msgspec.MsgspecError:
            raise ExchangeAnswerInvalidError("the exchange's time is not of the documented shape") from None

    async def _send(self, call: Call) -> Answer:
        """The gate: nothing is sent but through here."""
        endpoint, credential = call.endpoint, call.credential
        scope = credential.fingerprint if credential else ADDRESS
        barrier = self.egress.barrier(scope, endpoint.weight, forced=call.forced)
        if barrier is not None:
            raise barrier.error
        headers = {"x-mbx-apikey": credential.api_key.reveal()} if credential else {}
        self.egress.reserve(endpoint.weight, forced=call.forced)
        self._metrics.weight_spent.labels(endpoint.name).inc(endpoint.weight)
        outcome = "internal-error"
        try:
            answer = await self._answered(endpoint, call.query, headers)
            error = answers.error_in(answer, self.clock.now())
            outcome = error.problem if error else "ok"
        except asyncio.CancelledError:
            outcome = ExchangeTimeoutError.problem  # the refresh's own deadline comes before httpx'
            raise
        except ExchangeError as exc:
            outcome = exc.problem
            raise
        finally:
            self._metrics.exchange_calls.labels(endpoint.name, outcome).inc()
        if error is not None:
            self._remember(error, scope)
            raise error
        return answer

    async def _answered(self, endpoint: Endpoint, query: bytes, headers: Mapping[str, str]) -> Answer:
        """Send, and settle the reservation; a call that got no answer, for whatever reason, stays counted."""
        try:
            answer = await transport.fetch(self._http, endpoint.path, query, headers)
        except BaseException:
            self.egress.abandon(endpoint.weight)
            raise
        self.egress.settle(endpoint.weight, answers.used_weight(answer))
        return answer

    def _remember(self, error: ExchangeError, credential: str) -> None:
        """Let a refusal bind every later call: of the address, or of the credential that was rejected."""
        hold = budget.hold_after(error, self.clock.now())
        if hold is not None:
            error.retry_at = hold.until
            self.egress.impose(credential if budget.is_credential(hold) else ADDRESS, hold)

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE) + wait_random(0, FIRST_PAUSE / 2),
            reraise=True,
        )


def _is_transient(exc: BaseException) -> bool:
    return isinstance(exc, ExchangeError) and exc.transient


def _name(exc: ExchangeError | TimeoutError) -> str:
    return exc.problem if isinstance(exc, ExchangeError) else ExchangeTimeoutError.problem
