"""One account at the exchange: the client, with the credential that asks for it, on connections of its own.

Answers are matched to requests by nothing but their order on a connection (`bounded_http`). So no two credentials share
one: whatever is sent twice, or late, is never another account's.
"""

from collections.abc import Callable, Mapping

import httpx

from service.exchange.budget import Barrier, Charge, Cooldown
from service.exchange.client import ExchangeClient, Fetched
from service.exchange.gate import ACCOUNT
from service.exchange.ports import Cooldowns
from service.exchange.signing import Credential
from service.telemetry.attribution import CLIENT


class AccountSource:
    """Asks for one account; knows whether it may be asked for now.

    Args:
        client: the exchange.
        account: its name.
        credential: what signs.
        connect: makes the HTTP client, when the first call is made.
    """

    def __init__(
        self, client: ExchangeClient, account: str, credential: Credential, connect: Callable[[], httpx.AsyncClient]
    ) -> None:
        self.client = client
        self.clock = client.clock
        self.fingerprint = credential.fingerprint
        self.identity = credential.identity
        self._account = account
        self._credential = credential
        self._connect = connect
        self._http: httpx.AsyncClient | None = None
        self._calls = 0
        self._closing = False

    async def fetch(self, *, forced: bool) -> Fetched:
        """The account as the exchange has it now.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        self._calls += 1
        try:
            self._http = self._http or self._connect()
            return await self.client.account(self._account, self._credential, self._http, forced=forced)
        finally:
            self._calls -= 1
            if self._closing:
                await self.close()

    async def close(self) -> None:
        """Close the connections: now, or when the last call under way has ended.

        A refresh that began before a rotation may make one more call after this; it leaves no connection behind either.
        """
        self._closing = True
        if self._http is not None and self._calls == 0:
            http, self._http = self._http, None
            await http.aclose()

    def barrier(self, *, forced: bool) -> Barrier | None:
        """Why the account can't be asked for now, or `None`."""
        return self.client.egress.barrier(self._claim(forced=forced))

    @property
    def margin_assets(self) -> Mapping[str, str] | None:
        """Symbols to margin assets; `None` while exchangeInfo has not been read."""
        return self.client.listing.margin_assets if self.client.listing else None

    @property
    def credential_cooldown(self) -> Cooldown:
        return self.client.egress.hold(self._credential.identity)

    async def reconcile(self, holds: Cooldowns) -> None:
        """Take over the not-befores that replicas share, and share those that they don't know of."""
        await self.client.reconcile(self._claim(forced=False), holds)

    def degrade(self, *, degraded: bool) -> None:
        """Say whether the replicas can tell each other what they spend."""
        self.client.egress.degraded = degraded

    def _claim(self, *, forced: bool) -> Charge:
        return Charge(ACCOUNT.weight, self._account, self._credential.identity, forced, CLIENT.get())
