"""Connections to one HTTP/1.1 host, on h11, behind httpx's interface of a transport."""

# HTTP/1.1 matches answers to requests by their order on the connection, and by nothing else. If a host (or a proxy
# before it) sends one answer twice, the second copy is taken for the answer to the next request. Bytes beyond an answer
# can wait in three places:
#
#     h11's buffer, for h11 is fed with whatever arrives     seen when the answer ends (`trailing_data`)
#     the event loop and the TLS layer                       nothing readable stays there: they pass on all of it
#     the kernel                                             polled just before the next request is sent
#
# Invariant: a connection is reused only if all three are empty. An idle one goes on reading: any byte closes it, and so
# does its end.
#
# What arrives after the next request was sent can't be distinguished from an answer to it. The start of a TLS record,
# whose end arrives only then, is such a case: neither loop shows it. So each credential has a client of its own: a
# wrong answer is then at least an answer to the same credential.
#
# A connection whose call failed, was cancelled or timed out is closed: the end of its answer has not been seen.
#
# Not done here, because h11 does it: a message head or trailer above `MAX_HEAD_BYTES`, contradicting lengths, control
# characters, and transfer codings other than chunked are refused. An answer with both framings is read as chunked, and
# what is left over then ends the connection. The caller's deadline stops a host that sends slowly, or sends
# informational answers without end.

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import cast

import aiohappyeyeballs
import h11
import httpx

IDLE_S = 5.0
"""Seconds for which an idle connection is kept: hosts close theirs after some more."""
RACE_DELAY_S = 0.25
"""Between attempts to connect to several addresses of one host (RFC 8305 §5): one family may lead nowhere."""
MAX_HEAD_BYTES = 100 * 1024
"""Of a message's head or trailer that has not ended; real ones have a few KB."""
MAX_UNREAD_BYTES = 1024 * 1024
"""Received, but not read yet by the caller; the connection reads no more then. Two reads of the loop fit in."""
EVENTS_AT_A_TIME = 100
"""Parsed before other tasks have their turn: a few milliseconds. A MiB can hold 170,000 chunks of one byte."""


class _Connection(asyncio.Protocol):
    """One connection, with h11's view of it. It carries one request at a time; the loop calls the public methods."""

    # States: busy (from its creation, or from `_take_idle` on), idle, closed. h11 is fed as soon as bytes arrive, and
    # only while busy; the one caller takes its events. `closed` is set last, after whatever arrived before the end.

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._unread_bytes = 0
        self._events = 0
        """Since other tasks had their turn."""
        self._arrival: asyncio.Future[None] | None = None
        self._idle_until: float | None = None
        """By the loop's clock; `None`: it is busy."""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._idle_until is not None:
            self.abort()  # nothing was requested
            return
        self._h11.receive_data(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        if self._idle_until is not None:
            self.abort()
            return
        self._h11.receive_data(b"")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.closed.set_result(None)
        self._wake()

    def abort(self) -> None:
        """Close it at once; nothing is left to send by then."""
        self._transport.abort()

    async def send(self, request: httpx.Request) -> h11.Response:
        """Send a request; the head of its answer.

        Raises:
            httpx.TransportError: it can't be sent, or there was none.
        """
        try:
            head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
            events = (head, h11.Data(data=request.content), h11.EndOfMessage())
            self._transport.write(b"".join(self._h11.send(event) or b"" for event in events))
        except h11.LocalProtocolError as exc:
            raise httpx.LocalProtocolError(str(exc)) from exc
        while not isinstance(event := await self.receive(), h11.Response):
            pass  # an informational answer
        return event

    async def receive(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next part of the answer.

        Raises:
            httpx.TransportError: the connection broke, or what arrived is no answer.
        """
        if self._events == EVENTS_AT_A_TIME:
            self._events = 0
            await asyncio.sleep(0)
        self._events += 1
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                if self.closed.done():
                    raise httpx.ReadError("the connection broke")
                if self._unread_bytes > MAX_UNREAD_BYTES:
                    self._transport.resume_reading()
                self._unread_bytes = 0
                self._arrival = asyncio.get_running_loop().create_future()
                await self._arrival
        except h11.RemoteProtocolError as exc:
            raise httpx.RemoteProtocolError(str(exc)) from exc
        return event

    def end(self) -> bool:
        """After an answer, or instead of one: whether the connection is idle now. Otherwise it is closed."""
        whole = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        paused = self._unread_bytes > MAX_UNREAD_BYTES  # more may wait in the TLS layer
        if not whole or paused or self._h11.trailing_data != (b"", False) or self._transport.is_closing():
            self.abort()
            return False
        self._h11.start_next_cycle()
        self._idle_until = asyncio.get_running_loop().time() + IDLE_S
        return True

    def begin(self) -> bool:
        """Before another request: whether the connection is still good. Otherwise it is closed."""
        expired = self._idle_until is None or self._idle_until < asyncio.get_running_loop().time()
        if expired or self._transport.is_closing() or _readable(self._transport.get_extra_info("socket").fileno()):
            self.abort()
            return False
        self._idle_until, self._unread_bytes = None, 0
        return True

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class _Body(httpx.AsyncByteStream):
    """An answer's body, as it arrives; the connection is released when it is closed."""

    def __init__(self, connection: _Connection, release: Callable[[], None]) -> None:
        self._connection = connection
        self._release = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._connection.receive(), h11.Data):
            yield event.data

    async def aclose(self) -> None:
        release, self._release = self._release, lambda: None  # once: another request may have the connection by then
        release()


class Transport(httpx.AsyncBaseTransport):
    """A pool of connections to one host."""

    # A request holds a slot until its answer is closed, and connects only if no connection is idle. So there are never
    # more connections than slots.

    def __init__(self, trust: ssl.SSLContext, connections: int) -> None:
        trust.set_alpn_protocols(["http/1.1"])
        self._trust = trust
        self._slots = asyncio.Semaphore(connections)
        self._busy: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._slots.acquire()
        try:
            connection = self._take_idle() or await self._connect(request)
        except BaseException:
            self._slots.release()
            raise
        self._busy.add(connection)
        release = partial(self._release, connection)
        try:
            head = await connection.send(request)
        except BaseException:
            release()
            raise
        return httpx.Response(head.status_code, headers=list(head.headers), stream=_Body(connection, release))

    async def aclose(self) -> None:
        """Close all connections, also those that are in use, and wait until they are closed.

        One that is just being opened is closed as soon as it is open; no request is sent on it.
        """
        self._closed = True
        closing = [*self._busy, *self._idle]
        for each in closing:
            each.abort()
        if closing:
            await asyncio.wait([each.closed for each in closing])

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.begin():
                return connection
        return None

    def _release(self, connection: _Connection) -> None:
        self._busy.remove(connection)
        self._slots.release()
        if connection.end():
            self._idle.append(connection)

    async def _connect(self, request: httpx.Request) -> _Connection:
        """Open a connection, to whichever of the host's addresses answers first.

        Raises:
            httpx.ConnectError: there is none, or the client was closed.
            httpx.ConnectTimeout: there is none in time.
        """
        loop, url = asyncio.get_running_loop(), request.url
        host, trust = url.raw_host.decode("ascii"), self._trust if url.scheme == "https" else None
        try:
            async with asyncio.timeout(request.extensions["timeout"]["connect"]):
                found = await loop.getaddrinfo(host, url.port or (443 if trust else 80), type=socket.SOCK_STREAM)
                # uvloop doesn't race a host's addresses itself.
                dialled = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=RACE_DELAY_S)
                _, connection = await loop.create_connection(
                    _Connection, sock=dialled, ssl=trust, server_hostname=host if trust else None
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout(str(exc)) from exc
        except (OSError, RuntimeError) as exc:  # uvloop raises RuntimeErrors too
            raise httpx.ConnectError(str(exc)) from exc
        if self._closed:
            connection.abort()
            raise httpx.ConnectError("the client was closed")
        return connection


def _readable(descriptor: int) -> bool:
    """Whether the kernel has anything for this socket: bytes, its end, or an error."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
