"""The signed account call and its preparation; the unsigned calls are `service.exchange.public`'s."""

# One refresh, within one deadline:
#     prepare   probe a half-open address, measure the clock, load exchangeInfo; under one lock, for all accounts
#     attempt   sign and send. Up to `ATTEMPTS` while failures are transient, with pauses of 200 to 800 ms between them
#     resync    after a -1021, once per refresh: measure the clock and sign again, within the same attempt
# Each attempt charges its own weight. If the weight runs out between attempts, the exchange's own error is raised,
# because that is why there is no account.

import asyncio

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from service.account.parsing import parse
from service.account.snapshot import Snapshot
from service.exchange.address_budget import ADDRESS
from service.exchange.exchange_info import ExchangeInfo
from service.exchange.gate import ACCOUNT, Call, Gate
from service.exchange.ports import ExchangeInfoStore
from service.exchange.public import PublicData
from service.exchange.signing import Credential
from service.fleet import budget
from service.fleet.budget import Charge
from service.fleet.errors import (
    ExchangeClockSkewError,
    ExchangeError,
    ExchangeTimeoutError,
    WeightBudgetSpentError,
)
from service.fleet.ledger import Cooldowns
from service.settings import Exchange

ATTEMPTS = 3
"""Attempts of one refresh; the docs advise 3 to 5, and each costs the account call's weight."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 0.8
"""Between attempts: 200, 400, 800 ms is the exchange's own advice for 503."""


class _Fetch:
    """One refresh under way: its account and credential, and the state that its attempts share."""

    def __init__(self, account: str, credential: Credential, http: httpx.AsyncClient, *, forced: bool) -> None:
        self.account = account
        self.credential = credential
        self.http = http
        self.forced = forced
        self.resynchronised = False
        self.failure: ExchangeError | None = None


class ExchangeClient:
    """The exchange, called through one public address."""

    def __init__(self, settings: Exchange, gate: Gate, store: ExchangeInfoStore) -> None:
        self._settings = settings
        self._gate = gate
        self.egress = gate.egress
        self.clock = gate.egress.clock
        self._monotonic = gate.egress.clock.monotonic
        self.public = PublicData(settings, gate, store)

    @property
    def exchange_info(self) -> ExchangeInfo | None:
        """The exchange's contracts; `None` while they have not been read."""
        return self.public.exchange_info

    async def account(self, account: str, credential: Credential, http: httpx.AsyncClient, *, forced: bool) -> Snapshot:
        """One refresh: the account as the exchange has it now, within the configured time.

        `http` is the credential's own client.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        refresh, public, egress = _Fetch(account, credential, http, forced=forced), self.public, self.egress
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda exc: isinstance(exc, ExchangeError) and exc.transient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=MAX_PAUSE_S) + wait_random(0, FIRST_PAUSE_S / 2),
            reraise=True,
        )
        try:
            async with asyncio.timeout(self._settings.timeout.seconds):
                # If nothing is due, the lock may still be taken by the upkeep: that is no reason to wait.
                if public.due or egress.half_open:
                    # A probe under way is not waited for either: it may take all the time there is.
                    if public.prepare_lock.locked() and egress.half_open:
                        egress.defer_probe()
                        raise budget.probe_barrier(egress.cooldown(ADDRESS), self.clock.now()).error
                    # One account at a time; the others find it done.
                    async with public.prepare_lock:
                        await self.reopen()
                        await public.prepare()
                return await retrying(self._attempt, refresh)
        except TimeoutError:
            raise ExchangeTimeoutError("the exchange did not answer in time") from None

    async def reopen(self) -> None:
        """If a cooldown of the address has expired, probe whether the exchange agrees, before anything else is sent.

        Raises:
            ExchangeError: it still refuses, or can't be called.
        """
        if self.egress.half_open:
            await self._gate.probe(self._settings.timeout)

    async def reconcile(self, charge: Charge, shared: Cooldowns) -> None:
        """Adopt the cooldowns that replicas share, and share those that they don't know of."""
        await self._gate.reconcile(charge, shared)

    async def close(self) -> None:
        await self._gate.close()

    async def _attempt(self, refresh: _Fetch) -> Snapshot:
        """One attempt; `AsyncRetrying` calls it again after a transient error."""
        try:
            try:
                return await self._send(refresh)
            except ExchangeClockSkewError as skew:
                if refresh.resynchronised:
                    raise
                # Set first, so that a second -1021 ends the refresh, in this attempt or in the next.
                refresh.resynchronised = True
                try:
                    await self.public.synchronise()
                except ExchangeError:
                    raise skew from None
                return await self._send(refresh)
        except WeightBudgetSpentError:
            if refresh.failure is None:
                raise
            raise refresh.failure from None
        except ExchangeError as exc:
            refresh.failure = exc
            raise

    async def _send(self, refresh: _Fetch) -> Snapshot:
        # The request time comes first: a snapshot is at least as new as it, however long the answer takes.
        requested_monotonic_ms, request_time = self._monotonic(), self.clock.now()
        query = refresh.credential.signed_query(self.clock.timestamp(), self._settings.recv_window)
        margin_assets = self.exchange_info.margin_assets if self.exchange_info else {}
        call = Call(ACCOUNT, query, refresh.credential, refresh.account, refresh.forced, refresh.http)
        return await self._gate.send(
            call, lambda answer: parse(answer.body, request_time, requested_monotonic_ms, margin_assets)
        )
