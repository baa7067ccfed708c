"""Strict query → Selection. A misspelt filter must never answer unfiltered data, so everything unknown is a 400."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from urllib.parse import unquote, unquote_plus

from service.account.selection import Selection, Shape
from service.account.snapshot import POSITION_SIDES
from service.settings import EXCHANGE_NAME_PATTERN, MAX_NAME
from service.web.problems import InvalidParameterError

MAX_VALUES = 100
"""Values of one filter; the exchange lists some 30 symbols and 50 coins."""
MAX_QUERY = 64 * 1024
"""Bytes; the server takes no longer address. A hundred names of the greatest length fit, however they are escaped."""
MAX_PARAMETERS = 1_000

_NAME = re.compile(EXCHANGE_NAME_PATTERN)
_NAME_WORDS = f"a name of 1 to {MAX_NAME} characters, without control characters, / and ,"
_SIDE = re.compile("|".join(POSITION_SIDES))
_TRUTH = {"true": True, "false": False}
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LONGEST_MISSPELLING = 40
"""Characters of an unknown name that is compared with the known ones, which takes time by its square."""

LISTS = {
    "asset": (_NAME, _NAME_WORDS),
    "symbol": (_NAME, _NAME_WORDS),
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
    """A name in the path, checked like the filter of the same name (`%00` reaches us decoded).

    Raises:
        InvalidParameterError: malformed.
    """
    return frozenset({_well_formed(name, value)})


def require_readable(raw_path: bytes) -> None:
    """Pass if a path, as sent, is percent-encoded UTF-8: the server puts something of its own in place of what isn't.

    Raises:
        InvalidParameterError: it isn't.
    """
    try:
        _unescaped(raw_path.decode("utf-8"))
    except ValueError:
        raise InvalidParameterError("the path is not percent-encoded UTF-8") from None


def _unescaped(text: str, *, in_query: bool = False) -> str:
    """Percent-encoded text as it is meant; in a query `+` is a space.

    Raises:
        ValueError: it is not UTF-8 (UnicodeDecodeError is one), or an escape is broken.
    """
    if _BROKEN_ESCAPE.search(text):
        raise ValueError
    return unquote_plus(text, errors="strict") if in_query else unquote(text, errors="strict")


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


def _pairs(query: bytes) -> Iterator[tuple[str, str]]:
    """Names and values. Programs that join pairs leave a `&` at an end or two in the middle: that says nothing."""
    pairs = [pair for pair in query.split(b"&") if pair]
    if len(query) > MAX_QUERY or len(pairs) > MAX_PARAMETERS:
        raise InvalidParameterError(f"the query is too long: at most {MAX_PARAMETERS} parameters, {MAX_QUERY} bytes")
    for pair in pairs:
        try:
            name, separator, value = pair.decode("ascii").partition("=")
            name, value = _unescaped(name, in_query=True), _unescaped(value, in_query=True)
        except ValueError:  # UnicodeDecodeError is one too
            name = separator = value = ""
        if not name or not separator:
            raise InvalidParameterError("the query is not of the form name=value&name=value in percent-encoded UTF-8")
        yield name, value


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
    """What is wrong with a name, without repeating it: what is pasted into a query by mistake may be a secret."""
    if not known:
        return "a parameter is unknown: this path takes no parameters"
    near = get_close_matches(name, sorted(known), 1) if len(name) <= _LONGEST_MISSPELLING else []
    meant = f", did you mean {near[0]}?" if near else ":"
    return f"a parameter is unknown{meant} this path takes {', '.join(sorted(known))}"
