"""One account at the exchange: its signed calls, with one credential, on connections of their own."""

# One refresh, within one deadline:
#     make ready  probe a half-open address, measure the clock, load exchangeInfo; under one lock, for all accounts
#     attempt     sign and send. Up to `ATTEMPTS` while failures are transient, 200 to 800 ms apart
#     resync      after a -1021, once per refresh: measure the clock and sign again, within the same attempt
# Each attempt charges its own weight. If the weight runs out between attempts, the exchange's own error is raised,
# because that is why there is no answer.
#
# HTTP/1.1 matches answers to requests only by their order on a connection (`bounded_http`). So no two credentials share
# a connection: an answer that is sent twice, or late, never belongs to another account.

import asyncio
from collections.abc import Callable, Mapping

import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from service.account.documents import ACCOUNT, Document
from service.account.parsing import parse
from service.account.snapshot import Snapshot
from service.exchange.gate import ENDPOINTS, Call
from service.exchange.public_api import PublicApi
from service.exchange.signing import Credential
from service.exchange.transport import HttpClient
from service.fleet.budget import Barrier, Cooldown
from service.fleet.errors import ExchangeClockSkewError, ExchangeError, ExchangeTimeoutError, WeightBudgetSpentError
from service.fleet.ledger import Cooldowns

ATTEMPTS = 3
"""Attempts of one refresh; the docs advise 3 to 5, and each costs the document's weight."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 0.8
"""Between attempts: 200, 400, 800 ms is the exchange's own advice for 503."""


class _Attempts(msgspec.Struct):
    """What the attempts of one refresh share."""

    document: Document
    forced: bool
    resynchronised: bool = False
    last_error: ExchangeError | None = None


class AccountClient:
    """Fetches one account's documents, and knows whether they may be fetched now: `cache.ports.Upstream`.

    Args:
        account: its name.
        credential: signs the calls.
        public_api: what a signed call needs first, and the gate that it passes.
        connect: makes the HTTP client, at the first call.
    """

    def __init__(
        self, account: str, credential: Credential, public_api: PublicApi, connect: Callable[[], HttpClient]
    ) -> None:
        self.clock = public_api.clock
        self.fingerprint = credential.fingerprint
        self.identity = credential.identity
        self._account = account
        self._credential = credential
        self._settings = public_api.settings
        self._gate = public_api.gate
        self._public_api = public_api
        self._connect = connect
        self._http: HttpClient | None = None
        self._calls_in_flight = 0
        self._closing = False

    async def fetch(self, document: Document, *, forced: bool) -> Snapshot:
        """One refresh: the document as the exchange has it now, within the configured time.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda exc: isinstance(exc, ExchangeError) and exc.transient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=MAX_PAUSE_S) + wait_random(0, FIRST_PAUSE_S / 2),
            reraise=True,
        )
        self._calls_in_flight += 1
        try:
            async with asyncio.timeout(self._settings.timeout.seconds):
                await self._public_api.make_ready()
                return await retrying(self._attempt, _Attempts(document, forced))
        except TimeoutError:
            raise ExchangeTimeoutError("the exchange did not answer in time") from None
        finally:
            self._calls_in_flight -= 1
            if self._closing:
                await self.close()

    async def close(self) -> None:
        """Close the connections: now, or when the last call in flight has ended."""
        # A refresh that began before a rotation may make one more call after this. `_closing` stays set, so that call
        # leaves no connection behind either.
        self._closing = True
        if self._http is not None and self._calls_in_flight == 0:
            # Forgotten before the await: a second `close` meanwhile must not close it again.
            http, self._http = self._http, None
            await http.aclose()

    def barrier(self, document: Document, *, forced: bool) -> Barrier | None:
        """Why the document can't be fetched now, or `None`."""
        return self._gate.address.refresh_barrier(self._call(document, forced=forced).charge)

    @property
    def margin_assets(self) -> Mapping[str, str] | None:
        """Symbols to margin assets; `None` while exchangeInfo has not been read."""
        return self._public_api.exchange_info.margin_assets if self._public_api.exchange_info else None

    @property
    def credential_cooldown(self) -> Cooldown:
        return self._gate.address.cooldown(self.identity)

    async def reconcile(self, cooldowns: Cooldowns) -> None:
        """Adopt the cooldowns that replicas share, and share those that they don't know of."""
        await self._gate.reconcile(self._call(ACCOUNT, forced=False).charge, cooldowns)

    def degrade(self, *, degraded: bool) -> None:
        """Set whether the replicas are unable to share what they spend."""
        self._gate.address.degraded = degraded

    async def _attempt(self, attempts: _Attempts) -> Snapshot:
        """One attempt; `AsyncRetrying` calls it again after a transient error."""
        try:
            try:
                return await self._send(attempts.document, forced=attempts.forced)
            except ExchangeClockSkewError as skew:
                if attempts.resynchronised:
                    raise
                # Set first, so that a second -1021 ends the refresh, in this attempt or in the next.
                attempts.resynchronised = True
                try:
                    await self._public_api.synchronise()
                except ExchangeError:
                    raise skew from None
                return await self._send(attempts.document, forced=attempts.forced)
        except WeightBudgetSpentError:
            if attempts.last_error is None:
                raise
            raise attempts.last_error from None
        except ExchangeError as exc:
            attempts.last_error = exc
            raise

    async def _send(self, document: Document, *, forced: bool) -> Snapshot:
        # The request time comes first: a snapshot is at least as new as it, however long the answer takes.
        requested_monotonic_ms, request_time = self.clock.monotonic(), self.clock.now()
        query = self._credential.signed_query(self.clock.timestamp(), self._settings.recv_window)
        margin_assets = self.margin_assets or {}
        self._http = self._http or self._connect()
        call = self._call(document, forced=forced, query=query)
        return await self._gate.send(
            call, lambda answer: parse(document, answer.body, request_time, requested_monotonic_ms, margin_assets)
        )

    def _call(self, document: Document, *, forced: bool, query: bytes = b"") -> Call:
        return Call(ENDPOINTS[document], query, self._credential, self._account, forced, self._http)
