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
from service.exchange.errors import ExchangeError

log = structlog.get_logger("coinm.web")

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:coinm-gateway:problem:"

AGAIN = 5
"""Seconds within which who found no place may come again."""

AnyRequest = Request[Any, Any, Any]


class ProblemError(Exception):
    """An error of the edge's own; base of those below."""

    problem: str
    status: int
    title: str

    def __init__(self, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}


class InvalidParameterError(ProblemError):
    problem, status, title = "invalid-parameter", 400, "A parameter is malformed or unknown"


class UnauthenticatedError(ProblemError):
    problem, status, title = "unauthenticated", 401, "Who is calling is not known"


class UnverifiedError(UnauthenticatedError):
    """Who is calling could not be found out: our trouble, not the caller's."""


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
"""The errors that know what a caller is told of them."""


class Problem(msgspec.Struct, frozen=True):
    """The body of every error (RFC 9457). `type` is what a program decides by; the words are for people."""

    type: Annotated[str, Meta(description="`urn:coinm-gateway:problem:` and the problem's name; stable.")]
    title: Annotated[str, Meta(description="The problem's name in words.")]
    status: Annotated[int, Meta(description="The HTTP status.", ge=400, le=599, extra_json_schema={"format": "int32"})]
    detail: Annotated[str, Meta(description="What happened this time; a 400 names the parameter, never its value.")]
    instance: Annotated[str, Meta(description="`urn:request:` and the `X-Request-Id`, which finds it in the log.")]


class Refusal(NamedTuple):
    """An error as it is sent, in whatever form."""

    status: int
    media_type: str
    headers: dict[str, str]
    body: bytes


def refusal(request_id: str, told: Reportable, headers: dict[str, str]) -> Refusal:
    """An error as a problem."""
    instance = f"urn:request:{request_id}"
    problem = Problem(TYPE_PREFIX + told.problem, told.title, told.status, told.detail, instance)
    return Refusal(told.status, MEDIA_TYPE, headers, msgspec.json.encode(problem))


def overloaded() -> OverloadedError:
    """Too many wait; when to come back is drawn, so that they don't come back together."""
    again = retry_after(random.randint(1, AGAIN) * 1000)  # noqa: S311 - spreads callers, keeps no secret
    return OverloadedError("too many requests wait on this replica", again)


def retry_after(milliseconds: int) -> dict[str, str]:
    """`Retry-After`, so that nobody comes back too early."""
    return {"retry-after": str(whole_seconds(milliseconds))}


def whole_seconds(milliseconds: int) -> int:
    """Rounded up and never zero."""
    return max(1, math.ceil(milliseconds / 1000))


def told(exc: Exception) -> Reportable:
    """What a caller is told of an exception: ours as it is, the framework's and bugs as one of ours."""
    if isinstance(exc, Reportable):
        return exc
    if isinstance(exc, NotFoundException):
        return NotFoundError("there is no such path")
    if isinstance(exc, MethodNotAllowedException):
        return MethodNotAllowedError("the path is read-only", {"allow": "GET, HEAD, OPTIONS"})
    if isinstance(exc, HTTPException) and exc.status_code < 500:
        # The framework's own text repeats the query; none of ours reaches its validation.
        return InvalidParameterError("the request is malformed")
    log.error("internal_error", exc_info=exc)
    return InternalError("the gateway failed; the request id finds the trace in its log")


def headers(request: AnyRequest, told: Reportable) -> dict[str, str]:
    """What an error's headers say: how to do better, or when to come back."""
    if isinstance(told, ProblemError):
        return told.headers
    if isinstance(told, ExchangeError) and told.retry_at is not None:
        now = request.app.state.gateway.exchange.clock.now()
        return retry_after(told.retry_at - now)
    return {}
