"""A book as the bytes of /dapi/v1/account ("COIN-M docs, account information").

Zeros are printed as the docs' example has them, `"0"`, `"0.0"` and `"0.00000000"` in one row, so that a
client which reads numbers and prints them again is found out.
"""

from decimal import Decimal

import msgspec

from simulator.book import ZERO, Book, Holding, Margins, Options, Position, Side
from simulator.market import CONTRACTS, Contract, Market

LONG_MAX = "9223372036854775807"  # printed as maxQty at leverage 1
DEFAULT_LEVERAGE = 20
TAKER_FEE = Decimal("0.0004")  # what a real breakEvenPrice lay off its entry

REST_ORDER = ("assets", "positions", "canDeposit", "canTrade", "canWithdraw", "feeTier", "updateTime")
WS_ORDER = ("feeTier", "canTrade", "canDeposit", "canWithdraw", "updateTime", "assets", "positions")
WS_POSITION_ORDER = (
    "symbol", "initialMargin", "maintMargin", "unrealizedProfit", "positionInitialMargin", "openOrderInitialMargin",
    "leverage", "isolated", "positionSide", "entryPrice", "maxQty", "notionalValue", "isolatedWallet", "updateTime",
    "positionAmt", "breakEvenPrice",
)  # fmt: skip

# Fields no client knows, spelt as awkwardly as JSON allows: escapes, non-ASCII, quotes that look like keys.
ROW_EXTRA = msgspec.Raw(b'{"note":"caf\\u00e9 \\"symbol\\":\\"X\\" \xe2\x82\xbf \\/","depth":[1.0e-7,[null,{}]]}')
TOP_EXTRA = msgspec.Raw(b'"\\ud83d\\ude80 } ] \xe5\x80\x89"')

Row = dict[str, object]


def statement(book: Book, market: Market, now_ms: int) -> bytes:
    """The whole body at the marks of *now_ms*."""
    if book.raw is not None:
        return book.raw
    top: Row = {
        "assets": [
            _asset_row(asset, held, book.balances_updated_ms.get(asset, 0), book.options)
            for asset, held in book.holdings(market, now_ms).items()
        ],
        "positions": _position_rows(book, market, now_ms),
        "canDeposit": True,
        "canTrade": True,
        "canWithdraw": True,
        "feeTier": 2,
        "updateTime": 0,  # always 0 in every example
    }
    ordered = {key: top[key] for key in (WS_ORDER if book.options.key_order == "ws" else REST_ORDER)}
    if book.options.extra_fields:
        ordered["futureField"] = TOP_EXTRA
    return msgspec.json.encode(ordered)


def eight(amount: Decimal) -> str:
    return f"{amount:.8f}"


def _asset_row(asset: str, held: Holding, updated_ms: int, options: Options) -> Row:
    row: Row = {
        "asset": asset,
        "walletBalance": eight(held.wallet),
        "unrealizedProfit": eight(held.unrealized),
        "marginBalance": eight(held.margin_balance),
        "maintMargin": eight(held.maintenance),
        "initialMargin": eight(held.initial),
        "positionInitialMargin": eight(held.position_initial),
        "openOrderInitialMargin": eight(held.open_order),
        "maxWithdrawAmount": eight(max(ZERO, min(held.cross_wallet, held.available))),
        "crossWalletBalance": eight(held.cross_wallet),
        "crossUnPnl": eight(held.cross_unrealized),
        "availableBalance": eight(held.available),
        "updateTime": updated_ms,
    }
    if options.extra_fields:
        row["futureField"] = ROW_EXTRA
    return row


def _position_rows(book: Book, market: Market, now_ms: int) -> list[Row]:
    computed = book.margins(market, now_ms)
    rows = []
    for contract in CONTRACTS:
        for side in book.sides:
            position = book.position(contract.symbol, side)
            if position is None:
                row = _zero_row(contract, side)
            else:
                row = _open_row(position, computed[contract.symbol, side])
            rows.append(_fitted(row, book.options, is_open=position is not None))
    return rows


def _zero_row(contract: Contract, side: Side) -> Row:
    return {
        "symbol": contract.symbol,
        "positionAmt": "0",
        "initialMargin": "0",
        "maintMargin": "0",
        "unrealizedProfit": "0.00000000",
        "positionInitialMargin": "0",
        "openOrderInitialMargin": "0",
        "leverage": str(DEFAULT_LEVERAGE),
        "isolated": False,
        "positionSide": side,
        "entryPrice": "0.0",
        "breakEvenPrice": "0.0",
        "maxQty": max_quantity(DEFAULT_LEVERAGE),
        "notionalValue": "0",
        "isolatedWallet": "0.00000000",
        "updateTime": 0,
    }


def _open_row(position: Position, figures: Margins) -> Row:
    return {
        "symbol": position.symbol,
        "positionAmt": str(position.amount),
        "initialMargin": eight(figures.initial),
        "maintMargin": eight(figures.maintenance),
        "unrealizedProfit": eight(figures.unrealized),
        "positionInitialMargin": eight(figures.position_initial),
        "openOrderInitialMargin": eight(figures.open_order) if figures.open_order else "0",
        "leverage": str(position.leverage),
        "isolated": position.isolated,
        "positionSide": position.side,
        "entryPrice": f"{position.entry_price:f}" if position.amount else "0.0",
        "breakEvenPrice": break_even(position),
        "maxQty": max_quantity(position.leverage),
        "notionalValue": eight(figures.notional),
        "isolatedWallet": eight(position.isolated_wallet),
        "updateTime": position.updated_ms,
    }


def break_even(position: Position) -> str:
    fee = TAKER_FEE if position.amount > 0 else -TAKER_FEE
    return eight(position.entry_price * (1 + fee)) if position.amount else "0.0"


def max_quantity(leverage: int) -> str:
    """50 contracts at leverage 125, as in the docs' example, and more below."""
    return LONG_MAX if leverage == 1 else str(6250 // leverage)


def _fitted(row: Row, options: Options, *, is_open: bool) -> Row:
    """The row with the optional fields, the order and the extras that *options* say."""
    absent = set()
    if not (options.notional_value == "all" or (options.notional_value == "open" and is_open)):
        absent.add("notionalValue")
    if not options.isolated_wallet:
        absent.add("isolatedWallet")
    if not options.break_even_price:
        absent.add("breakEvenPrice")
    order = WS_POSITION_ORDER if options.key_order == "ws" else tuple(row)
    fitted = {key: row[key] for key in order if key not in absent}
    if options.extra_fields:
        fitted["futureField"] = ROW_EXTRA
    return fitted
