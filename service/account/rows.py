"""The rows of an account: a slice of the exchange's bytes each, and what filters and grants decide by."""

from collections.abc import Mapping

import msgspec

POSITION_SIDES = ("BOTH", "LONG", "SHORT")


class AssetRow(msgspec.Struct, frozen=True, gc=False):
    """One coin's balances and margins."""

    raw: msgspec.Raw
    asset: str
    zero: bool
    """`walletBalance` and `marginBalance` are both present and both zero."""


class PositionRow(msgspec.Struct, frozen=True, gc=False):
    """One symbol's position on one side."""

    raw: msgspec.Raw
    symbol: str
    side: str
    margin_asset: str | None
    """`None`: neither exchangeInfo nor the symbol's form says it; only a grant on all assets sees the row."""
    flat: bool
    """`positionAmt` is present and zero. A row without it is not flat: unknown is not zero."""


def margin_asset(symbol: str, margin_assets: Mapping[str, str]) -> str | None:
    """The coin a symbol is margined in: by exchangeInfo, else the text before `USD_` (`BTCUSD_PERP`: BTC)."""
    listed = margin_assets.get(symbol)
    if listed is not None:
        return listed
    coin, separator, _ = symbol.partition("USD_")
    return coin if coin and separator else None
