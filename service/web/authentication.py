"""Who is calling: the one credential of a request → the client, within its own limit of requests."""

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
"""Whose a read is before its token has been reviewed; not a client's name."""
_CHALLENGE = 'Bearer realm="coinm-gateway"'


def gateway_of(request: AnyRequest) -> Gateway:
    return cast("Gateway", request.app.state.gateway)


def bearer_of(request: AnyRequest) -> bytes:
    """The token of a request under `/v1`.

    Raises:
        UnauthenticatedError: there is no credential, or several.
    """
    given = request.headers.getall("authorization", [])
    return bearer_token(given, another="x-mbx-apikey" in request.headers)


async def authenticate(request: AnyRequest) -> Client:
    """The caller of a path under `/v1`, by its bearer token.

    Raises:
        UnauthenticatedError: no credential, several, or one that nobody holds.
        TooManyRequestsError: the client asks more often than it may.
    """
    return await identify(request, bearer_of(request))


async def identify(request: AnyRequest, token: bytes) -> Client:
    """The client that holds a token, or whose ServiceAccount does, within its limit of requests.

    Raises:
        UnauthenticatedError: nobody does.
        UnverifiedError: a ServiceAccount may, but the API server can't say now.
        TooManyRequestsError: the client asks more often than it may.
    """
    gateway, client = gateway_of(request), await recognise(request, token)
    record = context_of(request.scope)
    record.quota = gateway.limits.take(client.name, gateway.clock.monotonic())
    if record.quota is not None and not record.quota.admitted:
        raise TooManyRequestsError("more requests a second than this client may send", retry_after(record.quota.gain))
    return client


async def recognise(request: AnyRequest, token: bytes) -> Client:
    """The same whatever its limit, as of now: also after a wait, in which a token may have been revoked or moved.

    Raises:
        UnauthenticatedError: nobody holds it.
        UnverifiedError: a ServiceAccount may, but the API server can't say now.
    """
    gateway = gateway_of(request)
    client = gateway.clients.authenticate(token)
    if client is None and gateway.reviews is not None:
        client = await _by_service_account(request, gateway.reviews, token)
    if client is None:
        raise UnauthenticatedError(
            "the token is not known", {"www-authenticate": f'{_CHALLENGE}, error="invalid_token"'}
        )
    CLIENT.set(client.name)
    record = context_of(request.scope)
    if record.client != client.name:
        record.client, record.quota = client.name, None
    return client


async def _by_service_account(request: AnyRequest, reviews: TokenReviews, token: bytes) -> Client | None:
    """The client of the ServiceAccount whose token it is; why there is none is for the log alone."""
    record = context_of(request.scope)
    try:
        verdict = reviews.at_once(token)
        if verdict is None:
            waiting = gateway_of(request).waiting
            verdict = await waiting.wait(_UNKNOWN, request.receive, partial(reviews.verify, token))
    except (NotVerifiedError, NoRoomError) as exc:
        record.refusal = exc.kind
        headers = {"www-authenticate": _CHALLENGE} | retry_after(RETRY)
        raise UnverifiedError("the token cannot be verified now", headers) from None
    if isinstance(verdict, Refusal):
        record.refusal = verdict.reason
        return None
    record.service_account = verdict.name
    client = gateway_of(request).clients.of_service_account(verdict.name)
    record.refusal = "not-listed" if client is None else None
    return client


def bearer_token(given: list[str], *, another: bool) -> bytes:
    """The one credential of a request under `/v1`: of the lines of its `Authorization`.

    A second one, be it in the header of the drop-in paths (`another`), makes it unclear who is calling.

    Raises:
        UnauthenticatedError: there is none, or more than one.
    """
    if not given and not another:
        raise UnauthenticatedError("a bearer token is needed", {"www-authenticate": _CHALLENGE})
    scheme, _, token = given[0].partition(" ") if given else ("", "", "")
    if len(given) != 1 or another or scheme.lower() != "bearer":
        raise UnauthenticatedError("exactly one bearer token is needed", {"www-authenticate": _CHALLENGE})
    if len(token) > MAX_TOKEN:
        return b""  # nobody's, and not worth a digest
    return token.strip().encode("latin-1", "replace")
