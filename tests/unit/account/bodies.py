"""Account bodies as bytes, put together piece by piece, so that what is cut from them is known without parsing."""

import json
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

ZEROS = ("0", "0.0", "0.00000000", "-0.00", "+0", "0E-8", ".0", "0.")
AMOUNTS = ("0.00000001", "-1", "12.50000000", "1E-8", "00.10", "-0.5e3")

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
    """`frame` is what stands before, between and after the two arrays."""

    frame: tuple[bytes, bytes, bytes]
    assets: Array
    positions: Array
    positions_first: bool

    def around(self, assets: bytes, positions: bytes) -> bytes:
        before, between, after = self.frame
        first, second = (positions, assets) if self.positions_first else (assets, positions)
        return before + first + between + second + after

    @property
    def whole(self) -> bytes:
        return self.around(self.assets.text, self.positions.text)


_spaces = st.sampled_from([b"", b"", b" ", b"\n\t", b"\r\n  "])
_coins = st.text(alphabet="ABCDEFUS19", min_size=1, max_size=4) | st.sampled_from(["BTC", "币安", "É💰"])


@st.composite
def bodies(draw: DrawFn) -> Body:
    assets = _array(draw, [_asset(draw, coin) for coin in draw(st.lists(_coins, max_size=4, unique=True))])
    symbols = [f"{coin}USD_PERP" for coin in draw(st.lists(_coins, max_size=3, unique=True))]
    sides = draw(st.sampled_from([("BOTH",), ("LONG", "SHORT"), ("BOTH", "LONG", "SHORT")]))
    rows = [_position(draw, symbol, side) for symbol in symbols for side in sides]
    positions = _array(draw, draw(st.permutations(rows)))
    names = ["positions", "assets"] if draw(st.booleans()) else ["assets", "positions"]
    extras = [draw(st.lists(st.sampled_from(_EXTRAS), max_size=2)) for _ in range(3)]
    before = b"{" + b"".join(_member(draw, f"b{i}", value) + b"," for i, value in enumerate(extras[0]))
    between = b"," + b"".join(_member(draw, f"m{i}", value) + b"," for i, value in enumerate(extras[1]))
    after = b"".join(b"," + _member(draw, f"a{i}", value) for i, value in enumerate(extras[2])) + b"}"
    frame = (draw(_spaces) + before + _member(draw, names[0]), between + _member(draw, names[1]), after + draw(_spaces))
    return Body(frame, assets, positions, names[0] == "positions")


def _array(draw: DrawFn, rows: list[Row]) -> Array:
    gaps = [(draw(_spaces), draw(_spaces)) for _ in rows]
    inner = b",".join(left + row.raw + right for row, (left, right) in zip(rows, gaps, strict=True))
    return Array(b"[" + draw(_spaces) + inner + b"]", tuple(rows))


def _asset(draw: DrawFn, coin: str) -> Row:
    wallet, margin = (draw(st.sampled_from([None, *ZEROS, *AMOUNTS])) for _ in range(2))
    raw = _object(draw, {"asset": coin, "walletBalance": wallet, "marginBalance": margin})
    return Row(raw, coin, "", wallet in ZEROS and margin in ZEROS)


def _position(draw: DrawFn, symbol: str, side: str) -> Row:
    amount = draw(st.sampled_from([None, *ZEROS, *AMOUNTS]))
    raw = _object(draw, {"symbol": symbol, "positionSide": side, "positionAmt": amount})
    return Row(raw, symbol, side, amount in ZEROS)


def _object(draw: DrawFn, members: dict[str, str | None]) -> bytes:
    """An object with these strings (`None`: left out) and perhaps something new, in any order."""
    pieces = [_member(draw, name, _string(draw, value)) for name, value in members.items() if value is not None]
    pieces += [
        _member(draw, f"new{i}", each) for i, each in enumerate(draw(st.lists(st.sampled_from(_EXTRAS), max_size=2)))
    ]
    return b"{" + b",".join(draw(st.permutations(pieces))) + draw(_spaces) + b"}"


def _member(draw: DrawFn, name: str, value: bytes = b"") -> bytes:
    return draw(_spaces) + _string(draw, name) + draw(_spaces) + b":" + draw(_spaces) + value


def _string(draw: DrawFn, text: str) -> bytes:
    """A JSON string: as it is, or its first character, or all of them, as \\u escapes."""
    escaped = draw(st.sampled_from([0, 0, 0, 1, len(text)]))
    head = "".join(f"\\u{unit:04x}" for unit in _utf16(text[:escaped]))
    return f'"{head}{json.dumps(text[escaped:], ensure_ascii=False)[1:-1]}"'.encode()


def _utf16(text: str) -> list[int]:
    units = text.encode("utf-16-be")
    return [int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2)]
