"""An account: balances and positions, and their arithmetic.

Standard inverse-contract formulas, all amounts in the margin coin, truncated to 8 decimals (a real trade on
demo trading agreed with truncation; Binance documents no rounding rule).
"""

from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal
from typing import Literal

import msgspec

from simulator.market import BY_SYMBOL, CONTRACTS, Contract, Market

Side = Literal["BOTH", "LONG", "SHORT"]
ONE_WAY: tuple[Side, ...] = ("BOTH",)
HEDGE: tuple[Side, ...] = ("BOTH", "LONG", "SHORT")

MIN_ASSETS, MAX_ASSETS = 20, 50
ASSETS = (
    *dict.fromkeys(contract.base for contract in CONTRACTS),
    *("WLD", "ATOM", "XTZ", "ALGO", "EGLD", "FTM", "THETA", "VET", "ICX", "ZEC", "AXS", "SAND", "MANA", "GALA"),
    *("APE", "GMT", "OP", "ARB", "INJ", "RUNE", "KNC", "ROSE", "CHZ", "ENS", "CRV", "SUSHI", "APT", "HBAR"),
    *("ICP", "STX"),
)

EIGHT_DECIMALS = Decimal("1E-8")
ZERO = Decimal(0)


def truncated(amount: Decimal) -> Decimal:
    return amount.quantize(EIGHT_DECIMALS, rounding=ROUND_DOWN)


class Position(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One row that is not zero: `amount` in contracts, signed (SHORT is negative, as on the wire)."""

    symbol: str
    side: Side
    amount: int
    entry_price: Decimal
    leverage: int = 20
    isolated: bool = False
    open_order_margin: Decimal = ZERO
    updated_ms: int = 0

    @property
    def contract(self) -> Contract:
        return BY_SYMBOL[self.symbol]

    @property
    def isolated_wallet(self) -> Decimal:
        """What was set aside when it was opened: the initial margin at the entry price."""
        if not self.isolated:
            return ZERO
        return truncated(Decimal(abs(self.amount) * self.contract.size) / self.entry_price / self.leverage)


class Margins(msgspec.Struct, frozen=True):
    """A position at one mark price; `notional` is signed like the amount."""

    notional: Decimal
    unrealized: Decimal
    position_initial: Decimal
    open_order: Decimal
    maintenance: Decimal

    @property
    def initial(self) -> Decimal:
        return self.position_initial + self.open_order


def margins(position: Position, mark: Decimal) -> Margins:
    """By the mark price: notional = Q·C/M; uPnL = Q·C·(1/E - 1/M); margins are shares of the notional."""
    value = Decimal(position.amount * position.contract.size)
    notional = value / mark
    return Margins(
        notional=truncated(notional),
        unrealized=truncated(value * (mark - position.entry_price) / (position.entry_price * mark)),
        position_initial=truncated(abs(notional) / position.leverage),
        open_order=truncated(position.open_order_margin),
        maintenance=truncated(abs(notional) * position.contract.maintenance_rate),
    )


class Holding(msgspec.Struct, frozen=True):
    """One asset of the account: sums over its position rows as they are printed, so that they add up."""

    wallet: Decimal
    cross_wallet: Decimal
    unrealized: Decimal
    cross_unrealized: Decimal
    cross_maintenance: Decimal
    maintenance: Decimal
    position_initial: Decimal
    open_order: Decimal
    available: Decimal

    @property
    def margin_balance(self) -> Decimal:
        return self.wallet + self.unrealized

    @property
    def initial(self) -> Decimal:
        return self.position_initial + self.open_order


def holding(wallet: Decimal, rows: Iterable[tuple[Position, Margins]]) -> Holding:
    """An asset's totals from its wallet and the positions margined in it."""
    every = list(rows)
    cross = [row for position, row in every if not position.isolated]
    cross_wallet = wallet - sum((position.isolated_wallet for position, _ in every), ZERO)
    cross_unrealized = sum((row.unrealized for row in cross), ZERO)
    bound = sum((row.initial for row in cross), ZERO)
    return Holding(
        wallet=wallet,
        cross_wallet=cross_wallet,
        unrealized=sum((row.unrealized for _, row in every), ZERO),
        cross_unrealized=cross_unrealized,
        cross_maintenance=sum((row.maintenance for row in cross), ZERO),
        maintenance=sum((row.maintenance for _, row in every), ZERO),
        position_initial=sum((row.position_initial for _, row in every), ZERO),
        open_order=sum((row.open_order for _, row in every), ZERO),
        available=max(ZERO, cross_wallet + cross_unrealized - bound),
    )


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """How the account is printed; the defaults are the REST page's example."""

    assets: int = MIN_ASSETS
    notional_value: Literal["none", "open", "all"] = "open"
    isolated_wallet: bool = False
    break_even_price: bool = True
    extra_fields: bool = False
    key_order: Literal["rest", "ws"] = "rest"

    def __post_init__(self) -> None:
        if not MIN_ASSETS <= self.assets <= MAX_ASSETS:
            raise ValueError(f"assets must be from {MIN_ASSETS} to {MAX_ASSETS}")


class Book:
    """One account. Mode and positions agree at all times: BOTH in one-way mode, LONG and SHORT in hedge mode."""

    def __init__(self, name: str, *, hedge: bool = False, options: Options | None = None) -> None:
        self.name = name
        self.hedge = hedge
        self.options = options or Options()
        self.raw: bytes | None = None  # answered instead of everything below, byte for byte
        self.raw_by_path: dict[str, bytes] = {}  # the same for the further documents, whatever parameters choose
        self.balances: dict[str, Decimal] = {}
        self.balances_updated_ms: dict[str, int] = {}
        self._positions: dict[tuple[str, Side], Position] = {}

    @property
    def sides(self) -> tuple[Side, ...]:
        """The rows each symbol has; BOTH stays, at zero, in hedge mode."""
        return HEDGE if self.hedge else ONE_WAY

    def positions(self) -> list[Position]:
        return list(self._positions.values())

    def position(self, symbol: str, side: Side) -> Position | None:
        return self._positions.get((symbol, side))

    def set_balance(self, asset: str, wallet: Decimal, now_ms: int = 0) -> None:
        if not wallet.is_finite():
            raise ValueError(f"{asset} must be a finite amount")
        self.balances[asset] = truncated(wallet)
        self.balances_updated_ms[asset] = now_ms

    def open(self, position: Position) -> None:
        """Put *position* in its row, whatever was there; ValueError where the account couldn't hold it."""
        if position.symbol not in BY_SYMBOL:
            raise ValueError(f"symbol {position.symbol} is not listed")
        if (position.side == "BOTH") is self.hedge:
            raise ValueError(f"side {position.side} doesn't exist in {'hedge' if self.hedge else 'one-way'} mode")
        if (position.side == "LONG" and position.amount < 0) or (position.side == "SHORT" and position.amount > 0):
            raise ValueError("amount must be positive in a LONG and negative in a SHORT row")
        if position.entry_price <= 0 or position.leverage < 1:
            raise ValueError("entryPrice and leverage must be positive")
        self._positions[position.symbol, position.side] = position

    def close(self, symbol: str, side: Side) -> None:
        self._positions.pop((symbol, side), None)

    def set_mode(self, *, hedge: bool) -> None:
        """Switch the mode and carry positions over (Binance would refuse while there are any).

        A net position becomes LONG or SHORT by its sign; two sides become their net at the larger one's entry.
        """
        if hedge is self.hedge:
            return
        self.hedge = hedge
        before = sorted(self.positions(), key=lambda position: abs(position.amount))
        self._positions.clear()
        for position in before:
            amount = position.amount
            side: Side = "LONG" if amount > 0 else "SHORT"
            if not hedge:
                side = "BOTH"
                smaller = self.position(position.symbol, "BOTH")
                amount += smaller.amount if smaller else 0
            if amount:
                self.open(msgspec.structs.replace(position, side=side, amount=amount))
            else:
                self.close(position.symbol, side)

    def margins(self, market: Market, now_ms: int) -> dict[tuple[str, Side], Margins]:
        """Every open row's margins at the marks of *now_ms*."""
        return {
            row: margins(position, market.mark(position.contract, now_ms)) for row, position in self._positions.items()
        }

    def holdings(self, market: Market, now_ms: int) -> dict[str, Holding]:
        """Every asset the account prints, in order: the first `options.assets`, then any it holds besides."""
        rows = self.margins(market, now_ms)
        by_asset: dict[str, list[tuple[Position, Margins]]] = {name: [] for name in ASSETS[: self.options.assets]}
        for asset in self.balances:
            by_asset.setdefault(asset, [])
        for row, position in self._positions.items():
            by_asset.setdefault(market.margin_asset(position.contract), []).append((position, rows[row]))
        return {asset: holding(self.balances.get(asset, ZERO), owned) for asset, owned in by_asset.items()}


# A fixed past moment, so that an account nobody touched prints the same in every run of one seed.
DEMO_UPDATED_MS = 1_790_000_000_000


def demo_book(name: str, *, hedge: bool, options: Options) -> Book:
    """A few open positions, long and short, cross and isolated; some balances; the rest zeros."""
    book = Book(name, hedge=hedge, options=options)
    for asset, wallet in (("BTC", "1.25417362"), ("ETH", "14.30000000"), ("SOL", "85.5"), ("XRP", "1200")):
        book.set_balance(asset, Decimal(wallet), DEMO_UPDATED_MS)
    for symbol, amount, entry, leverage, orders in (
        ("BTCUSD_PERP", 120, "82011.3", 20, "0"),
        ("BTCUSD_261225", -35, "83350.7", 10, "0"),
        ("ETHUSD_PERP", -450, "3011.85", 25, "0.02500000"),
        ("SOLUSD_PERP", 80, "151.2734", 5, "0"),
    ):
        side: Side = ("LONG" if amount > 0 else "SHORT") if hedge else "BOTH"
        position = Position(
            symbol=symbol, side=side, amount=amount, entry_price=Decimal(entry), leverage=leverage,
            isolated=symbol.startswith("SOL"), open_order_margin=Decimal(orders), updated_ms=DEMO_UPDATED_MS,
        )  # fmt: skip
        book.open(position)
    return book
