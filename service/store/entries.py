"""The shapes of what the replicas share about an account."""

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from service.exchange.errors import ExchangeError
from service.exchange.ports import Cooldowns

Lease: TypeAlias = Literal["not-tried", "needless", "superseded", "taken", "busy"]
"""What became of a try for it: `needless` where a young snapshot spares the call, `superseded` where a credential that
replaced the caller's is in use."""

LONGEST_NUMBER = 12
"""Digits of an age in ms: beyond any window."""

LONGEST_MESSAGE = 160
"""Bytes of an announcement: an account's name, two identities and two numbers, with room."""

_MESSAGE = re.compile(rf"([a-z0-9~-]{{1,64}}) ([0-9a-f]{{16}})(?: ([0-9a-f]{{16}}) ([0-9]{{1,{LONGEST_NUMBER}}}))?")

Bond: TypeAlias = Literal["lasting", "passing", "none"]
"""A link from the replaced credential to the accepted one: `passing` where strangers use that, `none` where they use
the replaced one; `store.lineage` has the theory."""

StoreResult: TypeAlias = Literal["kept", "older", "superseded", "lost"]
"""What became of a snapshot: refused where an older one than what is there, by a replaced credential, or without the
lease."""


class Entry(msgspec.Struct, frozen=True):
    """A snapshot on its way into or out of Redis."""

    body: bytes
    request_time: int
    """Ms since the epoch, on the exchange's clock."""
    life: int
    """Ms from `request_time` to the hard cap; the entry expires with it."""
    margin_assets: Mapping[str, str]
    """What exchangeInfo said when it was indexed, so that every replica cuts the same views."""


class Failed(msgspec.Struct, frozen=True):
    """A failed refresh, on its way into or out of Redis."""

    count: int
    """How many in a row."""
    error: ExchangeError
    pause: int
    """Ms until the next try; negative: since then."""


class RefreshRequest(msgspec.Struct, frozen=True):
    """What a replica whose credential was replaced wants of one that has the newer: a refresh."""

    identity: str
    """Of the replaced credential."""
    max_age_ms: int
    """Age in ms below which a snapshot will do."""


class Notification(msgspec.Struct, frozen=True):
    """An announcement: the state of an account under a credential has changed, or a refresh is wished for."""

    account: str
    identity: str
    """Of the credential."""
    wish: RefreshRequest | None = None

    def encode(self) -> str:
        told = f"{self.account} {self.identity}"
        return told if self.wish is None else f"{told} {self.wish.identity} {self.wish.max_age_ms}"

    @classmethod
    def decode(cls, message: bytes) -> "Notification | None":
        """A message as it was heard; `None`: no replica sent it. Its length is looked at before anything else."""
        if len(message) > LONGEST_MESSAGE:
            return None
        found = _MESSAGE.fullmatch(message.decode("latin-1"))
        if found is None:
            return None
        account, identity, replaced, max_age_ms = found.groups()
        return cls(account, identity, RefreshRequest(replaced, int(max_age_ms)) if replaced else None)


class LeaseRequest(msgspec.Struct, frozen=True):
    """A try for an account's lease."""

    token: str
    max_age_ms: int
    """Age in ms below which a snapshot spares the call."""


class Lineage(msgspec.Struct, frozen=True):
    """How a credential stands among those that use its account; `store.lineage` has the theory."""

    superseded: bool = False
    """Whether one that replaced it is in use."""
    replaced: frozenset[str] = frozenset()
    """The identities that it has replaced, sooner or later."""
    foreign: int = 0
    """How many are in use that have nothing to do with it: another deployment's, or another exchange account's."""
    in_use: bool = False
    """Whether the exchange has accepted it lately, in whoever's hands."""
    passing: bool = False
    """Whether a link leads to it that was written while strangers used it."""


class SharedState(msgspec.Struct, frozen=True):
    """What one look found."""

    entry: Entry | None
    """Only where it is newer than what the looker has."""
    remaining: int
    """Ms the entry has left to live."""
    holds: Cooldowns
    failed: Failed | None
    lineage: Lineage
    lease: Lease


class Cleared(msgspec.Struct, frozen=True):
    """What stood in an account's way."""

    failures: int
    lease: bool
    """Whether there was one that would never have ended."""
    credentials: int
    """How many others were known."""
