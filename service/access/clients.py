"""From a bearer token, or a Kubernetes ServiceAccount, to the client. Tokens are known by their SHA-256 only."""

import hmac
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from service.access import tokens
from service.access.grants import Grant, grant_on

_PREFIX = 16
"""Hex digits of a digest that index the tokens: 64 bits distinguish any number of them."""


class Client(msgspec.Struct, frozen=True):
    """One team or service."""

    name: str
    token_digests: tuple[str, ...]
    """SHA-256 of its tokens, hex; several while one is rotated out."""
    grants: Mapping[str, Grant]
    """By account name, or `grants.ANY_ACCOUNT`."""
    service_accounts: tuple[str, ...] = ()
    """`namespace/name` of those that are this client."""

    def __repr__(self) -> str:
        return f"<Client {self.name}>"


class Clients:
    """All clients, and the accounts that exist."""

    def __init__(self, clients: Iterable[Client], accounts: Iterable[str]) -> None:
        self._accounts = tuple(accounts)
        self._by_prefix: dict[str, list[tuple[str, Client]]] = defaultdict(list)
        self._by_service_account: dict[str, Client] = {}
        for client in clients:
            for digest in client.token_digests:
                self._by_prefix[digest[:_PREFIX]].append((digest, client))
            self._by_service_account |= dict.fromkeys(client.service_accounts, client)

    def authenticate(self, token: bytes) -> Client | None:
        """The client that holds a token, or `None`.

        A prefix of the token's digest finds the candidates; comparing whole digests in constant time decides.
        """
        digest = tokens.digest(token)
        for known, client in self._by_prefix.get(digest[:_PREFIX], ()):
            if hmac.compare_digest(known, digest):
                return client
        return None

    def of_service_account(self, name: str) -> Client | None:
        """The client that a ServiceAccount, `namespace/name`, is listed for, or `None`."""
        return self._by_service_account.get(name)

    def grant(self, client: Client, account: str) -> Grant | None:
        """What a client may see of an account; one that doesn't exist gives the same as one not granted."""
        return grant_on(account, client.grants) if account in self._accounts else None

    def visible(self, client: Client) -> list[Grant]:
        """The client's grants, one per account that it may see, in the settings' order."""
        found = (self.grant(client, account) for account in self._accounts)
        return [grant for grant in found if grant is not None]
