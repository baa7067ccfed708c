"""What a request may carry: names in the path, filters, and the headers of freshness and revalidation."""

import re
from collections.abc import Iterable
from typing import Any

from service.account.selection import Shape
from service.settings import MAX_NAME, NAME_PATTERN
from service.web import caching
from service.web import parameters as edge
from service.web.openapi.schemas import Json, ref

_WORDS = {
    "account": "The account's name, as `GET /v1/accounts` lists it.",
    "asset": "Coins, such as `BTC`. Keeps asset rows of these coins, and position rows margined in them. "
    "A name that neither the account nor the exchange's listing knows is a 404.",
    "symbol": "Contracts, such as `BTCUSD_PERP`. Keeps position rows of these symbols; doesn't touch asset rows. "
    "A name that neither the account nor the exchange's listing knows is a 404; past delivery contracts are known.",
    "positionSide": "Keeps position rows of these sides. In one-way mode there are only `BOTH` rows: `LONG` is then "
    "legitimately empty, and the header `Gateway-Position-Mode: one-way` says why.",
    "open": "`true`: position rows whose `positionAmt` isn't zero; `false`: those where it is. A row without the field "
    "counts as open: unknown is not zero.",
    "nonzero": "`true`: asset rows whose `walletBalance` or `marginBalance` isn't zero; `false`: those where both are. "
    "A missing one counts as not zero.",
}
_ITEM_WORDS = {
    "asset": "The coin.",
    "symbol": "The contract.",
    "positionSide": "The side; in one-way mode only `BOTH`.",
}
_EXAMPLES = {"account": "main", "asset": "BTC", "symbol": "BTCUSD_PERP", "positionSide": "LONG"}
_SEVERAL = {
    "asset": [["BTC"], ["BTC", "ETH"]],
    "symbol": [["BTCUSD_PERP"], ["BTCUSD_PERP", "ETHUSD_PERP"]],
    "positionSide": [["LONG"], ["LONG", "SHORT"]],
}
_NAME = r"^[^\x00-\x1f\x7f-\x9f/,]+$"
"""Of assets and symbols, as every dialect of patterns has it; no JSON has half of a surrogate pair."""

_CACHE_CONTROL: dict[str, tuple[str, str]] = {
    "as usual": ("", "Nothing said: the gateway's own windows."),
    "fresh": ("max-age=2", "Not older than 2 s: else refresh, and fail rather than answer older."),
    "now": ("no-cache", "As of now (at most `min_refresh_interval` before): a refresh, shared with all who ask."),
    "don't wait": ("max-stale=30", "Up to 30 s past `fresh_for` is welcome. No limit: for that, max-age."),
    "only what is there": ("only-if-cached", "Starts nothing; 504 if nothing fresh enough is there."),
}


def path_parameters(template: str) -> list[Json]:
    """The names in a path such as `/v1/accounts/{account}`."""
    names = re.findall(r"{(\w+)}", template)
    return [_path_parameter(name) for name in names]


def filters(shape: Shape) -> list[Json]:
    """The filters a list path takes; none for the others."""
    taken = edge.FILTERS.get(shape, frozenset())
    return [_list_filter(name) for name in edge.LISTS if name in taken] + [
        _flag(name) for name in sorted(edge.FLAGS & taken)
    ]


def reading_headers() -> Iterable[Json]:
    """References to the two request headers of every read."""
    return [{"$ref": "#/components/parameters/CacheControl"}, {"$ref": "#/components/parameters/IfNoneMatch"}]


def shared_parameters() -> Json:
    return {
        "CacheControl": _header(
            "Cache-Control",
            "How fresh the answer must be (RFC 9111): `max-age=N`, `no-cache`, `min-fresh=N` (at least N seconds of "
            "`fresh_for` are left), `max-stale[=N]`, `only-if-cached`. Unknown ones are ignored; malformed "
            "ones are a 400, and so is a field over 1 KiB.",
            {name: _directive(*each) for name, each in _CACHE_CONTROL.items()},
        ),
        "IfNoneMatch": _header(
            "If-None-Match",
            "The `ETag` of the answer you have: 304 without a body while the data is the same.",
            {
                "nothing yet": {"value": "", "summary": "Nothing yet: the answer in full."},
                "known": {"value": '"9f86d081884c7d65"', "summary": "An ETag, quotes included."},
            },
        ),
    }


def _path_parameter(name: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _ITEM_WORDS.get(name, _WORDS[name]),
        "schema": _value(name),
        "example": _EXAMPLES[name],
    }


def _list_filter(name: str) -> Json:
    words = f"{_WORDS[name]} Comma-separated or repeated, {edge.MAX_VALUES} values at the most."
    several = {"type": "array", "items": _value(name), "minItems": 1, "maxItems": edge.MAX_VALUES}
    return _filter(name, words, several, _SEVERAL[name]) | {"style": "form", "explode": False}


def _flag(name: str) -> Json:
    return _filter(name, _WORDS[name], {"type": "boolean"}, [True])


def _filter(name: str, words: str, schema: Json, examples: list[Any]) -> Json:
    """Its examples stand in the schema: Swagger UI would fill in one that stands beside it, and so filter unasked."""
    return {"name": name, "in": "query", "description": words, "schema": schema | {"examples": examples}}


def _value(name: str) -> Json:
    if name == "positionSide":
        return ref("PositionSide")
    if name == "account":
        return {"type": "string", "pattern": f"^{NAME_PATTERN}$", "minLength": 1, "maxLength": 63}
    return {"type": "string", "pattern": _NAME, "minLength": 1, "maxLength": MAX_NAME}


def _directive(value: str, summary: str) -> Json:
    return {"value": value, "summary": f"{value}: {summary}" if value else summary}


def _header(name: str, words: str, examples: Json) -> Json:
    """A request header; its format is the field's own grammar.

    No pattern: an exact one needs look-arounds, which tools written in Go or Rust refuse. The first example is empty:
    it is what Swagger UI fills in.
    """
    return {
        "name": name,
        "in": "header",
        "description": words,
        "schema": {"type": "string", "format": name.lower(), "maxLength": caching.LIMITS[name]},
        "examples": examples,
    }
