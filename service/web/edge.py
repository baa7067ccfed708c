"""The outermost ring, plain ASGI: everything that all answers have, also those that no handler made.

Request id, HEAD, the client's limit, log line, audit line, counters, and `Connection: close` while draining.
"""

# The ways of one request, the cheapest first:
#
#   __call__ ── this turn of the event loop has time ──► fast path ── knows the answer ──► _send
#      │                                                     └────── doesn't ──► _via_framework
#      └── it has none ──► _answer_later ── place found ──► fast path, as above, in a later turn
#                              └── no place ──► _refuse_cheaply ── with a log line, audit or drain ──► _via_framework
#
# Why turns: the event loop runs all that is ready before it reads sockets and timers again. A burst would keep it busy
# for seconds, in which no lease is renewed and no probe answered. `Turns` bounds the time for which requests begin in
# one turn; the rest wait in `gateway.queue`, in order of arrival. Probes never wait there.
#
# Invariants:
# - a request that has left the queue, or found no place there, is counted exactly once, with the status that was sent
#   (0: the caller hung up);
# - each such read is audited exactly once, if there is an audit log; a log line may be left out, these two never;
# - `x-request-id` of the answer, of the log line and of the audit line are the same;
# - a malformed request, or one with too long a path, meets the framework only under a path that doesn't exist, so that
#   no handler sees it and the framework's cache of paths can't be filled with it.

import logging
import os
import re
import time
from collections.abc import Awaitable, Iterator
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
from service.web.auditing import UNMATCHED, AuditedRead, audit, put
from service.web.context import RequestContext, attach
from service.web.fast_path import Answer, FastPath, Headers, ParsedRead
from service.web.problems import Refusal, overloaded, whole_seconds
from service.web.refusals import UNSTORED, refused

log = structlog.get_logger("coinm.request")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
MAX_PATH = 512
"""Characters. The longest path that exists has some 150."""
NO_PATH = "/-" * 8
"""Longer than any route."""
_FORMS = ("/v1/accounts", "/binance")
"""Below these, refusals have a form and an audit line of their own."""
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
"""The methods that the counters know; a caller may invent any other."""
FUTILE_LINES = Rate(100)
"""Log lines per second about requests that found no room, or whose callers left."""
NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_PROBES = frozenset({"/healthz", "/readyz"})


class Edge:
    """Wraps the framework's app."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self.gateway = gateway
        self.fast_path = FastPath(gateway)
        self.hits = 0
        """Reads that the fast path answered."""
        self._turns = Turns()
        self._futile_lines: Bucket | None = None
        self._counters: dict[tuple[str, str, int], _RouteCounters] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not `async` itself: a hit runs through one coroutine, and each further one would cost as much as its counters.
        if scope["type"] != ScopeType.HTTP:
            return self._app(scope, receive, send)
        started = time.perf_counter()
        if self._turns.is_over(started) and scope["path"] not in _PROBES:
            return self._answer_later(scope, receive, send)
        answer = self.fast_path.answer(scope)
        if answer is None:
            return self._via_framework(scope, receive, send, started)
        return self._send(answer, send, started)

    async def _answer_later(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in a turn of the event loop that has time for it; refuse if too many requests wait for one."""
        started = time.perf_counter()
        try:
            await self.gateway.queue.wait(self.fast_path.client(scope), None, self._turns.next)
        except NoRoomError:
            await self._refuse_cheaply(scope, receive, send, started)
            return
        answer = self.fast_path.answer(scope)
        if answer is None:
            await self._via_framework(scope, receive, send, started)
        else:
            await self._send(answer, send, started)

    async def _refuse_cheaply(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        """Refuse a request that found no room.

        In a flood, thousands are refused in one turn of the event loop, and probes and lease renewals wait for the sum
        of their costs. So an ordinary request without a log line skips the framework.
        """
        logged, request = self._may_log(), cast("HTTPScope", scope)
        ordinary = request["method"] == "GET" and request["path"].startswith(_FORMS[0]) and not _malformed(request)
        if logged or not ordinary or self.gateway.audit is not None or self.gateway.draining:
            await self._via_framework(scope, receive, send, started, refusal_logged=logged)
            return
        sent_id = next((value for name, value in request["headers"] if name == b"x-request-id"), b"")
        request_id, error, status = _request_id(sent_id), overloaded(), 0
        refusal = problems.refusal(request_id, error, UNSTORED | error.headers)
        headers = [*_refusal_headers(refusal), (b"x-request-id", request_id.encode()), NO_SNIFFING]
        try:
            await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            status = refusal.status
            await send({"type": "http.response.body", "body": refusal.body, "more_body": False})
        finally:
            self.counters(UNMATCHED, "GET", status).count(time.perf_counter() - started)

    async def _via_framework(
        self, scope: Scope, receive: Receive, send: Send, started: float, *, refusal_logged: bool | None = None
    ) -> None:
        """Let the framework answer; with `refusal_logged`, refuse for want of room, with a log line or without."""
        malformed, fields = _malformed(cast("HTTPScope", scope)), cast("dict[str, Any]", scope)
        if len(scope["path"]) > MAX_PATH or malformed:
            # The framework remembers a thousand paths, whole, before the caller is authenticated: give it a short one
            # that has no route. The prefix stays, because it decides the form of the refusal and its audit line.
            form = next((prefix for prefix in _FORMS if scope["path"].startswith(prefix)), "")
            fields["path"] = form + NO_PATH
            fields["raw_path"] = fields["path"].encode()
        request = _RequestScope(self, fields, send, started)
        request.context.malformed = malformed
        no_client = CLIENT.set("")
        try:
            if refusal_logged is not None:
                raise NoRoomError
            await self._app(scope, receive, request.send)
        except CallerLeftError:  # there is no caller left to answer
            request.logged = self._may_log()
        except NoRoomError:
            request.logged = self._may_log() if refusal_logged is None else refusal_logged
            error = overloaded()
            await request.refuse(refused(scope, error, error.headers))
        finally:
            CLIENT.reset(no_client)  # the task may be the server's own, and outlive this request
            request.close()
        if request.parsed_read is not None:
            self.fast_path.learn(scope, request.parsed_read)

    def _may_log(self) -> bool:
        """Whether one more request that came to nothing gets a log line; the counters have all of them.

        The lines of a flood must neither cost more than its answers nor push out the lines of other requests.
        """
        gateway = self.gateway
        self._futile_lines, wait_ms = take(FUTILE_LINES, self._futile_lines, gateway.clock.monotonic())
        if wait_ms:
            gateway.metrics.log_lines_dropped.inc()
        return not wait_ms

    async def _send(self, answer: Answer, send: Send, started: float) -> None:
        """Send an answer from memory, with the headers that all answers have; log, audit and count it."""
        read, request_id, status = answer.read, _request_id(answer.request_id), 0
        headers = answer.headers
        headers += (b"x-request-id", request_id.encode()), NO_SNIFFING
        if answer.quota is not None:
            headers += _limits(answer.quota)
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            status = answer.status
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})
        finally:
            duration_s = time.perf_counter() - started
            self.counters(read.route, "GET", status).count(duration_s)
            if self.gateway.audit is not None:
                audited = AuditedRead(
                    request_id=request_id,
                    client=answer.client,
                    account=read.account,
                    method="GET",
                    route=read.route,
                    shape=read.selection.shape.value,
                    selection=read.selection,
                    status=status,
                    problem=None,
                    served=answer.served,
                )
                put(self.gateway, audited)
            self.hits += 1
            # `log.hits` = N logs one hit in N; the counters and the audit log have all of them.
            if self.hits % self.gateway.settings.log.hits == 0:
                context = RequestContext(request_id)
                context.client, context.service_account = answer.client, answer.service_account
                context.account, context.result, context.age_ms = read.account, answer.served.result, answer.served.age
                log.info(
                    "request",
                    method="GET",
                    route=read.route,
                    status=status,
                    duration_ms=round(duration_s * 1000, 3),
                    **context.log_fields(),
                )

    def counters(self, route: str, method: str, status: int) -> "_RouteCounters":
        """The counters of such answers."""
        counters = self._counters.get((route, method, status))
        if counters is None:
            counters = _RouteCounters(self.gateway.metrics, route, method, str(status))
            self._counters[route, method, status] = counters
        return counters


class _RouteCounters:
    """The counters of one route, method and status. They are kept: a look-up by labels costs more than a count."""

    __slots__ = ("_duration", "_requests")

    def __init__(self, metrics: Metrics, route: str, method: str, status: str) -> None:
        self._requests = metrics.requests.labels(route, method, status)
        self._duration = metrics.request_duration.labels(route)

    def count(self, duration_s: float) -> None:
        self._requests.inc()
        self._duration.observe(duration_s)


class _RequestScope:
    """One request on its way through the framework."""

    def __init__(self, edge: Edge, scope: dict[str, Any], send: Send, started: float) -> None:
        self._edge = edge
        self._gateway = edge.gateway
        self._send = send
        self._started = started
        self.logged = True
        self._head = scope["method"] == "HEAD"
        self._method = str(scope["method"]) if scope["method"] in _METHODS else "other"
        self._status = 0
        sent_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.context = RequestContext(_request_id(sent_id))
        if self._head:
            scope["method"] = "GET"  # the same answer without its body (RFC 9110 §9.3.2)
        attach(scope, self.context)
        self.scope = scope

    @property
    def parsed_read(self) -> ParsedRead | None:
        """What the request means, if it was a read under `/v1` that was answered."""
        context, route = self.context, str(self.scope.get("path_template") or UNMATCHED)
        if context.served is None or context.selection is None or context.account is None:
            return None
        return ParsedRead(route, context.account, context.selection) if route.startswith(_FORMS[0]) else None

    async def send(self, message: Message) -> None:
        """Pass a message of the framework on, with the headers that all answers have and without the body of a HEAD."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            added = [(b"x-request-id", self.context.request_id.encode()), NO_SNIFFING]
            if self.context.quota is not None:
                added += _limits(self.context.quota)
            if self._gateway.draining:
                added.append((b"connection", b"close"))
            message["headers"] = [
                # The framework doesn't know that HEAD works wherever GET does.
                (name, value.replace(b"GET", b"GET, HEAD") if name == b"allow" and b"HEAD" not in value else value)
                for name, value in message["headers"]
            ] + added
        elif self._head and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer without the framework."""
        headers = _refusal_headers(refusal)
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": refusal.body, "more_body": False})

    def close(self) -> None:
        """Log, audit and count the request, also if its caller hung up (status 0)."""
        duration_s = time.perf_counter() - self._started
        route = str(self.scope.get("path_template") or UNMATCHED)
        self._edge.counters(route, self._method, self._status).count(duration_s)
        if self.logged:
            log.log(
                _level(route, self._status),
                "request",
                method=self._method,
                route=route,
                status=self._status,
                duration_ms=round(duration_s * 1000, 3),
                **self.context.log_fields(),
            )
        audit(self._gateway, self.scope, self._method, self._status)


def _refusal_headers(refusal: Refusal) -> Headers:
    named = {"content-type": refusal.media_type, "content-length": str(len(refusal.body))} | refusal.headers
    return [(name.encode(), value.encode()) for name, value in named.items()]


def _limits(quota: Quota) -> Headers:
    """`draft-ietf-httpapi-ratelimit-headers-10`; seconds are rounded up and never zero, as in `Retry-After`."""
    gain_s = whole_seconds(quota.gain)
    return [
        (b"ratelimit-policy", f'"requests";q={quota.limit};w={quota.window}'.encode()),
        (b"ratelimit", f'"requests";r={quota.remaining};t={gain_s}'.encode()),
    ]


def _malformed(scope: HTTPScope) -> str | None:
    """What is wrong with the request itself, or `None`.

    A request has exactly one `Host`, else a proxy before us may have read another one (RFC 9112 §3.2). The server adds
    an empty one where there is none.
    """
    if scope["http_version"] != "1.1":
        return None
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return None if len(hosts) == 1 and hosts[0] else "header Host: expected exactly once"


def _request_id(sent: bytes) -> str:
    """The caller's id if it is harmless in logs and no log would mask it; else a new one, 32 hex digits."""
    if sent and _REQUEST_ID.fullmatch(sent) and not looks_secret(name := sent.decode()):
        return name
    return next(_IDS)


def _random_ids() -> Iterator[str]:
    """128 random bits each. They must not count up: two ids in a row would reveal how many requests came between."""
    while True:
        # By the hundred: a system call for each id would cost as much as the authentication of a caller.
        drawn = os.urandom(16 * 256).hex()
        for start in range(0, len(drawn), 32):
            yield drawn[start : start + 32]


_IDS = _random_ids()


def _level(route: str, status: int) -> int:
    """Broken: error; refused: warning; answered: info, but debug for probes, which come every few seconds."""
    if status >= 500:
        return logging.WARNING if route == "/readyz" else logging.ERROR  # a drain is no fault
    if status >= 400:
        return logging.WARNING
    return logging.DEBUG if route in _PROBES else logging.INFO
