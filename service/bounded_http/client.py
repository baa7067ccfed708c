"""One kind of client for hosts that may send anything, and one way to read an answer's body."""

# Compressed bodies. 980 bytes of gzip in gzip become 1 GiB. So no compression is requested, and bodies are read raw.
# What comes compressed all the same is refused, or inflated in bounded steps between which other tasks run.

import asyncio
import contextlib
import ssl
import zlib
from collections.abc import AsyncGenerator, Mapping
from typing import Self

import httpx

from service.bounded_http.connections import Transport

STEP = 64 * 1024
"""Bytes inflated in one step: a fraction of a millisecond."""
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
    network = transport or Transport(trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), connections)
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
