"""One account at the exchange: the client, with the credential that asks for it."""

from collections.abc import Mapping

from service.exchange.budget import Barrier, Hold
from service.exchange.client import ExchangeClient, Fetched
from service.exchange.egress import ADDRESS
from service.exchange.gate import ACCOUNT
from service.exchange.signing import Credential


class AccountSource:
    """Asks for one account; knows whether it may be asked for now."""

    def __init__(self, client: ExchangeClient, credential: Credential) -> None:
        self.client = client
        self.credential = credential
        self.clock = client.clock
        self.fingerprint = credential.fingerprint
        self._identity = credential.identity

    async def fetch(self, *, forced: bool) -> Fetched:
        """The account as the exchange has it now.

        Raises:
            ExchangeError: nothing came that may be served.
        """
        return await self.client.account(self.credential, forced=forced)

    def barrier(self, *, forced: bool) -> Barrier | None:
        """Why the account can't be asked for now, or `None`."""
        return self.client.egress.barrier(self._identity, ACCOUNT.weight, forced=forced)

    @property
    def margin_assets(self) -> Mapping[str, str] | None:
        """Symbols to margin assets; `None` while exchangeInfo has not been read."""
        return self.client.listing.margin_assets if self.client.listing else None

    @property
    def address_hold(self) -> Hold:
        return self.client.egress.hold(ADDRESS)

    @property
    def credential_hold(self) -> Hold:
        return self.client.egress.hold(self._identity)

    def learn(self, address: Hold, credential: Hold) -> None:
        """Take over what other replicas were told."""
        self.client.egress.learn(ADDRESS, address)
        self.client.egress.learn(self._identity, credential)

    def degrade(self, *, degraded: bool) -> None:
        """Say whether the replicas can tell each other what they spend."""
        self.client.egress.degraded = degraded
