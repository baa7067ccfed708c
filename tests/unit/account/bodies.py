"""Account bodies as bytes, put together piece by piece, so that what is cut from them is known without parsing."""

import json
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

DOCUMENTED = {"assets", "positions", "canDeposit", "canTrade", "canWithdraw", "feeTier", "updateTime"}
"""Members of the account object ("COIN-M docs, Account Information")."""
_TOMORROWS = ("totalWalletBalanceUsd", "loans", "Assets", "canTrade ", "", "é")
"""What else it may come to have."""

ZEROS = ("0", "0.0", "0.00000000", "-0.00", "+0", "0E-8", ".0", "0.")
AMOUNTS = ("0.00000001", "-1", "12.50000000", "1E-8", "00.10", "-0.5e3")

_COINS = ("BTC", "ETH", "A", "USD", "1INCH", "BUSD", "币安", "É💰")
_SIDES = (("BOTH",), ("LONG", "SHORT"), ("BOTH", "LONG", "SHORT"))
_SPACES = (b"", b"", b" ", b"\n\t", b"\r\n  ")

# Values of members nobody knows; whatever stands in them must not be taken for an account's arrays.
_EXTRAS = (
    b"true",
    b"-0.0E+5",
    b"12345678901234567890.000",
    b'"\\"assets\\":[{\\"asset\\":\\"X\\"}]"',
    '"ключ ]}, \\\\ 💰"'.encode(),
    b'{"assets":[{"asset":"X"}],"positions":[]}',
    b'[ [ ] , {"positions" : [ 1 , {"assets":{ }} ] } , null ]',
)


class Row(NamedTuple):
    raw: bytes
    name: str
    side: str
    zero: bool


class Array(NamedTuple):
    text: bytes
    rows: tuple[Row, ...]


class Body(NamedTuple):
    """`frame` is what stands before, between and after the two arrays; `members` are all, the arrays without theirs."""

    frame: tuple[bytes, bytes, bytes]
    assets: Array
    positions: Array
    positions_first: bool
    members: tuple[tuple[str, bytes], ...]

    def around(self, assets: bytes, positions: bytes) -> bytes:
        before, between, after = self.frame
        first, second = (positions, assets) if self.positions_first else (assets, positions)
        return before + first + between + second + after

    def documented(self, assets: bytes, positions: bytes) -> bytes:
        """The members that the exchange documents alone, as they were sent, with these arrays."""
        arrays = {"assets": assets, "positions": positions}
        kept = [text.lstrip() + arrays.get(name, b"") for name, text in self.members if name in DOCUMENTED]
        return b"{" + b",".join(kept) + b"}"

    @property
    def whole(self) -> bytes:
        return self.around(self.assets.text, self.positions.text)


class _Writer:
    """Every choice is a byte of hypothesis' tape: hundreds of draws a body would take most of the run."""

    def __init__(self, tape: bytes) -> None:
        self._tape = iter(tape)

    def body(self) -> Body:
        assets = self._array([self._asset(coin) for coin in self._some(_COINS)])
        sides, symbols = self._one(_SIDES), [f"{coin}USD_PERP" for coin in self._some(_COINS)]
        positions = self._array(self._shuffled([self._position(symbol, side) for symbol in symbols for side in sides]))
        names = self._shuffled(["assets", "positions"])
        new = self._shuffled([*sorted(DOCUMENTED - {"assets", "positions"}), *_TOMORROWS])
        before, between, after = ([(new.pop(), extra) for _, extra in self._extras()] for _ in range(3))
        (first, second), texts = names, {name: self._member(name, extra) for name, extra in before + between + after}
        texts |= {name: self._member(name) for name in names}
        opening = self._space() + b"{" + b"".join(texts[each] + b"," for each, _ in before) + texts[first]
        middle = b"," + b"".join(texts[each] + b"," for each, _ in between) + texts[second]
        closing = b"".join(b"," + texts[each] for each, _ in after) + self._space() + b"}" + self._space()
        order = [*(name for name, _ in before), first, *(name for name, _ in between), second, *(n for n, _ in after)]
        members = tuple((name, texts[name]) for name in order)
        return Body((opening, middle, closing), assets, positions, first == "positions", members)

    def _array(self, rows: list[Row]) -> Array:
        inner = b",".join(self._space() + row.raw + self._space() for row in rows)
        return Array(b"[" + self._space() + inner + b"]", tuple(rows))

    def _asset(self, coin: str) -> Row:
        wallet, margin = self._amount(), self._amount()
        raw = self._object({"asset": coin, "walletBalance": wallet, "marginBalance": margin})
        return Row(raw, coin, "", wallet in ZEROS and margin in ZEROS)

    def _position(self, symbol: str, side: str) -> Row:
        amount = self._amount()
        raw = self._object({"symbol": symbol, "positionSide": side, "positionAmt": amount})
        return Row(raw, symbol, side, amount in ZEROS)

    def _object(self, members: dict[str, str | None]) -> bytes:
        """An object with these strings (`None`: left out) and perhaps something new, in any order."""
        known = [self._member(name, self._string(value)) for name, value in members.items() if value is not None]
        new = [self._member(f"new{number}", value) for number, value in self._extras()]
        return b"{" + b",".join(self._shuffled(known + new)) + self._space() + b"}"

    def _member(self, name: str, value: bytes = b"") -> bytes:
        return self._space() + self._string(name) + self._space() + b":" + self._space() + value

    def _string(self, text: str) -> bytes:
        r"""A JSON string: as it is, or its first character, or all of them, as \u escapes."""
        escaped = self._one((0, 0, 0, 1, len(text)))
        units = text[:escaped].encode("utf-16-be")
        head = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
        return f'"{head}{json.dumps(text[escaped:], ensure_ascii=False)[1:-1]}"'.encode()

    def _amount(self) -> str | None:
        return self._one((None, self._one(ZEROS), self._one(ZEROS), self._one(AMOUNTS)))

    def _extras(self) -> list[tuple[int, bytes]]:
        return list(enumerate(self._some(_EXTRAS, at_most=2)))

    def _space(self) -> bytes:
        return self._one(_SPACES)

    def _some(self, options: Sequence[T], at_most: int = 4) -> list[T]:
        return self._shuffled(options)[: self._number(at_most + 1)]

    def _shuffled(self, options: Sequence[T]) -> list[T]:
        left = list(options)
        return [left.pop(self._number(len(left))) for _ in options]

    def _one(self, options: Sequence[T]) -> T:
        return options[self._number(len(options))]

    def _number(self, below: int) -> int:
        return next(self._tape, 0) % below


def _body(tape: bytes) -> Body:
    return _Writer(tape).body()


def bodies() -> st.SearchStrategy[Body]:
    return st.binary(min_size=600, max_size=600).map(_body)
