"""The shapes of what the replicas share."""

from collections.abc import Mapping

import msgspec

from service.exchange.budget import Hold


class Entry(msgspec.Struct, frozen=True):
    """A snapshot on its way into or out of Redis."""

    body: bytes
    asked_at: int
    """Ms since the epoch, on the exchange's clock."""
    generation: int
    """Of the credential it was asked with."""
    life: int
    """Ms from `asked_at` to the hard cap; the entry expires with it."""
    margin_assets: Mapping[str, str]
    """What exchangeInfo said when it was indexed, so that every replica cuts the same views."""


class Look(msgspec.Struct, frozen=True):
    """What one look found."""

    entry: Entry | None
    """Only where it is newer than what the looker has."""
    remaining: int
    """Ms the entry has left to live."""
    address: Hold
    credential: Hold
