"""What a host's body may cost, and what a request says."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest

from service.bounded_http.client import BodyEncodingError, BodyError, BodyTooLargeError, open_client, read_into
from tests.unit.bounded_http.host import LIMIT, answer, hosting, raw, read


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
