"""Strict query → Selection. A misspelt filter must never answer unfiltered data, so everything unknown is a 400."""

# The query is parsed here and not by the framework, so that each pair is either understood or refused: one that is
# dropped or repaired would widen the selection. Each text is read once, so the time is linear in its length. Only the
# suggestion for an unknown name takes longer, and has a bound of its own.

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from urllib.parse import unquote, unquote_plus

from service.account.rows import POSITION_SIDES
from service.account.selection import Selection, Shape
from service.settings import EXCHANGE_NAME_PATTERN, MAX_NAME
from service.web.problems import InvalidParameterError

MAX_VALUES = 100
"""Values of one filter. The exchange lists some 30 symbols and 50 coins."""
MAX_QUERY = 64 * 1024
"""Bytes; the server accepts no longer address. `MAX_VALUES` names of the greatest length fit, however escaped."""
MAX_PARAMETERS = 1_000

_NAME = re.compile(EXCHANGE_NAME_PATTERN)
_NAME_WORDS = f"a name of 1 to {MAX_NAME} characters, without control characters, / and ,"
_SIDE = re.compile("|".join(POSITION_SIDES))
_TRUTH = {"true": True, "false": False}
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LONGEST_MISSPELLING = 40
"""Characters of an unknown name that is compared with the known ones: the time grows with the square of its length."""

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
    """Return for an empty query, as item paths need it.

    Raises:
        InvalidParameterError: there is a query.
    """
    _values(query, frozenset())


def accept_only(known: frozenset[str], query: bytes) -> None:
    """Return for a query of these names, with any values.

    Raises:
        InvalidParameterError: it has another name, or is malformed.
    """
    _values(query, known)


def path_value(name: str, value: str) -> frozenset[str]:
    """A name in the path, checked like the filter of the same name. It comes decoded: `%00` is a NUL.

    Raises:
        InvalidParameterError: malformed.
    """
    return frozenset({_well_formed(name, value)})


def require_readable(raw_path: bytes) -> None:
    """Return if a path, as sent, is percent-encoded UTF-8; the server silently replaces what isn't.

    Raises:
        InvalidParameterError: it isn't.
    """
    try:
        _unescaped(raw_path.decode("utf-8"))
    except ValueError:
        raise InvalidParameterError("the path is not percent-encoded UTF-8") from None


def _unescaped(text: str, *, in_query: bool = False) -> str:
    """Percent-encoded text, decoded; in a query `+` is a space.

    Raises:
        ValueError: it is not UTF-8 (UnicodeDecodeError is one), or an escape is broken.
    """
    if _BROKEN_ESCAPE.search(text):
        raise ValueError
    return unquote_plus(text, errors="strict") if in_query else unquote(text, errors="strict")


def _values(query: bytes, known: frozenset[str]) -> dict[str, list[str]]:
    """Each parameter's values in order. A repeated list adds its values; a repeated flag is refused."""
    values: dict[str, list[str]] = {}
    for name, value in _pairs(query):
        if name not in known:
            raise InvalidParameterError(_unknown(name, known))
        if name in values and name in FLAGS:
            raise InvalidParameterError(f"parameter {name}: given more than once")
        values.setdefault(name, []).extend(value.split(",") if name in LISTS else [value])
    return values


def _pairs(query: bytes) -> Iterator[tuple[str, str]]:
    """Names and values, decoded. Empty pairs are skipped: programs that join pairs leave a `&` too many."""
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
    listed = values.get(name)
    if listed is None:
        return None
    if len(listed) > MAX_VALUES:
        raise InvalidParameterError(f"parameter {name}: at most {MAX_VALUES} values")
    return frozenset(_well_formed(name, value) for value in listed)


def _well_formed(name: str, value: str) -> str:
    pattern, expected = LISTS[name]
    if not pattern.fullmatch(value):
        raise InvalidParameterError(f"parameter {name}: expected {expected}")
    return value


def _flag(name: str, values: Mapping[str, list[str]]) -> bool | None:
    flags = values.get(name)
    if flags is None:
        return None
    if flags[0] not in _TRUTH:
        raise InvalidParameterError(f"parameter {name}: expected true or false")
    return _TRUTH[flags[0]]


def _unknown(name: str, known: frozenset[str]) -> str:
    """What is wrong with a name. The text never repeats it: a name pasted by mistake may be a secret."""
    if not known:
        return "a parameter is unknown: this path takes no parameters"
    near = get_close_matches(name, sorted(known), 1) if len(name) <= _LONGEST_MISSPELLING else []
    meant = f", did you mean {near[0]}?" if near else ":"
    return f"a parameter is unknown{meant} this path takes {', '.join(sorted(known))}"
