"""Errors as Binance clients read them: `{"code":…,"msg":…}`, and the statuses that their classes of errors go by.

"COIN-M docs, error codes": -1001 is what its clients try again, -2014 and -2015 what they don't, -1003 what they slow
down for. The exchange's own trouble and ours is a -1001, never its 429 or 418: a client would take itself for banned.
"""

from collections.abc import Mapping

import msgspec
from litestar import Response

from service.web.problems import (
    ForbiddenError,
    InvalidParameterError,
    MethodNotAllowedError,
    NotFoundError,
    Told,
    TooManyRequestsError,
    UnauthenticatedError,
    UnverifiedError,
    retry_after,
)

JSON = "application/json"
CHALLENGE = 'ApiKey realm="coinm-gateway"'
"""Every 401 must have one (RFC 9110 §15.5.2); the scheme is nobody's, as the exchange's header isn't."""
_AGAIN = 1_000
"""Ms to wait for what passes by itself, where nobody knows for how long."""


class KeyFormatError(UnauthenticatedError):
    """No API key, several credentials, or nothing that could be one."""


class ExchangeForm(msgspec.Struct, frozen=True):
    """One code of the exchange's, as it comes with a status; the message may have the problem's name and detail."""

    status: int
    code: int
    message: str


class DropInError(msgspec.Struct, frozen=True):
    """The body."""

    code: int
    msg: str


KEY_FORMAT = ExchangeForm(401, -2014, "API-key format invalid.")
REJECTED = ExchangeForm(401, -2015, "Invalid API-key, IP, or permissions for action.")
UNREAD = ExchangeForm(400, -1104, "Not all sent parameters were read: {detail}")
NO_PATH = ExchangeForm(404, -5000, "Path or method is invalid: {detail}")
TOO_MANY = ExchangeForm(429, -1003, "Too many requests: {detail}")
UNAVAILABLE = ExchangeForm(
    503, -1001, "Internal error; unable to process your request. Please try again. ({problem}: {detail})"
)

_FORMS: tuple[tuple[type[Exception], ExchangeForm], ...] = (
    (KeyFormatError, KEY_FORMAT),
    (UnverifiedError, UNAVAILABLE),
    (UnauthenticatedError, REJECTED),
    (ForbiddenError, REJECTED),
    (InvalidParameterError, UNREAD),
    (NotFoundError, NO_PATH),
    (MethodNotAllowedError, NO_PATH),
    (TooManyRequestsError, TOO_MANY),
)
"""The first that fits; whatever is not here is our trouble or the exchange's."""


def form_of(told: Told) -> ExchangeForm:
    """How an error is told to a Binance client."""
    return next((form for kind, form in _FORMS if isinstance(told, kind)), UNAVAILABLE)


def answer(told: Told, headers: Mapping[str, str]) -> Response[bytes]:
    """The answer for an error that brings these headers."""
    form, sent = form_of(told), dict(headers)
    sent.pop("allow", None)  # here every other method is a path that isn't
    sent.pop("www-authenticate", None)
    if form.status == 401:
        sent["www-authenticate"] = CHALLENGE
    if form is UNAVAILABLE:
        sent = retry_after(_AGAIN) | sent
    body = DropInError(form.code, form.message.format(problem=told.problem, detail=told.detail))
    return Response(msgspec.json.encode(body), status_code=form.status, media_type=JSON, headers=sent)
