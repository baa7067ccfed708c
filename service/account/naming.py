"""Which names mean something: a misspelt one must not be answered with nothing, which reads as flat."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from service.account.selection import Selection
from service.account.snapshot import Snapshot

_DELIVERY = re.compile(r"(.+)_([0-9]{2})([0-9]{2})([0-9]{2})", re.DOTALL)
"""`BTCUSD_261225`: a pair, and the day of delivery."""
_DELIVERY_HOUR = 8
"""Of that day, UTC (the listing's `deliveryDate`)."""


def unknown_parameter(
    selection: Selection, snapshot: Snapshot, margin_assets: Mapping[str, str]
) -> Literal["asset", "symbol"] | None:
    """The parameter of which a value is a name that nobody knows; `None`: all mean something.

    Known is what the account has, and what the listing that came with the snapshot has: `margin_assets`, symbols to
    margin assets, empty while there is none. So every replica decides alike for as long as it serves the snapshot.
    """
    assets = (selection.assets or frozenset()) - snapshot.by_asset.keys()
    if assets and assets - {*margin_assets.values(), *(row.margin_asset for row in snapshot.positions)}:
        return "asset"
    symbols = (selection.symbols or frozenset()) - snapshot.by_symbol.keys() - margin_assets.keys()
    if symbols:
        pairs = {symbol.rpartition("_")[0] for symbol in margin_assets}
        if not all(was_delivered(symbol, pairs, snapshot.request_time) for symbol in symbols):
            return "symbol"
    return None


def was_delivered(symbol: str, pairs: set[str], now: int) -> bool:
    """Whether it is a contract of one of these pairs whose day has passed; `now` is epoch ms by the exchange's clock.

    ExchangeInfoStore forget such contracts, those who ask for them don't: there is nothing of them, and that is right.
    """
    match = _DELIVERY.fullmatch(symbol)
    if match is None or match[1] not in pairs:
        return False
    try:
        delivery = datetime(2000 + int(match[2]), int(match[3]), int(match[4]), _DELIVERY_HOUR, tzinfo=UTC)
    except ValueError:
        return False
    return delivery.timestamp() * 1000 <= now
