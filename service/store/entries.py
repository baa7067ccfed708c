"""The shapes of what the replicas share about an account."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from service.exchange.errors import ExchangeError
from service.exchange.ports import Holds

Lease: TypeAlias = Literal["not-tried", "needless", "superseded", "taken", "busy"]
"""What became of a try for it: `needless` where a young snapshot spares the call, `superseded` where a newer
credential than the caller's is in use."""

LONGEST_NUMBER = 12
"""Digits of an age in ms: beyond any window."""

Verdict: TypeAlias = Literal["kept", "older", "superseded", "lost"]
"""What became of a snapshot: refused where an older one than what is there, by an older credential, or without the
lease."""


class Entry(msgspec.Struct, frozen=True):
    """A snapshot on its way into or out of Redis."""

    body: bytes
    asked_at: int
    """Ms since the epoch, on the exchange's clock."""
    generation: int
    """Of the credential it was asked with; 0: not known."""
    life: int
    """Ms from `asked_at` to the hard cap; the entry expires with it."""
    margin_assets: Mapping[str, str]
    """What exchangeInfo said when it was indexed, so that every replica cuts the same views."""


class Failed(msgspec.Struct, frozen=True):
    """A failed refresh, on its way into or out of Redis."""

    count: int
    """How many in a row."""
    error: ExchangeError
    pause: int
    """Ms until the next try; negative: since then."""


class Wish(msgspec.Struct, frozen=True):
    """What a replica that may not ask the exchange itself wants of one that may."""

    acceptable: int
    """Age in ms below which a snapshot will do."""
    forced: bool
    """Whether a caller forces it on a snapshot that is still fresh."""


class News(msgspec.Struct, frozen=True):
    """An announcement: an account's state has changed, or a refresh is wished for."""

    snapshot: str
    """The key that tells the account."""
    wish: Wish | None = None

    def encode(self) -> str:
        wish = self.wish
        return self.snapshot if wish is None else f"{self.snapshot} {wish.acceptable} {int(wish.forced)}"

    @classmethod
    def decode(cls, message: str) -> "News":
        """A message as it was heard; what somebody else sent counts as a change, of whatever it names."""
        match message.split(" "):
            case [snapshot, acceptable, forced] if acceptable.isdecimal() and len(acceptable) < LONGEST_NUMBER:
                return cls(snapshot, Wish(int(acceptable), forced == "1"))
            case _:
                return cls(message)


class Kept(msgspec.Struct, frozen=True):
    """What became of a snapshot, and the generation of the credential that it was asked with."""

    verdict: Verdict
    generation: int


class Try(msgspec.Struct, frozen=True):
    """A try for an account's lease."""

    token: str
    acceptable: int
    """Age in ms below which a snapshot spares the call."""
    generation: int
    """Of this replica's credential; 0: not known yet."""


class Look(msgspec.Struct, frozen=True):
    """What one look found."""

    entry: Entry | None
    """Only where it is newer than what the looker has."""
    remaining: int
    """Ms the entry has left to live."""
    holds: Holds
    failed: Failed | None
    generation: int
    """Of the looker's credential; 0: not known."""
    newest: int
    """The generation of the credential in use; 0: nobody has used one for a while."""
    lease: Lease
