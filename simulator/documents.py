"""A book as the bytes of /dapi/v1/balance, /dapi/v1/positionRisk and /dapi/v2/leverageBracket ("COIN-M docs").

The same rows as in `statement`, at the same marks: whoever reads both finds the same amounts.
"""

from collections.abc import Callable
from decimal import Decimal
from hashlib import blake2b

import msgspec

from simulator.book import ZERO, Book, Holding, Margins, Position, Side, truncated
from simulator.market import CONTRACTS, Contract, Market
from simulator.statement import DEFAULT_LEVERAGE, ROW_EXTRA, Row, break_even, eight, max_quantity

MOST_LEVERAGE, MOST_CONTRACTS = 125, 1_000_000  # of the only bracket there is here: `Contract.maintenance_rate` is flat

Wanted = Callable[[Contract], bool]


def balances(book: Book, market: Market, now_ms: int) -> bytes:
    """One row an asset, in the order of the account's."""
    alias = blake2b(book.name.encode(), digest_size=3).hexdigest()
    rows: list[Row] = [
        {
            "accountAlias": alias,
            "asset": asset,
            "balance": eight(held.wallet),
            "withdrawAvailable": eight(max(ZERO, min(held.cross_wallet, held.available))),
            "crossWalletBalance": eight(held.cross_wallet),
            "crossUnPnl": eight(held.cross_unrealized),
            "availableBalance": eight(held.available),
            "updateTime": book.balances_updated_ms.get(asset, 0),
        }
        for asset, held in book.holdings(market, now_ms).items()
    ]
    return _encoded(book, rows)


def position_risk(book: Book, market: Market, now_ms: int, wanted: Wanted) -> bytes:
    """One row a symbol and side, in the order of the account's."""
    holdings, figures = book.holdings(market, now_ms), book.margins(market, now_ms)
    rows = list[Row]()
    for contract in filter(wanted, CONTRACTS):
        mark = market.mark(contract, now_ms)
        for side in book.sides:
            position = book.position(contract.symbol, side)
            row = _risk_row(contract, side, mark)
            if position is not None:
                row |= _open_risk(position, figures[contract.symbol, side], holdings[market.margin_asset(contract)])
            rows.append(row)
    return _encoded(book, rows)


def leverage_brackets(book: Book, wanted: Wanted) -> bytes:
    """One row a symbol, with one bracket; what the docs call `qtylFloor` is `qtyFloor` in the clients that read it."""
    rows: list[Row] = [
        {
            "symbol": contract.symbol,
            "brackets": [
                {
                    "bracket": 1,
                    "initialLeverage": MOST_LEVERAGE,
                    "qtyCap": MOST_CONTRACTS,
                    "qtyFloor": 0,
                    "maintMarginRatio": float(contract.maintenance_rate),
                    "cum": 0.0,
                }
            ],
        }
        for contract in CONTRACTS
        if wanted(contract)
    ]
    return _encoded(book, rows)


def liquidation_price(position: Position, figures: Margins, held: Holding) -> Decimal:
    """The mark at which what stands behind a position equals its maintenance margin; zero: there is none.

    With V = Q·C, entry E, rate r and W coins behind it: W + V·(1/E - 1/M) = r·|V|/M, so M = (V + r·|V|)/(W + V/E).
    Behind an isolated one stands its own wallet, behind a cross one all cross coins but what the others need.
    """
    behind = position.isolated_wallet
    if not position.isolated:
        others = (held.cross_unrealized - figures.unrealized) - (held.cross_maintenance - figures.maintenance)
        behind = held.cross_wallet + others
    value = Decimal(position.amount * position.contract.size)
    coins, needed = behind + value / position.entry_price, value + position.contract.maintenance_rate * abs(value)
    return truncated(needed / coins) if coins * needed > 0 else ZERO


def _risk_row(contract: Contract, side: Side, mark: Decimal) -> Row:
    return {
        "symbol": contract.symbol,
        "positionAmt": "0",
        "entryPrice": "0.0",
        "breakEvenPrice": "0.0",
        "markPrice": eight(mark),
        "unRealizedProfit": "0.00000000",
        "liquidationPrice": "0",
        "leverage": str(DEFAULT_LEVERAGE),
        "maxQty": max_quantity(DEFAULT_LEVERAGE),
        "marginType": "cross",
        "isolatedMargin": "0.00000000",
        "isAutoAddMargin": "false",
        "positionSide": side,
        "notionalValue": "0",  # not in the docs, but in the rows that public clients have recorded
        "updateTime": 0,
    }


def _open_risk(position: Position, figures: Margins, held: Holding) -> Row:
    """What of the row is other than without a position."""
    liquidation = liquidation_price(position, figures, held) if position.amount else ZERO
    return {
        "positionAmt": str(position.amount),
        "entryPrice": f"{position.entry_price:f}" if position.amount else "0.0",
        "breakEvenPrice": break_even(position),
        "unRealizedProfit": eight(figures.unrealized),
        "liquidationPrice": eight(liquidation) if liquidation else "0",
        "leverage": str(position.leverage),
        "maxQty": max_quantity(position.leverage),
        "marginType": "isolated" if position.isolated else "cross",
        "notionalValue": eight(figures.notional),
        "isolatedMargin": eight(position.isolated_wallet + figures.unrealized if position.isolated else ZERO),
        "updateTime": position.updated_ms,
    }


def _encoded(book: Book, rows: list[Row]) -> bytes:
    extra: Row = {"futureField": ROW_EXTRA} if book.options.extra_fields else {}
    return msgspec.json.encode([row | extra for row in rows])
