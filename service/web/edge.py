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

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable
from typing import Any, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from service.access.limits import Bucket, Quota, Rate, take
from service.access.waiting import EACH_TURN, CallerLeftError, NoRoomError
from service.gateway import Gateway
from service.telemetry.attribution import CLIENT
from service.telemetry.logs import log_request
from service.web import problems
from service.web.auditing import audit, note_route
from service.web.context import RequestContext, attach, request_id_of
from service.web.fast_path import FastPath, ParsedRead
from service.web.problems import Refusal, overloaded, whole_seconds
from service.web.reads import Answer, Headers, Reads
from service.web.refusals import UNSTORED, refused

TURN_S = 0.02
"""Seconds for which requests begin in one turn of the event loop: a fraction of what a probe's caller, or the renewal
of a lease, can wait. Hits take some 0.02 to 0.1 ms each, other reads 0.4 ms."""
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
_ANSWERED = frozenset({200, 304})
"""The statuses of reads that were answered."""
_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
"""As log lines have them."""


class Turns:
    """Bounds how long requests may begin in one turn of the event loop; later ones begin in the next turns, in order.

    The first request of a turn schedules a callback that ends it: 0.3 µs per turn, not per request.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        """When the first request of this turn began; `None`: none has."""
        self._queue = deque[asyncio.Future[None]]()
        self._scheduled = False
        """Whether this turn's end is scheduled: once, else the callbacks would multiply from turn to turn."""

    def is_over(self, now: float) -> bool:
        """Whether a request at `now` (seconds, monotonic) has to wait for another turn."""
        if self._began is None:
            self._began = now
            self._schedule()
        # A request behind a queue waits too, else later ones would overtake those that wait.
        return now - self._began > TURN_S or len(self._queue) > 0

    async def next(self) -> None:
        """Wait for a turn; a waiter that has been cancelled is skipped."""
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._schedule()
        await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._began, self._scheduled, left = None, False, EACH_TURN
        while self._queue and left:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                left -= 1
        if self._queue:
            self._schedule()


class Edge:
    """Wraps the framework's app."""

    def __init__(self, app: ASGIApp, gateway: Gateway, reads: Reads) -> None:
        self._app = app
        self.gateway = gateway
        self.fast_path = FastPath(gateway, reads)
        self.hits = 0
        """Reads that the fast path answered."""
        self._turns = Turns()
        self._futile_lines: Bucket | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not `async` itself: a hit runs through one coroutine, and each further one would cost as much as its counters.
        if scope["type"] != ScopeType.HTTP:
            return self._app(scope, receive, send)
        started = time.perf_counter()
        if self._turns.is_over(started) and scope["path"] not in _PROBES:
            return self._answer_later(scope, receive, send)
        found = self.fast_path.answer(scope)
        if found is None:
            return self._via_framework(scope, receive, send, started)
        return self._send(*found, send, started)

    async def _answer_later(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in a turn of the event loop that has time for it; refuse if too many requests wait for one."""
        started = time.perf_counter()
        try:
            await self.gateway.queue.wait(self.fast_path.client(scope), None, self._turns.next)
        except NoRoomError:
            await self._refuse_cheaply(scope, receive, send, started)
            return
        found = self.fast_path.answer(scope)
        if found is None:
            await self._via_framework(scope, receive, send, started)
        else:
            await self._send(*found, send, started)

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
        context, error = RequestContext(request_id_of(request["headers"]), logged=False), overloaded()
        refusal = problems.refusal(context.request_id, error, UNSTORED | error.headers)
        headers = [*_refusal_headers(refusal), (b"x-request-id", context.request_id.encode()), NO_SNIFFING]
        try:
            await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            context.status = refusal.status
            await send({"type": "http.response.body", "body": refusal.body, "more_body": False})
        finally:
            self._finish(context, started)

    async def _send(self, answer: Answer, context: RequestContext, send: Send, started: float) -> None:
        """Send an answer from memory, with the headers that all answers have."""
        headers = [*answer.headers, (b"x-request-id", context.request_id.encode()), NO_SNIFFING]
        if context.quota is not None:
            headers += _limits(context.quota)
        self.hits += 1
        # `log.hits` = N logs one hit in N; the counters and the audit log have all of them.
        context.logged = self.hits % self.gateway.config.settings.log.hits == 0
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            context.status = answer.status
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})
        finally:
            self._finish(context, started)

    async def _via_framework(
        self, scope: Scope, receive: Receive, send: Send, started: float, *, refusal_logged: bool | None = None
    ) -> None:
        """Let the framework answer; with `refusal_logged`, refuse for want of room, with a log line or without."""
        fields = cast("dict[str, Any]", scope)
        method = str(fields["method"])
        context = RequestContext(request_id_of(fields["headers"]), method if method in _METHODS else "other")
        context.malformed = _malformed(cast("HTTPScope", scope))
        if len(fields["path"]) > MAX_PATH or context.malformed:
            # The framework remembers a thousand paths, whole, before the caller is authenticated: give it a short one
            # that has no route. The prefix stays, because it decides the form of the refusal and its audit line.
            form = next((prefix for prefix in _FORMS if fields["path"].startswith(prefix)), "")
            fields["path"] = form + NO_PATH
            fields["raw_path"] = fields["path"].encode()
        if method == "HEAD":
            fields["method"] = "GET"  # the same answer without its body (RFC 9110 §9.3.2)
        attach(fields, context)

        async def pass_on(message: Message) -> None:
            """Send a message of the framework, with the headers of all answers and without the body of a HEAD."""
            if message["type"] == "http.response.start":
                context.status = message["status"]
                added = [(b"x-request-id", context.request_id.encode()), NO_SNIFFING]
                if context.quota is not None:
                    added += _limits(context.quota)
                if self.gateway.draining:
                    added.append((b"connection", b"close"))
                message["headers"] = [
                    # The framework doesn't know that HEAD works wherever GET does.
                    (name, value.replace(b"GET", b"GET, HEAD") if name == b"allow" and b"HEAD" not in value else value)
                    for name, value in message["headers"]
                ] + added
            elif method == "HEAD" and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        no_client = CLIENT.set("")
        try:
            if refusal_logged is not None:
                raise NoRoomError
            await self._app(scope, receive, pass_on)
        except CallerLeftError:  # there is no caller left to answer
            context.logged = self._may_log()
        except NoRoomError:
            context.logged = self._may_log() if refusal_logged is None else refusal_logged
            error = overloaded()
            refusal = refused(scope, error, error.headers)
            headers = _refusal_headers(refusal)
            await pass_on({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await pass_on({"type": "http.response.body", "body": refusal.body, "more_body": False})
        finally:
            CLIENT.reset(no_client)  # the task may be the server's own, and outlive this request
            note_route(context, fields)
            self._finish(context, started)
        account, selection, shape = context.account, context.selection, context.shape
        if context.status in _ANSWERED and account and selection and shape and context.route.startswith(_FORMS[0]):
            self.fast_path.learn(fields, ParsedRead(context.route, account, selection, shape))

    def _may_log(self) -> bool:
        """Whether one more request that came to nothing gets a log line; the counters have all of them.

        The lines of a flood must neither cost more than its answers nor push out the lines of other requests.
        """
        gateway = self.gateway
        self._futile_lines, wait_ms = take(FUTILE_LINES, self._futile_lines, gateway.clock.monotonic())
        if wait_ms:
            gateway.metrics.log_lines_dropped.inc()
        return not wait_ms

    def _finish(self, context: RequestContext, started: float) -> None:
        """Count, audit and log a request that has ended, whichever way it took, and also if its caller hung up."""
        duration_s, metrics = time.perf_counter() - started, self.gateway.metrics
        metrics.requests.count(context.route, context.method, context.status, duration_s)
        if context.served and context.account and context.client:  # whoever is served has both
            served = context.served
            metrics.cache_results.count(context.account, served.snapshot.document.name, context.client, served.result)
        if self.gateway.audit is not None:
            audit(self.gateway.audit, self.gateway, context)
        if context.logged:
            level = _level(context)
            log_request(level, context.log_line(_LEVELS[level], duration_s))


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


def _level(context: RequestContext) -> int:
    """Broken: error; refused: warning; answered: info, but debug for probes, which come every few seconds."""
    if context.status >= 500:
        return logging.WARNING if context.route == "/readyz" else logging.ERROR  # a drain is no fault
    if context.status >= 400:
        return logging.WARNING
    return logging.DEBUG if context.route in _PROBES else logging.INFO
