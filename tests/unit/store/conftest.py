"""A Redis in memory; what a test needs to replace it, or to cut it off, is its server."""

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def redis(server: FakeServer) -> AsyncIterator[FakeAsyncRedis]:
    async with FakeAsyncRedis(server=server) as redis:
        yield redis
