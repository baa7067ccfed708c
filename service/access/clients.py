"""Callers, and what each of them may see. Tokens are known by their SHA-256 only."""

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Collection, Mapping

import msgspec

from service import settings
from service.access.grants import Grant

ANY_ACCOUNT = "*"
"""The grant in the settings for accounts that have none of their own."""

_PREFIX = 8
"""Bytes of a digest that index the tokens: 64 bits distinguish any number of them."""


class Client(msgspec.Struct, frozen=True):
    """One team or service."""

    name: str
    grants: Mapping[str, Grant]
    """By account that exists, in the settings' order: one that doesn't and one that isn't granted look the same."""
    requests_per_second: float | None = None
    """`None`: no limit."""

    def __repr__(self) -> str:
        return f"<Client {self.name}>"


class Clients:
    """All clients of the settings, and what they may see of the accounts that exist."""

    def __init__(self, clients: Mapping[str, settings.Client], accounts: Collection[str]) -> None:
        self._by_prefix: dict[bytes, list[tuple[bytes, Client]]] = defaultdict(list)
        self._by_service_account: dict[str, Client] = {}
        for name, given in clients.items():
            client = Client(name, _grants(given.accounts, accounts), given.requests_per_second)
            for digest in map(bytes.fromhex, given.token_sha256):
                self._by_prefix[digest[:_PREFIX]].append((digest, client))
            self._by_service_account |= dict.fromkeys(given.service_accounts, client)

    def authenticate(self, token: bytes) -> Client | None:
        """The client that holds a token, or `None`.

        A prefix of the token's digest finds the candidates; comparing whole digests in constant time decides.
        """
        digest = hashlib.sha256(token).digest()  # `tokens.digest` in bytes
        for known, client in self._by_prefix.get(digest[:_PREFIX], ()):
            if hmac.compare_digest(known, digest):
                return client
        return None

    def of_service_account(self, name: str) -> Client | None:
        """The client that a ServiceAccount, `namespace/name`, is listed for, or `None`."""
        return self._by_service_account.get(name)


def _grants(given: Mapping[str, settings.ClientGrant], accounts: Collection[str]) -> dict[str, Grant]:
    """A client's grant on each account: its own, else the one for any account; none: denied."""
    grants: dict[str, Grant] = {}
    for account in accounts:
        grant = given.get(account) or given.get(ANY_ACCOUNT)
        if grant is not None:
            assets = None if grant.assets == "all" else frozenset(grant.assets)
            sides = None if grant.position_sides == "all" else frozenset(grant.position_sides)
            grants[account] = Grant(account, assets, sides)
    return grants
