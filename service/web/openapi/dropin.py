"""The paths that Binance's own clients call: what they may carry, and errors in Binance's form."""

from collections.abc import Mapping

import msgspec

from service.account.selection import Shape
from service.cache.policy import FreshnessUnmetError
from service.fleet.errors import ExchangeBannedError, ExchangeUnavailableError
from service.web import dropin
from service.web.binance_errors import CHALLENGE, MalformedKeyError, refusal
from service.web.openapi import answers, examples, headers, inputs
from service.web.openapi.schemas import Json, ref
from service.web.problems import (
    AuditUnavailableError,
    ForbiddenError,
    InternalError,
    InvalidParameterError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    Reportable,
    TooManyRequestsError,
    UnauthenticatedError,
)

TAG = "drop-in"
TAG_WORDS = (
    "For Binance's own clients: their base URL becomes this gateway's with `/binance/{account}`, their API key your "
    "token. Errors are Binance's, `{code, msg}`; whatever else its API has is a 404 with -5000. "
    "[How to point each client here](/docs/clients.md)."
)

KEY = {
    "type": "apiKey",
    "in": "header",
    "name": "X-MBX-APIKEY",
    "description": "Your team's token, where Binance's clients send their API key; no other credential beside it.",
}

_DETAIL = "a parameter is unknown: this path takes recvWindow, signature, timestamp"

_UNAVAILABLE = (
    "The exchange can't be asked now, or answers with no account; the demanded freshness can't be met; too "
    "many requests wait on this replica; the audit log takes no line; a fault of the gateway. Nothing is known: come "
    "back after `Retry-After`. In parentheses stands the problem that other paths name."
)

_REFUSALS: Mapping[str, tuple[str, tuple[Reportable, ...]]] = {
    "BinanceInvalidParameter": (
        "A parameter that isn't one of the three, a malformed query, or a malformed directive.",
        (InvalidParameterError(_DETAIL),),
    ),
    "BinanceUnauthenticated": (
        "-2014: not one token, or what can't be one. -2015: unknown, or no grant on the account, existing or not.",
        (MalformedKeyError(""), UnauthenticatedError(""), ForbiddenError("")),
    ),
    "BinanceNotFound": (
        "Whatever else the exchange has is not here: other paths, and every method but GET and HEAD.",
        (NotFoundError(""), MethodNotAllowedError("")),
    ),
    "BinanceTooManyRequests": (
        "Your client's own request limit. Come back after `Retry-After`.",
        (TooManyRequestsError(""),),
    ),
    "BinanceUnavailable": (
        _UNAVAILABLE,
        (
            ExchangeUnavailableError(""),
            ExchangeBannedError(""),
            FreshnessUnmetError(""),
            AuditUnavailableError(""),
            OverloadedError(""),
            InternalError(""),
        ),
    ),
}

_PUBLIC = ("BinanceInvalidParameter", "BinanceNotFound", "BinanceUnavailable")
_STATUSES = {
    "BinanceInvalidParameter": "400",
    "BinanceUnauthenticated": "401",
    "BinanceNotFound": "404",
    "BinanceTooManyRequests": "429",
    "BinanceUnavailable": "503",
}

_PARAMETERS = {
    "timestamp": ("Milliseconds since the epoch", "1790000000000"),
    "recvWindow": ("How late the request may arrive, in milliseconds", "5000"),
    "signature": ("The signature of the query", "c8db56825ae71d6d"),
}

_EXCHANGE_INFO = {
    "exchangeFilters": [],
    "rateLimits": [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400}],
    "serverTime": 1790000000000,
    "symbols": [{"symbol": "BTCUSD_PERP", "pair": "BTCUSD", "contractType": "PERPETUAL", "marginAsset": "BTC"}],
    "timezone": "UTC",
}


def operation(operation_id: str) -> Json:
    """Parameters, security and answers of one of the four."""
    match operation_id:
        case "binance_account":
            return _account()
        case "binance_exchange_info":
            words = "The exchange's answer, as it sent it."
            names = (*headers.EVERYWHERE, "Age", "Gateway-Environment")
            found = answers.success(words, ref("ExchangeInfo"), _example("Cut short", _EXCHANGE_INFO), names)
            return _public(found)
        case "binance_time":
            now = {"serverTime": 1790000000000}
            found = answers.success("What time it is there.", ref("ServerTime"), _example("Epoch ms", now))
            return _public(found)
        case _:
            return _public(answers.success("Alive.", ref("Empty"), _example("Always", {})))


def parameters() -> Json:
    """What clients add to a query."""
    return {f"Binance_{name}": _ignored(name) for name in _PARAMETERS}


def responses() -> Json:
    """Every refusal; its examples' names are the codes it can have, with what for."""
    return {name: _refusal(*each) for name, each in _REFUSALS.items()}


def _account() -> Json:
    names = [name for name in headers.data_headers(positions=True) if name != "Vary"]
    vary = {"Vary": {"$ref": "#/components/headers/VaryByKey"}}
    shown = {mode: examples.OF[Shape.ACCOUNT][mode] for mode in ("one-way", "hedge")}
    found = answers.success("The account, cut by grant.", ref("Account"), shown, names)
    same = answers.not_modified(names)
    for each in (found, same):
        each["headers"] |= vary
    return {
        "security": [{"key": []}],
        "parameters": [*_parameters(), *inputs.reading_headers()],
        "responses": {"200": found, "304": same} | _by_status(tuple(_REFUSALS)),
    }


def _public(found: Json) -> Json:
    return {"security": [], "parameters": _parameters(), "responses": {"200": found} | _by_status(_PUBLIC)}


def _parameters() -> list[Json]:
    account = {
        "name": "account",
        "in": "path",
        "required": True,
        "description": "The account's name; where no token is asked for, any.",
        "schema": {"type": "string", "pattern": f"^{dropin.ACCOUNT}$", "minLength": 1, "maxLength": 63},
        "example": "main",
    }
    return [account, *({"$ref": f"#/components/parameters/Binance_{name}"} for name in _PARAMETERS)]


def _ignored(name: str) -> Json:
    words, example = _PARAMETERS[name]
    schema = {"type": "string", "examples": [example]}
    said = f"{words}, as clients send it with what they sign. Ignored, whatever it is."
    return {"name": name, "in": "query", "description": said, "schema": schema}


def _by_status(names: tuple[str, ...]) -> Json:
    ordered = sorted(names, key=lambda name: _STATUSES[name])
    return {_STATUSES[name]: {"$ref": f"#/components/responses/{name}"} for name in ordered}


def _example(summary: str, value: Json) -> Json:
    return {"example": {"summary": summary, "value": value}}


def _refusal(words: str, errors: tuple[Reportable, ...]) -> Json:
    made = [(error, refusal(error, {"cache-control": "no-store", "retry-after": "7"})) for error in errors]
    shown = {
        error.problem: {"summary": error.title, "value": msgspec.json.decode(answer.body)} for error, answer in made
    }
    status = made[0][1].status
    told = dict(headers.references(headers.EVERYWHERE if status == 404 else headers.LIMITED))
    if status == 401:
        shown["malformed"] = {"summary": "No token, or several", "value": msgspec.json.decode(made[0][1].body)}
        told["WWW-Authenticate"] = {"$ref": "#/components/headers/ApiKeyChallenge"}
    if status in (429, 503):
        told |= headers.references(["Retry-After"])
    content = {"application/json": {"schema": ref("BinanceError"), "examples": shown}}
    return {"description": words, "headers": told, "content": content}


HEADERS: Json = {
    "VaryByKey": {
        "description": "Answers differ by caller.",
        "required": True,
        "schema": {"type": "string", "const": "X-MBX-APIKEY"},
        "example": "X-MBX-APIKEY",
    },
    "ApiKeyChallenge": {
        "description": "How to say who is calling.",
        "required": True,
        "schema": {"type": "string", "const": CHALLENGE},
        "example": CHALLENGE,
    },
}
