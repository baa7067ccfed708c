"""HTTP to hosts that may send anything: one kind of client, its connections, and one way to read an answer's body."""

# HTTP/1.1 matches answers to requests by their order on the connection, and by nothing else. If a host (or a proxy
# before it) sends one answer twice, the second copy is taken for the answer to the next request. Bytes beyond an answer
# can wait in three places:
#
#     h11's buffer, for h11 is fed with whatever arrives     seen when the answer ends (`trailing_data`)
#     the event loop and the TLS layer                       nothing stays there: they pass on all they have read
#     the kernel                                             polled just before the next request is sent
#
# Invariant: a connection is reused only if all three are empty. An idle one goes on reading: any byte closes it, and so
# does its end.
#
# What arrives after the next request was sent can't be distinguished from an answer to it. So each credential has a
# client of its own: a wrong answer is then at least an answer to the same credential.
#
# A connection whose call failed, was cancelled or timed out is closed: the end of its answer has not been seen.
#
# Compressed bodies. 980 bytes of gzip in gzip become 1 GiB. So no compression is requested, and bodies are read raw.
# What comes compressed all the same is refused, or inflated in bounded steps between which other tasks run.
#
# Not done here, because h11 does it: a message head or trailer above `MAX_HEAD_BYTES`, contradicting lengths, control
# characters, and transfer codings other than chunked are refused. An answer with both framings is read as chunked, and
# what is left over then ends the connection. The caller's deadline stops a host that sends slowly, or sends
# informational answers without end.

import asyncio
import contextlib
import select
import socket
import ssl
import zlib
from asyncio.staggered import staggered_race
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Self, TypeAlias, cast

import h11
import httpx

STEP = 64 * 1024
"""Bytes inflated in one step: a fraction of a millisecond."""
CODINGS: Mapping[str, int] = {
    "gzip": zlib.MAX_WBITS | 16,
    "x-gzip": zlib.MAX_WBITS | 16,
    "deflate": zlib.MAX_WBITS,
}
"""Supported content codings (RFC 9110 §8.4.1), each with zlib's `wbits`."""

IDLE_S = 5.0
"""Seconds for which an idle connection is kept: hosts close theirs after some more."""
RACE_DELAY_S = 0.25
"""Between attempts to connect to several addresses of one host (RFC 8305 §5): one family may lead nowhere."""
MAX_HEAD_BYTES = 100 * 1024
"""Of a message's head or trailer that has not ended; real ones have a few KB."""
MAX_UNREAD_BYTES = 1024 * 1024
"""Received, but not read yet by the caller; the connection reads no more then. Two reads of the loop fit in."""

AddressInfo: TypeAlias = tuple[int, int, int, str, Any]
"""Family, kind, protocol, canonical name and address, as `getaddrinfo` returns them."""


class BodyError(Exception):
    """A body that can't be read; the message names the fault, never the content."""


class BodyTooLargeError(BodyError):
    """More bytes than the caller accepts, before or after inflating."""


class BodyEncodingError(BodyError):
    """A content coding that isn't accepted, or bytes that don't fit it."""


class Client:
    """Requests to one host, on connections of its own.

    Nothing is added to a request but its own headers: no cookies, no credentials from a netrc. No proxy of the
    environment is used and no redirect is followed. All of these would carry secrets elsewhere.

    Args:
        base_url: scheme, host and port.
        transport: sends the requests; it is closed with the client.
        timeout: of each step, for the transport; the caller bounds the whole.
        headers: sent with every request.
    """

    # Not `httpx.AsyncClient`: it does all that, and for some 0.2 ms of CPU a request.

    def __init__(
        self, base_url: str, transport: httpx.AsyncBaseTransport, timeout: httpx.Timeout, headers: Mapping[str, str]
    ) -> None:
        self.timeout = timeout
        self._url = httpx.URL(base_url)
        self._transport = transport
        self._headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": "coinm-account-gateway",
            **headers,
        }
        self._extensions = {"timeout": timeout.as_dict()}

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, target: bytes, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncGenerator[httpx.Response, None]:
        """Send a request, with path and query as they are in `target`; the answer's body is unread.

        Raises:
            httpx.HTTPError: no answer came.
        """
        url = self._url.copy_with(raw_path=target)
        merged = {**self._headers, **headers}
        request = httpx.Request(method, url, headers=merged, content=content, extensions=self._extensions)
        response = await self._transport.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def open_client(  # noqa: PLR0913 - the ways in which hosts differ, by name
    base_url: str,
    *,
    transport: httpx.AsyncBaseTransport | None,
    trust: ssl.SSLContext | None,
    timeout: httpx.Timeout,
    connections: int,
    headers: Mapping[str, str],
) -> Client:
    """A client for one host.

    Args:
        base_url: scheme, host and port.
        transport: replaces the network, for tests.
        trust: decides which certificates are accepted; `None`: none is, for a host without TLS.
        timeout: of each step; the caller bounds the whole.
        connections: the most that are open at a time.
        headers: sent with every request.
    """
    network = transport or _Transport(trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), connections)
    return Client(base_url, network, timeout, headers)


async def read_into(body: bytearray, response: httpx.Response, limit: int) -> None:
    """Append an answer's body to `body`, inflated if need be. If this raises, `body` holds what has arrived.

    Raises:
        BodyError: it is larger than `limit` bytes, raw or inflated, or its coding isn't accepted or doesn't fit.
        httpx.HTTPError: the connection broke.
    """
    encoding = response.headers.get("content-encoding", "")
    codings = [coding for each in encoding.split(",") if (coding := each.strip().lower()) not in ("", "identity")]
    # Two codings multiply the ratio, and no honest host sends them.
    if codings and (len(codings) > 1 or codings[0] not in CODINGS):
        raise BodyEncodingError("a content coding that was not asked for")
    inflater = zlib.decompressobj(CODINGS[codings[0]]) if codings else None
    raw_bytes = 0
    async for chunk in response.aiter_raw():
        raw_bytes += len(chunk)
        if inflater is None:
            body += chunk[: limit + 1 - len(body)]
        else:
            await _inflate(body, inflater, chunk, limit)
        # Checked after the append: the start of a long error body still says what went wrong.
        if raw_bytes > limit:
            raise BodyTooLargeError(f"larger than {limit} bytes")
    if inflater is not None and raw_bytes and not inflater.eof:
        raise BodyEncodingError("cut off")


async def _inflate(body: bytearray, inflater: "zlib._Decompress", chunk: bytes, limit: int) -> None:
    if inflater.eof:
        raise BodyEncodingError("bytes after the end")
    part = bytes(STEP)
    while chunk or len(part) == STEP:  # a full step may leave output behind although it took all input
        try:
            part = inflater.decompress(chunk, STEP)
        except zlib.error:
            raise BodyEncodingError("damaged") from None
        body += part
        chunk = inflater.unconsumed_tail
        if len(body) > limit:
            raise BodyTooLargeError(f"larger than {limit} bytes inflated")
        await asyncio.sleep(0)
    if inflater.unused_data:
        raise BodyEncodingError("bytes after the end")


class _Connection(asyncio.Protocol):
    """One connection, with h11's view of it. It carries one request at a time; the loop calls the public methods."""

    # States: busy (from its creation, or from `_take_idle` on), idle, closed. h11 is fed as soon as bytes arrive, and
    # only while busy; the one caller takes its events. `closed` is set last, after whatever arrived before the end.

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._unread_bytes = 0
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
        self._release()


class _Transport(httpx.AsyncBaseTransport):
    """A pool of connections to one host."""

    # A request holds a slot until its answer is closed, and connects only if no connection is idle. So there are never
    # more connections than slots.

    def __init__(self, trust: ssl.SSLContext, connections: int) -> None:
        trust.set_alpn_protocols(["http/1.1"])
        self._trust = trust
        self._slots = asyncio.Semaphore(connections)
        self._busy: set[_Connection] = set()
        self._idle: list[_Connection] = []

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
        """Close all connections, also those that are in use, and wait until they are closed."""
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
        if connection in self._busy:
            self._busy.remove(connection)
            self._slots.release()
            if connection.end():
                self._idle.append(connection)

    async def _connect(self, request: httpx.Request) -> _Connection:
        """Open a connection, to whichever of the host's addresses answers first.

        Raises:
            httpx.ConnectError: there is none.
            httpx.ConnectTimeout: there is none in time.
        """
        loop, url = asyncio.get_running_loop(), request.url
        host, trust = url.raw_host.decode("ascii"), self._trust if url.scheme == "https" else None
        try:
            async with asyncio.timeout(request.extensions["timeout"]["connect"]):
                found = await loop.getaddrinfo(host, url.port or (443 if trust else 80), type=socket.SOCK_STREAM)
                dialled = await dial(found)
                _, connection = await loop.create_connection(
                    _Connection, sock=dialled, ssl=trust, server_hostname=host if trust else None
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpx.ConnectError(str(exc)) from exc
        return connection


async def dial(found: Sequence[AddressInfo]) -> socket.socket:
    """Connect to whichever of a host's addresses answers first; each gets a head start of `RACE_DELAY_S` on the next.

    uvloop doesn't race addresses itself.

    Args:
        found: what `getaddrinfo` found, the preferred first. Families are tried in turn (RFC 8305 §4).

    Raises:
        OSError: none answers.
    """
    preferred = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    in_turn = [each for pair in zip_longest(preferred, others) for each in pair if each is not None]
    connected, _, failures = await staggered_race([partial(_dial, each) for each in in_turn], RACE_DELAY_S)
    if connected is None:
        raise next(failure for failure in failures if failure is not None)
    return cast("socket.socket", connected)


async def _dial(found: AddressInfo) -> socket.socket:
    family, kind, protocol, _, address = found
    dialled = socket.socket(family, kind, protocol)
    dialled.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(dialled, address)
    except BaseException:
        dialled.close()
        raise
    return dialled


def _readable(descriptor: int) -> bool:
    """Whether the kernel has anything for this socket: bytes, its end, or an error."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
