"""Who asks on behalf of the fleet dies or freezes over it."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH
from tests.fleet.fleets import Answer, Caller, Crowd, fleet
from tests.process.conftest import GatewayProcess, Tables, tables

LEASE = 2.0
"""Seconds that a lease outlives its holder."""


def leisurely(redis_port: int, exchange_url: str) -> Tables:
    """Nothing expires, neither a snapshot nor a refresh, but a lease."""
    settings = tables(redis_port, exchange_url, fresh_for="60s")
    settings["exchange"] |= {"timeout": "20s"}
    return settings


def send(replica: GatewayProcess, number: int) -> None:
    assert replica.process is not None
    replica.process.send_signal(number)


async def leading(leader: Caller, exchange: Exchange) -> asyncio.Task[Answer]:
    """One read of a replica whose refresh is under way at the exchange, which holds it."""
    exchange.hold()
    asked = asyncio.create_task(leader.ask())
    await exchange.wait_held()
    return asked


async def test_when_the_replica_that_asks_is_killed_another_one_takes_over(
    tmp_path: Path,
    redis_port: int,
    exchange_url: str,
    exchange: Exchange,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    async with fleet(tmp_path, 4, leisurely(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        lost = await leading(crowd.callers[0], exchange)
        rush = crowd.rush(25, spared=1)
        await rush.sent()
        send(replicas[0], signal.SIGKILL)
        killed = time.monotonic()
        await exchange.calls.wait_for(ACCOUNT_PATH, 2)
        seconds = time.monotonic() - killed
        exchange.release()
        answers = await rush.answers()

    record_testsuite_property("take_over_seconds", round(seconds, 3))
    assert (await lost).status == 0
    assert [answer.status for answer in answers] == [200] * 75
    assert len({answer.snapshot_time for answer in answers}) == 1
    assert exchange.calls.count(ACCOUNT_PATH) == 2
    assert 0 < seconds < LEASE + 3


async def test_a_replica_killed_while_it_asks_leaves_nothing_in_a_later_readers_way(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    async with fleet(tmp_path, 2, leisurely(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        lost = await leading(crowd.callers[0], exchange)
        send(replicas[0], signal.SIGKILL)
        await lost
        exchange.release()
        answer = await crowd.callers[1].ask()

    assert answer.status == 200
    assert answer.seconds < LEASE + 3
    assert exchange.calls.count(ACCOUNT_PATH) == 2


async def test_the_answer_of_a_replica_that_froze_meanwhile_never_replaces_a_newer_one(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """A replica started in the end has nothing but what Redis has."""
    settings = leisurely(redis_port, exchange_url)
    async with fleet(tmp_path, 3, settings) as replicas, Crowd(replicas) as crowd:
        late = await leading(crowd.callers[0], exchange)
        send(replicas[0], signal.SIGSTOP)
        rush = crowd.rush(1, spared=1)
        await exchange.calls.wait_for(ACCOUNT_PATH, 2)  # the lease has expired, and another replica asks
        exchange.release()
        newer = await rush.answers()
        send(replicas[0], signal.SIGCONT)
        answers = [*newer, await late]
        looks = await crowd.look()
        async with fleet(tmp_path / "later", 1, settings) as started, Crowd(started) as later:
            looks += await later.look()

    assert {200} == {answer.status for answer in answers + looks}
    assert [newer[0].snapshot_time] * 5 == [answer.snapshot_time for answer in [newer[1], *looks]]
    assert exchange.calls.count(ACCOUNT_PATH) == 2
