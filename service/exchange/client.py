"""The signed account call, with what it needs first; the unsigned ones are `service.exchange.public`'s."""

import asyncio
from collections.abc import Mapping

import httpx
import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from service.account import snapshot
from service.account.snapshot import Snapshot
from service.exchange import budget
from service.exchange.address_budget import ADDRESS, AddressBudget
from service.exchange.budget import Charge
from service.exchange.clock import ExchangeClock
from service.exchange.errors import (
    ExchangeClockSkewError,
    ExchangeError,
    ExchangeTimeoutError,
    WeightBudgetSpentError,
)
from service.exchange.exchange_info import ExchangeInfo
from service.exchange.gate import ACCOUNT, Call, Gate
from service.exchange.ports import Cooldowns, ExchangeInfoStore, Ledger
from service.exchange.public import PublicData
from service.exchange.signing import Credential
from service.settings import Exchange
from service.telemetry.metrics import Metrics

ATTEMPTS = 3
"""Tries of one refresh; the docs advise 3 to 5, and each costs the account call's weight."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 0.8
"""Seconds between them: 200, 400, 800 ms is the exchange's own advice for 503."""


class Fetched(msgspec.Struct, frozen=True):
    """A new snapshot, and when it was asked for by this machine's steady clock (monotonic ms)."""

    snapshot: Snapshot
    asked: int
    margin_assets: Mapping[str, str]
    """What it was indexed by: exchangeInfo may have been read anew since, for another account's sake."""


class Way(msgspec.Struct, frozen=True):
    """What leads out of the process: to the exchange, to the ledger of what is spent there, and to its contracts."""

    http: httpx.AsyncClient
    """For unsigned calls; each credential has a client of its own."""
    ledger: Ledger
    listings: ExchangeInfoStore


class _Refresh:
    """One refresh under way: what it is for, and what has happened to it."""

    def __init__(self, account: str, credential: Credential, http: httpx.AsyncClient, *, forced: bool) -> None:
        self.account = account
        self.credential = credential
        self.http = http
        self.forced = forced
        self.resynchronised = False
        self.failure: ExchangeError | None = None


class ExchangeClient:
    """The exchange, asked through one public address."""

    def __init__(self, settings: Exchange, clock: ExchangeClock, way: Way, metrics: Metrics) -> None:
        self._settings = settings
        self._monotonic = clock.monotonic
        self.clock = clock
        self.egress = AddressBudget(settings, clock)
        self._gate = Gate(way.http, self.egress, way.ledger, metrics)
        self.public = PublicData(settings, self._gate, self.egress, way.listings)

    @property
    def listing(self) -> ExchangeInfo | None:
        """The exchange's contracts; `None` while they have not been read."""
        return self.public.listing

    async def account(self, account: str, credential: Credential, http: httpx.AsyncClient, *, forced: bool) -> Fetched:
        """One refresh: the account as the exchange has it now, within the configured time.

        `http` is the credential's own client.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        try:
            async with asyncio.timeout(self._settings.timeout.seconds):
                await self._prepare()
                return await _retrying()(self._account, _Refresh(account, credential, http, forced=forced))
        except TimeoutError:
            raise ExchangeTimeoutError("the exchange did not answer in time") from None

    async def reopen(self) -> None:
        """If a refusal of the address has passed, see whether the exchange agrees, before anything else is sent.

        Raises:
            ExchangeError: it refuses still, or can't be asked.
        """
        if self.egress.half_open:
            await self._gate.probe(self._settings.timeout)

    async def reconcile(self, claim: Charge, holds: Cooldowns) -> None:
        """Take over the not-befores that replicas share, and share those that they don't know of."""
        await self._gate.reconcile(claim, holds)

    async def close(self) -> None:
        await self._gate.close()

    async def _prepare(self) -> None:
        """What a signed call wants to know first; one account at a time, the others find it done.

        A probe is not waited for: it may take all the time there is.
        """
        if not (self.public.due or self.egress.half_open):
            return  # whoever is at it is so for somebody else's sake
        if self.public.turn.locked() and self.egress.half_open:
            self.egress.defer_probe()
            raise budget.probe_barrier(self.egress.hold(ADDRESS), self.clock.now()).error
        async with self.public.turn:
            await self.reopen()
            await self.public.prepare()

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
                await self.public.synchronise()
            except ExchangeError:
                raise skew from None
            return await self._signed(refresh)

    async def _signed(self, refresh: _Refresh) -> Fetched:
        asked, request_time = self._monotonic(), self.clock.now()
        query = refresh.credential.signed_query(self.clock.timestamp(), self._settings.recv_window)
        margin_assets = self.listing.margin_assets if self.listing else {}
        call = Call(ACCOUNT, query, refresh.credential, refresh.account, refresh.forced, refresh.http)
        found = await self._gate.send(call, lambda answer: snapshot.parse(answer.body, request_time, margin_assets))
        return Fetched(found, asked, margin_assets)


def _retrying() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE) + wait_random(0, FIRST_PAUSE / 2),
        reraise=True,
    )


def _is_transient(exc: BaseException) -> bool:
    return isinstance(exc, ExchangeError) and exc.transient
