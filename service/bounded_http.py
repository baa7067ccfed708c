"""HTTP to hosts that may send anything: one kind of client, and one way to read what comes back.

Two things that the libraries below leave open are closed here.

**Left-over bytes.** HTTP/1.1 matches answers to requests by their order on the connection, and by nothing else. If a
host (or what stands before it) sends one answer twice, the second copy is taken for the answer to the next request.
Bytes beyond an answer can wait in four places: in h11's buffer, which reads past the message's end; in the TLS layer,
which takes whole records from the socket; in the event loop's queue; and in the kernel. httpcore checks only the last
one before it reuses a connection. Here a connection is reused only if all four are empty:

- When an answer is complete, and again before each reuse, h11's buffer is checked (`left_over`). A connection with
  anything in it counts as expired, and the pool closes it.
- Just before a request is sent, the connection is read from without waiting (`_is_silent`). If there is anything, the
  connection's end included, it is closed and the pool opens another.

What arrives after the next request was sent can't be told from an answer to it. So each credential has a client of its
own: a wrong answer is then at least an answer to the same credential.

httpcore itself closes a connection whose call was cancelled or timed out, for h11 has not seen the end of its answer.

**Compressed bodies.** httpx inflates a whole network chunk before anybody can check its size: 980 bytes of gzip in gzip
become 1 GiB. So no compression is requested, bodies are read raw, and what comes compressed all the same is inflated in
bounded steps, between which other tasks run, or refused.

Not done here, because the layers below do it: h11 refuses a message head or trailer above 100 KiB, contradicting
lengths, control characters, and transfer codings other than chunked. An answer with both framings is read as chunked,
and what is left over then ends the connection. A host that sends slowly, or sends informational answers without end,
is stopped by its caller's deadline.
"""

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

STEP = 64 * 1024
"""Bytes inflated in one go: a fraction of a millisecond."""
PROBE_TURNS = 8
"""Event loop turns for a read that doesn't wait. A record in the TLS layer or in the loop's queue takes four."""
CODINGS: Mapping[str, int] = {
    "gzip": zlib.MAX_WBITS | 16,
    "x-gzip": zlib.MAX_WBITS | 16,
    "deflate": zlib.MAX_WBITS,
}
"""Content codings that are understood (RFC 9110 §8.4.1), with zlib's name for each."""


class BodyError(Exception):
    """A body that can't be read; the message names the fault, never the content."""


class BodyTooLargeError(BodyError):
    """More bytes than the caller accepts, before or after inflating."""


class BodyEncodingError(BodyError):
    """A content coding that isn't accepted, or bytes that it doesn't fit."""


def open_client(  # noqa: PLR0913 - what tells one host from another, by name
    base_url: str,
    *,
    transport: httpx.AsyncBaseTransport | None,
    trust: ssl.SSLContext | None,
    timeout: httpx.Timeout,
    connections: int,
    headers: Mapping[str, str],
) -> httpx.AsyncClient:
    """A client of one host.

    No proxies or netrc from the environment, no redirects, no cookies: they would carry secrets elsewhere.

    Args:
        base_url: where the host is.
        transport: instead of a connection, for tests.
        trust: whose certificates are accepted; `None`: nobody's, for a host without TLS.
        timeout: of each step; the caller bounds the whole.
        connections: open at a time.
        headers: sent with every request.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        transport=transport or _Transport(trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), connections),
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept, none is sent
        headers={
            "user-agent": "coinm-account-gateway",
            "accept": "application/json",
            "accept-encoding": "identity",
            **headers,
        },
    )


async def read_into(body: bytearray, response: httpx.Response, limit: int) -> None:
    """Append an answer's body to `body`, inflated if need be; what has come is there also when this raises.

    Raises:
        BodyError: it is larger than `limit` bytes, raw or inflated, or encoded in a way that isn't accepted.
        httpx.HTTPError: the connection broke.
    """
    inflater = _inflater(response.headers.get("content-encoding", ""))
    raw = 0
    async for chunk in response.aiter_raw():
        raw += len(chunk)
        if inflater is None:
            body += chunk
        else:
            await _inflate(body, inflater, chunk, limit)
        if raw > limit:
            raise BodyTooLargeError(f"larger than {limit} bytes")
    if inflater is not None and raw and not inflater.eof:
        raise BodyEncodingError("cut off")


def _inflater(encoding: str) -> "zlib._Decompress | None":
    """What inflates a body of this `Content-Encoding`; `None`: nothing has to.

    Raises:
        BodyEncodingError: several codings, or one that isn't understood.
    """
    codings = [coding for each in encoding.split(",") if (coding := each.strip().lower()) not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in CODINGS:
        raise BodyEncodingError("a content coding that was not asked for")
    return zlib.decompressobj(CODINGS[codings[0]])


async def _inflate(body: bytearray, inflater: "zlib._Decompress", chunk: bytes, limit: int) -> None:
    if inflater.eof:
        raise BodyEncodingError("bytes after the end")
    part = bytes(STEP)
    while chunk or len(part) == STEP:  # a full step may have left output behind though it took all input
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
    """httpx's own, on a pool whose connections are reused only if nothing is left over on them."""

    def __init__(self, trust: ssl.SSLContext, connections: int) -> None:
        super().__init__(verify=trust, trust_env=False)
        if not isinstance(getattr(self, "_pool", None), httpcore.AsyncConnectionPool):  # a later httpx
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
    """One of httpcore's connections, checked before it is used again."""

    def __init__(self, inner: httpcore.AsyncConnectionInterface) -> None:
        self._inner = inner
        self._stream: httpcore.AsyncNetworkStream | None = None
        """Of the last answer; `None` before the first."""
        self._starting = False
        """Whether a request is being started. httpcore's own state says so only some steps later; until then a second
        request could read bytes of the first one's answer."""

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
        """The pool asks whenever a request comes or goes, and closes a connection that has."""
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
    elsewhere, this is always true: nothing is reused then.
    """
    while connection is not None and not hasattr(connection, "_h11_state"):
        connection = getattr(connection, "_connection", None)
    return connection is None or connection._h11_state.trailing_data != (b"", False)  # noqa: SLF001 - no public way


async def _is_silent(stream: httpcore.AsyncNetworkStream) -> bool:
    """Whether an idle connection has nothing to read: no bytes, no end, no fault. Doesn't wait for any."""
    reading = asyncio.ensure_future(stream.read(1))
    try:
        for _ in range(PROBE_TURNS):
            await asyncio.sleep(0)
    finally:
        reading.cancel()
    await asyncio.wait([reading])
    if reading.cancelled():
        return True
    reading.exception()  # looked at, so that asyncio doesn't report it
    return False
