"""The drop-in paths in the document: the exchange's own operations, with its form of errors."""

from collections.abc import Mapping

from service.account.selection import Shape
from service.exchange.clock import EARLIEST, LATEST
from service.web import dropin_errors as forms
from service.web import parameters
from service.web.dropin_errors import ExchangeForm
from service.web.openapi import answers, examples, headers, inputs
from service.web.openapi.schemas import Json, ref

TAG = "drop-in"

SECURITY_SCHEME = {
    "type": "apiKey",
    "in": "header",
    "name": "X-MBX-APIKEY",
    "description": "Your team's token in the place of an exchange's API key, on the drop-in paths alone.",
}

_SIGNED = {"timestamp": "1790000000000", "recvWindow": "5000", "signature": "c0ffee"}
"""With examples."""

_REFUSALS: Mapping[str, tuple[ExchangeForm, str, str | None]] = {
    "DropInUnread": (forms.UNREAD, "A parameter that isn't known here, or a malformed header; `msg` names it.", None),
    "DropInNoPath": (forms.NO_PATH, "Nothing else exists here, and nothing that writes.", None),
    "DropInTooMany": (
        forms.TOO_MANY,
        "Your client's own request limit. Come back after `Retry-After`.",
        "Retry-After",
    ),
    "DropInUnavailable": (
        forms.UNAVAILABLE,
        "The exchange's trouble, or the gateway's: `msg` names the problem. Come back after `Retry-After`.",
        "Retry-After",
    ),
}

_PUBLIC: Mapping[str, tuple[Json, str, Json]] = {
    "dropin_exchange_info": (
        {
            "type": "object",
            "description": "What the exchange says of itself, as it said it.",
            "additionalProperties": True,
        },
        "The gateway's copy.",
        {"shortened": {"summary": "Shortened", "value": {"timezone": "UTC", "symbols": [], "rateLimits": []}}},
    ),
    "dropin_ping": (
        {"type": "object", "description": "Nothing.", "maxProperties": 0},
        "There.",
        {"there": {"summary": "An empty object", "value": {}}},
    ),
    "dropin_time": (
        {
            "type": "object",
            "description": "The exchange's time.",
            "required": ["serverTime"],
            "properties": {
                "serverTime": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": EARLIEST,
                    "maximum": LATEST,
                    "description": "Milliseconds since the epoch.",
                }
            },
        },
        "The exchange's time, by the gateway's clock.",
        {"now": {"summary": "Milliseconds since the epoch", "value": {"serverTime": 1790000000000}}},
    ),
}


def operation(operation_id: str, path: str) -> Json:
    """What one of them takes and answers."""
    named = [*inputs.path_parameters(path), *(_signed(name) for name in _SIGNED)]
    if operation_id in _PUBLIC:
        return {"security": [], "parameters": named, "responses": _public(operation_id)}
    data = headers.data_headers(positions=True)
    account = answers.success("The account, cut to your grant.", ref("Account"), examples.OF[Shape.ACCOUNT], data)
    responses = {
        "200": account,
        "304": answers.not_modified(data),
        **_references("DropInUnread", "DropInUnauthorized", "DropInNoPath", "DropInTooMany", "DropInUnavailable"),
    }
    parameters = [*named, *inputs.reading_headers()]
    return {"security": [{"apiKey": []}], "parameters": parameters, "responses": responses}


def refusals() -> Json:
    """Every named response."""
    found = {
        name: _refusal(words, {"told": form}, header, known=form is not forms.NO_PATH)
        for name, (form, words, header) in _REFUSALS.items()
    }
    rejected = {"malformed": forms.KEY_FORMAT, "rejected": forms.REJECTED}
    words = "No token or two credentials (-2014); an unknown token, or an account that isn't granted (-2015)."
    return found | {"DropInUnauthorized": _refusal(words, rejected, "WWW-Authenticate", known=True)}


def _public(operation_id: str) -> Json:
    schema, words, shown = _PUBLIC[operation_id]
    found = answers.success(words, schema, shown)
    names = ["DropInUnread", "DropInNoPath", "DropInUnavailable"]
    return {"200": found, **_references(*names)}


def _references(*names: str) -> Json:
    statuses = {name: form.status for name, (form, _, _) in _REFUSALS.items()} | {"DropInUnauthorized": 401}
    ordered = sorted(names, key=statuses.__getitem__)
    return {str(statuses[name]): {"$ref": f"#/components/responses/{name}"} for name in ordered}


def _refusal(words: str, told: Mapping[str, ExchangeForm], header: str | None, *, known: bool) -> Json:
    names = (*headers.EVERYWHERE, *(headers.LIMITS if known else ()), *([header] if header else []))
    shown = {name: _example(each) for name, each in told.items()}
    content = {forms.JSON: {"schema": ref("DropInError"), "examples": shown}}
    return {"description": words, "headers": headers.references(names), "content": content}


def _example(form: ExchangeForm) -> Json:
    message = form.message.format(problem="exchange-banned", detail=_DETAILS.get(form.code, ""))
    return {"summary": f"{form.code}", "value": {"code": form.code, "msg": message}}


_DETAILS = {
    forms.UNREAD.code: "parameter symbol: unknown; this path takes recvWindow, signature, timestamp",
    forms.NO_PATH.code: "there is no such path",
    forms.TOO_MANY.code: "more requests a second than this client may send",
    forms.UNAVAILABLE.code: "the exchange has banned our address for a while; it is not asked until then",
}


def _signed(name: str) -> Json:
    return {
        "name": name,
        "in": "query",
        "description": "What a client that signs its requests sends; accepted and ignored.",
        "schema": {
            "type": "string",
            "format": name.lower(),
            "maxLength": parameters.MAX_IGNORED,
            "examples": [_SIGNED[name]],
        },
    }
