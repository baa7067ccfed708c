from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from service.exchange.clock import ExchangeClock
from service.settings import Settings
from service.store.guard import RedisGuard, RedisUnavailableError
from service.store.selftest import selftest
from service.telemetry.metrics import Metrics
from tests.support import FakeClock

SETTINGS = Settings(accounts={})


async def test_a_rehearsal_leaves_nothing_behind(clock: FakeClock) -> None:
    async with FakeAsyncRedis(server=FakeServer()) as redis:
        await redis.set("coinm:other", "stays")
        await selftest(RedisGuard(redis, clock, Metrics()), SETTINGS, ExchangeClock(clock))
        assert await redis.keys() == [b"coinm:other"]


async def test_a_rehearsal_says_why_an_operation_fails(clock: FakeClock) -> None:
    server = FakeServer()
    redis: Any = FakeAsyncRedis(server=server)
    server.connected = False
    with pytest.raises(RedisUnavailableError, match="no connection"):
        await selftest(RedisGuard(redis, clock, Metrics()), SETTINGS, ExchangeClock(clock))
