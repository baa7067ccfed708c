"""A host on a socket that sends what it likes, and a client that reads it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from service.bounded_http.client import Client, open_client, read_into

LIMIT = 256 * 1024
Answering = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Host:
    """Counts connections and requests; `answering` is called with each request's number."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.connections = self.requests = self._open = 0
        self._ended = asyncio.Event()
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        async with asyncio.timeout(5):
            await self.all_ended()

    async def all_ended(self) -> None:
        """Return once no connection is open."""
        while self._open:
            self._ended.clear()
            await self._ended.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        self._writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                await self._answering(self.requests, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            self._open -= 1
            self._ended.set()


@asynccontextmanager
async def hosting(
    answering: Answering, certificate: tuple[Path, Path] | None = None
) -> AsyncIterator[tuple[Host, Client]]:
    host, trust, tls = Host(answering), None, None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate[0], certificate[1])
        trust = ssl.create_default_context(cafile=certificate[0])
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=tls)
    host.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = open_client(
        host.url, transport=None, trust=trust, timeout=httpx.Timeout(2), connections=2, headers={"x-own": "1"}
    )
    try:
        async with client:
            yield host, client
    finally:
        server.close()
        await host.hang_up()


async def read(client: Client, limit: int = LIMIT) -> bytes:
    body = bytearray()
    async with client.stream("GET", b"/", {}) as response:
        await read_into(body, response, limit)
    return bytes(body)


async def raw(data: bytes) -> bytes:
    """What is read of one answer, sent as it is; the connection ends behind it."""

    async def send(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    async with hosting(send) as (_, client):
        return await read(client)
