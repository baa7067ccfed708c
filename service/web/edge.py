"""The outermost ring, plain ASGI: what every answer has, also where no handler ran.

Request id, HEAD, the caller's limit, the log line and the audit line, the counters, and `Connection: close` while
draining.
"""

import logging
import os
import re
import time
from collections.abc import Awaitable, Iterable, Iterator
from typing import Any, cast

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from service.access.limits import Bucket, Quota, Rate, take
from service.access.waiting import CallerLeftError, NoRoomError, Turns
from service.gateway import Gateway
from service.telemetry.attribution import CLIENT
from service.telemetry.logs import looks_secret
from service.telemetry.metrics import Metrics
from service.web import problems
from service.web.auditing import UNMATCHED, Access, audit, put
from service.web.context import RequestContext, attach
from service.web.fast_path import FastPath, Hit, ParsedRead
from service.web.problems import Refusal, overloaded, whole_seconds
from service.web.refusals import UNSTORED, refused

log = structlog.get_logger("coinm.request")

Headers = list[tuple[bytes, bytes]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
MAX_PATH = 512
"""Characters. The longest path that means anything has some 150."""
NO_PATH = "/-" * 8
"""Longer than any route."""
_FORMS = ("/v1/accounts", "/binance")
"""Below these a refusal has a form, and an audit line, of its own."""
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
"""What the counters tell apart: a caller may invent any method."""
FUTILE_LINES = Rate(100)
"""Log lines a second about requests that were refused for want of room before the framework, or whose callers left."""
NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_PROBES = frozenset({"/healthz", "/readyz"})


class Edge:
    """Wraps the framework's app."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self.gateway = gateway
        self.fast_path = FastPath(gateway)
        self.hits = 0
        """Reads that went past the framework."""
        self._turns = Turns()
        self._lines: Bucket | None = None
        self._counted: dict[tuple[str, str, int], _RouteCounters] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Not `async` itself: a hit goes through one coroutine, and each more would cost as much as to count it."""
        if scope["type"] != ScopeType.HTTP:
            return self._app(scope, receive, send)
        started = time.perf_counter()
        if self._turns.is_over(started) and scope["path"] not in _PROBES:
            return self._later(scope, receive, send)
        hit = self.fast_path.hit(scope)
        return self._whole(scope, receive, send) if hit is None else self._answer(hit, send, started)

    async def _later(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in a turn of the event loop that has time for it; refuse if too many wait for one."""
        started = time.perf_counter()
        try:
            await self.gateway.queue.wait(self.fast_path.client(scope), None, self._turns.next)
        except NoRoomError:
            await self._turn_away(scope, receive, send, started)
            return
        hit = self.fast_path.hit(scope)
        await (self._whole(scope, receive, send) if hit is None else self._answer(hit, send, started))

    async def _turn_away(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        """Refuse for want of room.

        Thousands come in one turn of the event loop, where a flood is faster than the answers. What they cost is what
        probes and lease renewals wait for, so an ordinary one without a line of its own goes a short way.
        """
        logged, asked = self._worth_a_line(), cast("HTTPScope", scope)
        ordinary = asked["method"] == "GET" and asked["path"].startswith(_FORMS[0]) and not _malformed(asked)
        if logged or not ordinary or self.gateway.audit is not None or self.gateway.draining:
            await self._whole(scope, receive, send, room=False, logged=logged)
            return
        given = next((value for name, value in asked["headers"] if name == b"x-request-id"), b"")
        request_id, told, status = _request_id(given), overloaded(), 0
        refusal = problems.refusal(request_id, told, UNSTORED | told.headers)
        headers = [*_headers(refusal), (b"x-request-id", request_id.encode()), NO_SNIFFING]
        try:
            await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            status = refusal.status
            await send({"type": "http.response.body", "body": refusal.body, "more_body": False})
        finally:
            self.answered(UNMATCHED, "GET", status).count(time.perf_counter() - started)

    async def _whole(
        self, scope: Scope, receive: Receive, send: Send, *, room: bool = True, logged: bool = True
    ) -> None:
        """Have the framework answer, or refuse where there is no room."""
        malformed = _malformed(cast("HTTPScope", scope))
        _shorten(cast("dict[str, Any]", scope), malformed)
        answering = _RequestScope(self, cast("dict[str, Any]", scope), send)
        answering.record.malformed, answering.logged = malformed, logged
        nobody = CLIENT.set("")
        try:
            if not room:
                raise NoRoomError
            await self._app(scope, receive, answering.send)
        except CallerLeftError:
            answering.logged = self._worth_a_line()  # nobody is there to be answered
        except NoRoomError:
            if room:
                answering.logged = self._worth_a_line()
            told = overloaded()
            await answering.refuse(refused(scope, told, told.headers))
        finally:
            CLIENT.reset(nobody)  # the task may be its caller's, and live on
            answering.close()
        if answering.plan is not None:
            self.fast_path.learn(scope, answering.plan)

    def _worth_a_line(self) -> bool:
        """Whether one more request that came to nothing has a log line.

        A flood of them must not cost what their lines do, nor push out the lines of others. The counters have them all.
        """
        gateway = self.gateway
        self._lines, wait = take(FUTILE_LINES, self._lines, gateway.clock.monotonic())
        if wait:
            gateway.metrics.log_lines_dropped.inc()
        return not wait

    async def _answer(self, hit: Hit, send: Send, started: float) -> None:
        """Send an answer from memory, with what it has in common with all others."""
        request_id = _request_id(hit.request_id)
        fields = hit.fields
        fields += (b"x-request-id", request_id.encode()), NO_SNIFFING
        if hit.quota is not None:
            fields += _limits(hit.quota)
        status = 0
        try:
            await send({"type": "http.response.start", "status": hit.status, "headers": fields})
            status = hit.status
            await send({"type": "http.response.body", "body": hit.body, "more_body": False})
        finally:
            self._note(hit, request_id, status, time.perf_counter() - started)

    def _note(self, hit: Hit, request_id: str, status: int, duration: float) -> None:
        """The counters and the log line of an answer from memory."""
        self.answered(hit.plan.route, "GET", status).count(duration)
        if self.gateway.audit is not None:
            put(self.gateway, _access(hit, request_id, status))
        self.hits += 1
        if self.hits % self.gateway.settings.log.hits == 0:
            log.info(
                "request",
                method="GET",
                route=hit.plan.route,
                status=status,
                duration_ms=round(duration * 1000, 3),
                **_record(hit, request_id).facts(),
            )

    def answered(self, route: str, method: str, status: int) -> "_RouteCounters":
        """The counters of such answers."""
        counted = self._counted.get((route, method, status))
        if counted is None:
            counted = _RouteCounters(self.gateway.metrics, route, method, str(status))
            self._counted[route, method, status] = counted
        return counted


class _RouteCounters:
    """The counters of one route, method and status: looking them up costs more than to count."""

    __slots__ = ("_duration", "_requests")

    def __init__(self, metrics: Metrics, route: str, method: str, status: str) -> None:
        self._requests = metrics.requests.labels(route, method, status)
        self._duration = metrics.request_duration.labels(route)

    def count(self, duration: float) -> None:
        self._requests.inc()
        self._duration.observe(duration)


class _RequestScope:
    """One request being answered."""

    def __init__(self, edge: Edge, scope: dict[str, Any], send: Send) -> None:
        self._edge = edge
        self._gateway = edge.gateway
        self._send = send
        self._started = time.perf_counter()
        self.logged = True
        self._head = scope["method"] == "HEAD"
        self._method = str(scope["method"]) if scope["method"] in _METHODS else "other"
        self._status = 0
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.record = RequestContext(_request_id(given))
        if self._head:
            scope["method"] = "GET"  # the same answer without its body (RFC 9110 §9.3.2)
        attach(scope, self.record)
        self.scope = scope

    @property
    def plan(self) -> ParsedRead | None:
        """How the request was understood, if it was a read under `/v1` that was answered."""
        record, route = self.record, str(self.scope.get("path_template") or UNMATCHED)
        if record.served is None or record.selection is None or record.account is None:
            return None
        return ParsedRead(route, record.account, record.selection) if route.startswith(_FORMS[0]) else None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = self._headers(message["headers"])
        elif self._head and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer without the framework."""
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": _headers(refusal)})
        await self.send({"type": "http.response.body", "body": refusal.body, "more_body": False})

    def close(self) -> None:
        """The log line, the audit line and the counters; also for a request whose caller hung up (status 0)."""
        duration = time.perf_counter() - self._started
        route = str(self.scope.get("path_template") or UNMATCHED)
        self._edge.answered(route, self._method, self._status).count(duration)
        if self.logged:
            log.log(
                _level(route, self._status),
                "request",
                method=self._method,
                route=route,
                status=self._status,
                duration_ms=round(duration * 1000, 3),
                **self.record.facts(),
            )
        audit(self._gateway, self.scope, self._method, self._status)

    def _headers(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        added = [(b"x-request-id", self.record.request_id.encode()), NO_SNIFFING]
        if self.record.quota is not None:
            added += _limits(self.record.quota)
        if self._gateway.draining:
            added.append((b"connection", b"close"))
        return [(name, _with_head(value) if name == b"allow" else value) for name, value in headers] + added


def _record(hit: Hit, request_id: str) -> RequestContext:
    record = RequestContext(request_id)
    record.client, record.service_account, record.account = hit.client, hit.service_account, hit.plan.account
    record.result, record.age_ms = hit.served.result, hit.served.age
    return record


def _access(hit: Hit, request_id: str, status: int) -> Access:
    plan = hit.plan
    return Access(
        request_id=request_id,
        client=hit.client,
        account=plan.account,
        method="GET",
        route=plan.route,
        shape=plan.selection.shape.value,
        selection=plan.selection,
        status=status,
        problem=None,
        served=hit.served,
    )


def _headers(refusal: Refusal) -> Headers:
    named = {"content-type": refusal.media_type, "content-length": str(len(refusal.body))} | refusal.headers
    return [(name.encode(), value.encode()) for name, value in named.items()]


def _limits(quota: Quota) -> Headers:
    """`draft-ietf-httpapi-ratelimit-headers-10`; whole seconds up and never zero, as in `Retry-After`."""
    gain = whole_seconds(quota.gain)
    return [
        (b"ratelimit-policy", f'"requests";q={quota.limit};w={quota.window}'.encode()),
        (b"ratelimit", f'"requests";r={quota.remaining};t={gain}'.encode()),
    ]


def _malformed(scope: HTTPScope) -> str | None:
    """What is wrong with the request itself, or `None`.

    Without exactly one host, who stands before us may have understood another (RFC 9112 §3.2). Where there is none, the
    server gives an empty one.
    """
    if scope["http_version"] != "1.1":
        return None
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return None if len(hosts) == 1 and hosts[0] else "header Host: expected exactly once"


def _shorten(scope: dict[str, Any], malformed: str | None) -> None:
    """Make of a path that is too long to be one, or of a malformed request's, one that isn't there.

    The framework remembers a thousand paths, whole, before anybody asks who is calling.
    """
    if len(scope["path"]) > MAX_PATH or malformed:
        form = next((prefix for prefix in _FORMS if scope["path"].startswith(prefix)), "")
        scope["path"] = form + NO_PATH
        scope["raw_path"] = scope["path"].encode()


def _with_head(allowed: bytes) -> bytes:
    """The framework doesn't know that HEAD works wherever GET does."""
    return allowed if b"HEAD" in allowed else allowed.replace(b"GET", b"GET, HEAD")


def _request_id(given: bytes) -> str:
    """The caller's, where it is harmless in logs and no log would mask it; else a new one, 32 hex digits."""
    if given and _REQUEST_ID.fullmatch(given) and not looks_secret(name := given.decode()):
        return name
    return next(_IDS)


def _random_ids() -> Iterator[str]:
    """128 random bits each: two ids in a row must not tell how many requests of others came between.

    Drawn by the hundred, for each draw by itself costs as much as to authenticate a caller.
    """
    while True:
        drawn = os.urandom(16 * 256).hex()
        for start in range(0, len(drawn), 32):
            yield drawn[start : start + 32]


_IDS = _random_ids()


def _level(route: str, status: int) -> int:
    """Broken: error; refused: warning; allowed: info, but for the probes that come every few seconds."""
    if status >= 500:
        return logging.WARNING if route == "/readyz" else logging.ERROR
    if status >= 400:
        return logging.WARNING
    return logging.DEBUG if route in _PROBES else logging.INFO
