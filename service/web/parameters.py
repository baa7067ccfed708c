"""Strict query → Selection. A misspelt filter must never answer unfiltered data, so everything unknown is a 400."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from service.account.selection import Selection, Shape
from service.account.snapshot import POSITION_SIDES
from service.web.problems import InvalidParameterError

MAX_VALUES = 100
"""Values of one filter; the exchange lists some 30 symbols and 50 coins."""

_ASSET = re.compile(r"[A-Z0-9]{1,20}")
_SYMBOL = re.compile(r"[A-Z0-9_]{1,40}")
_SIDE = re.compile("|".join(POSITION_SIDES))
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_TRUTH = {"true": True, "false": False}

LISTS = {
    "asset": (_ASSET, "upper-case letters and digits, such as BTC"),
    "symbol": (_SYMBOL, "upper-case letters, digits and _, such as BTCUSD_PERP"),
    "positionSide": (_SIDE, "BOTH, LONG or SHORT"),
}
FLAGS = frozenset({"open", "nonzero"})

FILTERS: Mapping[Shape, frozenset[str]] = {
    Shape.ACCOUNT: frozenset({"asset", "symbol", "positionSide", "open", "nonzero"}),
    Shape.ASSETS: frozenset({"asset", "nonzero"}),
    Shape.POSITIONS: frozenset({"asset", "symbol", "positionSide", "open"}),
}


def filtered(shape: Shape, query: bytes) -> Selection:
    """The selection of a list path.

    Raises:
        InvalidParameterError: names the parameter that is unknown, repeated, empty or malformed.
    """
    values = _values(query, FILTERS[shape])
    return Selection(
        shape,
        assets=_names("asset", values),
        symbols=_names("symbol", values),
        sides=_names("positionSide", values),
        open=_flag("open", values),
        nonzero=_flag("nonzero", values),
    )


def no_filters(query: bytes) -> None:
    """Item paths take none.

    Raises:
        InvalidParameterError: there is a query.
    """
    _values(query, frozenset())


def only(known: frozenset[str], query: bytes) -> None:
    """Take a query of these names, whatever their values.

    Raises:
        InvalidParameterError: it has another name in it, or is none.
    """
    _values(query, known)


def path_value(name: str, value: str) -> frozenset[str]:
    """A name in the path, checked like the filter of the same name (`%00` and `%ff` reach us decoded).

    Raises:
        InvalidParameterError: malformed.
    """
    return frozenset({_well_formed(name, value)})


def _values(query: bytes, known: frozenset[str]) -> dict[str, list[str]]:
    """Each parameter's values in order; repeats of the lists' come together, of the flags' are refused."""
    values: dict[str, list[str]] = {}
    for name, value in _pairs(query):
        if name not in known:
            raise InvalidParameterError(_unknown(name, known))
        if name in values and name in FLAGS:
            raise InvalidParameterError(f"parameter {name}: given more than once")
        values.setdefault(name, []).extend(value.split(",") if name in LISTS else [value])
    return values


def _pairs(query: bytes) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=1000
        )
    except ValueError:  # UnicodeDecodeError is one too
        raise InvalidParameterError("the query is not of the form name=value&name=value in UTF-8") from None


def _names(name: str, values: Mapping[str, list[str]]) -> frozenset[str] | None:
    given = values.get(name)
    if given is None:
        return None
    if len(given) > MAX_VALUES:
        raise InvalidParameterError(f"parameter {name}: at most {MAX_VALUES} values")
    return frozenset(_well_formed(name, value) for value in given)


def _well_formed(name: str, value: str) -> str:
    pattern, expected = LISTS[name]
    if not pattern.fullmatch(value):
        raise InvalidParameterError(f"parameter {name}: expected {expected}")
    return value


def _flag(name: str, values: Mapping[str, list[str]]) -> bool | None:
    given = values.get(name)
    if given is None:
        return None
    if given[0] not in _TRUTH:
        raise InvalidParameterError(f"parameter {name}: expected true or false")
    return _TRUTH[given[0]]


def _unknown(name: str, known: frozenset[str]) -> str:
    shown = name if _NAME.fullmatch(name) else "with a malformed name"
    taken = f"this path takes {', '.join(sorted(known))}" if known else "this path takes no parameters"
    return f"parameter {shown}: unknown; {taken}"
