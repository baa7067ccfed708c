"""Any error → RFC 9457 `application/problem+json`, with nothing in it that the caller must not see."""

import math
import random
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
import structlog
from litestar import Request
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from msgspec import Meta

from service.cache.policy import FreshnessUnmetError
from service.fleet.errors import ExchangeError

log = structlog.get_logger("coinm.web")

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:coinm-gateway:problem:"

MAX_RETRY_S = 5
"""Seconds within which a caller that found no place may retry."""

AnyRequest = Request[Any, Any, Any]


class ProblemError(Exception):
    """Base of the edge's own errors. `problem` is stable; programs decide by it."""

    problem: str
    status: int
    title: str

    def __init__(self, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}


class InvalidParameterError(ProblemError):
    problem, status, title = "invalid-parameter", 400, "A parameter is malformed or unknown"


class CombinationError(InvalidParameterError):
    """Each parameter is right, but not beside the other."""


class UnauthenticatedError(ProblemError):
    problem, status, title = "unauthenticated", 401, "Who is calling is not known"


class UnverifiedError(UnauthenticatedError):
    """The caller could not be identified now: the gateway's trouble, not the caller's."""


class ForbiddenError(ProblemError):
    problem, status, title = "forbidden", 403, "Not granted to this client"


class UnknownAssetError(ProblemError):
    problem, status, title = "unknown-asset", 404, "The account has no such asset"


class UnknownSymbolError(ProblemError):
    problem, status, title = "unknown-symbol", 404, "The account has no such symbol"


class NoSuchPositionSideError(ProblemError):
    problem, status, title = "no-such-position-side", 404, "The symbol has no position of that side"


class NotFoundError(ProblemError):
    problem, status, title = "not-found", 404, "Nothing is here"


class MethodNotAllowedError(ProblemError):
    problem, status, title = "method-not-allowed", 405, "Not with this method"


class TooManyRequestsError(ProblemError):
    problem, status, title = "too-many-requests", 429, "The client's own request limit"


class AuditUnavailableError(ProblemError):
    problem, status, title = "audit-unavailable", 503, "The audit log takes no line"


class OverloadedError(ProblemError):
    problem, status, title = "overloaded", 503, "More reads wait than this replica takes"


class InternalError(ProblemError):
    problem, status, title = "internal-error", 500, "A fault of the gateway"


Reportable: TypeAlias = ProblemError | ExchangeError | FreshnessUnmetError
"""The errors that carry their own problem, title, status and detail for the caller."""


class Problem(msgspec.Struct, frozen=True):
    """The body of every error (RFC 9457). `type` is what a program decides by; the words are for people."""

    type: Annotated[str, Meta(description="`urn:coinm-gateway:problem:` and the problem's name; stable.")]
    title: Annotated[str, Meta(description="The problem's name in words.")]
    status: Annotated[int, Meta(description="The HTTP status.", ge=400, le=599, extra_json_schema={"format": "int32"})]
    detail: Annotated[str, Meta(description="What happened this time; a 400 names the parameter, never its value.")]
    instance: Annotated[str, Meta(description="`urn:request:` and the `X-Request-Id`, which finds it in the log.")]


class Refusal(NamedTuple):
    """An error as it is sent, as a problem or in Binance's form."""

    status: int
    media_type: str
    headers: dict[str, str]
    body: bytes


def refusal(request_id: str, error: Reportable, headers: dict[str, str]) -> Refusal:
    """Encode an error as a problem."""
    instance = f"urn:request:{request_id}"
    problem = Problem(TYPE_PREFIX + error.problem, error.title, error.status, error.detail, instance)
    return Refusal(error.status, MEDIA_TYPE, headers, msgspec.json.encode(problem))


def overloaded() -> OverloadedError:
    """Too many requests wait. The time to retry is random, so that the refused don't return together."""
    headers = retry_after(random.randint(1, MAX_RETRY_S) * 1000)  # noqa: S311 - spreads callers, keeps no secret
    return OverloadedError("too many requests wait on this replica", headers)


def retry_after(milliseconds: int) -> dict[str, str]:
    """`Retry-After` in whole seconds, rounded up: a retry must not come too early."""
    return {"retry-after": str(whole_seconds(milliseconds))}


def whole_seconds(milliseconds: int) -> int:
    """Milliseconds in seconds, rounded up and never zero."""
    return max(1, math.ceil(milliseconds / 1000))


def to_problem(exc: Exception) -> Reportable:
    """The error to report for an exception: our own as it is, the framework's and bugs as one of ours."""
    if isinstance(exc, Reportable):
        return exc
    if isinstance(exc, NotFoundException):
        return NotFoundError("there is no such path")
    if isinstance(exc, MethodNotAllowedException):
        return MethodNotAllowedError("the path is read-only", {"allow": "GET, HEAD, OPTIONS"})
    if isinstance(exc, HTTPException) and exc.status_code < 500:
        # The framework's text repeats the query. Our own parameters never reach its validation.
        return InvalidParameterError("the request is malformed")
    log.error("internal_error", exc_info=exc)
    return InternalError("the gateway failed; the request id finds the trace in its log")


def headers(request: AnyRequest, error: Reportable) -> dict[str, str]:
    """An error's headers: how to correct the request, or when to retry it."""
    if isinstance(error, ProblemError):
        return error.headers
    if isinstance(error, ExchangeError) and error.failure.retry_at is not None:
        # `retry_at` is on the exchange's clock, from which ours may differ.
        return retry_after(error.failure.retry_at - request.app.state.gateway.exchange.clock.now())
    return {}
