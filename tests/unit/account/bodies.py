"""Documents as bytes, put together piece by piece, so that what is cut from them is known without parsing."""

import json
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from service.account.documents import Document
from service.account.parsing import MAX_BODY, MAX_VALUES

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

ALIAS = "accountAlias"
_NAMES = ("asset", "accountAlias", "", '"', "\\", 'x":"y', "}, {", "[1, 2]", "é💰", "accountAlia", "Accountalias", "\n")
"""Of members, in objects that nothing is known of."""


class Row(NamedTuple):
    raw: bytes
    name: str
    side: str
    zero: bool
    alias: bytes = b""
    """The text of that member, if it has one."""


class Object(NamedTuple):
    """An object's text, and its members' own texts from name to value, in order."""

    text: bytes
    members: tuple[tuple[str, bytes], ...]


class Array(NamedTuple):
    text: bytes
    rows: tuple[Row, ...]


class ArrayBody(NamedTuple):
    """A document that is an array: its rows, and the whole of it, with what space stands around."""

    document: str
    array: Array
    whole: bytes


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

    def array_body(self, document: str) -> ArrayBody:
        sides = {"balance": (), "position-risk": self._one(_SIDES), "leverage-brackets": ("",)}[document]
        names = self._some(_COINS)
        rows = [self._risk(f"{coin}USD_PERP", side) for coin in names for side in sides]
        array = self._array(self._shuffled(rows) if sides else [self._balance(coin) for coin in names])
        return ArrayBody(document, array, self._space() + array.text + self._space())

    def object(self) -> Object:
        values = [*_EXTRAS, b'""', self._string("accountAlias"), b'{"accountAlias": 1}', b"[]", b"{ }"]
        members = [(name, self._member(name, self._one(values)).lstrip()) for name in self._some(_NAMES, at_most=6)]
        text = b",".join(self._space() + member + self._space() for _, member in members)
        return Object(self._space() + b"{" + text + (b"" if members else self._space()) + b"}", tuple(members))

    def _balance(self, coin: str) -> Row:
        alias = self._one((None, "SgsR", "é", ""))
        members = [self._member("asset", self._string(coin))]
        members += [] if alias is None else [self._member(ALIAS, self._string(alias))]
        raw = self._joined(members)
        return Row(raw, coin, "", zero=True, alias=b"" if alias is None else members[1].strip())

    def _risk(self, symbol: str, side: str) -> Row:
        """Without a side, a leverage bracket."""
        if not side:
            value = self._one((b"[]", b'[{"bracket":1,"qtyCap":50, "cum":0.0},{ "bracket" : 2 } ]', b"null"))
            raw = self._joined([self._member("symbol", self._string(symbol)), self._member("brackets", value)])
            return Row(raw, symbol, "", zero=True)
        return self._position(symbol, side)

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
        return self._joined(
            [self._member(name, self._string(value)) for name, value in members.items() if value is not None]
        )

    def _joined(self, known: list[bytes]) -> bytes:
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


def _array_body(tape: bytes, document: str) -> ArrayBody:
    return _Writer(tape).array_body(document)


def _object(tape: bytes) -> Object:
    return _Writer(tape).object()


def array_bodies() -> st.SearchStrategy[ArrayBody]:
    documents = st.sampled_from(["balance", "position-risk", "leverage-brackets"])
    return st.builds(_array_body, st.binary(min_size=400, max_size=400), documents)


def objects() -> st.SearchStrategy[Object]:
    return st.binary(min_size=100, max_size=100).map(_object)


def bodies() -> st.SearchStrategy[Body]:
    return st.binary(min_size=600, max_size=600).map(_body)


# Arrays that can be no answer.

ONE_ROW = {
    "balance": b'{"asset":"BTC","accountAlias":"SgsR"}',
    "position-risk": b'{"symbol":"BTCUSD_PERP","positionSide":"BOTH"}',
    "leverage-brackets": b'{"symbol":"BTCUSD_PERP","brackets":[{"bracket":1,"cum":0.0}]}',
}


def hostile_arrays(document: Document) -> dict[str, bytes]:
    """What can be no answer, by what is wrong with it."""
    row, key = ONE_ROW[document.name], document.kinds[0].keys[0]
    named = b'"%s":"BTC' % key.encode()
    deep = b"[" * 100_000 + b"]" * 100_000
    bodies = {
        "nothing": b"",
        "no array": row,
        "an empty object": b"{}",
        "the account": b'{"assets":[],"positions":[]}',
        "a refusal of the exchange's": b'{"code":-1121,"msg":"Invalid symbol."}',
        "null": b"null",
        "a text": b'"[]"',
        "two arrays": b"[][]",
        "an array and more": b"[%s]x" % row,
        "a row that is null": b"[null]",
        "a row that is a text": b'["BTC"]',
        "a row in an array": b"[[%s]]" % row,
        "rows in a member": b'[{"rows":[%s]}]' % row,
        "an empty row": b"[{}]",
        "a row without its key": b"[%s]" % row.replace(b'"%s"' % key.encode(), b'"key"'),
        "a row whose key is empty": b"[%s]" % row.replace(b'"BTCUSD_PERP"', b'""').replace(b'"BTC"', b'""'),
        "a row whose key is null": b"[%s]" % row.replace(b'"BTCUSD_PERP"', b"null").replace(b'"BTC"', b"null"),
        "a row whose key is a number": b"[%s]" % row.replace(b'"BTCUSD_PERP"', b"1").replace(b'"BTC"', b"1"),
        "twins": b"[%s,%s]" % (row, row),
        "twins by an escape": b"[%s,%s]" % (row, row.replace(b'"BTC', b'"\\u0042TC')),
        "a key twice": b"[%s]" % row.replace(named, named.replace(b"BTC", b"ETH") + b'",' + named),
        "a key twice by an escape": b"[%s]"
        % row.replace(named, b'"\\u00%x' % key.encode()[0] + named[2:] + b'",' + named),
        "a key twice deep in a row": b"[%s]" % row.replace(b"{", b'{"x":[{"y":1,"y":1}],', 1),
        "a byte order mark": b"\xef\xbb\xbf[%s]" % row,
        "UTF-16": (b"[%s]" % row).decode().encode("utf-16"),
        "invalid UTF-8": b"[%s]" % row.replace(b"{", b'{"x":"\xff",', 1),
        "half a surrogate pair": b"[%s]" % row.replace(b"BTC", b"\\ud800"),
        "a comma too many": b"[%s,]" % row,
        "NaN": b"[%s]" % row.replace(b"{", b'{"x":NaN,', 1),
        "an array that is too deep": deep,
        "a member that is too deep": b"[%s]" % row.replace(b"{", b'{"x":%s,' % deep, 1),
        "more bytes than there may be": (b"[%s]" % row).ljust(MAX_BODY + 1),
        "more rows than there may be": b"[%s]" % b",".join([row] * (MAX_VALUES // 2)),
        "more members than there may be": b"[%s]" % row.replace(b"{", b"{" + b'"x":1,' * MAX_VALUES, 1),
    }
    if "positionSide" in document.kinds[0].keys:
        bodies["a row without its side"] = b'[{"symbol":"BTCUSD_PERP"}]'
        bodies["a side that there isn't"] = b"[%s]" % row.replace(b"BOTH", b"UP")
    return bodies
