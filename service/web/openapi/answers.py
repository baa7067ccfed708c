"""What comes back: headers, bodies with examples, and every problem that an operation can answer with."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

from service.cache.policy import FreshnessUnmetError
from service.fleet.errors import ERRORS, ExchangeError
from service.web.openapi.headers import EVERYWHERE, LIMITS, references
from service.web.openapi.schemas import Json, ref
from service.web.problems import (
    MEDIA_TYPE,
    TYPE_PREFIX,
    AuditUnavailableError,
    ForbiddenError,
    InternalError,
    InvalidParameterError,
    NoSuchPositionSideError,
    NotFoundError,
    OverloadedError,
    ProblemError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnknownAssetError,
    UnknownSymbolError,
)

Reportable: TypeAlias = type[ProblemError] | type[ExchangeError] | type[FreshnessUnmetError]


class Refusal(msgspec.Struct, frozen=True):
    """A named response of the document: one status, and the problems that come with it."""

    status: int
    words: str
    problems: tuple[Reportable, ...]
    header: str | None = None
    """The header that says what to do next."""
    also: str | None = None
    """One that may come with it."""


def _exchange(status: int) -> tuple[Reportable, ...]:
    return tuple(error for error in ERRORS.values() if error.status == status)


REFUSALS: Mapping[str, Refusal] = {
    "InvalidParameter": Refusal(
        400,
        "A parameter is malformed or unknown, a directive malformed, or HTTP/1.1 without exactly one `Host`; `detail` "
        "names what it is, never its value.",
        (InvalidParameterError,),
    ),
    "Unauthenticated": Refusal(
        401,
        "No token, an unknown one, or more than one. With `Retry-After`: a ServiceAccount's token can't be verified "
        "just now; it may be good.",
        (UnauthenticatedError,),
        "WWW-Authenticate",
        "Retry-After",
    ),
    "Forbidden": Refusal(
        403,
        "The account (whether or not it exists), or something that the request names, isn't granted to your client.",
        (ForbiddenError,),
    ),
    "UnknownAsset": Refusal(404, "The account doesn't have this asset.", (UnknownAssetError, NotFoundError)),
    "UnknownSymbol": Refusal(404, "The account doesn't have this symbol.", (UnknownSymbolError, NotFoundError)),
    "UnknownAssetInFilter": Refusal(
        404,
        "Neither the account nor the exchange's listing knows an asset of the filter: an empty list would mislead.",
        (UnknownAssetError, NotFoundError),
    ),
    "UnknownNameInFilter": Refusal(
        404,
        "Neither the account nor the exchange's listing knows an asset or a symbol of the filters: an empty list would "
        "mislead.",
        (UnknownAssetError, UnknownSymbolError, NotFoundError),
    ),
    "NoSuchPosition": Refusal(
        404,
        "The account doesn't have this symbol, or the symbol has no row of this side: in one-way mode there is only "
        "`BOTH`, and `detail` says so.",
        (NoSuchPositionSideError, UnknownSymbolError, NotFoundError),
    ),
    "TooManyRequests": Refusal(
        429, "Your client's own request limit. Come back after `Retry-After`.", (TooManyRequestsError,), "Retry-After"
    ),
    "InternalError": Refusal(
        500, "A fault of the gateway. Tell its operators the `X-Request-Id`.", (InternalError,), "Retry-After"
    ),
    "ExchangeRefuses": Refusal(
        502,
        "The exchange answers, but not with an account, and nothing young enough is there. People must act: back off "
        "by `Retry-After`, or from 1 s doubled up to 30 s, and alert.",
        _exchange(502),
        "Retry-After",
    ),
    "Overloaded": Refusal(
        503,
        "More requests wait on this replica than it takes. Come back after `Retry-After`.",
        (OverloadedError,),
        "Retry-After",
    ),
    "AuditUnavailable": Refusal(
        503,
        "No read is answered without its line in the audit log, which takes none now; or more requests wait on this "
        "replica than it takes (`overloaded`). Come back after `Retry-After`.",
        (AuditUnavailableError, OverloadedError),
        "Retry-After",
    ),
    "ExchangeUnavailable": Refusal(
        503,
        "The exchange can't be asked now, and nothing young enough is there; or more reads wait for it than this "
        "replica takes (`overloaded`), or the audit log takes no line (`audit-unavailable`). Come back after "
        "`Retry-After`; where there is none, back off from 1 s, doubled up to 30 s, with jitter. Sooner changes "
        "nothing: the failure is remembered. Don't take missing data for a flat account.",
        (*_exchange(503), AuditUnavailableError, OverloadedError),
        "Retry-After",
    ),
    "NotInTime": Refusal(
        504,
        "The exchange didn't answer in time, or the freshness that the request demands can't be met "
        "(`freshness-unmet`: back off, or demand less; a `min-fresh` of `fresh_for` or more never succeeds).",
        (*_exchange(504), FreshnessUnmetError),
        "Retry-After",
    ),
}

CALLER = ("InvalidParameter", "Unauthenticated", "TooManyRequests", "InternalError")
"""Of every operation that asks who is calling."""

READING = (*CALLER, "Forbidden", "ExchangeRefuses", "ExchangeUnavailable", "NotInTime")
"""Of every read of an account, beside its 404."""

_DETAILS = {
    "invalid-parameter": "parameter positionSide: expected BOTH, LONG or SHORT",
    "unauthenticated": "a bearer token is needed",
    "forbidden": "this account is not granted to the client",
    "unknown-asset": "parameter asset: the account has no such asset",
    "unknown-symbol": "parameter symbol: the account has no such symbol",
    "no-such-position-side": "parameter positionSide: the symbol has no position of that side: "
    "the account is in one-way mode and has only BOTH",
    "not-found": "there is no such path",
    "too-many-requests": "more requests a second than this client may send",
    "audit-unavailable": "no read is answered without its line in the audit log",
    "overloaded": "too many requests wait on this replica",
    "internal-error": "the gateway failed; the request id finds the trace in its log",
    "exchange-timeout": "the exchange did not answer in time",
    "exchange-endpoint-gone": "the exchange has no such path any more",
    "freshness-unmet": "only-if-cached, and no snapshot is fresh enough",
}


def success(words: str, schema: Json, examples: Mapping[str, Json], names: Iterable[str] = EVERYWHERE) -> Json:
    content = {"application/json": {"schema": schema, "examples": dict(examples)}}
    return {"description": words, "headers": references(names), "content": content}


def not_modified(names: Iterable[str]) -> Json:
    return {
        "description": "What you have (`If-None-Match`) is what there is; the headers say how old it is now. No body.",
        "headers": references(names),
    }


def refusals() -> Json:
    """Every named response; its examples' names are the problem types it can be."""
    return {name: _refusal(each) for name, each in REFUSALS.items()}


def by_status(names: Iterable[str]) -> Json:
    """References to named responses, by status, ascending."""
    ordered = sorted(names, key=lambda name: REFUSALS[name].status)
    return {str(REFUSALS[name].status): {"$ref": f"#/components/responses/{name}"} for name in ordered}


def _refusal(refusal: Refusal) -> Json:
    examples = {each.problem: _example(each) for each in refusal.problems}
    known = () if UnauthenticatedError in refusal.problems else LIMITS
    names = (*EVERYWHERE, *known, *(name for name in (refusal.header, refusal.also) if name))
    return {
        "description": refusal.words,
        "headers": references(names),
        "content": {MEDIA_TYPE: {"schema": ref("Problem"), "examples": examples}},
    }


def _example(told: Reportable) -> Json:
    value = {
        "type": TYPE_PREFIX + told.problem,
        "title": told.title,
        "status": told.status,
        "detail": _DETAILS.get(told.problem, told.title[0].lower() + told.title[1:]),
        "instance": "urn:request:3f1c0b7e9d2a4c55",
    }
    return {"summary": told.title, "value": value}
