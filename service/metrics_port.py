"""The server on `server.metrics_port`: `/metrics`, and the probes a second time.

It is separate from the API's server, so that callers' connections can't block probes, and so that the network policies
of callers and of Prometheus can differ.
"""

# It runs in the main event loop on purpose: an answer to `/healthz` here proves that the loop runs. Only the text of a
# scrape is built in another thread, since that takes milliseconds. It is Prometheus' own text format, whatever is
# preferred: prometheus_client takes twice as long for OpenMetrics, which says no more of these metrics.
#
# Everything is bounded, so that hostile connections can't keep a probe out:
#
# - A connection carries one request, and has 30 s from connecting to its end. A request's head has 8 KiB at most.
# - When there are 64 connections, the oldest (`_open` is in order of arrival) is aborted for a new one. A probe takes a
#   millisecond, so the oldest are those that send nothing.

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from service.gateway import Gateway
from service.web import operations
from service.web.reads import JSON

CONNECTIONS = 64
"""At a time."""
LIFE = 30.0
"""Seconds from connecting to the end of a connection. By default Prometheus gives up a scrape after 10."""
MAX_HEAD = 8 * 1024
"""Bytes of a request's head."""
SCRAPES = 4
"""Concurrent scrapes; more get a 503."""
END_OF_HEAD = b"\r\n\r\n"
TEXT = "text/plain; charset=utf-8"


@asynccontextmanager
async def serving(listener: socket.socket, gateway: Gateway) -> AsyncIterator[None]:
    """Serve the listening socket until the block ends, then close every connection at once."""
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
        """Serve one connection, from its beginning to its end."""
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
            pass  # the client hung up or was too slow, the head was too long, or a newer connection needed the room
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
        """The whole answer to a request's head. Latin-1 decodes any bytes, and the comparisons below are all ASCII."""
        match head.decode("latin-1").partition("\r\n")[0].split(" "):
            case [method, target, "HTTP/1.1" | "HTTP/1.0"]:
                status, content_type, body = await self._content(method, target.partition("?")[0])
            case _:
                method, status, content_type, body = "GET", 400, TEXT, b"malformed request\n"
        allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\n{allow}Connection: close\r\n\r\n"
        )
        return lines.encode() + (b"" if method == "HEAD" else body)

    async def _content(self, method: str, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
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
            body = await asyncio.get_running_loop().run_in_executor(self._thread, generate_latest, registry)
        finally:
            self._scraping -= 1
        return 200, CONTENT_TYPE_PLAIN_0_0_4, body
