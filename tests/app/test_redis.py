"""What replicas share through Redis, and how they fare without it."""

import asyncio
from typing import Any

import pytest

from simulator.faults import Fault
from tests.app.harness import ACCOUNT, ADDRESS_HOLD, BTC, Stage, cache_status, settle, told
from tests.support import IDENTITY, START

MAIN = "coinm:{account:testing:127.0.0.1:1:main}"
SNAPSHOT, LEASE = (f"{MAIN}:{kind}:{IDENTITY}" for kind in ("snapshot", "lease"))


async def test_a_restart_within_the_fresh_window_asks_the_exchange_nothing_at_all(stage: Stage) -> None:
    before = await (await stage.warm(age=500)).get(ACCOUNT)
    after, restarted = stage.exchange.calls.count(), await stage.start()
    answer = await restarted.get(ACCOUNT)
    assert (answer.content, cache_status(answer)) == (before.content, "hit; ttl=0")
    assert answer.headers["gateway-snapshot-time"] == before.headers["gateway-snapshot-time"]
    assert answer.headers["etag"] == before.headers["etag"]
    assert stage.exchange.calls.count() == after


@pytest.mark.parametrize("age", [0, 500, 2_000, 40_000])
@pytest.mark.parametrize("misset", [-86_400_000, 0, 86_400_000])
async def test_without_a_clock_offset_ages_come_from_what_is_left_in_redis(stage: Stage, age: int, misset: int) -> None:
    await stage.warm(age)
    stage.clock.misset(misset)  # of no account: this machine's clock is not asked
    restarted = await stage.start()
    answer = await restarted.get(cache_control="max-stale, only-if-cached")
    assert age <= int(answer.headers["gateway-snapshot-age"]) < age + 500  # Redis' own clock goes on during the test
    assert (await restarted.status())["clockOffsetMs"] is None


async def test_a_replica_adopts_what_another_has_fetched(stage: Stage) -> None:
    one, other = await stage.warm(), await stage.warm()
    await stage.advance(5_000)
    stage.exchange.set_balance("BTC", "7")
    new = await one.get()
    assert (await other.get()).content == new.content
    assert stage.account_calls == 2


async def test_symbols_are_cut_alike_by_a_replica_that_never_read_the_listing(stage: Stage) -> None:
    stage.exchange.market.margin_assets["SOLUSD_PERP"] = "ETH"
    path = f"{ACCOUNT}/positions?asset=ETH"
    before = await (await stage.warm()).get(path)
    assert (await (await stage.start()).get(path)).content == before.content


async def test_what_is_older_than_the_hard_cap_is_gone_from_redis(stage: Stage) -> None:
    await stage.warm(age=61_000)
    restarted = await stage.start()
    assert (await restarted.get(cache_control="max-stale, only-if-cached")).status_code == 504


async def test_an_older_snapshot_never_replaces_a_newer_one(stage: Stage) -> None:
    one, other = await stage.start(), await stage.start()
    stage.fail(Fault("hang", count=1))
    slow = asyncio.create_task(one.get())
    await stage.exchange.wait_held()
    async with stage.redis() as redis:
        await redis.delete(LEASE)  # as if its holder had been stopped for so long that it expired
    await stage.advance(400)
    newer = await other.get()
    stage.exchange.release()
    late = await slow
    third = await (await stage.start()).get()
    assert stage.account_calls == 2
    times = [answer.headers["gateway-snapshot-time"][-8:] for answer in (newer, late, third)]
    assert times == [":00.400Z"] * 3
    await stage.advance(1_001)
    assert (await one.get(cache_control="max-age=1")).headers["gateway-snapshot-time"][-8:] == ":01.401Z"


async def test_a_replaced_credential_no_longer_writes(stage: Stage) -> None:
    old, (new, files) = await stage.warm(), await stage.start_watched()
    stage.change_key("anotherApiKey".ljust(64, "1"))
    await files.check_now()
    await settle()
    await stage.advance(10_000)
    assert cache_status(await new.get()) == "fwd=stale; fwd-status=200; stored"
    await stage.advance(2_000)
    calls = stage.account_calls
    with_old = asyncio.create_task(old.get(cache_control="no-cache"))
    await stage.end(new)
    await stage.advance(2_100)
    assert told(await with_old)[1] == "exchange-rejected-credentials"
    third = await (await stage.start()).get(cache_control="max-stale=60")
    assert (third.headers["gateway-snapshot-time"][-8:], stage.account_calls) == (":10.000Z", calls)


# Away.


async def test_reads_go_on_without_redis_from_the_start(stage: Stage) -> None:
    stage.redis_server.connected = False
    gateway = await stage.start()
    assert cache_status(await gateway.get()) == "fwd=miss; stored"
    assert cache_status(await gateway.get()) == "hit; ttl=1"
    assert (await gateway.status())["redis"] == "degraded"


async def test_redis_going_away_and_coming_back_is_told_and_changes_no_answer(stage: Stage) -> None:
    gateway = await stage.warm(age=5_000)
    stage.redis_server.connected = False
    assert cache_status(await gateway.get()) == "fwd=stale; fwd-status=200; stored"
    status = await gateway.status()
    assert (status["redis"], status["weight"]["ceiling"]) == ("degraded", 1920)
    await stage.advance(5_000)
    stage.redis_server.connected = True
    assert cache_status(await gateway.get()) == "fwd=stale; fwd-status=200; stored"
    assert (await gateway.status())["redis"] == "ok"
    restarted = await stage.start()
    assert cache_status(await restarted.get()) == "hit; ttl=1"


async def test_what_was_fetched_without_redis_is_shared_with_the_next_refresh_after_it(stage: Stage) -> None:
    stage.redis_server.connected = False
    gateway = await stage.warm(age=5_000)
    stage.redis_server.connected = True
    await gateway.get()
    after, restarted = stage.exchange.calls.count(), await stage.start()
    assert (await restarted.get()).status_code == 200
    assert stage.exchange.calls.count() == after


async def test_a_redis_that_forgets_everything_costs_no_answer(stage: Stage) -> None:
    gateway = await stage.warm(age=10_000)
    stage.fail(Fault("418", count=1))
    await gateway.get()
    async with stage.redis() as redis:
        await redis.flushall()
    await stage.advance(1_000)
    assert cache_status(await gateway.get()) == "hit; ttl=-10; detail=not-before"
    second = await stage.start()
    assert told(await second.get()) == (503, "exchange-banned", "119")


async def test_a_credential_can_be_proved_again_after_redis_forgot_it(stage: Stage) -> None:
    gateway = await stage.warm()
    async with stage.redis() as redis:
        await redis.flushall()
    await stage.advance(10_000)
    assert (await gateway.get()).status_code == 200
    assert cache_status(await (await stage.start()).get()) == "hit; ttl=1"


# Foreign garbage.

Fields = dict[Any, Any]

GARBAGE: list[Fields] = [
    {"body": b"\xff\x00garbage"},
    {"asked_at": "soon"},
    {"identity": "0" * 16},
    {"life": "long"},
    {"margin_assets": "no JSON"},
    {"margin_assets": b"\xff"},
    {"margin_assets": "[]"},
    {"format": 99},
    {"asked_at": START + 86_400_000, "body": b"{}"},
    {"asked_at": "soon", "identity": "first", "life": "x", "format": "y", "body": "z", "margin_assets": "{"},
]


@pytest.mark.parametrize("fields", GARBAGE)
@pytest.mark.parametrize("whole", [True, False])
async def test_garbage_in_the_snapshots_hash_is_ignored_and_replaced(
    stage: Stage, fields: Fields, *, whole: bool
) -> None:
    if not whole:
        await stage.warm(age=500)
    async with stage.redis() as redis:
        await redis.hset(SNAPSHOT, mapping=fields)
    gateway = await stage.start()
    good = await gateway.get()
    assert (good.status_code, (await gateway.status())["redis"]) == (200, "ok")
    await stage.advance(5_000)
    assert cache_status(await gateway.get()) == "fwd=stale; fwd-status=200; stored"
    assert (await gateway.status())["redis"] == "ok"
    after, another = stage.exchange.calls.count(), await stage.start()
    assert (await another.get()).status_code == 200
    assert stage.exchange.calls.count() == after


@pytest.mark.parametrize(
    "fields",
    [
        {"resumed": "x"},
        {"until": "tomorrow", "problem": "exchange-banned"},
        {"until": START + 60_000, "problem": b"\xff\xfe"},
        {"until": ""},
    ],
)
async def test_garbage_in_a_not_befores_hash_stops_no_read(stage: Stage, fields: Fields) -> None:
    async with stage.redis() as redis:
        await redis.hset(ADDRESS_HOLD, mapping=fields)
    gateway = await stage.start()
    assert (await gateway.get(BTC)).status_code == 200
    await stage.advance(10_000)
    stage.fail("418")
    assert cache_status(await gateway.get()) == "fwd=stale; fwd-status=418; ttl=-9; detail=stale-if-error"
    assert (await gateway.status())["redis"] == "ok"


async def test_a_snapshot_from_the_future_is_nobodys_and_replaced(stage: Stage) -> None:
    await stage.warm()
    async with stage.redis() as redis:
        await redis.hset(SNAPSHOT, "asked_at", START + 86_400_000)
    gateway = await stage.start()
    for _ in range(3):
        await stage.advance(5_000)
        assert (await gateway.get()).status_code == 200
    assert stage.account_calls == 4


async def test_a_not_before_of_a_newer_release_binds_too(stage: Stage) -> None:
    async with stage.redis() as redis:
        await redis.hset(ADDRESS_HOLD, mapping={"until": START + 60_000, "problem": "invented-later"})
    gateway = await stage.start()
    assert told(await gateway.get()) == (503, "exchange-banned", "60")
    assert stage.exchange.calls.count() == 0
