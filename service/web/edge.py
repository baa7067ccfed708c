"""The outermost ring, plain ASGI: what every answer has, also where no handler ran.

Request id, HEAD, the caller's limit, the log line and the audit line, the counters, and `Connection: close` while
draining.
"""

import logging
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any, cast

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.access.limits import Quota
from service.gateway import Gateway
from service.telemetry.attribution import CLIENT
from service.web.auditing import UNMATCHED, audit
from service.web.problems import whole_seconds
from service.web.record import Record, attach

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
_PROBES = frozenset({"/healthz", "/readyz"})


class Edge:
    """Wraps the framework's app."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        _shorten(cast("dict[str, Any]", scope))
        answering = _Answering(self._gateway, cast("dict[str, Any]", scope), send)
        nobody = CLIENT.set("")
        try:
            await self._app(scope, receive, answering.send)
        finally:
            CLIENT.reset(nobody)  # the task may be its caller's, and live on
            answering.close()


class _Answering:
    """One request being answered."""

    def __init__(self, gateway: Gateway, scope: dict[str, Any], send: Send) -> None:
        self._gateway = gateway
        self._send = send
        self._started = time.perf_counter()
        self._head = scope["method"] == "HEAD"
        self._method = str(scope["method"]) if scope["method"] in _METHODS else "other"
        self._status = 0
        self.record = Record(_request_id(scope["headers"]))
        if self._head:
            scope["method"] = "GET"  # the same answer without its body (RFC 9110 §9.3.2)
        attach(scope, self.record)
        self.scope = scope

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = self._headers(message["headers"])
        elif self._head and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)

    def close(self) -> None:
        """The log line, the audit line and the counters; also for a request whose caller hung up (status 0)."""
        duration = time.perf_counter() - self._started
        route = str(self.scope.get("path_template") or UNMATCHED)
        metrics = self._gateway.metrics
        metrics.requests.labels(route, self._method, str(self._status)).inc()
        metrics.request_duration.labels(route).observe(duration)
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
        added = [(b"x-request-id", self.record.request_id.encode()), (b"x-content-type-options", b"nosniff")]
        if self.record.quota is not None:
            added += _limits(self.record.quota)
        if self._gateway.draining:
            added.append((b"connection", b"close"))
        return [(name, _with_head(value) if name == b"allow" else value) for name, value in headers] + added


def _limits(quota: Quota) -> Headers:
    """`draft-ietf-httpapi-ratelimit-headers-10`; whole seconds up and never zero, as in `Retry-After`."""
    gain = whole_seconds(quota.gain)
    return [
        (b"ratelimit-policy", f'"requests";q={quota.limit};w={quota.window}'.encode()),
        (b"ratelimit", f'"requests";r={quota.remaining};t={gain}'.encode()),
    ]


def _shorten(scope: dict[str, Any]) -> None:
    """Make of a path that is too long to be one, one that isn't there either.

    The framework remembers a thousand paths, whole, before anybody asks who is calling.
    """
    if len(scope["path"]) > MAX_PATH:
        form = next((prefix for prefix in _FORMS if scope["path"].startswith(prefix)), "")
        scope["path"] = form + NO_PATH
        scope["raw_path"] = scope["path"].encode()


def _with_head(allowed: bytes) -> bytes:
    """The framework doesn't know that HEAD works wherever GET does."""
    return allowed if b"HEAD" in allowed else allowed.replace(b"GET", b"GET, HEAD")


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's, where it is harmless in logs and headers; else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _level(route: str, status: int) -> int:
    """Broken: error; refused: warning; allowed: info, but for the probes that come every few seconds."""
    if status >= 500:
        return logging.WARNING if route == "/readyz" else logging.ERROR
    if status >= 400:
        return logging.WARNING
    return logging.DEBUG if route in _PROBES else logging.INFO
