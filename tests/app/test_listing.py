"""The exchange's listing and clock, kept up to date: one replica reads for all, and a served process by itself."""

import asyncio

import pytest

from simulator.faults import Fault
from tests.app.harness import Replica, Stage, settle
from tests.app.test_fleet import paths

INFO, TIME = "/dapi/v1/exchangeInfo", "/dapi/v1/time"
HOUR = 3_600_000
KEY = "coinm:testing:127.0.0.1:1:listing"


async def look(*replicas: Replica) -> None:
    await asyncio.gather(*(replica.gateway.exchange.upkeep.look() for replica in replicas))


async def listed(replica: Replica) -> int:
    return (await replica.caller.get("/binance/main/dapi/v1/exchangeInfo")).status_code


async def test_a_served_process_learns_the_time_and_the_contracts_before_anybody_reads(stage: Stage) -> None:
    gateway = await stage.start()
    await look(gateway)
    assert paths(stage, 0) == [TIME] * 3 + [INFO]
    assert await listed(gateway) == 200
    for _ in range(3):
        await look(gateway)
    assert stage.exchange.calls.count() == 4


async def test_one_replica_reads_the_listing_for_all(stage: Stage) -> None:
    replicas = [await stage.start() for _ in range(3)]
    await look(*replicas)
    await stage.advance(1_000)
    await look(*replicas)
    assert [await listed(each) for each in replicas] == [200] * 3
    assert stage.exchange.calls.count(INFO) == 1
    bodies = {each.gateway.exchange.listing.body for each in replicas if each.gateway.exchange.listing}
    assert len(bodies) == 1


async def test_it_is_read_anew_by_one_of_them_after_an_hour(stage: Stage) -> None:
    one, other = await stage.start(), await stage.start()
    await look(one)
    await stage.advance(HOUR // 2)
    await look(other)
    await stage.advance(HOUR // 2 - 10_000)
    await look(one, other)
    assert stage.exchange.calls.count(INFO) == 1
    await stage.advance(10_000)
    await look(one, other)
    await stage.advance(1_000)
    await look(one, other)
    assert stage.exchange.calls.count(INFO) == 2


async def test_a_read_takes_the_shared_copy_too(stage: Stage) -> None:
    await stage.warm()
    stage.exchange.market.margin_assets["SOLUSD_PERP"] = "BTC"
    second = await stage.start()
    await stage.advance(10_000)
    assert (await second.get()).status_code == 200
    assert stage.exchange.calls.count(INFO) == 1


@pytest.mark.parametrize("garbage", ["", "x", "[]", '{"symbols":1}', '{"symbols":[]'])
async def test_what_somebody_else_wrote_in_its_place_counts_as_none(stage: Stage, garbage: str) -> None:
    async with stage.redis() as redis:
        await redis.set(KEY, garbage, px=HOUR)
    gateway = await stage.start()
    await look(gateway)
    assert await listed(gateway) == 200
    async with stage.redis() as redis:
        assert await redis.get(KEY) == gateway.gateway.exchange.listing.body  # type: ignore[union-attr]  # 200


async def test_a_copy_without_an_end_is_none_and_is_read_anew(stage: Stage) -> None:
    await stage.warm()
    async with stage.redis() as redis:
        await redis.persist(KEY)
    await stage.advance(HOUR)
    other = await stage.start()
    await look(other)
    assert stage.exchange.calls.count(INFO) == 2
    async with stage.redis() as redis:
        assert await redis.pttl(KEY) > 0


async def test_without_redis_each_replica_reads_it_for_itself(stage: Stage) -> None:
    replicas = [await stage.start() for _ in range(2)]
    stage.redis_server.connected = False
    await look(*replicas)
    assert [await listed(each) for each in replicas] == [200] * 2
    assert stage.exchange.calls.count(INFO) == 2


async def test_a_failure_is_tried_again_after_a_pause(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail(Fault("500", path=INFO), Fault("500", path=TIME))
    await look(gateway)
    calls = stage.exchange.calls.count()
    await stage.advance(29_000)
    await look(gateway)
    assert stage.exchange.calls.count() == calls
    stage.fail()
    await stage.advance(1_000)
    await look(gateway)
    assert await listed(gateway) == 200
    assert gateway.gateway.exchange.clock.measured


async def test_during_a_ban_and_before_its_probe_nothing_is_sent(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail(Fault("418", path="*", seconds=60, count=1))
    await look(gateway)
    calls = stage.exchange.calls.count()
    assert calls == 1
    for _ in range(3):
        await stage.advance(40_000)
        await look(gateway)
        assert stage.exchange.calls.count() == calls  # the probe is for a read to send
    await gateway.get()
    await look(gateway)
    assert await listed(gateway) == 200


async def test_a_ban_that_the_replicas_share_binds_one_that_has_just_started(stage: Stage) -> None:
    first = await stage.start()
    stage.fail(Fault("418", seconds=60, count=1))
    await first.get()
    calls = stage.exchange.calls.count()
    started = await stage.start()
    await look(started)
    assert stage.exchange.calls.count() == calls


async def test_it_watches_until_it_is_cancelled(stage: Stage) -> None:
    gateway = await stage.start()
    watching = asyncio.create_task(gateway.gateway.exchange.upkeep.watch())
    for _ in range(5):
        await settle()
    assert await listed(gateway) == 200
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
