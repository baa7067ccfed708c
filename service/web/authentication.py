"""The one credential of a request → the client, within its rate limit."""

# A token is either a client's own secret, which the settings know by its digest, or the token of a Kubernetes
# ServiceAccount, which the API server reviews. The own secrets come first: they need no I/O.
#
# A review is remembered (`TokenReviews`), so most requests of a ServiceAccount take no wait either. One that needs a
# review waits under a name that no client has, because its client is not known yet: callers that invent tokens compete
# among themselves for places, and can't displace a client's reads beyond one client's part.
#
# The response never says why a ServiceAccount's token was refused; only the log line does (`refusal`). While no review
# can be made the answer has a `Retry-After`: a 401 under `/v1`, a 503 below `/binance/`, as for any trouble of our own.
#
# `authenticate_token` = `client_of` + the charge to the rate limit. A read that waited calls `client_of` again, because
# the token may have been revoked or moved to another client meanwhile, and is not charged twice.

from functools import partial
from typing import cast

from service.access.clients import Client
from service.access.waiting import NoRoomError
from service.gateway import Gateway
from service.kubernetes.errors import RETRY, NotVerifiedError
from service.kubernetes.reviews import TokenReviews
from service.kubernetes.token_review import MAX_TOKEN, Refusal
from service.telemetry.attribution import CLIENT
from service.web.context import context_of
from service.web.problems import (
    AnyRequest,
    TooManyRequestsError,
    UnauthenticatedError,
    UnverifiedError,
    retry_after,
)

_UNKNOWN = ""
"""The name under which a request waits for a review; no client has it."""
_CHALLENGE = 'Bearer realm="coinm-gateway"'


def gateway_of(request: AnyRequest) -> Gateway:
    return cast("Gateway", request.app.state.gateway)


def bearer_of(request: AnyRequest) -> bytes:
    """The token of a request under `/v1`.

    Raises:
        UnauthenticatedError: there is no credential, or several.
    """
    lines = request.headers.getall("authorization", [])
    return bearer_token(lines, another="x-mbx-apikey" in request.headers)


async def authenticate(request: AnyRequest) -> Client:
    """The caller of a path under `/v1`, by its bearer token, charged to its rate limit.

    Raises:
        UnauthenticatedError: no credential, several, or an unknown one.
        UnverifiedError: as `authenticate_token`.
        TooManyRequestsError: the client sends more requests than it may.
    """
    return await authenticate_token(request, bearer_of(request))


async def authenticate_token(request: AnyRequest, token: bytes) -> Client:
    """The client that holds a token, or whose ServiceAccount does, charged to its rate limit.

    Raises:
        UnauthenticatedError: no client does.
        UnverifiedError: a ServiceAccount may, but the API server can't confirm it now.
        TooManyRequestsError: the client sends more requests than it may.
    """
    gateway, client = gateway_of(request), await client_of(request, token)
    if client.requests_per_second is not None:
        quota = gateway.limits.take(client.name, client.requests_per_second, gateway.clock.monotonic())
        context_of(request.scope).quota = quota
        if not quota.admitted:
            raise TooManyRequestsError("more requests a second than this client may send", retry_after(quota.gain))
    return client


async def client_of(request: AnyRequest, token: bytes) -> Client:
    """The client that holds a token now, whatever its rate limit.

    Raises:
        UnauthenticatedError: no client does.
        UnverifiedError: a ServiceAccount may, but the API server can't confirm it now.
    """
    gateway = gateway_of(request)
    client = gateway.config.clients.authenticate(token)
    if client is None and gateway.reviews is not None:
        client = await _by_service_account(request, gateway.reviews, token)
    if client is None:
        raise UnauthenticatedError(
            "the token is not known", {"www-authenticate": f'{_CHALLENGE}, error="invalid_token"'}
        )
    CLIENT.set(client.name)
    context = context_of(request.scope)
    if context.client != client.name:  # another client after a wait: the quota in the context is the former one's
        context.client, context.quota = client.name, None
    return client


async def _by_service_account(request: AnyRequest, reviews: TokenReviews, token: bytes) -> Client | None:
    """The client of the ServiceAccount that a token belongs to; the reason why there is none goes to the log alone."""
    context = context_of(request.scope)
    try:
        review = reviews.at_once(token)
        if review is None:
            waiting = gateway_of(request).waiting
            review = await waiting.wait(_UNKNOWN, request.receive, partial(reviews.verify, token))
    except (NotVerifiedError, NoRoomError) as exc:
        context.refusal = exc.kind
        headers = {"www-authenticate": _CHALLENGE} | retry_after(RETRY)
        raise UnverifiedError("the token cannot be verified now", headers) from None
    if isinstance(review, Refusal):
        context.refusal = review.reason
        return None
    context.service_account = review.name
    client = gateway_of(request).config.clients.of_service_account(review.name)
    context.refusal = "not-listed" if client is None else None
    return client


def bearer_token(lines: list[str], *, another: bool) -> bytes:
    """The token in the lines of `Authorization`, the one credential of a request under `/v1`.

    A second credential, also in the header of the drop-in paths (`another`), makes the caller ambiguous.

    Raises:
        UnauthenticatedError: there is none, or more than one.
    """
    if not lines and not another:
        raise UnauthenticatedError("a bearer token is needed", {"www-authenticate": _CHALLENGE})
    scheme, _, token = lines[0].partition(" ") if lines else ("", "", "")
    if len(lines) != 1 or another or scheme.lower() != "bearer":
        raise UnauthenticatedError("exactly one bearer token is needed", {"www-authenticate": _CHALLENGE})
    if len(token) > MAX_TOKEN:
        return b""  # no client holds it, and a digest of it would be work for nothing
    return token.strip().encode("latin-1", "replace")
