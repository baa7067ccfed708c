"""The shapes of what the replicas share about a document of an account."""

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from service.account.documents import ACCOUNT
from service.fleet.errors import Failure
from service.fleet.ledger import Cooldowns

Lease: TypeAlias = Literal["not-tried", "not-needed", "superseded", "acquired", "held"]
"""The result of a try for it: `acquired`, `held` by another replica, `not-needed` because a shared snapshot is young
enough, or `superseded`: a credential that replaced the caller's is in use."""

LEASE_MS = 2_000
"""Time that a lease outlives its holder; the holder renews it every quarter of that."""

LONGEST_NUMBER = 12
"""Digits of an age in ms: beyond any freshness window."""

LONGEST_MESSAGE_BYTES = 160
"""The names of an account (64) and of a document (32), two identities (16 each) and a number (12), with room."""

_MESSAGE = re.compile(
    r"([a-z0-9~-]{1,64})(?:/([a-z-]{1,32}))? ([0-9a-f]{16})"
    rf"(?: ([0-9a-f]{{16}}) ([0-9]{{1,{LONGEST_NUMBER}}}))?"
)

LinkKind: TypeAlias = Literal["permanent", "temporary", "none"]
"""The link from the replaced credential to the accepted one: `temporary` if strangers use the accepted one, `none` if
they use the replaced one; `fleet.lineage` has the theory."""

StoreResult: TypeAlias = Literal["kept", "older", "superseded", "lost"]
"""What became of a snapshot. Refused: `older` than the stored one, by a replaced credential, or without the lease."""


class Entry(msgspec.Struct, frozen=True):
    """A snapshot on its way into or out of Redis."""

    body: bytes
    request_time: int
    """Ms since the epoch, on the exchange's clock."""
    life_ms: int
    """From `request_time` to the hard cap, at which the entry expires."""
    margin_assets: Mapping[str, str]
    """From the exchangeInfo that it was indexed with, so that every replica renders the same views."""


class Failed(msgspec.Struct, frozen=True):
    """A failed refresh, on its way into or out of Redis."""

    count: int
    """Failures in a row, this one included."""
    failure: Failure
    pause_ms: int
    """Until the next attempt; negative: since it was due."""


class RefreshRequest(msgspec.Struct, frozen=True):
    """A replica whose credential was replaced requests a refresh from one that has the newer credential."""

    identity: str
    """Of the replaced credential."""
    max_age_ms: int
    """Age in ms below which a snapshot is young enough."""


class Notification(msgspec.Struct, frozen=True):
    """A published message: what is shared of a document under a credential has changed, or a refresh is requested."""

    account: str
    identity: str
    """Of the credential."""
    refresh: RefreshRequest | None = None
    document: str = ACCOUNT.name

    def encode(self) -> str:
        # News of the account itself has no document in it: so releases that know no other document understand it.
        document = "" if self.document == ACCOUNT.name else f"/{self.document}"
        changed = f"{self.account}{document} {self.identity}"
        return changed if self.refresh is None else f"{changed} {self.refresh.identity} {self.refresh.max_age_ms}"

    @classmethod
    def decode(cls, message: bytes) -> "Notification | None":
        """Decode a received message; `None` if no replica can have sent it."""
        if len(message) > LONGEST_MESSAGE_BYTES:  # first, so that a huge foreign message costs nothing
            return None
        match = _MESSAGE.fullmatch(message.decode("latin-1"))  # latin-1 decodes any bytes
        if match is None:
            return None
        account, document, identity, replaced, max_age_ms = match.groups()
        refresh = RefreshRequest(replaced, int(max_age_ms)) if replaced else None
        return cls(account, identity, refresh, document or ACCOUNT.name)


class LeaseRequest(msgspec.Struct, frozen=True):
    """A try for a document's lease."""

    token: str
    max_age_ms: int
    """Age in ms below which a shared snapshot makes the lease unnecessary; 0: none is young enough."""


class Lineage(msgspec.Struct, frozen=True):
    """How a credential relates to the others that use its account; `fleet.lineage` has the theory."""

    superseded: bool = False
    """Whether a credential that replaced it is in use."""
    replaced: frozenset[str] = frozenset()
    """The identities that it has replaced, directly or over others."""
    foreign: int = 0
    """How many unrelated credentials are in use: another deployment's, or another exchange account's."""
    in_use: bool = False
    """Whether the exchange has accepted it lately, from any replica."""
    temporary_link: bool = False
    """Whether a link to it was written while strangers used it."""


class SharedState(msgspec.Struct, frozen=True):
    """A document's shared state at one moment."""

    entry: Entry | None
    """Only if it is newer than the snapshot that the reader has."""
    remaining_ms: int
    """That the entry still has to live."""
    cooldowns: Cooldowns
    failed: Failed | None
    lineage: Lineage
    lease: Lease


class Cleared(msgspec.Struct, frozen=True):
    """What kept a document from a refresh, until an operator cleared it."""

    failures: int
    lease: bool
    """Whether there was a foreign one, which might never have expired."""
    credentials: int
    """How many other credentials were known."""
