"""The shared copy of exchangeInfo: its life tells its age, one replica fetches it, and nothing there can do harm."""

from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from service.account.parsing import MAX_BODY
from service.cache.wait_budget import WaitBudget, carry
from service.exchange.exchange_info import EXCHANGE_INFO_MAX_AGE
from service.settings import Settings
from service.store.exchange_info import RedisExchangeInfo
from service.store.guard import RedisGuard
from service.store.keys import exchange_info_key
from service.telemetry.metrics import Metrics
from tests.support import FakeClock

BODY = b'{"symbols":[]}'
KEY = "coinm:production:dapi.binance.com:listing"


@pytest.fixture
def guard(redis: Any, clock: FakeClock) -> RedisGuard:
    return RedisGuard(redis, clock, Metrics())


@pytest.fixture
def store(guard: RedisGuard) -> RedisExchangeInfo:
    return RedisExchangeInfo(guard, KEY)


def test_its_name_tells_environments_and_exchanges_apart() -> None:
    assert exchange_info_key(Settings(accounts={})) == KEY


async def test_what_one_replica_puts_every_other_gets_with_the_life_it_has_left(
    store: RedisExchangeInfo, guard: RedisGuard, redis: FakeAsyncRedis
) -> None:
    await store.put(BODY)
    await redis.pexpire(KEY, 1_000)
    found = await RedisExchangeInfo(guard, KEY).get()
    assert found is not None
    assert found.body == BODY
    assert 900 < found.remaining_ms <= 1_000


async def test_it_lives_as_long_as_a_listing_may_be_old(store: RedisExchangeInfo, redis: FakeAsyncRedis) -> None:
    await store.put(BODY)
    assert EXCHANGE_INFO_MAX_AGE - 1_000 < await redis.pttl(KEY) <= EXCHANGE_INFO_MAX_AGE


async def test_nothing_is_found_where_nothing_was_put(store: RedisExchangeInfo) -> None:
    assert await store.get() is None


async def test_one_replica_may_fetch_it_until_its_claim_has_expired(
    store: RedisExchangeInfo, guard: RedisGuard, redis: FakeAsyncRedis
) -> None:
    other = RedisExchangeInfo(guard, KEY)
    assert [await store.acquire_once(5_000), await other.acquire_once(5_000), await store.acquire_once(5_000)] == [
        True,
        False,
        False,
    ]
    await redis.delete(store.claim_key)
    assert await other.acquire_once(5_000) is True


@pytest.mark.parametrize("body", [b"x" * (MAX_BODY + 1), b""], ids=["too-large", "no-end"])
async def test_what_somebody_else_wrote_there_counts_as_none(
    store: RedisExchangeInfo, redis: FakeAsyncRedis, body: bytes
) -> None:
    await redis.set(KEY, body, px=1_000 if body else None)
    assert await store.get() is None


async def test_a_value_of_another_kind_counts_as_none_and_is_replaced_and_redis_is_still_well(
    store: RedisExchangeInfo, guard: RedisGuard, redis: FakeAsyncRedis
) -> None:
    await redis.hset(KEY, "a", "b")
    await redis.pexpire(KEY, 60_000)
    assert await store.get() is None
    assert guard.up
    await store.put(BODY)
    assert await store.get() is not None


async def test_a_longer_life_than_ever_given_counts_as_the_longest(
    store: RedisExchangeInfo, redis: FakeAsyncRedis
) -> None:
    await redis.set(KEY, BODY, px=10 * EXCHANGE_INFO_MAX_AGE)
    found = await store.get()
    assert found is not None
    assert found.remaining_ms == EXCHANGE_INFO_MAX_AGE


async def test_without_redis_each_replica_is_told_to_see_for_itself(
    store: RedisExchangeInfo, guard: RedisGuard, server: FakeServer
) -> None:
    server.connected = False
    await store.put(BODY)
    assert [await store.get(), await store.acquire_once(5_000)] == [None, None]
    assert not guard.up


async def test_it_waits_no_longer_than_the_round_that_carries_its_budget_to_it(store: RedisExchangeInfo) -> None:
    await store.put(BODY)
    with carry(WaitBudget(0)):
        assert (await store.get(), await store.acquire_once(5_000)) == (None, None)
    assert await store.get() is not None
