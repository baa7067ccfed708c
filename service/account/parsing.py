"""One answer of `GET /dapi/v1/account` → `Snapshot`, checked whole and indexed once.

An answer that is not exactly what the exchange documents is refused whole, because a half-understood account is a wrong
account.
"""

# The checks of `parse`, cheapest first, so that a hostile answer costs little before it is refused: length, number of
# values (counted in the text), UTF-8, JSON with unique keys, number of members, arrays, rows. msgspec gives each row's
# members, and its slice of the same bytes. Alone it would pass invalid UTF-8, which is checked before, and keep the
# last of duplicate keys. Those show by the commas: an object or array of n elements has n - 1, and what msgspec has
# found has no more than there are. So if the body has exactly the commas that this takes, no key was there twice, no
# other member has a container with several elements, and no text has a comma. Otherwise, and for whatever msgspec
# refuses (also any container in a row), the strict parser decides: `json`, with a check of every object's keys. It
# takes twice as long.

import json
import re
from collections.abc import Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from service.account.rows import POSITION_SIDES, AssetRow, PositionRow, margin_asset
from service.account.snapshot import DOCUMENTED, Snapshot, Spans

MAX_BODY = 4 * 1024 * 1024
"""Bytes. A documented account is 18-51 KB (30 symbols, hedge mode, 50 coins); `MAX_VALUES` bounds what is in it."""

MAX_VALUES = 65_536
"""Commas and opening brackets: no fewer than half of an answer's members, elements, objects and arrays. A documented
account has 2,200, and a thousand symbols on three sides 51,000. It is parsed in one turn of the event loop: the worst
that so many can be in some 0.15 s, but 4 MiB of short numbers in 2 s."""

MAX_MEMBERS = 256
"""Members of the account object, of which the exchange documents 7: each is searched for in the text, one by one."""

# One member of an object that is known to be valid JSON, up to its value; the group begins with its name.
_MEMBER = re.compile(rb'[\s{,]*("[^"\\]*(?:\\.[^"\\]*)*"\s*:\s*)', re.DOTALL)

_ASSET_AMOUNTS = ("walletBalance", "marginBalance")

# Zero in any of the exchange's spellings: "0", "0.0", "-0.00000000", "0E-8".
_ZERO = re.compile(r"[+-]?(?:0+\.?0*|\.0+)(?:[eE][+-]?[0-9]+)?")


class MalformedAccountError(ValueError):
    """The bytes are not an account as documented. The message names the fault, never the content."""


class _Number(str):
    """A number's own digits: never a float, and never accepted where a string is required."""

    __slots__ = ()


class _Arrays(msgspec.Struct):
    assets: list[msgspec.Raw]
    positions: list[msgspec.Raw]


_V = TypeVar("_V")
# Every number a float: an integer of 4300 digits takes 0.1 ms, and a thousand of them fit in `MAX_BODY`.
_Scalar: TypeAlias = str | float | bool | None


class _Rows(msgspec.Struct, Generic[_V]):
    """The members of each row; amounts that aren't texts are missing or `_Number`s."""

    assets: list[dict[str, _V]]
    positions: list[dict[str, _V]]


def parse(body: bytes, request_time: int, requested_monotonic_ms: int, margin_assets: Mapping[str, str]) -> Snapshot:
    """Check and index an answer; `margin_assets` maps symbols to their margin asset, from exchangeInfo.

    Raises:
        MalformedAccountError: over `MAX_BODY`, `MAX_VALUES` or `MAX_MEMBERS`, invalid UTF-8, invalid JSON, a key twice
            in one object, nesting that no account has, a missing array, a row that is no object, has no key field, or
            occurs twice.
    """
    if len(body) > MAX_BODY:
        raise MalformedAccountError("the answer is larger than 4 MiB")
    commas = body.count(b",")
    if commas + body.count(b"[") + body.count(b"{") > MAX_VALUES:  # 10 ms at most, before any object is built
        raise MalformedAccountError(f"the answer has more than {MAX_VALUES} values")
    rows = _plain_rows(body, commas) or _strict_rows(body)
    try:
        raw = msgspec.json.decode(body, type=_Arrays)
    except (msgspec.MsgspecError, RecursionError):
        raise MalformedAccountError("the answer is not JSON as msgspec reads it") from None
    assets: list[AssetRow] = []
    for row, row_bytes in zip(rows.assets, raw.assets, strict=True):
        zero = all(is_zero(row.get(name)) for name in _ASSET_AMOUNTS)
        assets.append(AssetRow(row_bytes, _key(row, "asset"), zero))
    positions: list[PositionRow] = []
    for row, row_bytes in zip(rows.positions, raw.positions, strict=True):
        symbol, side = _key(row, "symbol"), _key(row, "positionSide")
        if side not in POSITION_SIDES:
            raise MalformedAccountError("a position row's positionSide is not BOTH, LONG or SHORT")
        flat = is_zero(row.get("positionAmt"))
        positions.append(PositionRow(row_bytes, symbol, side, margin_asset(symbol, margin_assets), flat))
    # A row that occurs twice would count twice, and `by_asset` would keep only one of them.
    _refuse_twins("asset", [row.asset for row in assets])
    _refuse_twins("position", [(row.symbol, row.side) for row in positions])
    return Snapshot(
        body,
        _locate(body),
        tuple(assets),
        tuple(positions),
        request_time=request_time,
        requested_monotonic_ms=requested_monotonic_ms,
        margin_assets=margin_assets,
    )


def is_zero(amount: object) -> bool:
    """Whether an amount is zero, exactly; anything but a decimal isn't known to be zero."""
    return isinstance(amount, str) and _ZERO.fullmatch(amount) is not None


def _plain_rows(body: bytes, commas: int) -> _Rows[Any] | None:
    """The rows of an account that is as usual, with so many commas; `None`: the strict parser must decide."""
    try:
        body.decode("utf-8")
        rows: _Rows[Any] = msgspec.json.decode(body, type=_Rows[_Scalar])
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return None
    objects = [members, *rows.assets, *rows.positions]
    separators = sum(len(each) - 1 for each in (rows.assets, rows.positions, *objects) if each)
    numbers = any(
        type(row.get(name, "")) is not str  # msgspec would round it
        for name, of in (*((each, rows.assets) for each in _ASSET_AMOUNTS), ("positionAmt", rows.positions))
        for row in of
    )
    return None if separators != commas or numbers or len(members) > MAX_MEMBERS else rows


def _strict_rows(body: bytes) -> _Rows[Any]:
    """The rows, numbers left as text.

    Raises:
        MalformedAccountError: as `parse`, but for what is wrong with a row's members.
    """
    try:
        document = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_Number,
            parse_int=_Number,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError:
        raise MalformedAccountError("the answer is not UTF-8") from None
    except RecursionError:
        raise MalformedAccountError("the answer is nested too deeply") from None
    except json.JSONDecodeError as exc:
        raise MalformedAccountError(f"the answer is not JSON (at byte {exc.pos} or so)") from None
    if not isinstance(document, dict):
        raise MalformedAccountError("the answer is not an object")
    if len(document) > MAX_MEMBERS:
        raise MalformedAccountError(f"the answer has more than {MAX_MEMBERS} members")
    try:
        return msgspec.convert(document, _Rows[Any])
    except (msgspec.ValidationError, UnicodeEncodeError):  # `json` takes half of a surrogate pair, msgspec doesn't
        raise MalformedAccountError("the answer has no arrays of objects named assets and positions") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedAccountError("an object has the same key twice")
    return members


def _refuse_constant(constant: str) -> object:
    raise MalformedAccountError(f"{constant} is not JSON")


def _key(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if type(value) is not str or not value:  # not `isinstance`: a `_Number` is no name
        raise MalformedAccountError(f"a row has no {name}")
    return value


def _refuse_twins(kind: str, keys: list[Any]) -> None:
    if len(set(keys)) != len(keys):
        raise MalformedAccountError(f"the same {kind} is there twice")


def _locate(body: bytes) -> Spans:
    """Each top-level member's position; the body is known to be valid and free of duplicate keys."""
    documented: list[tuple[int, int]] = []
    arrays: dict[str, tuple[int, int]] = {}
    end = 0
    for name, value in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items():
        # msgspec gives each value's bytes but not their offset: the next name starts where the last value ended.
        member = next(_MEMBER.finditer(body, end))
        end = member.end() + len(memoryview(value))
        if name in DOCUMENTED:
            documented.append((member.start(1), end))
            arrays[name] = (member.end(), end)
    return Spans(arrays["assets"], arrays["positions"], tuple(documented))
