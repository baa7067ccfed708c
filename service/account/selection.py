"""What a caller selects. A selection is canonical (sets, no order), so that equal reads share one memoised view."""

from enum import Enum

import msgspec

from service.account.rows import AssetRow, PositionRow


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


class Selection(msgspec.Struct, frozen=True, cache_hash=True):
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


def _within(value: str | None, names: frozenset[str] | None) -> bool:
    return names is None or value in names
