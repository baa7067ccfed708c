"""A host on a socket that sends what it likes, and what our clients make of it."""

import asyncio
import gzip
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from service.bounded_http import (
    RACE_DELAY_S,
    AddressInfo,
    BodyEncodingError,
    BodyError,
    BodyTooLargeError,
    Client,
    dial,
    open_client,
    read_into,
)
from tests.process.certificates import write_certificate

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
        self.ended = asyncio.Event()
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)

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
            self._open -= 1
            if not self._open:
                self.ended.set()


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


@pytest.fixture(params=["plain", "tls"])
def certificate(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path] | None:
    return write_certificate(tmp_path) if request.param == "tls" else None


# Left-over bytes.


async def test_a_connection_whose_answers_are_whole_is_used_again(certificate: tuple[Path, Path] | None) -> None:
    async def once(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"%d" % number))

    async with hosting(once, certificate) as (host, client):
        assert [await read(client) for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
    assert host.connections == 1


SIZES = [1, 1_000, 16_384, 65_536 - len(answer(b"x" * 65_000)) + 65_000, 65_536, 100_000]
"""Of bodies; one of them ends where a read does."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("apart", [True, False])
async def test_an_answer_that_is_sent_twice_is_not_taken_for_the_next_ones(
    certificate: tuple[Path, Path] | None, size: int, *, apart: bool
) -> None:
    async def twice(number: int, writer: asyncio.StreamWriter) -> None:
        parts = [answer(b"%d" % number * size)] * 2
        for part in parts if apart else [b"".join(parts)]:  # apart: TLS records of their own
            writer.write(part)

    async with hosting(twice, certificate) as (host, client):
        for number in range(1, 6):
            assert await read(client) == b"%d" % number * size
    assert host.connections == 5


@pytest.mark.parametrize("late", [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"\r\n", b"x"])
async def test_bytes_that_arrive_while_a_connection_is_idle_close_it(
    certificate: tuple[Path, Path] | None, late: bytes
) -> None:
    sent: list[asyncio.Task[None]] = []

    async def unasked(number: int, writer: asyncio.StreamWriter) -> None:
        async def afterwards() -> None:
            await asyncio.sleep(0.02)
            writer.write(late)

        writer.write(answer(b"%d" % number))
        sent.append(asyncio.create_task(afterwards()))

    async with hosting(unasked, certificate) as (host, client):
        for number in (1, 2, 3):
            assert await read(client) == b"%d" % number
            await sent[-1]
            await asyncio.sleep(0.02)
    assert host.connections == 3


async def test_concurrent_requests_never_share_a_connection_or_an_answer() -> None:
    async def echo(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.001 * (number % 3))
        writer.write(answer(b"%d" % number))

    async with hosting(echo) as (host, client):
        bodies = [body for _ in range(20) for body in await asyncio.gather(*(read(client) for _ in range(5)))]
    assert sorted(map(int, bodies)) == list(range(1, 101))
    assert host.connections == 2


async def test_a_connection_whose_call_was_given_up_is_not_used_again() -> None:
    release = asyncio.Event()

    async def late(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:
            await release.wait()
        writer.write(answer(b"%d" % number))

    async with hosting(late) as (host, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await read(client)
        release.set()
        assert await read(client) == b"2"
    assert host.connections == 2


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n"
FRAMINGS = {
    "both framings": CHUNKED + b"content-length: 3\r\n\r\n1\r\nx\r\n0\r\n\r\nHTTP",
    "longer than it says": OK + b"content-length: 1\r\n\r\nxyz",
    "trailers": CHUNKED + b"\r\n1\r\nx\r\n0\r\na: b\r\n\r\n" + OK,
    "its last": OK + b"connection: close\r\ncontent-length: 1\r\n\r\nx",
    "of old": b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",
    "after a hint": b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 1\r\n\r\nx\r\n",
}


@pytest.mark.parametrize("kind", FRAMINGS)
async def test_whatever_follows_an_answers_end_ends_its_connection(kind: str) -> None:
    async def framed(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(FRAMINGS[kind])

    async with hosting(framed) as (host, client):
        assert [await read(client) for _ in range(3)] == [b"x"] * 3
    assert host.connections == 3


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nx",  # shorter than it says
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\na: \x00\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 30_000,  # endless headers
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 30_000,
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"",
    ],
    ids=range(10),
)
async def test_an_answer_that_breaks_the_protocol_is_a_fault_of_the_connection(data: bytes) -> None:
    with pytest.raises(httpx.TransportError):
        await raw(data)


async def test_a_flood_of_informational_answers_ends_with_the_callers_deadline() -> None:
    async def flood(_: int, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0)

    async with hosting(flood) as (_, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await read(client)


async def test_what_nobody_reads_is_not_kept_in_memory_without_end() -> None:
    sent = 0

    async def endless(_: int, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(LIMIT))
            await writer.drain()
            sent += LIMIT

    async with hosting(endless) as (_, client), client.stream("GET", b"/", {}):
        before = -1
        while before < sent:  # until the buffers of both sides are full
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 64 * 1024 * 1024


async def test_a_client_that_is_closed_leaves_no_connection_behind() -> None:
    begun = asyncio.Event()

    async def first(number: int, writer: asyncio.StreamWriter) -> None:
        if number < 3:
            writer.write(answer(b"%d" % number))
        else:
            begun.set()

    async with hosting(first) as (host, client):
        await asyncio.gather(read(client), read(client))
        reading = asyncio.create_task(read(client))
        await begun.wait()
        await client.aclose()
        with pytest.raises(httpx.ReadError):
            await reading
        async with asyncio.timeout(5):
            await host.ended.wait()
    assert host.connections == 2


# Addresses.


def listening(address: str, queue: int = 8) -> socket.socket:
    listener = socket.socket()
    listener.bind((address, 0))
    listener.listen(queue)
    return listener


def found(*listeners: tuple[str, int]) -> list[AddressInfo]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in listeners]


async def connected_to(*addresses: tuple[str, int]) -> tuple[str, int]:
    with await dial(found(*addresses)) as connected:
        peer: tuple[str, int] = connected.getpeername()
        return peer


async def test_an_address_that_refuses_gives_way_to_the_next_and_the_last_one_is_the_error() -> None:
    with listening("127.0.0.1") as one, listening("127.0.0.2") as other:
        closed, open_ = one.getsockname(), other.getsockname()
        one.close()
        assert await connected_to(closed, open_) == open_
        assert await connected_to(open_, closed) == open_
        with pytest.raises(ConnectionRefusedError):
            await dial(found(closed, closed))


async def test_an_address_that_leads_nowhere_has_a_moments_start() -> None:
    with listening("127.0.0.1", 0) as silent, listening("127.0.0.2") as other, ExitStack() as stack:
        for _ in range(8):  # its queue is full: the kernel drops what comes next
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        began = asyncio.get_running_loop().time()
        assert await connected_to(silent.getsockname(), other.getsockname()) == other.getsockname()
        assert RACE_DELAY_S <= asyncio.get_running_loop().time() - began < RACE_DELAY_S + 1


# Bodies.


def bomb(megabytes: int) -> bytes:
    return gzip.compress(bytes(megabytes * 1024 * 1024))


def encoded(coding: str, body: bytes) -> bytes:
    return answer(body, f"content-encoding: {coding}")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b"x" * LIMIT)),
        ("X-GZip", gzip.compress(b"x" * LIMIT)),
        ("deflate", zlib.compress(b"x" * LIMIT)),
        ("identity", b"x" * LIMIT),
        ("", b"x" * LIMIT),
        ("gzip, identity", gzip.compress(b"x" * LIMIT)),
    ],
)
async def test_a_body_that_is_compressed_once_is_read_up_to_the_bound(coding: str, body: bytes) -> None:
    assert await raw(encoded(coding, body)) == b"x" * LIMIT


REFUSED = {
    "twice": encoded("gzip, gzip", gzip.compress(bomb(100))),
    "two fields": answer(gzip.compress(bomb(100)), "content-encoding: gzip", "content-encoding: gzip"),
    "brotli": encoded("br", b"\x0b\x02\x80abc\x03"),
    "zstd": encoded("zstd", b"x"),
    "unknown": encoded("rot13", b"x"),
    "many": encoded(", ".join(["gzip"] * 1_000), b"x"),
    "damaged": encoded("gzip", b"no gzip"),
    "cut off": encoded("gzip", gzip.compress(b"x" * 1_000)[:-9]),
    "followed": encoded("gzip", gzip.compress(b"x") + b"y"),
    "two members": encoded("gzip", gzip.compress(b"x") * 2),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_coding_that_is_not_accepted_or_does_not_fit_is_refused(kind: str) -> None:
    with pytest.raises(BodyEncodingError):
        await raw(REFUSED[kind])


async def test_a_compressed_body_costs_no_more_than_the_bound_however_far_it_would_inflate() -> None:
    data = encoded("gzip", bomb(200))
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        await raw(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * LIMIT + 2 * len(data)


async def test_a_raw_body_is_bounded_too_and_what_has_come_is_kept() -> None:
    async def endless(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(65_536))
            await writer.drain()

    body = bytearray()
    async with hosting(endless) as (_, client):
        with pytest.raises(BodyError):
            async with client.stream("GET", b"/", {}) as response:
                await read_into(body, response, LIMIT)
    assert LIMIT < len(body) <= LIMIT + 65_536


async def test_other_tasks_have_their_turn_while_a_body_is_inflated() -> None:
    turns, over = 0, asyncio.Event()

    async def count() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    response = httpx.Response(
        200, headers={"content-encoding": "gzip"}, stream=_Whole(gzip.compress(bytes(LIMIT * 16)))
    )
    await read_into(bytearray(), response, LIMIT * 16)
    over.set()
    await counting
    assert turns >= 64


class _Whole(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


async def test_no_compression_is_asked_for_and_nothing_else_is_said_that_was_not_meant() -> None:
    seen: list[bytes] = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(b"x", "connection: close"))
        writer.close()

    server = await asyncio.start_server(look, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with open_client(
        url, transport=None, trust=None, timeout=httpx.Timeout(2), connections=1, headers={"x-own": "1"}
    ) as client:
        await read(client)
    server.close()
    names = {line.partition(b":")[0].lower() for line in seen[0].split(b"\r\n")[1:] if line}
    assert names == {b"host", b"accept", b"accept-encoding", b"connection", b"user-agent", b"x-own"}
    assert b"identity" in seen[0]
