"""A replica is told to stop while it asks the exchange for the fleet."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from tests.fleet.fleets import SOON, Answer, Crowd, fleet
from tests.process.conftest import GatewayProcess, Tables, tables

DRAIN = 1.0
TIMEOUT = 2.0
"""Seconds: `server.drain` and `exchange.timeout` here."""
WAIT_BEYOND_TIMEOUT = 3.0
SPARE = 5.0
"""Seconds: what the manifests reckon a replica's end with."""


@pytest.fixture
async def redis(redis_port: int) -> AsyncIterator[Redis]:
    async with Redis(port=redis_port, decode_responses=True) as redis:
        yield redis


def quick(redis_port: int, exchange_url: str, **freshness: object) -> Tables:
    settings = tables(redis_port, exchange_url, **freshness)
    settings["server"] |= {"drain": f"{DRAIN:.0f}s"}
    settings["exchange"] |= {"timeout": f"{TIMEOUT:.0f}s"}
    return settings


async def leases(redis: Redis) -> list[str]:
    return [key async for key in redis.scan_iter("*:lease:*")]


async def drains(replica: GatewayProcess) -> float:
    """Tell it to stop, and return once it drains; when it was told."""
    assert replica.process is not None
    began = time.monotonic()
    replica.process.send_signal(signal.SIGTERM)
    async with httpx.AsyncClient() as probe:
        while (await probe.get(f"{replica.url}/readyz")).status_code == 200:
            await asyncio.sleep(0.02)
    return began


async def test_who_waits_for_its_refresh_is_answered_and_the_lease_goes_back(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange, redis: Redis
) -> None:
    settings = quick(redis_port, exchange_url, fresh_for="60s")
    async with fleet(tmp_path, 2, settings) as replicas, Crowd(replicas) as crowd:
        exchange.hold()
        rush = crowd.rush(10)
        await exchange.wait_held()
        await rush.sent()
        (held,) = await leases(redis)
        assert ":main}:lease:" in held
        await asyncio.gather(*(drains(replica) for replica in replicas))
        exchange.release()
        answers = await rush.answers()
        ends = await asyncio.gather(*(replica.ended() for replica in replicas))
        left = await leases(redis)

    assert [answer.status for answer in answers] == [200] * 20
    assert [status for status, _ in ends] == [0, 0]
    assert exchange.calls.count(ACCOUNT_PATH) == 1
    assert left == []


async def test_a_refresh_that_nobody_waits_for_holds_up_neither_the_end_nor_another_replica(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange, redis: Redis
) -> None:
    """It went on behind the caller's back, and the exchange doesn't answer."""
    settings = quick(redis_port, exchange_url, fresh_for="1s", stale_while_revalidate="60s")
    settings["exchange"] |= {"timeout": "20s"}
    async with fleet(tmp_path, 2, settings) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        await crowd.until_all_look(SOON, 200, "swr")
        exchange.hold()
        assert (await crowd.callers[0].ask()).detail == "swr"
        await exchange.wait_held()
        assert len(await leases(redis)) == 1
        began = await drains(replicas[0])
        status, _ = await replicas[0].ended()
        seconds, left = time.monotonic() - began, await leases(redis)
        assert (await crowd.callers[1].ask()).detail == "swr"
        await exchange.calls.wait_for(ACCOUNT_PATH, 3)  # the other replica's, without waiting for a lease to expire
        exchange.release()

    assert status == 0
    assert seconds < DRAIN + SPARE
    assert left == []


async def test_who_waits_for_an_exchange_that_never_answers_is_told_so_before_the_end(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange, redis: Redis
) -> None:
    exchange.faults.add(Fault("hang"))
    settings = quick(redis_port, exchange_url)
    async with fleet(tmp_path, 1, settings) as replicas, Crowd(replicas) as crowd:
        rush = crowd.rush(10)
        await exchange.calls.wait_for(ACCOUNT_PATH, 1)
        began = await drains(replicas[0])
        answers: list[Answer] = await rush.answers()
        status, _ = await replicas[0].ended()
        seconds = time.monotonic() - began

    assert {(answer.status, answer.problem) for answer in answers} == {(504, "exchange-timeout")}
    assert status == 0
    assert seconds < DRAIN + TIMEOUT + WAIT_BEYOND_TIMEOUT + SPARE
    assert await leases(redis) == []
