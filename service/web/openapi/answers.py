"""What comes back: headers, bodies with examples, and every problem that an operation can answer with."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from service.cache.policy import FreshnessUnmetError
from service.exchange.errors import ERRORS, ExchangeError
from service.web.openapi.schemas import ref
from service.web.problems import (
    MEDIA_TYPE,
    TYPE_PREFIX,
    ForbiddenError,
    InternalError,
    InvalidParameterError,
    NotFoundError,
    ProblemError,
    TooManyRequestsError,
    UnauthenticatedError,
)

Json = dict[str, Any]
Told: TypeAlias = type[ProblemError] | type[ExchangeError] | type[FreshnessUnmetError]

CALLER: tuple[Told, ...] = (InvalidParameterError, UnauthenticatedError, TooManyRequestsError, InternalError)
"""Of every operation that asks who is calling."""

READING: tuple[Told, ...] = (*CALLER, ForbiddenError, NotFoundError, *ERRORS.values(), FreshnessUnmetError)
"""Of every read of an account."""

_STATUSES = {
    400: "A parameter or directive is malformed or unknown: nothing is answered that wasn't asked for.",
    401: "No token, an unknown one, or more than one.",
    403: "The account (be it there or not), or something named in the request, isn't granted to the client.",
    404: "The account hasn't got it.",
    429: "The client's own request limit: come back after `Retry-After`.",
    500: "A fault of the gateway. Tell its operators the `X-Request-Id`.",
    502: "The exchange answers, but not with an account: its operators or ours must act. Back off, don't hammer.",
    503: "The exchange can't be asked now and nothing young enough is there. Come back after `Retry-After` (where there "
    "is none: back off from 1 s, doubled, with jitter). Repeating sooner changes nothing: the failure is remembered.",
    504: "The exchange didn't answer in time, or the asked freshness can't be met.",
}

_HEADERS: dict[str, tuple[str, Json, object]] = {
    "Age": ("Whole seconds since the exchange was asked.", {"type": "integer", "minimum": 0}, 1),
    "Gateway-Snapshot-Age": ("The same in milliseconds.", {"type": "integer", "minimum": 0}, 1240),
    "Gateway-Snapshot-Time": (
        "When the exchange was asked (RFC 3339, UTC).", {"type": "string", "format": "date-time"}, "2026-01-02T03:04:05.678Z",
    ),
    "Gateway-Environment": ("Which environment the data is of.", {"type": "string"}, "production"),
    "Gateway-Position-Mode": (
        "The account's position mode, where it has positions.", {"type": "string", "enum": ["one-way", "hedge"]}, "hedge",
    ),
    "Cache-Status": (
        "How the answer came about (RFC 9211). `ttl` is what is left of `fresh_for` in seconds; negative: stale, and "
        "`detail` says why.", {"type": "string"}, "coinm-gateway; hit; ttl=0",
    ),
    "Cache-Control": ("Store it, but ask again.", {"type": "string"}, "private, no-cache"),
    "ETag": ("Of this body; unchanged as long as the data is.", {"type": "string"}, '"1f0e8d8a5a0c"'),
    "Vary": ("Answers differ by caller.", {"type": "string"}, "Authorization"),
    "X-Request-Id": ("The caller's, or a new one.", {"type": "string"}, "3f1c0b7e9d2a4c55"),
    "Retry-After": ("Whole seconds to wait.", {"type": "integer", "minimum": 1}, 7),
    "WWW-Authenticate": ("How to say who is calling.", {"type": "string"}, 'Bearer realm="coinm-gateway"'),
}  # fmt: skip
_FRESHNESS = (
    "Age",
    "Gateway-Snapshot-Age",
    "Gateway-Snapshot-Time",
    "Gateway-Environment",
    "Cache-Status",
    "ETag",
    "Vary",
)
_PARTLY = frozenset({"Gateway-Position-Mode", "Retry-After"})
"""Not on every answer that may have them."""


def headers() -> Json:
    return {
        name: {"description": words, "required": name not in _PARTLY, "schema": schema, "example": example}
        for name, (words, schema, example) in _HEADERS.items()
    }


def success(words: str, schema: Json, examples: Mapping[str, Json], *, data: bool = False) -> Json:
    """A 200; `data` is cut from a snapshot, and so has the headers that state its age."""
    names = ("Cache-Control", "X-Request-Id", *(_FRESHNESS if data else ()))
    content = {"application/json": {"schema": schema, "examples": dict(examples)}}
    return {
        "description": words,
        "headers": _references((*names, *(("Gateway-Position-Mode",) if data else ()))),
        "content": content,
    }


def not_modified() -> Json:
    names = ("Cache-Control", "X-Request-Id", *_FRESHNESS, "Gateway-Position-Mode")
    return {"description": "What you have (`If-None-Match`) is what there is.", "headers": _references(names)}


def problems(possible: Iterable[Told]) -> Json:
    """Responses by status; the examples of each name every problem type it can be."""
    by_status: dict[int, list[Told]] = {}
    for each in possible:
        by_status.setdefault(each.status, []).append(each)
    return {str(status): _problem(status, by_status[status]) for status in sorted(by_status)}


def _problem(status: int, told: list[Told]) -> Json:
    extra = {
        401: ("WWW-Authenticate",),
        429: ("Retry-After",),
        502: ("Retry-After",),
        503: ("Retry-After",),
        504: ("Retry-After",),
    }
    return {
        "description": _STATUSES[status],
        "headers": _references(("Cache-Control", "X-Request-Id", *extra.get(status, ()))),
        "content": {
            MEDIA_TYPE: {"schema": ref("Problem"), "examples": {each.problem: _example(each) for each in told}}
        },
    }


def _example(told: Told) -> Json:
    value = {
        "type": TYPE_PREFIX + told.problem,
        "title": told.title,
        "status": told.status,
        "detail": _DETAILS.get(told.problem, told.title),
        "instance": "urn:request:3f1c0b7e9d2a4c55",
    }
    return {"summary": told.title, "value": value}


_DETAILS = {
    "invalid-parameter": "parameter positionSide: expected BOTH, LONG or SHORT",
    "unauthenticated": "a bearer token is needed",
    "forbidden": "this account is not granted to the client",
    "unknown-asset": "the account has no asset XYZ",
    "unknown-symbol": "the account has no symbol XYZUSD_PERP",
    "no-such-position-side": "symbol BTCUSD_PERP has no LONG position: the account is in one-way mode and has only BOTH",
}


def _references(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
