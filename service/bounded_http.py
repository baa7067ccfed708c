"""HTTP to hosts that may send anything: one kind of client, and one way to read an answer's body."""

# The libraries below leave two holes; both are closed here.
#
# Left-over bytes. HTTP/1.1 matches answers to requests by their order on the connection, and by nothing else. If a host
# (or a proxy before it) sends one answer twice, the second copy is taken for the answer to the next request. Bytes
# beyond an answer can wait in four places:
#
#     h11's buffer, which reads past the message's end             checked by `left_over`
#     the TLS layer, which takes whole records from the socket     read by `_is_silent`
#     the event loop's queue                                       read by `_is_silent`
#     the kernel                                                   read by `_is_silent` (httpcore checks only this one)
#
# Invariant: a connection is reused only if all four are empty.
#
# - When an answer is complete, and again before each reuse, `left_over` checks h11's buffer. A connection with anything
#   in it counts as expired (`has_expired`), and the pool closes it.
# - Just before a request is sent, `_is_silent` reads from the connection without waiting. If it finds anything, the end
#   of the connection included, the connection is closed and the pool opens another.
#
# What arrives after the next request was sent can't be distinguished from an answer to it. So each credential has a
# client of its own: a wrong answer is then at least an answer to the same credential.
#
# httpcore itself closes a connection whose call was cancelled or timed out, for h11 has not seen the end of its answer.
#
# Compressed bodies. httpx inflates a whole network chunk before its size can be checked: 980 bytes of gzip in gzip
# become 1 GiB. So no compression is requested and bodies are read raw. What comes compressed all the same is refused,
# or inflated in bounded steps between which other tasks run.
#
# Not done here, because the layers below do it: h11 refuses a message head or trailer above 100 KiB, contradicting
# lengths, control characters, and transfer codings other than chunked. An answer with both framings is read as chunked,
# and what is left over then ends the connection. The caller's deadline stops a host that sends slowly, or sends
# informational answers without end.

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

STEP = 64 * 1024
"""Bytes inflated in one step: a fraction of a millisecond."""
PROBE_TURNS = 8
"""Event loop turns for a read that doesn't wait. Bytes in the TLS layer or in the loop's queue take four."""
CODINGS: Mapping[str, int] = {
    "gzip": zlib.MAX_WBITS | 16,
    "x-gzip": zlib.MAX_WBITS | 16,
    "deflate": zlib.MAX_WBITS,
}
"""Supported content codings (RFC 9110 §8.4.1), each with zlib's `wbits`."""


class BodyError(Exception):
    """A body that can't be read; the message names the fault, never the content."""


class BodyTooLargeError(BodyError):
    """More bytes than the caller accepts, before or after inflating."""


class BodyEncodingError(BodyError):
    """A content coding that isn't accepted, or bytes that don't fit it."""


def open_client(  # noqa: PLR0913 - the ways in which hosts differ, by name
    base_url: str,
    *,
    transport: httpx.AsyncBaseTransport | None,
    trust: ssl.SSLContext | None,
    timeout: httpx.Timeout,
    connections: int,
    headers: Mapping[str, str],
) -> httpx.AsyncClient:
    """A client for one host.

    No proxies or netrc from the environment, no redirects, no cookies: they would carry secrets elsewhere.

    Args:
        base_url: scheme, host and port.
        transport: replaces the network, for tests.
        trust: decides which certificates are accepted; `None`: none is, for a host without TLS.
        timeout: of each step; the caller bounds the whole.
        connections: the most that are open at a time.
        headers: sent with every request.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        transport=transport or _Transport(trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), connections),
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # accepts no cookie, so sends none
        headers={
            "user-agent": "coinm-account-gateway",
            "accept": "application/json",
            "accept-encoding": "identity",
            **headers,
        },
    )


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
            body += chunk
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


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's transport, on a pool that reuses connections only if no bytes are left over on them."""

    def __init__(self, trust: ssl.SSLContext, connections: int) -> None:
        super().__init__(verify=trust, trust_env=False)
        if not isinstance(
            getattr(self, "_pool", None), httpcore.AsyncConnectionPool
        ):  # a later httpx may keep it elsewhere
            raise TypeError("expected httpx to keep its connections in _pool")
        self._pool: httpcore.AsyncConnectionPool = _Pool(
            ssl_context=trust,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=httpx.Limits().keepalive_expiry,
        )


class _Pool(httpcore.AsyncConnectionPool):
    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        return _Connection(super().create_connection(origin))


class _Connection(httpcore.AsyncConnectionInterface):
    """A connection of httpcore's, checked before it is reused."""

    # States: new (`_stream` is None), starting, busy (httpcore's), idle, closed.
    # Two requests may race for one idle connection, since `_is_silent` gives other tasks their turn. `_starting` makes
    # the later one take another connection: its probe could read bytes of the first one's answer. While it is set, the
    # connection is neither available, idle nor expired to the pool, so the pool doesn't close it under the probe.

    def __init__(self, inner: httpcore.AsyncConnectionInterface) -> None:
        self._inner = inner
        self._stream: httpcore.AsyncNetworkStream | None = None
        """The stream of the last answer; `None` before the first."""
        self._starting = False
        """Whether a request is being started. httpcore's own state shows it only some steps later."""

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        if self._starting or (self._stream is not None and not self._inner.is_available()):
            raise httpcore.ConnectionNotAvailable
        self._starting = True
        try:
            if self._stream is not None and not await _is_silent(self._stream):
                await self._inner.aclose()
                raise httpcore.ConnectionNotAvailable
            response = await self._inner.handle_async_request(request)
        finally:
            self._starting = False
        self._stream = response.extensions["network_stream"]
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def info(self) -> str:
        return self._inner.info()

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return self._inner.can_handle_request(origin)

    def is_available(self) -> bool:
        return self._inner.is_available() and not self._starting

    def has_expired(self) -> bool:
        """The pool calls this whenever a request starts or ends, and closes an expired connection."""
        if self._starting:
            return False
        return self._inner.has_expired() or (self._inner.is_idle() and left_over(self._inner))

    def is_idle(self) -> bool:
        return self._inner.is_idle() and not self._starting

    def is_closed(self) -> bool:
        return self._inner.is_closed()


def left_over(connection: Any) -> bool:
    """Whether h11 holds bytes beyond the answer that was read.

    httpcore keeps h11's state private, behind a proxy one connection further in. If a later httpcore keeps it
    elsewhere, this is always true: then no connection is reused, which is slow but safe.
    """
    while connection is not None and not hasattr(connection, "_h11_state"):
        connection = getattr(connection, "_connection", None)
    return connection is None or connection._h11_state.trailing_data != (b"", False)  # noqa: SLF001 - no public way


async def _is_silent(stream: httpcore.AsyncNetworkStream) -> bool:
    """Whether an idle connection has nothing to read: no bytes, no end, no error. Doesn't wait for the network."""
    reading = asyncio.ensure_future(stream.read(1))
    try:
        for _ in range(PROBE_TURNS):
            await asyncio.sleep(0)
    finally:
        reading.cancel()
    await asyncio.wait([reading])  # not `await reading`: it raises, and a cancellation of ours would look the same
    if reading.cancelled():
        return True
    reading.exception()  # retrieved, so that asyncio doesn't report it
    return False
