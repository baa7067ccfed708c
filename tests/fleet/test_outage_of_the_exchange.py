"""The exchange is down, and the whole fleet under load asks it no oftener than one patient client would."""

import asyncio
from itertools import pairwise
from pathlib import Path

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH
from tests.fleet.fleets import Answer, Crowd, fleet
from tests.process.conftest import Tables, tables

TIMEOUT = 2.0
"""Seconds: `exchange.timeout`."""
BUSY = 1.5
"""Seconds that a busy machine may add to a wait."""
PAUSES = [1_000, 2_000, 4_000, 8_000, 16_000]
"""Ms without a call after each failure in a row."""
ROUNDING = 5
"""Ms lost in whole milliseconds of three processes' clocks."""


def brief(redis_port: int, exchange_url: str) -> Tables:
    """Short windows, so that callers meet stale answers and errors too."""
    settings = tables(redis_port, exchange_url, fresh_for="1s", stale_while_revalidate="0s", stale_if_error="10s")
    settings["exchange"] |= {"timeout": f"{TIMEOUT:g}s"}
    return settings


async def failing_for(exchange: Exchange, seconds: int) -> int:
    """Let time pass from the next account call on; how many calls there were before it."""
    before = exchange.calls.count(ACCOUNT_PATH)
    await exchange.calls.wait_for(ACCOUNT_PATH, before + 1)
    await asyncio.sleep(seconds)
    return before


def times(exchange: Exchange, since: int) -> list[int]:
    """When the account calls after so many came, in ms from the first of them."""
    calls = [call.at for call in exchange.calls.kept() if call.path == ACCOUNT_PATH][since:]
    return [at - calls[0] for at in calls]


def gaps(times: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(times)]


async def test_twenty_seconds_without_the_exchange_cost_the_fleet_five_calls_and_end_by_themselves(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """A failure is told at once here, so calls fail some 0, 1, 3, 7 and 15 s after the first; that at 31 s succeeds.

    Further pauses take 30 s each: `unit/fleet/test_budget.py`.
    """
    async with fleet(tmp_path, 4, brief(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        exchange.faults.add("maintenance")
        async with crowd.asking(3) as answers:
            before = await failing_for(exchange, 20)
            exchange.faults.clear()
            failed = exchange.calls.count(ACCOUNT_PATH)
            await exchange.calls.wait_for(ACCOUNT_PATH, failed + 1)
            calls = times(exchange, before)
            await crowd.until_all_are_fresh()

    assert failed - before == 5
    assert all(gap >= pause - ROUNDING for gap, pause in zip(gaps(calls), PAUSES, strict=True))
    assert max(answer.seconds for answer in answers) < TIMEOUT + BUSY
    assert {"", "exchange-unavailable"} == {answer.problem for answer in answers}
    assert "backoff" in {answer.detail for answer in answers}


async def test_a_hanging_exchange_keeps_nobody_waiting_for_what_is_known(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """An attempt takes the whole timeout, so they begin some 0, 3, 7 and 13 s after the first."""
    async with fleet(tmp_path, 4, brief(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        exchange.faults.add("hang")
        async with crowd.asking(3) as answers:
            before = await failing_for(exchange, 12)
            exchange.faults.clear()
        first = [call.at for call in exchange.calls.kept() if call.path == ACCOUNT_PATH][before]
        calls = [time for time in times(exchange, before) if time < 12_000]
        between = answered_between(answers, [first + time for time in calls], first + 12_000)

    assert len(calls) == 3
    assert all(gap >= pause + 1_000 for gap, pause in zip(gaps(calls), PAUSES[:2], strict=True))
    assert max(answer.seconds for answer in answers) < TIMEOUT + BUSY
    assert len(between) > 20
    assert max(answer.seconds for answer in between) < 1
    assert {"", "exchange-timeout"} == {answer.problem for answer in answers}


def answered_between(answers: list[Answer], calls: list[int], until: int) -> list[Answer]:
    """Those who asked well after an attempt had failed, for that has to be heard first, and well before the next.

    The last attempt's window lasts `until` the end of the test: the one after would come a second later.
    """
    failed = int(TIMEOUT * 1000) + 800
    windows = [(call + failed, following - 1_000) for call, following in pairwise([*calls, until + 1_000])]
    return [answer for answer in answers if any(begin < answer.asked < end for begin, end in windows)]
