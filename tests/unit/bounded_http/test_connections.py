"""What is left over on a connection never becomes an answer, whatever a host sends."""

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest

from service.bounded_http.client import open_client, read_into
from tests.process.certificates import write_certificate
from tests.unit.bounded_http.host import LIMIT, answer, hosting, raw, read


@pytest.fixture(params=["plain", "tls"])
def certificate(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path] | None:
    return write_certificate(tmp_path) if request.param == "tls" else None


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
    writers: list[asyncio.StreamWriter] = []

    async def once(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"%d" % number))
        writers.append(writer)

    async with hosting(once, certificate) as (host, client):
        for number in (1, 2, 3):
            assert await read(client) == b"%d" % number
            writers[-1].write(late)
            async with asyncio.timeout(5):
                await host.all_ended()
    assert host.connections == 3


async def test_concurrent_requests_never_share_a_connection_or_an_answer() -> None:
    async def echo(number: int, writer: asyncio.StreamWriter) -> None:
        for _ in range(number % 3):  # they overtake each other
            await asyncio.sleep(0)
        writer.write(answer(b"%d" % number))

    async with hosting(echo) as (host, client):
        bodies = [body for _ in range(20) for body in await asyncio.gather(*(read(client) for _ in range(5)))]
    assert sorted(map(int, bodies)) == list(range(1, 101))
    assert host.connections == 2


async def test_an_answer_that_is_closed_twice_leaves_the_next_request_its_connection() -> None:
    async def once(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"%d" % number))

    async with hosting(once) as (host, client):
        async with client.stream("GET", b"/", {}) as first:
            await read_into(bytearray(), first, LIMIT)
            stream = first.stream
        async with client.stream("GET", b"/", {}) as second:
            assert isinstance(stream, httpx.AsyncByteStream)
            await stream.aclose()
            await read_into(bytearray(), second, LIMIT)
        assert await read(client) == b"3"
    assert host.connections == 1


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


FLOODS = {
    "informational answers": (b"", b"HTTP/1.1 100 C\r\n\r\n"),
    "chunks of one byte": (OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_other_tasks_have_their_turn_while_a_flood_that_has_arrived_is_parsed(kind: str) -> None:
    head, unit = FLOODS[kind]
    parts = 20_000
    sent, turns, over = asyncio.Event(), 0, asyncio.Event()

    async def flood(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(head + unit * parts)
        await writer.drain()
        sent.set()
        writer.close()

    async def count() -> None:
        nonlocal turns
        await sent.wait()
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)

    async with hosting(flood) as (_, client):
        counting = asyncio.create_task(count())
        with pytest.raises(httpx.TransportError):
            await read(client)
        over.set()
        await counting
    assert turns > parts / 200


async def test_what_nobody_reads_is_not_kept_in_memory_without_end() -> None:
    sent, full = 0, asyncio.Event()

    async def endless(_: int, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(TimeoutError):
            while sent < 64 * 1024 * 1024:
                writer.write(bytes(LIMIT))
                async with asyncio.timeout(0.5):  # the buffers of both sides are full
                    await writer.drain()
                sent += LIMIT
        full.set()

    async with hosting(endless) as (_, client), client.stream("GET", b"/", {}):
        await full.wait()
        assert 0 < sent < 64 * 1024 * 1024


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
            await host.all_ended()
    assert host.connections == 2


async def test_a_client_that_is_closed_while_it_connects_sends_nothing_and_leaves_no_connection_behind() -> None:
    async def never(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"x"))

    async with hosting(never) as (host, client):
        reading = [asyncio.create_task(read(client)) for _ in range(3)]
        await asyncio.sleep(0)
        await client.aclose()
        for each in reading:
            with pytest.raises(httpx.ConnectError):
                await each
        async with asyncio.timeout(5):
            await host.all_ended()
    assert host.requests == 0


async def test_an_address_that_refuses_gives_way_to_the_next() -> None:
    async def first(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"here"))

    async with hosting(first) as (host, client):
        port = host.url.rpartition(":")[2]
        async with open_client(  # `localhost` has an address of each family, and the host listens on one
            f"http://localhost:{port}", transport=None, trust=None, timeout=client.timeout, connections=1, headers={}
        ) as by_name:
            assert await read(by_name) == b"here"


async def test_a_host_that_does_not_exist_is_an_error_of_httpx() -> None:
    timeout = httpx.Timeout(5)
    async with open_client(
        "http://nowhere.invalid", transport=None, trust=None, timeout=timeout, connections=1, headers={}
    ) as client:
        with pytest.raises(httpx.ConnectError):
            await read(client)
