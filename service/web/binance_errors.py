"""Any error → Binance's `{"code":…,"msg":…}`, for the paths that Binance's own clients call.

The codes are those that clients act upon. The texts are ours, or Binance's own where they reveal nothing.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from service.account.documents import DOCUMENTS
from service.web.problems import (
    CombinationError,
    ForbiddenError,
    InvalidParameterError,
    MethodNotAllowedError,
    NotFoundError,
    ProblemError,
    Refusal,
    Reportable,
    TooManyRequestsError,
    UnauthenticatedError,
    UnknownAssetError,
    UnknownSymbolError,
    UnverifiedError,
)

CHALLENGE = 'ApiKey realm="coinm-gateway", header="X-MBX-APIKEY"'
"""A 401 must name a scheme (RFC 9110 §11.6.1); Binance's has no registered name."""


class MalformedKeyError(UnauthenticatedError):
    """No key, several credentials, or no possible key. Clients get another code for it than for an unknown key."""


class BinanceError(msgspec.Struct, frozen=True):
    """The body of every error below `/binance/`."""

    code: Annotated[int, Meta(description="What happened, by Binance's list.", extra_json_schema={"format": "int32"})]
    msg: Annotated[str, Meta(description="In words; never the exchange's own.")]


class Form(msgspec.Struct, frozen=True):
    """What errors of one class become."""

    status: int
    code: int
    words: str = ""
    """The text, which may name the problem; empty: the error's own detail."""


_KEPT = ("cache-control", "retry-after")
_INVALID_KEY = "Invalid API-key, or permissions for action."

SERVED = tuple(f"/dapi/v1/{name}" for name in ("ping", "time", "exchangeInfo"))
SERVED += tuple(document.path for document in DOCUMENTS)
"""What there is below `/binance/{account}`, with GET and HEAD."""
_NOT_SERVED = Form(
    404, -5000, f"Path, or method on it, is invalid. The gateway serves GET {', '.join(SERVED)}; see /docs/clients.md."
)

OURS = Form(503, -1001, "Internal error; unable to process your request. Please try again. ({problem})")

FORMS: dict[type[ProblemError], Form] = {
    MalformedKeyError: Form(401, -2014, "API-key format invalid."),
    UnverifiedError: OURS,
    UnauthenticatedError: Form(401, -2015, _INVALID_KEY),
    ForbiddenError: Form(401, -2015, _INVALID_KEY),
    InvalidParameterError: Form(400, -1104),
    CombinationError: Form(400, -1128, "Combination of optional parameters invalid."),
    UnknownSymbolError: Form(400, -1121, "Invalid symbol."),
    UnknownAssetError: Form(400, -1121, "Invalid symbol."),
    NotFoundError: _NOT_SERVED,
    MethodNotAllowedError: _NOT_SERVED,
    TooManyRequestsError: Form(429, -1003, "Too many requests; this is the gateway's limit for this key."),
}
"""By the most specific class. Every other error, and every 5xx, becomes `OURS`: our trouble or the exchange's."""


def refusal(error: Reportable, headers: dict[str, str]) -> Refusal:
    """Encode an error in Binance's form, with those of its headers that still fit."""
    form = OURS
    if error.status < 500:
        form = next((FORMS[kind] for kind in type(error).__mro__ if kind in FORMS), OURS)
    headers = {name: headers[name] for name in _KEPT if name in headers}
    if form.status == 401:
        headers["www-authenticate"] = CHALLENGE
    if form is OURS:
        headers.setdefault("retry-after", "1")  # so that clients wait at all
    words = form.words.format(problem=error.problem) or error.detail
    body = msgspec.json.encode(BinanceError(form.code, words))
    return Refusal(form.status, "application/json", headers, body)
