"""An account at one instant, and the views cut from it.

Nothing here rounds, re-orders or re-prints. A view has rows byte for byte as the exchange sent them, in its order,
joined with `,`.
"""

# A cut never parses or prints a value: it selects slices, or splices new arrays into the body at `Snapshot.spans`. So
# numbers keep their digits, members their order, and equal snapshots give equal bytes and tags in every replica.
#
# What a grant hides is part of the selection, never a later step: a view in the memo is complete for its key, and one
# client's view can't be served to another that may see less.

import hashlib
from collections.abc import Mapping
from typing import Literal, TypeAlias, TypeVar

import msgspec

from service.account.rows import AssetRow, PositionRow
from service.account.selection import Selection, Shape

MAX_VIEWS = 256
"""Views that a snapshot memoises. A dozen clients with a handful of polls each stay far below."""

MAX_VIEW_BYTES = 8 * 1024 * 1024
"""Of those views together: two accounts of the largest accepted size."""

PositionMode: TypeAlias = Literal["one-way", "hedge"]

DOCUMENTED = frozenset({"assets", "positions", "canDeposit", "canTrade", "canWithdraw", "feeTier", "updateTime"})
"""Members of the account object that the exchange documents. Members that it may add, such as sums over all coins, are
not for a client that may see only some rows."""

T = TypeVar("T", bound=AssetRow | PositionRow)


class Spans(msgspec.Struct, frozen=True):
    """The positions of the two arrays in the body: byte offsets, end exclusive, brackets included."""

    assets: tuple[int, int]
    positions: tuple[int, int]
    documented: tuple[tuple[int, int], ...]
    """The positions of the members of `DOCUMENTED`, names included, in the body's order."""


class View(msgspec.Struct):
    """An answer's body and its strong entity tag, quotes included: equal in every replica."""

    body: bytes
    etag: str
    compressed: bytes | None = None
    """The body in gzip, once somebody has asked for it; hardly larger than the body."""


class Snapshot:
    """An account at one instant: the body as sent, its rows in the exchange's order, and the views cut from it so far.

    The rows keep the body's buffer alive, so only copies of what is cut from a snapshot may outlive it.

    Args:
        body: the exchange's answer.
        spans: where the parts that a cut replaces are in it.
        assets: its rows.
        positions: its rows.
        request_time: when it was requested: epoch ms on the exchange's clock.
        requested_monotonic_ms: the same, on this process's steady clock.
        margin_assets: the map of symbols to margin assets that the rows were indexed by. It stays with the snapshot,
            because exchangeInfo may be read again while the snapshot is served.
    """

    __slots__ = (
        *("__weakref__", "_bytes", "_views", "assets", "body", "by_asset", "by_symbol", "margin_assets", "mode"),
        *("positions", "request_time", "requested_monotonic_ms", "spans"),
    )

    def __init__(  # noqa: PLR0913 - all but the parts of the body by name, and called in one place
        self,
        body: bytes,
        spans: Spans,
        assets: tuple[AssetRow, ...],
        positions: tuple[PositionRow, ...],
        *,
        request_time: int,
        requested_monotonic_ms: int,
        margin_assets: Mapping[str, str],
    ) -> None:
        self.body = body
        self.spans = spans
        self.assets = assets
        self.positions = positions
        self.request_time = request_time
        self.requested_monotonic_ms = requested_monotonic_ms
        self.margin_assets = margin_assets
        self.by_asset = {row.asset: (row,) for row in assets}
        self.by_symbol: dict[str, tuple[PositionRow, ...]] = {}
        for row in positions:
            self.by_symbol[row.symbol] = (*self.by_symbol.get(row.symbol, ()), row)
        # The body doesn't say it: hedge accounts have LONG and SHORT rows, one-way accounts only BOTH.
        one_way = all(row.side == "BOTH" for row in positions)
        self.mode: PositionMode | None = None if not positions else "one-way" if one_way else "hedge"
        """`None` without any position row."""
        self._views: dict[Selection, View | None] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Snapshot request_time={self.request_time} assets={len(self.assets)} positions={len(self.positions)}>"

    def view(self, selection: Selection) -> View | None:
        """The answer to a selection; `None` if it selects one row and none is kept."""
        if selection in self._views:
            return self._views[selection]
        body = self.cut(selection)
        view = None if body is None else View(body, f'"{hashlib.sha256(body).hexdigest()}"')
        # At the bounds nothing is evicted: the first views are the polled ones, and a snapshot lives for seconds.
        size = len(body) if body is not None else 0
        if len(self._views) < MAX_VIEWS and self._bytes + size <= MAX_VIEW_BYTES:
            self._views[selection] = view
            self._bytes += size
        return view

    def cut(self, selection: Selection) -> bytes | None:
        """The bytes of a selection; `None` if it selects one row and none is kept."""
        match selection.shape:
            case Shape.ACCOUNT:
                if selection.whole:
                    return self.body
                arrays = {
                    self.spans.assets: _array(self._kept_assets(selection)),
                    self.spans.positions: _array(self._kept_positions(selection)),
                }
                # What the exchange may add beside the arrays, such as a sum over all coins, would disclose hidden rows.
                if selection.narrowed:
                    return b"{" + b",".join(_replaced(self.body, span, arrays) for span in self.spans.documented) + b"}"
                return _replaced(self.body, (0, len(self.body)), arrays)
            case Shape.ASSETS:
                return _array(self._kept_assets(selection))
            case Shape.POSITIONS | Shape.SYMBOL:
                return _array(self._kept_positions(selection))
            case Shape.ASSET:
                return _one(self._kept_assets(selection))
            case Shape.POSITION:
                return _one(self._kept_positions(selection))

    def _kept_assets(self, selection: Selection) -> list[msgspec.Raw]:
        rows = _named(self.assets, self.by_asset, selection.assets)
        return [row.raw for row in rows if selection.keeps_asset(row)]

    def _kept_positions(self, selection: Selection) -> list[msgspec.Raw]:
        rows = _named(self.positions, self.by_symbol, selection.symbols)
        return [row.raw for row in rows if selection.keeps_position(row)]


def _replaced(body: bytes, span: tuple[int, int], arrays: Mapping[tuple[int, int], bytes]) -> bytes:
    """A piece of the body, with the arrays in it replaced."""
    start, end = span
    parts: list[bytes] = []
    for (first, last), array in sorted(arrays.items()):
        if start <= first and last <= end:
            parts += body[start:first], array
            start = last
    return b"".join([*parts, body[start:end]])


def _named(rows: tuple[T, ...], index: Mapping[str, tuple[T, ...]], names: frozenset[str] | None) -> tuple[T, ...]:
    """The rows to filter: a single name is one lookup, however large the account is."""
    if names is not None and len(names) == 1:
        return index.get(next(iter(names)), ())
    return rows


def _array(rows: list[msgspec.Raw]) -> bytes:
    return b"[" + b",".join(rows) + b"]"


def _one(rows: list[msgspec.Raw]) -> bytes | None:
    return bytes(rows[0]) if rows else None
