"""The subscription, against servers that die in ways a real one does; a real one is stopped in the fleet tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.cache.flight import cancel_and_wait
from service.store import notifications
from service.store.notifications import Notifications

SOON = 15.0
"""Seconds for what takes one or two, where every core is busy."""


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.messages: list[bytes | None] = []
        self._more = asyncio.Event()

    def __call__(self, message: bytes | None) -> None:
        self.messages.append(message)
        self._more.set()

    async def until(self, *messages: bytes | None) -> None:
        async with asyncio.timeout(SOON):
            while self.messages != list(messages):
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def listening(redis: Redis) -> AsyncIterator[Heard]:
    heard = Heard()
    task = asyncio.create_task(Notifications(redis, "news", heard).listen())
    try:
        yield heard
    finally:
        await cancel_and_wait(task)


@asynccontextmanager
async def at(port: int) -> AsyncIterator[Redis]:
    async with Redis(port=port, protocol=2, driver_info=None, retry=Retry(NoBackoff(), 0)) as redis:
        yield redis


class Server:
    """Speaks just enough of Redis for a subscription; can fall silent, or hang up, and forgets nothing."""

    def __init__(self) -> None:
        self.subscribed = 0
        self.pings = 0
        self.silent = False
        self.pinged = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while line := await reader.readline():
            if self.silent:
                continue
            if line.strip() == b"SUBSCRIBE":
                self.subscribed += 1
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
            elif line.strip() == b"PING":
                self.pings += 1
                self.pinged.set()
                writer.write(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")

    def announce(self, text: bytes) -> None:
        self._writers[-1].write(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$%d\r\n%s\r\n" % (len(text), text))

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[int]:
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        server.hang_up()
        listener.close()


async def test_what_is_announced_is_heard_and_a_subscription_begins_with_a_look() -> None:
    embedded = FakeServer()
    async with FakeAsyncRedis(server=embedded) as redis, listening(cast("Redis", redis)) as heard:
        await heard.until(None)
        await redis.publish("news", "main")
        await redis.publish("other", "nothing of ours")
        await heard.until(None, b"main")


async def test_a_healthy_subscription_is_pinged_and_not_made_anew() -> None:
    server = Server()
    async with serving(server) as port, at(port) as redis, listening(redis) as heard:
        for _ in range(2):
            server.pinged.clear()
            async with asyncio.timeout(SOON):
                await server.pinged.wait()
        server.announce(b"main")
        await heard.until(None, b"main")
    assert (server.subscribed, server.pings) == (1, 2)


@pytest.mark.parametrize("death", ["silence", "hanging up"])
async def test_a_subscription_that_dies_is_made_anew_and_everything_is_looked_at(death: str) -> None:
    server = Server()
    async with serving(server) as port, at(port) as redis, listening(redis) as heard:
        await heard.until(None)
        if death == "silence":
            server.silent = True
            await asyncio.sleep(2.5 * notifications.INTERVAL_S)  # an interval, a ping, and no answer in a second
            server.silent = False
        else:
            server.hang_up()
        await heard.until(None, None)
        server.announce(b"main")
        await heard.until(None, None, b"main")


async def test_a_server_that_comes_late_is_found() -> None:
    server = Server()
    async with serving(server) as port:
        pass
    async with at(port) as redis, listening(redis) as heard:
        await asyncio.sleep(0.1)
        assert heard.messages == []
        listener = await asyncio.start_server(server, "127.0.0.1", port)
        await heard.until(None)
        server.hang_up()
        listener.close()


async def test_a_message_that_is_no_text_does_not_end_the_listening() -> None:
    server = Server()
    async with serving(server) as port, at(port) as redis, listening(redis) as heard:
        await heard.until(None)
        server.announce(b"\xff\xfe")
        server.announce(b"main")
        await heard.until(None, b"\xff\xfe", b"main")


async def test_a_bug_in_what_hears_does_not_make_a_replica_deaf() -> None:
    heard: list[bytes | None] = []
    again = asyncio.Event()

    def stumble(message: bytes | None) -> None:
        heard.append(message)
        if len(heard) == 1:
            raise ZeroDivisionError
        again.set()

    async with FakeAsyncRedis(server=FakeServer()) as redis:
        task = asyncio.create_task(Notifications(cast("Redis", redis), "news", stumble).listen())
        async with asyncio.timeout(SOON):
            await again.wait()
        await cancel_and_wait(task)
    assert heard == [None, None]
