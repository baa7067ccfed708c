"""What a caller selects, and the bytes that answer it.

A view is a cut of the snapshot: rows byte for byte as the exchange sent them, in its order, joined with `,`.
A selection is canonical (sets, no order), so that equal reads share one memoised view.
"""

# A cut never parses or prints a value: it selects slices, or splices new arrays into the body at `Snapshot.spans`. So
# numbers keep their digits, members their order, and equal snapshots give equal bytes and tags in every replica.
#
# What a grant hides is part of the selection, never a later step: a view in the memo is complete for its key, and one
# client's view can't be served to another that may see less.

import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

import msgspec

from service.account.snapshot import AssetRow, PositionRow, Snapshot

MAX_VIEWS = 256
"""Views that a snapshot memoises. A dozen clients with a handful of polls each stay far below."""

MAX_VIEW_BYTES = 8 * 1024 * 1024
"""Of those views together: two accounts of the largest accepted size."""

T = TypeVar("T", bound=AssetRow | PositionRow)


class Shape(Enum):
    """The form of an answer."""

    ACCOUNT = "account"
    """The account object, both arrays cut."""
    ASSETS = "assets"
    POSITIONS = "positions"
    SYMBOL = "symbol"
    """The array of one symbol's rows."""
    ASSET = "asset"
    """One asset row alone."""
    POSITION = "position"
    """One position row alone."""


class Selection(msgspec.Struct, frozen=True):
    """Filters that combine with AND; `None` keeps everything. What a caller may see is part of it.

    `assets` and `sides` are what the caller selects, `visible_assets` and `visible_sides` what is granted. The two
    differ in meaning only where a row's margin asset is unknown, which no finite set contains.
    """

    shape: Shape
    assets: frozenset[str] | None = None
    symbols: frozenset[str] | None = None
    sides: frozenset[str] | None = None
    open: bool | None = None
    nonzero: bool | None = None
    visible_assets: frozenset[str] | None = None
    visible_sides: frozenset[str] | None = None

    def keeps_asset(self, row: AssetRow) -> bool:
        return (
            _within(row.asset, self.visible_assets)
            and _within(row.asset, self.assets)
            and (self.nonzero is None or self.nonzero is not row.zero)
        )

    def keeps_position(self, row: PositionRow) -> bool:
        return (
            _within(row.margin_asset, self.visible_assets)
            and _within(row.side, self.visible_sides)
            and _within(row.margin_asset, self.assets)
            and _within(row.symbol, self.symbols)
            and _within(row.side, self.sides)
            and (self.open is None or self.open is not row.flat)
        )

    @property
    def narrowed(self) -> bool:
        """Whether a grant hides rows, or could."""
        return self.visible_assets is not None or self.visible_sides is not None

    @property
    def whole(self) -> bool:
        """Whether it keeps every row of every account."""
        return self == Selection(self.shape)


class View(msgspec.Struct, frozen=True):
    """An answer's body and its strong entity tag, quotes included: equal in every replica."""

    body: bytes
    etag: str


class Views:
    """The views cut from one snapshot so far; bounded, and gone with the snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._cut: dict[Selection, View | None] = {}
        self._bytes = 0

    def view(self, selection: Selection) -> View | None:
        """The answer to a selection; `None` if it selects one row and none is kept."""
        if selection in self._cut:
            return self._cut[selection]
        body = cut(self.snapshot, selection)
        view = None if body is None else View(body, f'"{hashlib.sha256(body).hexdigest()}"')
        # At the bounds nothing is evicted: the first views are the polled ones, and a snapshot lives for seconds.
        size = len(body) if body is not None else 0
        if len(self._cut) < MAX_VIEWS and self._bytes + size <= MAX_VIEW_BYTES:
            self._cut[selection] = view
            self._bytes += size
        return view


def cut(snapshot: Snapshot, selection: Selection) -> bytes | None:
    """The bytes of a selection; `None` if it selects one row and none is kept."""
    match selection.shape:
        case Shape.ACCOUNT:
            if selection.whole:
                return snapshot.body
            spans, body = snapshot.spans, snapshot.body
            arrays = {
                spans.assets: _array(_kept_assets(snapshot, selection)),
                spans.positions: _array(_kept_positions(snapshot, selection)),
            }
            # What the exchange may add beside the arrays, such as a sum over all coins, would disclose hidden rows.
            if selection.narrowed:
                return b"{" + b",".join(_replaced(body, span, arrays) for span in spans.documented) + b"}"
            return _replaced(body, (0, len(body)), arrays)
        case Shape.ASSETS:
            return _array(_kept_assets(snapshot, selection))
        case Shape.POSITIONS | Shape.SYMBOL:
            return _array(_kept_positions(snapshot, selection))
        case Shape.ASSET:
            return _one(_kept_assets(snapshot, selection))
        case Shape.POSITION:
            return _one(_kept_positions(snapshot, selection))


def _replaced(body: bytes, span: tuple[int, int], arrays: Mapping[tuple[int, int], bytes]) -> bytes:
    """A piece of the body, with the arrays in it replaced."""
    start, end = span
    parts: list[bytes] = []
    for (first, last), array in sorted(arrays.items()):
        if start <= first and last <= end:
            parts += body[start:first], array
            start = last
    return b"".join([*parts, body[start:end]])


def _kept_assets(snapshot: Snapshot, selection: Selection) -> list[msgspec.Raw]:
    rows = _named(snapshot.assets, snapshot.by_asset, selection.assets)
    return [row.raw for row in rows if selection.keeps_asset(row)]


def _kept_positions(snapshot: Snapshot, selection: Selection) -> list[msgspec.Raw]:
    rows = _named(snapshot.positions, snapshot.by_symbol, selection.symbols)
    return [row.raw for row in rows if selection.keeps_position(row)]


def _named(rows: tuple[T, ...], index: Mapping[str, tuple[T, ...]], names: frozenset[str] | None) -> tuple[T, ...]:
    """The rows to filter: a single name is one lookup, however large the account is."""
    if names is not None and len(names) == 1:
        return index.get(next(iter(names)), ())
    return rows


def _array(rows: list[msgspec.Raw]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


def _one(rows: list[msgspec.Raw]) -> bytes | None:
    return bytes(rows[0]) if rows else None


def _within(value: str | None, names: frozenset[str] | None) -> bool:
    return names is None or value in names
