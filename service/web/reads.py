"""One read, in the order that every path keeps: 401 · 429 · 403 account · 400 · 403 name · 503 · 404.

The same on hits and misses: nothing is looked up before the caller is known, and nothing is answered before the
grant has cut it.
"""

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
from service.account.snapshot import Snapshot
from service.cache.policy import FreshnessUnmetError
from service.cache.ports import Held, Result, Served
from service.exchange.errors import ExchangeError
from service.telemetry.metrics import Metrics
from service.web import caching
from service.web.authentication import bearer_of, gateway_of, identify, recognise
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
"""The key of a handler's `opt` under which stands the shape that it reads, for the audit and the OpenAPI document."""
LISTS = "lists"
"""The key of one that reads which accounts there are, for the audit."""

MAX_KEEPERS = 2
"""Accounts of one name that a read waits for: the settings may give it to another one meanwhile, but hardly twice."""

_WITH_POSITIONS = frozenset({Shape.ACCOUNT, Shape.POSITIONS, Shape.SYMBOL, Shape.POSITION})
_OF_ONE_SYMBOL = frozenset({Shape.SYMBOL, Shape.POSITION})


async def read(request: AnyRequest, account: str, select: Callable[[bytes], Selection]) -> Response[bytes]:
    """Answer one read; `select` turns the query into a selection, or raises what is wrong with it."""
    return await read_as(bearer_of(request), request, account, select)


async def read_as(
    token: bytes, request: AnyRequest, account: str, select: Callable[[bytes], Selection]
) -> Response[bytes]:
    """The same for a token that was found already."""
    gateway, client = gateway_of(request), await identify(request, token)
    grant = granted(gateway.clients, client, account)
    record = context_of(request.scope)
    record.account = account
    require_readable(request.scope["raw_path"])
    selection = record.selection = select(request.scope["query_string"])
    demand = caching.demand(caching.fields(request.headers, "Cache-Control"), caching.fields(request.headers, "Pragma"))
    tags = caching.fields(request.headers, "If-None-Match")
    for _ in range(MAX_KEEPERS):
        cache = gateway.caches[account]
        require_grant(grant, selection, cache.margin_assets)
        served = cache.at_once(demand)
        if served is not None:
            break
        # What was taken from the token, the client or the account while it waits is not given any more.
        try:
            outcome: Served | ExchangeError | FreshnessUnmetError = await gateway.waiting.wait(
                client.name, request.receive, partial(cache.get, demand)
            )
        except NoRoomError:
            raise overloaded() from None
        except (ExchangeError, FreshnessUnmetError) as exc:
            outcome = exc
        client = await recognise(request, token)
        grant = granted(gateway.clients, client, account)
        if gateway.caches[account] is not cache:
            continue  # the name is another account's now: so is what it would be answered with, be it an error
        if isinstance(outcome, Exception):
            raise outcome
        served = outcome
        require_grant(grant, selection, served.held.margin_assets)  # more may be known now: a miss answers like a hit
        break
    else:
        raise overloaded()
    record.result, record.refresh, record.age_ms = served.result, served.refresh, served.age
    ReadCounters(gateway.metrics, account, client.name).count(served.result)
    answer = cut(served.held, selection, grant, gateway.settings.environment)
    record.served = served
    headers = dict(answer.headers) | caching.passing(served)
    if caching.not_modified(tags, answer.etag):
        return Response(b"", status_code=304, headers=headers)
    return Response(answer.body, media_type=JSON, headers=headers)


class Cut(msgspec.Struct, frozen=True):
    """What answers a read from one snapshot, under one grant."""

    body: bytes
    etag: str
    headers: Mapping[str, str]
    """Those that last as long as the snapshot does."""


def cut(held: Held, selection: Selection, grant: Grant, environment: str) -> Cut:
    """The answer to a selection, narrowed by the grant.

    Raises:
        UnknownAssetError: there is no such row, or nobody knows a name in a filter.
        UnknownSymbolError: the same.
        NoSuchPositionSideError: there is no such row.
    """
    snapshot = held.snapshot
    _require_known(held, selection)
    view = held.views.view(grant.narrow(selection))
    if view is None:
        raise _missing(snapshot, selection)
    headers = caching.lasting(snapshot, view, environment)
    if snapshot.mode is not None and selection.shape in _WITH_POSITIONS:
        headers["gateway-position-mode"] = snapshot.mode
    return Cut(view.body, view.etag, headers)


def granted(clients: Clients, client: Client | None, account: str) -> Grant:
    """The client's grant on an account.

    Raises:
        ForbiddenError: it has none, or there is no such account.
    """
    grant = clients.grant(client, account) if client else None
    if grant is None:
        raise ForbiddenError("this account is not granted to the client")
    return grant


def require_grant(grant: Grant, selection: Selection, margin_assets: Mapping[str, str] | None) -> None:
    """Pass if all that a selection names is granted.

    Raises:
        ForbiddenError: something isn't.
    """
    refusal = grant.refusal(selection, margin_assets)
    if refusal is not None:
        raise ForbiddenError(refusal)


def _require_known(held: Held, selection: Selection) -> None:
    """404 where a symbol's path names one that the account doesn't have, or a list's filter one that nobody knows."""
    snapshot = held.snapshot
    if selection.shape in _OF_ONE_SYMBOL and (selection.symbols or frozenset()) - snapshot.by_symbol.keys():
        raise UnknownSymbolError("parameter symbol: the account has no such symbol")
    if selection.shape not in FILTERS:
        return
    match unknown_parameter(selection, snapshot, held.margin_assets):
        case "asset":
            raise UnknownAssetError("parameter asset: neither the account nor the exchange has such an asset")
        case "symbol":
            raise UnknownSymbolError("parameter symbol: neither the account nor the exchange has such a symbol")
        case None:
            return


def _missing(snapshot: Snapshot, selection: Selection) -> UnknownAssetError | NoSuchPositionSideError:
    if selection.shape is Shape.ASSET:
        return UnknownAssetError("parameter asset: the account has no such asset")
    why = ": the account is in one-way mode and has only BOTH" if snapshot.mode == "one-way" else ""
    return NoSuchPositionSideError(f"parameter positionSide: the symbol has no position of that side{why}")


class ReadCounters:
    """How the cache met one client's reads of one account."""

    __slots__ = ("_by_result", "_counter")

    def __init__(self, metrics: Metrics, account: str, client: str) -> None:
        self._counter = partial(metrics.cache_results.labels, account, client)
        self._by_result: dict[str, Counter] = {}
        """Looking a counter up by its labels costs more than to count."""

    def count(self, result: Result) -> None:
        counter = self._by_result.get(result)
        if counter is None:
            counter = self._by_result[result] = self._counter(result)
        counter.inc()
