"""A document at one instant, and the views cut from it.

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
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec

from service.account.documents import Document, RowKind
from service.account.rows import Row, without
from service.account.selection import Selection

MAX_VIEWS = 256
"""Views that a snapshot memoises. A dozen clients with a handful of polls each stay far below."""

MAX_VIEW_BYTES = 8 * 1024 * 1024
"""Of those views together: two accounts of the largest accepted size."""

PositionMode: TypeAlias = Literal["one-way", "hedge"]

Span: TypeAlias = tuple[int, int]
"""A piece of the body: byte offsets, end exclusive."""

_NO_ROWS: Mapping[str, tuple[Row, ...]] = MappingProxyType({})


class Spans(msgspec.Struct, frozen=True):
    """The places of an object's parts in the body."""

    arrays: Mapping[RowKind, Span]
    """Brackets included."""
    documented: tuple[Span, ...]
    """The members that the exchange documents, arrays too, names included, in the body's order."""


class View(msgspec.Struct):
    """An answer's body and its strong entity tag, quotes included: equal in every replica."""

    body: bytes
    etag: str
    kept: bool = True
    """Whether the snapshot memoises it. Another is made for each read, and not worth compressing."""
    compressed: bytes | None = None
    """The body in gzip, once somebody has asked for it; hardly larger than the body."""


class Snapshot:
    """A document at one instant: the body as sent, its rows in the exchange's order, and the views cut from it so far.

    The rows keep the body's buffer alive, so only copies of what is cut from a snapshot may outlive it.

    Args:
        document: which it is.
        body: the exchange's answer.
        rows: all of its rows, by their kind.
        spans: where the parts that a cut replaces are in it; `None`: the body is the array of rows.
        request_time: when it was requested: epoch ms on the exchange's clock.
        requested_monotonic_ms: the same, on this process's steady clock.
        margin_assets: the map of symbols to margin assets that the rows were indexed by. It stays with the snapshot,
            because exchangeInfo may be read again while the snapshot is served.
    """

    __slots__ = (
        *("__weakref__", "_bytes", "_index", "_views", "body", "document", "margin_assets", "mode", "request_time"),
        *("requested_monotonic_ms", "rows", "spans"),
    )

    def __init__(  # noqa: PLR0913 - all but the parts of the body by name, and called in one place
        self,
        document: Document,
        body: bytes,
        rows: Mapping[RowKind, tuple[Row, ...]],
        spans: Spans | None,
        *,
        request_time: int,
        requested_monotonic_ms: int,
        margin_assets: Mapping[str, str],
    ) -> None:
        self.document = document
        self.body = body
        self.rows = rows
        self.spans = spans
        self.request_time = request_time
        self.requested_monotonic_ms = requested_monotonic_ms
        self.margin_assets = margin_assets
        self._index: dict[str, dict[str, tuple[Row, ...]]] = {}
        for kind, each in rows.items():
            index = self._index[kind.keys[0]] = {}
            for row in each:
                name = row.symbol or row.asset or ""
                index[name] = (*index.get(name, ()), row)
        # The body doesn't say it: hedge accounts have LONG and SHORT rows, one-way accounts only BOTH.
        sides = {row.side for each in rows.values() for row in each} - {None}
        self.mode: PositionMode | None = None if not sides else "one-way" if sides == {"BOTH"} else "hedge"
        """`None` without any row of a side."""
        self._views: dict[Selection, View | None] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        counts = {kind.name: len(rows) for kind, rows in self.rows.items()}
        return f"<Snapshot {self.document.name} request_time={self.request_time} rows={counts}>"

    def named(self, key: Literal["asset", "symbol"]) -> Mapping[str, tuple[Row, ...]]:
        """The rows that are keyed by assets, or by symbols first, by that name."""
        return self._index.get(key, _NO_ROWS)

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
        elif view is not None:
            view.kept = False
        return view

    def cut(self, selection: Selection) -> bytes | None:
        """The bytes of a selection; `None` if it selects one row and none is kept."""
        shape = selection.shape
        if selection.whole and not shape.named and shape.kinds is self.document.kinds:
            return self.body
        kept = {kind: self._kept(kind, selection) for kind in shape.kinds}
        if shape.one:
            (rows,) = kept.values()
            return bytes(rows[0]) if rows else None
        if self.spans is None or shape.kinds is not self.document.kinds:
            (rows,) = kept.values()
            return _array(rows)
        arrays = {self.spans.arrays[kind]: _array(rows) for kind, rows in kept.items()}
        # What the exchange may add beside the arrays, such as a sum over all coins, would disclose hidden rows.
        if selection.narrowed:
            return b"{" + b",".join(_replaced(self.body, span, arrays) for span in self.spans.documented) + b"}"
        return _replaced(self.body, (0, len(self.body)), arrays)

    def _kept(self, kind: RowKind, selection: Selection) -> list[bytes | msgspec.Raw]:
        """The bytes of the rows of a kind that a selection keeps."""
        names = selection.assets if kind.keys[0] == "asset" else selection.symbols
        rows = self.rows[kind]
        if names is not None and len(names) == 1:  # one lookup, however large the account is
            rows = self._index[kind.keys[0]].get(next(iter(names)), ())
        found = [row.raw for row in rows if selection.keeps(row, kind)]
        if selection.visible_assets is None or not kind.private:
            return [*found]
        return [without(bytes(raw), kind.private) for raw in found]


def _replaced(body: bytes, span: Span, arrays: Mapping[Span, bytes]) -> bytes:
    """A piece of the body, with the arrays in it replaced."""
    start, end = span
    parts: list[bytes] = []
    for (first, last), array in sorted(arrays.items()):
        if start <= first and last <= end:
            parts += body[start:first], array
            start = last
    return b"".join([*parts, body[start:end]])


def _array(rows: list[bytes | msgspec.Raw]) -> bytes:
    return b"[" + b",".join(rows) + b"]"
