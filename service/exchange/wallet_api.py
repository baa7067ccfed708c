"""The wallet API, another host of the exchange: what an API key may do. Only an operator's check calls it."""

# A ban binds the address. The two hosts count requests separately, but which of them enforces a ban and what lengthens
# it isn't documented. So nothing is sent to either during a cooldown of the address, nor before a probe has cleared it.
# The other direction is local: a refusal here stops neither the replicas nor their ledger, only the next call here.

import asyncio
from collections.abc import Mapping

import httpx

from service.exchange import answers, transport
from service.exchange.address_budget import ADDRESS, AddressBudget
from service.exchange.answers import MalformedAnswerError
from service.exchange.key_permissions import Restrictions, parse
from service.exchange.signing import Credential
from service.fleet import budget
from service.fleet.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeTimeoutError,
)
from service.settings import Exchange

PATH = "/sapi/v1/account/apiRestrictions"
"""Weight 1 of the wallet API's own limit per address, which the ledger of `/dapi` doesn't count."""


class WalletApi:
    """One signed call; each opens a client of its own, because there are only as many calls as accounts."""

    def __init__(
        self,
        settings: Exchange,
        egress: AddressBudget,
        credentials: Mapping[str, Credential],
        http_transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._settings = settings
        self._egress = egress
        self._credentials = credentials
        self._http_transport = http_transport
        self._refused: ExchangeError | None = None

    async def restrictions(self, account: str) -> Restrictions:
        """What the account's key may do, by a call within the configured time.

        Raises:
            ExchangeError: not sent, not answered, refused, or not of the documented shape.
        """
        credential, settings, egress = self._credentials[account], self._settings, self._egress
        clock = egress.clock
        barrier = egress.forbidden(credential.identity)
        if barrier is None and egress.half_open:
            barrier = budget.probe_barrier(egress.cooldown(ADDRESS), clock.now())
        if barrier is not None:
            raise barrier.error
        if self._refused is not None:
            raise self._refused.again()
        try:
            async with asyncio.timeout(settings.timeout.seconds):
                query = credential.signed_query(clock.timestamp(), settings.recv_window)
                headers = {"x-mbx-apikey": credential.api_key.reveal()}
                async with transport.open_client(settings, self._http_transport, settings.wallet_url) as http:
                    answer = await transport.fetch(http, PATH, query, headers)
            error = answers.error_in(answer, clock.now())
            if error is not None:
                raise error
        except TimeoutError:
            raise ExchangeTimeoutError("the wallet API did not answer in time") from None
        except ExchangeError as exc:
            cooldown = budget.cooldown_after(exc, clock.now())
            # A rejected credential is not remembered: the next account has another one.
            if cooldown is not None and not budget.is_credential(cooldown):
                self._refused = exc.again(cooldown.until)
            raise
        try:
            return parse(answer.body)
        except MalformedAnswerError as exc:
            raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None
