"""Which names exist: a misspelt one must not be answered with an empty list, which reads as flat."""

# A symbol that exchangeInfo doesn't list is unknown, with one exception: a delivery contract whose day has passed. Its
# name was right yesterday, and a client's configuration mustn't fail because the exchange has settled it.

import re
from datetime import UTC, datetime
from typing import Literal

from service.account.rows import pair_of
from service.account.selection import Selection
from service.account.snapshot import Snapshot

_DELIVERY = re.compile(r"(.+)_([0-9]{2})([0-9]{2})([0-9]{2})", re.DOTALL)
"""`BTCUSD_261225`: a pair, and the day of delivery."""
_DELIVERY_HOUR = 8
"""Of that day, UTC (exchangeInfo's `deliveryDate`)."""


def unknown_parameter(selection: Selection, snapshot: Snapshot) -> Literal["asset", "symbol"] | None:
    """The parameter with an unknown name among its values; `None`: all names are known. A pair counts as a symbol.

    Known are the names in the snapshot, and those in the exchangeInfo that came with it: its `margin_assets`, symbols
    to margin assets, empty while there is none. So all replicas decide alike while they serve the snapshot.
    """
    assets = (selection.assets or frozenset()) - snapshot.named("asset").keys()
    if assets and assets - {
        *snapshot.margin_assets.values(),
        *(row.asset for each in snapshot.rows.values() for row in each),
    }:
        return "asset"
    own, listed = snapshot.named("symbol").keys(), snapshot.margin_assets.keys()
    symbols = (selection.symbols or frozenset()) - own - listed
    if symbols or selection.pairs:
        pairs = {pair_of(symbol) for symbol in listed}
        if not all(was_delivered(symbol, pairs, snapshot.request_time) for symbol in symbols):
            return "symbol"
        if (selection.pairs or frozenset()) - pairs - {pair_of(symbol) for symbol in own}:
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
