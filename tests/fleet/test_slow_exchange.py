"""An exchange that takes seconds: callers of every replica get what is at hand, marked, for one call of the fleet."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fleet.outage import Fleet, fleet
from tests.fleet.redis_servers import RedisServer

PAST_THE_WINDOWS = 3.1
"""Seconds after which a snapshot is neither fresh nor within stale-while-revalidate, by default."""


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with (
        RedisServer(tmp_path / "redis") as server,
        fleet(tmp_path, {"url": server.url}, timeout="20s") as started,
    ):
        yield started


async def _read_all(replicas: Fleet, cache_control: str = "") -> list[str]:
    """How each replica's answer came about."""
    numbers = range(len(replicas.replicas))
    answers = await asyncio.gather(*(replicas.read(number, cache_control) for number in numbers))
    assert {answer.status_code for answer in answers} == {200}
    return [answer.headers["cache-status"].rpartition("; ")[2] for answer in answers]


async def test_callers_of_all_replicas_get_what_is_at_hand_and_the_exchange_is_asked_once(replicas: Fleet) -> None:
    await _read_all(replicas)
    await asyncio.sleep(PAST_THE_WINDOWS)
    before = replicas.calls
    replicas.exchange.hold()
    for _ in range(3):
        assert await _read_all(replicas) == ["detail=slow"] * 3
    assert replicas.calls == before + 1
    replicas.exchange.release()


async def test_who_has_a_bound_of_its_own_waits_and_all_get_the_one_answer(replicas: Fleet) -> None:
    await _read_all(replicas)
    await asyncio.sleep(PAST_THE_WINDOWS)
    before = replicas.calls
    replicas.exchange.hold()
    bound = asyncio.create_task(_read_all(replicas, "max-age=3"))
    await replicas.exchange.wait_held()
    assert await _read_all(replicas) == ["detail=slow"] * 3
    assert not bound.done()
    replicas.exchange.release()
    assert set(await bound) <= {"stored", "collapsed"}
    assert replicas.calls == before + 1


async def test_replicas_that_have_nothing_wait_for_one_slow_answer_and_take_it(replicas: Fleet) -> None:
    """It is older than `fresh_for` by then, and what another call would bring is too."""
    replicas.exchange.hold()
    reading = asyncio.create_task(_read_all(replicas))
    await replicas.exchange.wait_held()
    await asyncio.sleep(PAST_THE_WINDOWS)
    replicas.exchange.release()
    assert set(await reading) <= {"stored", "collapsed"}
    assert replicas.calls == 1
