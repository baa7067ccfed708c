"""One answer of `GET /dapi/v1/account` → `Snapshot`, checked whole and indexed once.

An answer that is not exactly what the exchange documents is refused whole, because a half-understood account is a wrong
account.
"""

# The checks of `parse`, cheapest first, so that a hostile answer costs little before it is refused: length, number of
# values (counted in the text), UTF-8, JSON with unique keys, number of members, arrays, rows. Two parsers read it:
# `json` checks it strictly and gives the values to index by; msgspec gives each row's slice of the same bytes. msgspec
# alone would pass invalid UTF-8 and keep the last of duplicate keys; `json` alone would lose the bytes.

import json
import re
from collections.abc import Mapping
from typing import Any, cast

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


def parse(body: bytes, request_time: int, requested_monotonic_ms: int, margin_assets: Mapping[str, str]) -> Snapshot:
    """Check and index an answer; `margin_assets` maps symbols to their margin asset, from exchangeInfo.

    Raises:
        MalformedAccountError: over `MAX_BODY`, `MAX_VALUES` or `MAX_MEMBERS`, invalid UTF-8, invalid JSON, a key twice
            in one object, nesting that no account has, a missing array, a row that is no object, has no key field, or
            occurs twice.
    """
    document = _strict_json(body)
    if not isinstance(document, dict):
        raise MalformedAccountError("the answer is not an object")
    members = cast("dict[str, Any]", document)
    if len(members) > MAX_MEMBERS:
        raise MalformedAccountError(f"the answer has more than {MAX_MEMBERS} members")
    try:
        raw = msgspec.json.decode(body, type=_Arrays)
    except (msgspec.MsgspecError, RecursionError):
        raise MalformedAccountError("the answer has no arrays named assets and positions") from None
    assets: list[AssetRow] = []
    for row, row_bytes in zip(members["assets"], raw.assets, strict=True):
        fields = _members("asset", row)
        zero = is_zero(fields.get("walletBalance")) and is_zero(fields.get("marginBalance"))
        assets.append(AssetRow(row_bytes, _key(fields, "asset"), zero))
    positions: list[PositionRow] = []
    for row, row_bytes in zip(members["positions"], raw.positions, strict=True):
        fields = _members("position", row)
        symbol, side = _key(fields, "symbol"), _key(fields, "positionSide")
        if side not in POSITION_SIDES:
            raise MalformedAccountError("a position row's positionSide is not BOTH, LONG or SHORT")
        flat = is_zero(fields.get("positionAmt"))
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


def _strict_json(body: bytes) -> object:
    """The document, numbers left as text; refuses what msgspec accepts (measured: invalid UTF-8, duplicate keys)."""
    if len(body) > MAX_BODY:
        raise MalformedAccountError("the answer is larger than 4 MiB")
    if sum(map(body.count, b",[{")) > MAX_VALUES:  # 10 ms at most, before any object is built
        raise MalformedAccountError(f"the answer has more than {MAX_VALUES} values")
    try:
        text = body.decode("utf-8")
        return json.loads(
            text,
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedAccountError("an object has the same key twice")
    return members


def _refuse_constant(constant: str) -> object:
    raise MalformedAccountError(f"{constant} is not JSON")


def _members(kind: str, row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise MalformedAccountError(f"a row of {kind}s is not an object")
    return cast("dict[str, Any]", row)


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
