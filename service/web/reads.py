"""One read, in the order that every path keeps: 401 · 429 · 403 account · 400 · 403 name · 503 · 404.

The order is the same on hits and misses, so an answer's status reveals nothing that the caller may not know.
"""

# Nothing is read for a caller before it is authenticated, and no body leaves before the grant has cut it.
#
# A read that memory can't answer waits, for seconds if the exchange is slow. Meanwhile a reload may revoke the token,
# shrink the grant, or give the account's name to another account; the snapshot that arrives may name symbols and coins
# that were unknown before. So after the wait the token, the grant and the cache are looked up again, and the new ones
# decide. The rate limit is not charged again: it counts requests, and this is still the same one.
#
# What a selection renders to from one snapshot, for one client under one grant, is prepared once for the fast path and
# kept as long as that snapshot is served. A reload that changes the grant changes the value that is compared, which
# voids the entry.
#
# A view is compressed once, for the first caller that needs it in gzip; a large one in a thread. That is a wait like
# the one for a refresh, in the same room and with the same second look afterwards. Until it is done, the fast path
# leaves such reads to the handlers.

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import msgspec
from litestar import Response

from service.access.clients import Client
from service.access.grants import Grant
from service.access.waiting import NoRoomError
from service.account.naming import unknown_parameter
from service.account.selection import Selection
from service.account.snapshot import MAX_VIEW_BYTES, MAX_VIEWS, Snapshot, View
from service.cache.document_cache import DocumentCache
from service.cache.policy import FreshnessUnmetError, RequestDirectives
from service.cache.ports import Served
from service.fleet.errors import ExchangeError
from service.gateway import Gateway
from service.web import caching
from service.web.authentication import authenticate_token, bearer_of, client_of, gateway_of
from service.web.compression import (
    COMPRESSING_S,
    LARGE_BODY,
    accepts_gzip,
    compress,
    compressed_etag,
    in_thread,
    is_compressible,
)
from service.web.context import context_of
from service.web.parameters import require_readable
from service.web.problems import (
    AnyRequest,
    ForbiddenError,
    NoSuchPositionSideError,
    ProblemError,
    UnknownAssetError,
    UnknownSymbolError,
    overloaded,
)

JSON = "application/json"
READS = "reads"
"""The key in a handler's `opt` whose value is the shape that it reads; the audit and the OpenAPI document use it."""
LISTS_ACCOUNTS = "lists"
"""The same key for a handler that lists accounts; only the audit uses it."""

MAX_WAITS = 2
"""Waits of one read. During the first one a reload may give the account's name to another account, or what it brought
may become too old while the caller is looked up; hardly twice."""

Headers: TypeAlias = list[tuple[bytes, bytes]]

_CONTENT_TYPE, _GZIP = (b"content-type", JSON.encode()), (b"content-encoding", b"gzip")
_OF_FRAMEWORK = frozenset({b"content-type", b"content-length"})
"""Headers that the framework adds by itself."""


class Read(msgspec.Struct, frozen=True):
    """What a caller reads of one account, which the grant names."""

    client: str
    grant: Grant
    selection: Selection
    directives: RequestDirectives
    etags: list[str]
    """The lines of `If-None-Match`: what the caller has already."""
    gzip: bool
    """Whether the caller accepts it."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to a read: 200, or 304 where the caller has it already."""

    served: Served
    status: int
    headers: Headers
    """All but those that every answer has; equal reads share the list."""
    body: bytes


class _Prepared:
    """What a selection renders to from one snapshot, under one grant."""

    __slots__ = ("_gzip", "_last", "_sent", "_view", "etags", "grant", "headers", "size_bytes")

    def __init__(self, grant: Grant, view: View, headers: Headers, *, gzip: bool) -> None:
        own, packed = view.etag, compressed_etag(view.etag)
        self.grant = grant
        self.etags = (packed, own) if gzip else (own, packed)
        """Of the body, and of the same in the other encoding."""
        self.headers = [(b"etag", self.etags[0].encode()), *headers]
        """Fixed for the snapshot's life."""
        self.size_bytes = len(view.body)
        self._view = view
        self._gzip = gzip
        self._sent: tuple[Headers, bytes] | None = None
        self._last: Answer | None = None
        """The last answer with the body; it is given again while its age is the same, for a millisecond."""

    @property
    def needs_thread(self) -> bool:
        """Whether compressing the body now would hold up the event loop."""
        return self._gzip and self._view.compressed is None and self.size_bytes >= LARGE_BODY

    def known_tag(self, read: Read) -> str | None:
        """The entity tag of this answer that the caller has already."""
        return caching.matching_tag(read.etags, *self.etags) if read.etags else None

    def answer(self, served: Served, age_headers: Headers) -> Answer:
        """The answer with the body."""
        if self._last is None or self._last.served is not served:
            body_headers, body = self._encoded()
            self._last = Answer(served, 200, [*self.headers, *age_headers, *body_headers], body)
        return self._last

    def _encoded(self) -> tuple[Headers, bytes]:
        """The headers that describe the body, and the body; compressed for the first answer that isn't a 304."""
        if self._sent is None:
            view, headers = self._view, [_GZIP] if self._gzip else []
            if self._gzip and view.compressed is None:
                view.compressed = compress(view.body)
            body = view.compressed if self._gzip and view.compressed is not None else view.body
            self._sent = [*headers, _CONTENT_TYPE, (b"content-length", str(len(body)).encode())], body
        return self._sent


class _PreparedAnswers:
    """What was prepared from one snapshot. Bounded, and dropped with the snapshot."""

    __slots__ = ("_age_headers", "_answers", "_bytes", "_served", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._answers: dict[tuple[Selection, str, bool], _Prepared] = {}
        self._bytes = 0
        self._served: Served | None = None
        self._age_headers: Headers = []

    def find(self, read: Read) -> _Prepared | None:
        """What was prepared for this client and selection, if that was under the same grant."""
        prepared = self._answers.get((read.selection, read.client, read.gzip))
        return prepared if prepared is not None and prepared.grant == read.grant else None

    def add(self, read: Read, prepared: _Prepared) -> None:
        """Remember an answer, within the bounds of the snapshot's own views: up to there they hold the same body."""
        if len(self._answers) < MAX_VIEWS and self._bytes + prepared.size_bytes <= MAX_VIEW_BYTES:
            self._answers[read.selection, read.client, read.gzip] = prepared
            self._bytes += prepared.size_bytes

    def age_headers(self, served: Served) -> Headers:
        """The headers that change with the snapshot's age."""
        if served is not self._served:  # often it is the same: the cache repeats its object within a millisecond
            self._served, self._age_headers = served, _encoded(caching.age_headers(served))
        return self._age_headers


class Reads:
    """The way from a read to its answer, for the handlers and for the fast path."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._prepared: dict[DocumentCache, _PreparedAnswers] = {}

    def from_memory(self, read: Read) -> Answer | None:
        """The answer, if memory has one and giving it starts nothing; `None`: only `read_as` can decide.

        Raises:
            ForbiddenError: the selection names something that isn't granted.
            ProblemError: as `render_view`.
        """
        cache = self._gateway.config.caches[read.grant.account].documents[read.selection.shape.document]
        served = cache.from_memory(read.directives)
        if served is None:
            return None
        answers = self._prepared.get(cache)
        if answers is None or answers.snapshot is not served.snapshot:
            # A new snapshot drops the answers of the one before it, and those of accounts that a reload has removed.
            accounts = self._gateway.config.caches
            kept = {
                each: prepared
                for each, prepared in self._prepared.items()
                if (account := accounts.get(each.state.account)) and account.documents[each.state.document] is each
            }
            answers = _PreparedAnswers(served.snapshot)
            self._prepared = kept | {cache: answers}
        prepared = answers.find(read)
        if prepared is None:
            prepared = self._prepare(read, served.snapshot, gzip=read.gzip)
            answers.add(read, prepared)
        if prepared.needs_thread and prepared.known_tag(read) is None:
            return None
        return _answer(read, served, prepared, answers.age_headers(served))

    async def obtain(self, read: Read, cache: DocumentCache, served: Served | None) -> Served:
        """A snapshot for the read (`served`, if it has one), and its view compressed, if it is a large one.

        Raises:
            ExchangeError: as `DocumentCache.get`.
            FreshnessUnmetError: as `DocumentCache.get`.
        """
        if served is None:
            served = await cache.get(read.directives)
        view = _uncompressed(read, served.snapshot)
        if view is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COMPRESSING_S):
                    await in_thread(partial(_compress_view, view))
        return served

    def render(self, read: Read, served: Served) -> Answer:
        """The answer from a snapshot that is fresh enough; nothing of it is kept.

        Raises:
            ForbiddenError: the selection names something that isn't granted.
            ProblemError: as `render_view`.
        """
        # Kept, reads that are never repeated would take the room of those that are, and a read that waited could put
        # an older snapshot in the place of memory's.
        prepared = self._prepare(read, served.snapshot, gzip=read.gzip)
        if prepared.needs_thread and prepared.known_tag(read) is None:
            # Not compressed in time, or by a grant that has just changed: then it is sent as it is.
            prepared = self._prepare(read, served.snapshot, gzip=False)
        return _answer(read, served, prepared, _encoded(caching.age_headers(served)))

    def _prepare(self, read: Read, snapshot: Snapshot, *, gzip: bool) -> _Prepared:
        require_grant(read.grant, read.selection, snapshot.margin_assets)
        view = render_view(snapshot, read.selection, read.grant)
        gzip = gzip and view.kept and is_compressible(view.body)
        headers = caching.snapshot_headers(snapshot, self._gateway.config.settings.environment)
        if gzip:
            headers["vary"] += ", Accept-Encoding"  # the plain body, as a cache may keep it, is right for everybody
        if snapshot.mode is not None and read.selection.shape.has_sides:
            headers["gateway-position-mode"] = snapshot.mode
        return _Prepared(read.grant, view, _encoded(headers), gzip=gzip)


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
    grant = granted(client, account)
    context = context_of(request.scope)
    context.account = account
    # The 400s come after the 403 of the account: a caller without a grant learns nothing, not even its own mistakes.
    require_readable(request.scope["raw_path"])
    selection = context.selection = select(request.scope["query_string"])
    directives = caching.request_directives(
        caching.header_lines(request.headers, "Cache-Control"), caching.header_lines(request.headers, "Pragma")
    )
    etags = caching.header_lines(request.headers, "If-None-Match")
    gzip = accepts_gzip(caching.accepted_codings(request.headers))
    reads: Reads = request.app.state.reads
    for _ in range(MAX_WAITS):
        cache = gateway.config.caches[account].documents[selection.shape.document]
        require_grant(grant, selection, cache.margin_assets)
        wanted = Read(client.name, grant, selection, directives, etags, gzip)
        served = cache.at_once(directives)
        if served is not None and _uncompressed(wanted, served.snapshot) is None:
            break
        # An error waits until the caller is checked again: one that lost its access meanwhile gets a 401 or 403.
        try:
            outcome: Served | ExchangeError | FreshnessUnmetError = await gateway.waiting.wait(
                client.name, request.receive, partial(reads.obtain, wanted, cache, served)
            )
        except NoRoomError:
            raise overloaded() from None
        except (ExchangeError, FreshnessUnmetError) as exc:
            outcome = exc
        client = await client_of(request, token)
        grant = granted(client, account)
        if gateway.config.caches[account].documents[selection.shape.document] is not cache:
            continue  # the name is another account's now, and the outcome, even an error, is the old one's
        if isinstance(outcome, Exception):
            raise outcome
        # Looking the caller up again may have taken a review of its token, and seconds.
        served = cache.as_of_now(outcome, directives)
        if served is not None:
            break
    else:
        raise overloaded()
    # The new snapshot may know the margin coin of a symbol that was unknown before. A miss must answer like a hit.
    require_grant(grant, selection, served.snapshot.margin_assets)
    context.served = served
    answer = reads.render(Read(client.name, grant, selection, directives, etags, gzip), served)
    headers = {name.decode(): value.decode() for name, value in answer.headers if name not in _OF_FRAMEWORK}
    media_type = JSON if answer.status == 200 else None
    return Response(answer.body, status_code=answer.status, media_type=media_type, headers=headers)


def render_view(snapshot: Snapshot, selection: Selection, grant: Grant) -> View:
    """The rows that are both selected and granted.

    Raises:
        UnknownAssetError: there is no such row, or neither the account nor the exchange knows an asset of a filter.
        UnknownSymbolError: the same for symbols, and for the symbol of a path that the account doesn't have.
        NoSuchPositionSideError: there is no such row.
    """
    # A path that names a symbol needs one of the account's own; a filter of a list takes every name of the exchange.
    named = selection.shape.named
    if "symbol" in named and (selection.symbols or frozenset()) - snapshot.named("symbol").keys():
        raise UnknownSymbolError("parameter symbol: the account has no such symbol")
    if not named:
        match unknown_parameter(selection, snapshot):
            case "asset":
                raise UnknownAssetError(
                    "parameter asset: neither what is read of the account nor the exchange has such an asset"
                )
            case "symbol":
                raise UnknownSymbolError(
                    "parameter symbol: neither what is read of the account nor the exchange has such a symbol"
                )
            case None:
                pass
    view = snapshot.view(grant.narrow(selection))
    if view is not None:
        return view
    if "asset" in named:
        raise UnknownAssetError("parameter asset: the account has no such asset")
    why = ": the account is in one-way mode and has only BOTH" if snapshot.mode == "one-way" else ""
    raise NoSuchPositionSideError(f"parameter positionSide: the symbol has no position of that side{why}")


def granted(client: Client, account: str) -> Grant:
    """The client's grant on an account.

    Raises:
        ForbiddenError: it has none, or there is no such account; the two must not differ.
    """
    grant = client.grants.get(account)
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


def _uncompressed(read: Read, snapshot: Snapshot) -> View | None:
    """The large view that the read's answer has in gzip, and that isn't compressed yet; `None`: there is none such."""
    if not read.gzip:
        return None
    try:
        view = render_view(snapshot, read.selection, read.grant)
    except ProblemError:
        return None  # the refusal comes in its order
    if not view.kept or view.compressed is not None or len(view.body) < LARGE_BODY:
        return None
    known = read.etags and caching.matching_tag(read.etags, view.etag, compressed_etag(view.etag))
    return None if known else view


def _compress_view(view: View) -> None:
    if view.compressed is None:  # by the work before, for another read
        view.compressed = compress(view.body)


def _answer(read: Read, served: Served, prepared: _Prepared, age_headers: Headers) -> Answer:
    tag = prepared.known_tag(read)
    if tag is None:
        return prepared.answer(served, age_headers)
    # It names the tag that the caller has, and so renews what the caller has.
    headers = [(name, tag.encode() if name == b"etag" else value) for name, value in prepared.headers]
    return Answer(served, 304, headers + age_headers, b"")


def _encoded(headers: Mapping[str, str]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
