"""What a caller selects. A selection is canonical (sets, no order), so that equal reads share one memoised view."""

import msgspec

from service.account.documents import RowKind, Shape
from service.account.rows import Row, pair_of


class Selection(msgspec.Struct, frozen=True, cache_hash=True):
    """Filters that combine with AND; `None` keeps everything. What a caller may see is part of it.

    `assets` and `sides` are what the caller selects, `visible_assets` and `visible_sides` what is granted. The two
    differ in meaning only where a row's margin asset is unknown, which no finite set contains.
    """

    shape: Shape
    assets: frozenset[str] | None = None
    symbols: frozenset[str] | None = None
    pairs: frozenset[str] | None = None
    """As the exchange's own clients select; `/v1` has no such filter."""
    sides: frozenset[str] | None = None
    open: bool | None = None
    nonzero: bool | None = None
    visible_assets: frozenset[str] | None = None
    visible_sides: frozenset[str] | None = None

    def keeps(self, row: Row, kind: RowKind) -> bool:
        """Whether a row of this kind is selected and granted. What a row isn't keyed by doesn't touch it."""
        wanted = getattr(self, kind.flag) if kind.flag else None
        return (
            _within(row.asset, self.visible_assets)
            and _within(row.asset, self.assets)
            and (row.symbol is None or (_within(row.symbol, self.symbols) and _within(pair_of(row.symbol), self.pairs)))
            and (row.side is None or (_within(row.side, self.visible_sides) and _within(row.side, self.sides)))
            and (wanted is None or wanted is not row.zero)
        )

    @property
    def narrowed(self) -> bool:
        """Whether a grant hides rows, or could."""
        return self.visible_assets is not None or self.visible_sides is not None

    @property
    def whole(self) -> bool:
        """Whether it keeps every row of every account."""
        return self == Selection(self.shape)


def _within(value: str | None, names: frozenset[str] | None) -> bool:
    return names is None or value in names
