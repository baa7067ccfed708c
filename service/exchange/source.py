"""One account at the exchange: the client and the account's credential, on connections of its own."""

# HTTP/1.1 matches answers to requests only by their order on a connection (`bounded_http`). So no two credentials share
# a connection: an answer that is sent twice, or late, never belongs to another account.

from collections.abc import Callable, Mapping

import httpx

from service.account.snapshot import Snapshot
from service.exchange.client import ExchangeClient
from service.exchange.gate import ACCOUNT
from service.exchange.signing import Credential
from service.fleet.budget import Barrier, Charge, Cooldown
from service.fleet.ledger import Cooldowns
from service.telemetry.attribution import CLIENT


class AccountSource:
    """Fetches one account, and knows whether it may be fetched now.

    Args:
        client: the exchange.
        account: its name.
        credential: signs the calls.
        connect: makes the HTTP client, at the first call.
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
        self._calls_in_flight = 0
        self._closing = False

    async def fetch(self, *, forced: bool) -> Snapshot:
        """The account as the exchange has it now.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        self._calls_in_flight += 1
        try:
            self._http = self._http or self._connect()
            return await self.client.account(self._account, self._credential, self._http, forced=forced)
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

    def barrier(self, *, forced: bool) -> Barrier | None:
        """Why the account can't be fetched now, or `None`."""
        return self.client.egress.barrier(self._charge(forced=forced))

    @property
    def margin_assets(self) -> Mapping[str, str] | None:
        """Symbols to margin assets; `None` while exchangeInfo has not been read."""
        return self.client.exchange_info.margin_assets if self.client.exchange_info else None

    @property
    def credential_cooldown(self) -> Cooldown:
        return self.client.egress.cooldown(self._credential.identity)

    async def reconcile(self, cooldowns: Cooldowns) -> None:
        """Adopt the cooldowns that replicas share, and share those that they don't know of."""
        await self.client.reconcile(self._charge(forced=False), cooldowns)

    def degrade(self, *, degraded: bool) -> None:
        """Set whether the replicas are unable to share what they spend."""
        self.client.egress.degraded = degraded

    def _charge(self, *, forced: bool) -> Charge:
        return Charge(ACCOUNT.weight, self._account, self._credential.identity, forced, CLIENT.get())
