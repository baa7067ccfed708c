"""The listed contracts and their mark prices.

30 contracts as listed live in October 2026: 20 perpetuals, 5 current and 5 next quarters. Prices are near
that day's for BTC and made up for the rest.
"""

from decimal import Decimal
from hashlib import blake2b

import msgspec

# A new mark each quarter of a second: two calls of one client nearly always see different ones.
STEP_MS = 250

# (steps between lattice points, size in millionths of the price). The size grows with the square root of
# the period, as a random walk's distance does; together at most 0.7 % away from the reference price.
OCTAVES = ((1, 10), (8, 30), (64, 80), (512, 240), (4096, 680), (32768, 1900), (262144, 4000))
MILLION = 1_000_000
CENTRE = 1 << 63  # the middle of a 64-bit digest

REFERENCE_PRICES = {
    "BTC": "82945.2", "AAVE": "212.45", "ADA": "0.6342", "AVAX": "24.187", "BCH": "498.31",
    "BNB": "934.52", "DOGE": "0.19873", "DOT": "4.1265", "ETC": "18.734", "ETH": "2987.41",
    "FIL": "2.3176", "LINK": "17.862", "LTC": "96.48", "NEAR": "2.7343", "SOL": "158.263",
    "SUI": "2.8127", "TRX": "0.31245", "UNI": "7.2184", "XLM": "0.33816", "XRP": "2.2761",
}  # fmt: skip
QUARTERLY_BASES = ("BNB", "BTC", "ETH", "SOL", "XRP")

# Delivery is at 08:00 UTC on the last Friday of the quarter; a perpetual has the year 2100.
CURRENT_QUARTER_MS = 1_798_185_600_000
NEXT_QUARTER_MS = 1_806_048_000_000
PERPETUAL_MS = 4_133_404_800_000


class Contract(msgspec.Struct, frozen=True):
    """One listed contract: `size` in USD a contract, `reference` is the USD price its mark moves around."""

    symbol: str
    base: str
    kind: str
    delivery_ms: int
    reference: Decimal

    @property
    def pair(self) -> str:
        return f"{self.base}USD"

    @property
    def size(self) -> int:
        return 100 if self.base == "BTC" else 10

    @property
    def maintenance_rate(self) -> Decimal:
        """Of the first bracket; higher brackets (and their `cum`) are left out."""
        return Decimal("0.004") if self.base == "BTC" else Decimal("0.01")


def _listed() -> tuple[Contract, ...]:
    quarters = (("CURRENT_QUARTER", "261225", CURRENT_QUARTER_MS), ("NEXT_QUARTER", "270326", NEXT_QUARTER_MS))
    perpetuals = [
        Contract(f"{base}USD_PERP", base, "PERPETUAL", PERPETUAL_MS, Decimal(price))
        for base, price in REFERENCE_PRICES.items()
    ]
    quarterlies = [
        Contract(f"{base}USD_{day}", base, kind, delivery_ms, Decimal(REFERENCE_PRICES[base]))
        for kind, day, delivery_ms in quarters
        for base in QUARTERLY_BASES
    ]
    return (*perpetuals, *quarterlies)


CONTRACTS = _listed()
BY_SYMBOL = {contract.symbol: contract for contract in CONTRACTS}


def _lattice(seed: int, symbol: str, period: int, index: int) -> int:
    """Repeatable noise between -MILLION and MILLION."""
    digest = blake2b(f"{seed}:{symbol}:{period}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) - CENTRE) * MILLION // CENTRE


def drift(seed: int, symbol: str, step: int) -> int:
    """How far the mark is from its reference at *step*, in millionths of a millionth.

    Noise of several periods, each interpolated between its lattice points: it looks like a random walk, but
    any point costs the same, so the price is a function of seed and time and needs no memory.
    """
    total = 0
    for period, size in OCTAVES:
        index, offset = divmod(step, period)
        here, there = (_lattice(seed, symbol, period, i) for i in (index, index + 1))
        total += size * (here * (period - offset) + there * offset) // period
    return total


class Market:
    """The marks of one seed, and which coin each contract is margined in."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.frozen = False  # True: every mark stands at its reference price
        self.margin_assets: dict[str, str] = {}  # overrides by symbol; otherwise it is the base

    def mark(self, contract: Contract, now_ms: int) -> Decimal:
        """The mark price at *now_ms*, in USD with 8 decimals."""
        if self.frozen:
            return contract.reference
        distance = Decimal(drift(self.seed, contract.symbol, now_ms // STEP_MS)).scaleb(-12)
        return (contract.reference * (1 + distance)).quantize(Decimal("1E-8"))

    def margin_asset(self, contract: Contract) -> str:
        return self.margin_assets.get(contract.symbol, contract.base)
