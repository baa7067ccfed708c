"""Which names exist: a misspelt one must not be answered with an empty list, which reads as flat."""

# A symbol that exchangeInfo doesn't list is unknown, with one exception: a delivery contract whose day has passed. Its
# name was right yesterday, and a client's configuration mustn't fail because the exchange has settled it.

import re
from datetime import UTC, datetime
from typing import Literal

from service.account.selection import Selection
from service.account.snapshot import Snapshot

_DELIVERY = re.compile(r"(.+)_([0-9]{2})([0-9]{2})([0-9]{2})", re.DOTALL)
"""`BTCUSD_261225`: a pair, and the day of delivery."""
_DELIVERY_HOUR = 8
"""Of that day, UTC (exchangeInfo's `deliveryDate`)."""


def unknown_parameter(selection: Selection, snapshot: Snapshot) -> Literal["asset", "symbol"] | None:
    """The parameter with an unknown name among its values; `None`: all names are known.

    Known are the names in the account, and those in the exchangeInfo that came with the snapshot: its `margin_assets`,
    symbols to margin assets, empty while there is none. So all replicas decide alike while they serve the snapshot.
    """
    assets = (selection.assets or frozenset()) - snapshot.by_asset.keys()
    if assets and assets - {*snapshot.margin_assets.values(), *(row.margin_asset for row in snapshot.positions)}:
        return "asset"
    symbols = (selection.symbols or frozenset()) - snapshot.by_symbol.keys() - snapshot.margin_assets.keys()
    if symbols:
        pairs = {symbol.rpartition("_")[0] for symbol in snapshot.margin_assets}
        if not all(was_delivered(symbol, pairs, snapshot.request_time) for symbol in symbols):
            return "symbol"
    return None


def was_delivered(symbol: str, pairs: set[str], now: int) -> bool:
    """Whether it is a contract of one of these pairs whose day has passed; `now` is epoch ms by the exchange's clock.

    exchangeInfo no longer lists such contracts, but callers may still name them: the right answer is empty.
    """
    match = _DELIVERY.fullmatch(symbol)
    if match is None or match[1] not in pairs:
        return False
    try:
        delivery = datetime(2000 + int(match[2]), int(match[3]), int(match[4]), _DELIVERY_HOUR, tzinfo=UTC)
    except ValueError:
        return False
    return delivery.timestamp() * 1000 <= now
