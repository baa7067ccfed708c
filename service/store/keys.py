"""The names of the keys in Redis.

An account's keys are `{prefix}:{account:ENVIRONMENT:HOST:NAME}:…`, those of a further document
`{prefix}:{account:ENVIRONMENT:HOST:NAME}:DOCUMENT:…`. A public address belongs to no environment: its keys are
`{prefix}:{egress:HOST:NAME}:…`. The cooldowns of the credentials that are used there are among them, because a
rejected credential may be rejected for its address. A key that belongs to one credential ends in its identity.
"""

# The inner braces are Redis' hash tags, and stand in the keys as they do above: one tag per account, one per address.
# No command or script touches keys of two tags. So a server that spreads keys over slots works too, if one shard holds
# all slots; `store.selftest` finds out whether it does.

import msgspec

from service.account.documents import ACCOUNT, Document
from service.settings import Settings


class DocumentKeys(msgspec.Struct, frozen=True):
    """The keys of one document of an account, and of what all of its documents share."""

    account: str
    scope: str
    channel: str
    """Where replicas publish that the state of any account has changed."""
    document: Document = ACCOUNT

    @property
    def credentials(self) -> str:
        """Which credentials use the account, and which has replaced which."""
        return f"{self.scope}:credentials"

    def snapshot(self, identity: str) -> str:
        return f"{self._own_scope}:snapshot:{identity}"

    def failures(self, identity: str) -> str:
        return f"{self._own_scope}:failures:{identity}"

    def lease(self, identity: str) -> str:
        return f"{self._own_scope}:lease:{identity}"

    def proof(self, identity: str) -> str:
        """Held by the replica that may try the credential out."""
        return f"{self.scope}:proof:{identity}"

    @property
    def _own_scope(self) -> str:
        # The account's own keys name no document: releases that know no other share them.
        return self.scope if self.document is ACCOUNT else f"{self.scope}:{self.document.name}"


class EgressKeys(msgspec.Struct, frozen=True):
    """The keys of one public address's state."""

    scope: str

    @property
    def address_cooldown(self) -> str:
        return f"{self.scope}:hold"

    @property
    def probe(self) -> str:
        """Held by the replica that may send the probe after a cooldown."""
        return f"{self.scope}:probe"

    def credential_cooldown(self, identity: str) -> str:
        """One per credential: a new credential isn't bound by the cooldown of the one it replaced."""
        return f"{self.scope}:hold:{identity}"

    def minute(self, minute: int) -> list[str]:
        """A minute's ledger, and its calls in flight."""
        return [f"{self.scope}:ledger:{minute}", f"{self.scope}:ledger:{minute}:calls"]


def document_keys(settings: Settings, account: str, document: Document = ACCOUNT) -> DocumentKeys:
    place = f"{settings.environment}:{settings.exchange.host}"
    prefix = settings.redis.key_prefix
    return DocumentKeys(account, f"{prefix}:{{account:{place}:{account}}}", f"{prefix}:{place}:news", document)


def egress_keys(settings: Settings) -> EgressKeys:
    exchange = settings.exchange
    return EgressKeys(f"{settings.redis.key_prefix}:{{egress:{exchange.host}:{exchange.egress}}}")


def exchange_info_key(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:{settings.environment}:{settings.exchange.host}:listing"


def heartbeat_key(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:heartbeat"
