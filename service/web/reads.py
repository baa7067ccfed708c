"""One read, in the order that every path keeps: 401 · 429 · 403 account · 400 · 403 name · 503 · 404.

The order is the same on hits and misses, so an answer's status reveals nothing that the caller may not know.
"""

# Nothing is read for a caller before it is authenticated, and no body leaves before the grant has cut it.
#
# A read that memory can't answer waits, for seconds if the exchange is slow. Meanwhile a reload may revoke the token,
# shrink the grant, or give the account's name to another account; the snapshot that arrives may name symbols and coins
# that were unknown before. So after the wait the token, the grant and the cache are looked up again, and the new ones
# decide. The rate limit is not charged again: it counts requests, and this is still the same one.

from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from litestar import Response
from prometheus_client import Counter

from service.access.clients import Client, Clients
from service.access.grants import Grant
from service.access.waiting import NoRoomError
from service.account.naming import unknown_parameter
from service.account.selection import Selection, Shape
from service.cache.policy import FreshnessUnmetError
from service.cache.ports import Held, Result, Served
from service.fleet.errors import ExchangeError
from service.telemetry.metrics import Metrics
from service.web import caching
from service.web.authentication import authenticate_token, bearer_of, client_of, gateway_of
from service.web.context import context_of
from service.web.parameters import FILTERS, require_readable
from service.web.problems import (
    AnyRequest,
    ForbiddenError,
    NoSuchPositionSideError,
    UnknownAssetError,
    UnknownSymbolError,
    overloaded,
)

JSON = "application/json"
READS = "reads"
"""The key in a handler's `opt` whose value is the shape that it reads; the audit and the OpenAPI document use it."""
LISTS = "lists"
"""The same key for a handler that lists accounts; only the audit uses it."""

MAX_CACHE_CHANGES = 2
"""Waits of one read. A reload may give the account's name to another account during the first one, but hardly twice."""

_WITH_POSITIONS = frozenset({Shape.ACCOUNT, Shape.POSITIONS, Shape.SYMBOL, Shape.POSITION})
_OF_ONE_SYMBOL = frozenset({Shape.SYMBOL, Shape.POSITION})


async def read(request: AnyRequest, account: str, select: Callable[[bytes], Selection]) -> Response[bytes]:
    """Answer one read; `select` turns the query into a selection, or raises what is wrong with it."""
    return await read_as(bearer_of(request), request, account, select)


async def read_as(
    token: bytes, request: AnyRequest, account: str, select: Callable[[bytes], Selection]
) -> Response[bytes]:
    """Answer one read of the caller that holds `token`.

    Raises:
        ProblemError: of the kind that the order above puts first.
        ExchangeError: the refresh that the read waited for failed.
        FreshnessUnmetError: the request's directives can't be met.
    """
    gateway, client = gateway_of(request), await authenticate_token(request, token)
    grant = granted(gateway.clients, client, account)
    context = context_of(request.scope)
    context.account = account
    # The 400s come after the 403 of the account: a caller without a grant learns nothing, not even its own mistakes.
    require_readable(request.scope["raw_path"])
    selection = context.selection = select(request.scope["query_string"])
    directives = caching.request_directives(
        caching.header_lines(request.headers, "Cache-Control"), caching.header_lines(request.headers, "Pragma")
    )
    etags = caching.header_lines(request.headers, "If-None-Match")
    for _ in range(MAX_CACHE_CHANGES):
        cache = gateway.caches[account]
        require_grant(grant, selection, cache.margin_assets)
        served = cache.at_once(directives)
        if served is not None:
            break
        # An error waits until the caller is checked again: one that lost its access meanwhile gets a 401 or 403.
        try:
            outcome: Served | ExchangeError | FreshnessUnmetError = await gateway.waiting.wait(
                client.name, request.receive, partial(cache.get, directives)
            )
        except NoRoomError:
            raise overloaded() from None
        except (ExchangeError, FreshnessUnmetError) as exc:
            outcome = exc
        client = await client_of(request, token)
        grant = granted(gateway.clients, client, account)
        if gateway.caches[account] is not cache:
            continue  # the name is another account's now, and the outcome, even an error, is the old one's
        if isinstance(outcome, Exception):
            raise outcome
        served = outcome
        # The new snapshot may know the margin coin of a symbol that was unknown before. A miss must answer like a hit.
        require_grant(grant, selection, served.held.margin_assets)
        break
    else:
        raise overloaded()
    context.result, context.refresh, context.age_ms = served.result, served.refresh, served.age
    ReadCounters(gateway.metrics, account, client.name).count(served.result)
    rendered = render(served.held, selection, grant, gateway.settings.environment)
    context.served = served  # only now: the audit line and the fast path take it for an answered read
    headers = dict(rendered.headers) | caching.age_headers(served)
    if caching.not_modified(etags, rendered.etag):
        return Response(b"", status_code=304, headers=headers)
    return Response(rendered.body, media_type=JSON, headers=headers)


class Rendered(msgspec.Struct, frozen=True):
    """What answers a read from one snapshot, under one grant."""

    body: bytes
    etag: str
    headers: Mapping[str, str]
    """Fixed for the snapshot's life."""


def render(held: Held, selection: Selection, grant: Grant, environment: str) -> Rendered:
    """The rows that are both selected and granted.

    Raises:
        UnknownAssetError: there is no such row, or neither the account nor the exchange knows an asset of a filter.
        UnknownSymbolError: the same for symbols, and for the symbol of a path that the account doesn't have.
        NoSuchPositionSideError: there is no such row.
    """
    snapshot = held.snapshot
    # A path that names a symbol needs one of the account's own; a filter of a list takes every name of the exchange.
    if selection.shape in _OF_ONE_SYMBOL and (selection.symbols or frozenset()) - snapshot.by_symbol.keys():
        raise UnknownSymbolError("parameter symbol: the account has no such symbol")
    if selection.shape in FILTERS:
        match unknown_parameter(selection, snapshot, held.margin_assets):
            case "asset":
                raise UnknownAssetError("parameter asset: neither the account nor the exchange has such an asset")
            case "symbol":
                raise UnknownSymbolError("parameter symbol: neither the account nor the exchange has such a symbol")
            case None:
                pass
    view = held.views.view(grant.narrow(selection))
    if view is None:
        if selection.shape is Shape.ASSET:
            raise UnknownAssetError("parameter asset: the account has no such asset")
        why = ": the account is in one-way mode and has only BOTH" if snapshot.mode == "one-way" else ""
        raise NoSuchPositionSideError(f"parameter positionSide: the symbol has no position of that side{why}")
    headers = caching.snapshot_headers(snapshot, view, environment)
    if snapshot.mode is not None and selection.shape in _WITH_POSITIONS:
        headers["gateway-position-mode"] = snapshot.mode
    return Rendered(view.body, view.etag, headers)


def granted(clients: Clients, client: Client | None, account: str) -> Grant:
    """The client's grant on an account.

    Raises:
        ForbiddenError: it has none, or there is no such account; the two must not differ.
    """
    grant = clients.grant(client, account) if client else None
    if grant is None:
        raise ForbiddenError("this account is not granted to the client")
    return grant


def require_grant(grant: Grant, selection: Selection, margin_assets: Mapping[str, str] | None) -> None:
    """Return if every name in the selection is granted.

    Raises:
        ForbiddenError: one of them isn't.
    """
    refusal = grant.refusal(selection, margin_assets)
    if refusal is not None:
        raise ForbiddenError(refusal)


class ReadCounters:
    """Counts one client's reads of one account by the cache's result. Keeps them: a look-up costs more than a count."""

    __slots__ = ("_by_result", "_counter")

    def __init__(self, metrics: Metrics, account: str, client: str) -> None:
        self._counter = partial(metrics.cache_results.labels, account, client)
        self._by_result: dict[str, Counter] = {}

    def count(self, result: Result) -> None:
        counter = self._by_result.get(result)
        if counter is None:
            counter = self._by_result[result] = self._counter(result)
        counter.inc()
