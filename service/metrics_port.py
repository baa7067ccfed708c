"""What answers on `server.metrics_port`: `/metrics`, and the probes a second time.

A server of its own, so that callers' connections can't keep probes out and their network policy and Prometheus' can
differ. It runs in the main event loop: that `/healthz` answers here says that the loop does. Only a scrape's text is
made in a thread beside it. Everything is bounded: a connection carries one request and has 30 s from connecting to its
end, a request head has 8 KiB, and when there are 64 connections the oldest is closed for a new one. So whoever opens
connections and says nothing loses them, and a probe, which takes a millisecond, gets through.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.gateway import Gateway
from service.web import operations
from service.web.reads import JSON

CONNECTIONS = 64
LIFE = 30.0
"""Seconds from connecting to the end of a connection; Prometheus gives up a scrape after 10 by itself."""
MAX_HEAD = 8 * 1024
"""Bytes of a request's head."""
SCRAPES = 4
"""Scrapes whose text is made or awaited at a time; more are told to come back."""
END_OF_HEAD = b"\r\n\r\n"
TEXT = "text/plain; charset=utf-8"


@asynccontextmanager
async def serving(listener: socket.socket, gateway: Gateway) -> AsyncIterator[None]:
    """While it lasts, the listening socket is answered; at the end every connection is closed at once."""
    port = MetricsPort(gateway)
    server = await asyncio.start_server(port.answer, sock=listener, limit=MAX_HEAD)
    try:
        yield
    finally:
        server.close()
        port.close()


class MetricsPort:
    """The connections of the metrics port."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """Oldest first."""
        self._scraping = 0
        self._thread = ThreadPoolExecutor(1, "metrics")

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as a task
        while len(self._open) >= CONNECTIONS:
            self._abort(next(iter(self._open)))
        self._open[task] = writer
        try:
            async with asyncio.timeout(LIFE):
                writer.write(await self._response(await reader.readuntil(END_OF_HEAD)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # it hung up, was too slow or too long, or made room for another
        finally:
            writer.transport.abort()
            self._open.pop(task, None)

    def close(self) -> None:
        for task in list(self._open):
            self._abort(task)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _abort(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).transport.abort()
        task.cancel()

    async def _response(self, head: bytes) -> bytes:
        """The whole answer to a request's head."""
        request, *fields = head.decode("latin-1").split("\r\n")
        match request.split(" "):
            case [method, target, "HTTP/1.1" | "HTTP/1.0"]:
                status, content_type, body = await self._content(method, target.partition("?")[0], _accept(fields))
            case _:
                method, status, content_type, body = "GET", 400, TEXT, b"malformed request\n"
        allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\n{allow}Connection: close\r\n\r\n"
        )
        return lines.encode() + (b"" if method == "HEAD" else body)

    async def _content(self, method: str, path: str, accept: str) -> tuple[int, str, bytes]:
        if path not in ("/metrics", "/healthz", "/readyz"):
            return 404, TEXT, b"not found; there are /metrics, /healthz and /readyz\n"
        if method not in ("GET", "HEAD"):
            return 405, TEXT, b"method not allowed\n"
        if path == "/healthz":
            return 200, JSON, operations.HEALTHY
        if path == "/readyz":
            status, body = operations.readiness(self._gateway)
            return status, JSON, body
        if self._scraping >= SCRAPES:
            return 503, TEXT, b"too many scrapes at a time\n"
        self._scraping += 1
        try:
            registry = self._gateway.metrics.registry
            content_type, body = await asyncio.get_running_loop().run_in_executor(
                self._thread, _exposition, registry, accept
            )
        finally:
            self._scraping -= 1
        return 200, content_type, body


def _exposition(registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


def _accept(fields: list[str]) -> str:
    """The value of `Accept`; empty: none."""
    named = (field.partition(":") for field in fields)
    return next((value.strip() for name, _, value in named if name.lower() == "accept"), "")
