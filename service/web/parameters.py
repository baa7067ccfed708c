"""Strict query → Selection. A misspelt filter must never answer unfiltered data, so everything unknown is a 400."""

# The query is parsed here and not by the framework, so that each pair is either understood or refused: one that is
# dropped or repaired would widen the selection. Each text is read once, so the time is linear in its length. Only the
# suggestion for an unknown name takes longer, and has a bound of its own.

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote, unquote_plus

import msgspec

from service.account.documents import SHAPES, WHOLE, Document, Shape
from service.account.rows import POSITION_SIDES
from service.account.selection import Selection
from service.settings import EXCHANGE_NAME_PATTERN, MAX_NAME
from service.web.problems import CombinationError, InvalidParameterError

MAX_VALUES = 100
"""Values of one filter. The exchange lists some 30 symbols and 50 coins."""
MAX_QUERY = 64 * 1024
"""Bytes; the server accepts no longer address. `MAX_VALUES` names of the greatest length fit, however escaped."""
MAX_PARAMETERS = 1_000

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LONGEST_MISSPELLING = 40
"""Characters of an unknown name that is compared with the known ones: the time grows with the square of its length."""


class Form(msgspec.Struct, frozen=True):
    """What a value looks like: as a pattern, in the words of a 400, and in the OpenAPI document."""

    pattern: re.Pattern[str]
    expected: str
    schema: dict[str, Any]


# As every dialect of patterns has it. It needs no surrogates: no JSON has half of a pair.
_NAME_SCHEMA = {"type": "string", "pattern": r"^[^\x00-\x1f\x7f-\x9f/,]+$", "minLength": 1, "maxLength": MAX_NAME}
_NAME_WORDS = f"a name of 1 to {MAX_NAME} characters, without control characters, / and ,"

NAME = Form(re.compile(EXCHANGE_NAME_PATTERN), _NAME_WORDS, _NAME_SCHEMA)
SIDE = Form(re.compile("|".join(POSITION_SIDES)), "BOTH, LONG or SHORT", {"$ref": "#/components/schemas/PositionSide"})
FLAG = Form(re.compile("true|false"), "true or false", {"type": "boolean"})


class Filter(msgspec.Struct, frozen=True):
    """A query parameter that selects rows: a flag, or a list of values of which a row must have one."""

    name: str
    field: str
    """Of `Selection`."""
    form: Form
    description: str
    item: str = ""
    """What a value is called where a path names one."""
    examples: tuple[str, ...] = ()
    """Values of a list."""


_TABLE = (
    Filter(
        "asset",
        "assets",
        NAME,
        "Coins, such as `BTC`. Keeps rows of these coins, and of symbols margined in them. A name that neither the "
        "account nor the exchange's listing knows is a 404.",
        item="The coin.",
        examples=("BTC", "ETH"),
    ),
    Filter(
        "symbol",
        "symbols",
        NAME,
        "Contracts, such as `BTCUSD_PERP`. Keeps rows of these symbols; doesn't touch rows of coins. A name that "
        "neither the account nor the exchange's listing knows is a 404; past delivery contracts are known.",
        item="The contract.",
        examples=("BTCUSD_PERP", "ETHUSD_PERP"),
    ),
    Filter(
        "positionSide",
        "sides",
        SIDE,
        "Keeps position rows of these sides. In one-way mode there are only `BOTH` rows: `LONG` is then legitimately "
        "empty, and the header `Gateway-Position-Mode: one-way` says why.",
        item="The side; in one-way mode only `BOTH`.",
        examples=("LONG", "SHORT"),
    ),
    Filter(
        "open",
        "open",
        FLAG,
        "`true`: position rows whose `positionAmt` isn't zero; `false`: those where it is. A row without the field "
        "counts as open: unknown is not zero.",
    ),
    Filter(
        "nonzero",
        "nonzero",
        FLAG,
        "`true`: asset rows whose `walletBalance` or `marginBalance` isn't zero; `false`: those where both are. "
        "A missing one counts as not zero.",
    ),
)
"""Every filter, in the order in which a query's values are checked. `telemetry.audit.Filters` has their fields too."""

FILTERS: Mapping[Shape, Mapping[str, Filter]] = {
    shape: {each.name: each for each in _TABLE if each.name in shape.filters} for shape in SHAPES.values()
}
"""What each list takes, by name; the paths of items take none."""
LISTS = {each.name: each for each in _TABLE if each.form is not FLAG}
FLAGS = frozenset(each.name for each in _TABLE if each.form is FLAG)


def selected(shape: Shape, path: Mapping[str, str], query: bytes) -> Selection:
    """The selection of a path: by the names in the path, or by the filters of a list.

    Raises:
        InvalidParameterError: names the parameter that is unknown, repeated, empty or malformed.
    """
    # A name in the path selects like a filter with this one value, so that grants narrow both by one rule.
    known = FILTERS[shape]
    values = _values(query, known) | {name: [path[name]] for name in shape.named}
    fields: dict[str, Any] = {}
    for each in _TABLE:
        if each.name in values:
            given = _well_formed(each, values[each.name])
            fields[each.field] = "true" in given if each.name in FLAGS else given
    return Selection(shape, **fields)


def as_the_exchange(document: Document, ignored: Collection[str], query: bytes) -> Selection:
    """The selection of a request in the exchange's own form, for the whole of a document.

    Raises:
        CombinationError: two of the document's parameters, of which the exchange takes one.
        InvalidParameterError: another parameter than these and the `ignored` ones, or one that is repeated, empty or
            malformed.
    """
    own = document.parameters
    given = {name: value for name, value in _values(query, {*own, *ignored}).items() if name in own}
    if len(given) > 1:
        raise CombinationError(f"of the parameters {' and '.join(own)} only one can be given")
    fields: dict[str, Any] = {}
    for name, values in given.items():
        if len(values) != 1 or not NAME.pattern.fullmatch(values[0]):
            raise InvalidParameterError(f"parameter {name}: expected {NAME.expected}")
        fields[own[name]] = frozenset(values)
    return Selection(WHOLE[document], **fields)


def accept_only(known: Collection[str], query: bytes) -> None:
    """Return for a query of these names alone, with any values; of none: for an empty query.

    Raises:
        InvalidParameterError: it has another name, or is malformed.
    """
    _values(query, known)


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


def _values(query: bytes, known: Collection[str]) -> dict[str, list[str]]:
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


def _well_formed(each: Filter, values: list[str]) -> frozenset[str]:
    if len(values) > MAX_VALUES:
        raise InvalidParameterError(f"parameter {each.name}: at most {MAX_VALUES} values")
    if not all(map(each.form.pattern.fullmatch, values)):
        raise InvalidParameterError(f"parameter {each.name}: expected {each.form.expected}")
    return frozenset(values)


def _unknown(name: str, known: Collection[str]) -> str:
    """What is wrong with a name. The text never repeats it: a name pasted by mistake may be a secret."""
    if not known:
        return "a parameter is unknown: this path takes no parameters"
    near = get_close_matches(name, sorted(known), 1) if len(name) <= _LONGEST_MISSPELLING else []
    meant = f", did you mean {near[0]}?" if near else ":"
    return f"a parameter is unknown{meant} this path takes {', '.join(sorted(known))}"
