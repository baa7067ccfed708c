"""The wallet API, another host of the exchange: what an API key may do. Asked by an operator's check alone."""

import asyncio
from collections.abc import Mapping

import httpx

from service.exchange import answers, budget, transport
from service.exchange.address_budget import ADDRESS, AddressBudget
from service.exchange.answers import MalformedAnswerError
from service.exchange.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeTimeoutError,
)
from service.exchange.key_permissions import Restrictions, parse
from service.exchange.signing import Credential
from service.settings import Exchange

PATH = "/sapi/v1/account/apiRestrictions"
"""Weight 1 of the wallet API's own limit an address, which the ledger of `/dapi` doesn't count."""


class WalletApi:
    """One signed question; a client of its own for each, for there are as few as accounts."""

    def __init__(
        self,
        settings: Exchange,
        egress: AddressBudget,
        credentials: Mapping[str, Credential],
        way: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._settings = settings
        self._egress = egress
        self._credentials = credentials
        self._way = way
        self._refused: ExchangeError | None = None

    async def restrictions(self, account: str) -> Restrictions:
        """What the account's key may do, by a call within the configured time.

        Raises:
            ExchangeError: not sent, not answered, refused, or not of the documented shape.
        """
        credential = self._credentials[account]
        self._admit(credential)
        try:
            async with asyncio.timeout(self._settings.timeout.seconds):
                return await self._ask(credential)
        except TimeoutError:
            raise ExchangeTimeoutError("the wallet API did not answer in time") from None
        except ExchangeError as exc:
            hold = budget.hold_after(exc, self._egress.clock.now())
            if hold is not None and not budget.is_credential(hold):
                # Its limits are its own, so it stops neither the replicas nor their ledger, only what asks here next.
                self._refused = exc.again(hold.until)
            raise

    def _admit(self, credential: Credential) -> None:
        """Raise what forbids the call.

        A ban is the address's. The two hosts count apart, but who enforces a ban and what lengthens it isn't
        documented, so nothing is sent to either while one lasts, nor before a probe has told that it is over.
        """
        egress = self._egress
        barrier = egress.forbidden(credential.identity)
        if barrier is None and egress.half_open:
            barrier = budget.probe_barrier(egress.hold(ADDRESS), egress.clock.now())
        if barrier is not None:
            raise barrier.error
        if self._refused is not None:
            raise self._refused.again()

    async def _ask(self, credential: Credential) -> Restrictions:
        clock, settings = self._egress.clock, self._settings
        query = credential.signed_query(clock.timestamp(), settings.recv_window)
        headers = {"x-mbx-apikey": credential.api_key.reveal()}
        async with transport.open_client(settings, self._way, settings.wallet_url) as http:
            answer = await transport.fetch(http, PATH, query, headers)
        error = answers.error_in(answer, clock.now())
        if error is not None:
            raise error
        try:
            return parse(answer.body)
        except MalformedAnswerError as exc:
            raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None
