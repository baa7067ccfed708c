"""One answer of the exchange → `Snapshot`, checked whole and indexed once.

An answer that is not exactly what the exchange documents is refused whole, because a half-understood account is a wrong
one.
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
from typing import Any, TypeAlias

import msgspec

from service.account.documents import Document, RowKind
from service.account.rows import POSITION_SIDES, Row, located, margin_asset
from service.account.snapshot import Snapshot, Spans

MAX_BODY = 4 * 1024 * 1024
"""Bytes. A documented account is 18-51 KB (30 symbols, hedge mode, 50 coins); `MAX_VALUES` bounds what is in it."""

MAX_VALUES = 65_536
"""Commas and opening brackets: no fewer than half of an answer's members, elements, objects and arrays. A documented
account has 2,200, and a thousand symbols on three sides 51,000. It is parsed in one turn of the event loop: the worst
that so many can be in some 0.15 s, but 4 MiB of short numbers in 2 s."""

MAX_MEMBERS = 256
"""Members of the account object, of which the exchange documents 7: each is searched for in the text, one by one."""

MAX_DEPTH = 64
"""Levels of arrays and objects in what the strict parser reads; the exchange's answers have four."""

# Zero in any of the exchange's spellings: "0", "0.0", "-0.00000000", "0E-8".
_ZERO = re.compile(r"[+-]?(?:0+\.?0*|\.0+)(?:[eE][+-]?[0-9]+)?")


class MalformedDocumentError(ValueError):
    """The bytes are not what the exchange documents. The message names the fault, never the content."""


class _Number(str):
    """A number's own digits: never a float, and never accepted where a string is required."""

    __slots__ = ()


# Every number a float: an integer of 4300 digits takes 0.1 ms, and a thousand of them fit in `MAX_BODY`.
_Scalar: TypeAlias = str | float | bool | None
_Members: TypeAlias = dict[str, Any]
"""Of a row; amounts that aren't texts are missing or `_Number`s."""


def parse(
    document: Document, body: bytes, request_time: int, requested_monotonic_ms: int, margin_assets: Mapping[str, str]
) -> Snapshot:
    """Check and index an answer; `margin_assets` maps symbols to their margin asset, from exchangeInfo.

    Raises:
        MalformedDocumentError: over `MAX_BODY`, `MAX_VALUES` or `MAX_MEMBERS`, invalid UTF-8, invalid JSON, a key twice
            in one object, nesting that no answer has, a missing array, a row that is no object, has no key field, or
            occurs twice.
    """
    if len(body) > MAX_BODY:
        raise MalformedDocumentError("the answer is larger than 4 MiB")
    commas = body.count(b",")
    if commas + body.count(b"[") + body.count(b"{") > MAX_VALUES:  # 10 ms at most, before any object is built
        raise MalformedDocumentError(f"the answer has more than {MAX_VALUES} values")
    members = _members_of(document, body)
    arrays = _plain_rows(document, body, members, commas) or _strict_rows(document, body)
    try:
        slices = [msgspec.json.decode(members[kind.array], type=list[msgspec.Raw]) for kind in document.kinds]
        rows = {
            kind: _rows_of(kind, array, raw, margin_assets)
            for kind, array, raw in zip(document.kinds, arrays, slices, strict=True)
        }
        spans = _locate(document, body, members)
    except (msgspec.MsgspecError, KeyError, RecursionError):
        raise MalformedDocumentError("the answer is not JSON as msgspec reads it") from None
    return Snapshot(
        document,
        body,
        rows,
        spans,
        request_time=request_time,
        requested_monotonic_ms=requested_monotonic_ms,
        margin_assets=margin_assets,
    )


def is_zero(amount: object) -> bool:
    """Whether an amount is zero, exactly; anything but a decimal isn't known to be zero."""
    return isinstance(amount, str) and _ZERO.fullmatch(amount) is not None


def _rows_of(
    kind: RowKind, array: list[_Members], slices: list[msgspec.Raw], margin_assets: Mapping[str, str]
) -> tuple[Row, ...]:
    of_asset, has_sides = kind.keys[0] == "asset", "positionSide" in kind.keys
    rows: list[Row] = []
    for members, raw in zip(array, slices, strict=True):
        zero = all(map(is_zero, map(members.get, kind.amounts)))
        if of_asset:
            rows.append(Row(raw, _key(members, "asset"), zero=zero))
            continue
        symbol, side = _key(members, "symbol"), _key(members, "positionSide") if has_sides else None
        if has_sides and side not in POSITION_SIDES:
            raise MalformedDocumentError("a row's positionSide is not BOTH, LONG or SHORT")
        rows.append(Row(raw, margin_asset(symbol, margin_assets), symbol, side, zero))
    # A row that occurs twice would count twice.
    keys = [row.asset if of_asset else (row.symbol, row.side) for row in rows]
    if len(set(keys)) != len(keys):
        raise MalformedDocumentError(f"the same {kind.name} is there twice")
    return tuple(rows)


def _members_of(document: Document, body: bytes) -> dict[str, msgspec.Raw]:
    """The members of an object, or the body itself where it is the array of rows; empty: msgspec doesn't take it."""
    if not document.kinds[0].array:
        return {"": msgspec.Raw(body)}
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _plain_rows(
    document: Document, body: bytes, members: Mapping[str, msgspec.Raw], commas: int
) -> list[list[_Members]] | None:
    """The rows of a body that is as usual, with so many commas; `None`: the strict parser must decide."""
    try:
        body.decode("utf-8")
        arrays: list[list[_Members]] = [
            msgspec.json.decode(members[kind.array], type=list[dict[str, _Scalar]]) for kind in document.kinds
        ]
    except (UnicodeDecodeError, KeyError, msgspec.MsgspecError, RecursionError):
        return None
    containers = [members, *arrays, *(row for rows in arrays for row in rows)]
    separators = sum(len(each) - 1 for each in containers if each)
    numbers = any(
        type(row.get(name, "")) is not str  # msgspec would round it
        for kind, rows in zip(document.kinds, arrays, strict=True)
        for name in kind.amounts
        for row in rows
    )
    return None if separators != commas or numbers or len(members) > MAX_MEMBERS else arrays


def _strict_rows(document: Document, body: bytes) -> list[list[_Members]]:
    """The rows, numbers left as text.

    Raises:
        MalformedDocumentError: as `parse`, but for what is wrong with a row's members.
    """
    try:
        content = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_Number,
            parse_int=_Number,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError:
        raise MalformedDocumentError("the answer is not UTF-8") from None
    except RecursionError:
        raise MalformedDocumentError("the answer is nested too deeply") from None
    except json.JSONDecodeError as exc:
        raise MalformedDocumentError(f"the answer is not JSON (at byte {exc.pos} or so)") from None
    _refuse_depth(content)
    names = [kind.array for kind in document.kinds]
    if any(names):
        if not isinstance(content, dict):
            raise MalformedDocumentError("the answer is not an object")
        if len(content) > MAX_MEMBERS:
            raise MalformedDocumentError(f"the answer has more than {MAX_MEMBERS} members")
    try:
        arrays = [content.get(name) for name in names] if any(names) else [content]
        return msgspec.convert(arrays, list[list[_Members]])
    except (msgspec.ValidationError, UnicodeEncodeError):  # `json` takes half of a surrogate pair, msgspec doesn't
        what = f"arrays of objects named {' and '.join(names)}" if any(names) else "array of objects"
        raise MalformedDocumentError(f"the answer has no {what}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedDocumentError("an object has the same key twice")
    return members


def _refuse_depth(content: object) -> None:
    """Refuse deeper nesting than `MAX_DEPTH`: views look into rows again, wherever the stack is by then."""
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        level = [
            each
            for container in level
            if isinstance(container, dict | list)
            for each in (container.values() if isinstance(container, dict) else container)
        ]
    if any(isinstance(each, dict | list) for each in level):
        raise MalformedDocumentError(f"the answer is nested more than {MAX_DEPTH} levels deep")


def _refuse_constant(constant: str) -> object:
    raise MalformedDocumentError(f"{constant} is not JSON")


def _key(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if type(value) is not str or not value:  # not `isinstance`: a `_Number` is no name
        raise MalformedDocumentError(f"a row has no {name}")
    return value


def _locate(document: Document, body: bytes, members: Mapping[str, msgspec.Raw]) -> Spans | None:
    """Where the arrays and the documented members are; the body is known to be valid and free of duplicate keys."""
    if not document.kinds[0].array:
        return None
    arrays = {kind.array: kind for kind in document.kinds}
    places = located(body, members)
    documented = [
        (each.start, each.end) for name, each in places.items() if name in document.documented | arrays.keys()
    ]
    return Spans({kind: (places[name].value, places[name].end) for name, kind in arrays.items()}, tuple(documented))
