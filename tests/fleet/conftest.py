"""A fleet: gateway processes with one Redis and one simulated exchange between them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.fleet.redis_servers import RedisServers
from tests.process.conftest import exchange, exchange_url, redis_port
from tests.programs import require

__all__ = ["exchange", "exchange_url", "redis_port"]


@pytest.fixture
def haproxy() -> str:
    return require("haproxy")


@pytest.fixture
async def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServers]:
    async with AsyncExitStack() as stack:
        # A folder with a short name: the path of a Unix socket has 107 characters at the most.
        yield RedisServers(tmp_path_factory.mktemp("redis"), stack)
