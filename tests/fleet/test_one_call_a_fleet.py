"""One exchange call a document for any number of callers of any number of replicas, measured at the exchange."""

import asyncio
from pathlib import Path

from simulator.exchange import BALANCE_PATH, LEVERAGE_BRACKET_PATH, POSITION_RISK_PATH, Exchange
from simulator.faults import ACCOUNT_PATH
from tests.fleet.fleets import SOON, Answer, Crowd, fleet
from tests.process.conftest import Tables, tables
from tests.support import BTC, until

BRACKETS = "/v1/accounts/main/leverage-brackets/BTCUSD_PERP"
DOCUMENTS = {
    BTC: ACCOUNT_PATH,
    "/v1/accounts/main/balance/BTC": BALANCE_PATH,
    "/v1/accounts/main/position-risk/BTCUSD_PERP": POSITION_RISK_PATH,
    BRACKETS: LEVERAGE_BRACKET_PATH,
}
"""Where the exchange has what is read of each document."""
EXPIRING = [path for path in DOCUMENTS if path != BRACKETS]


def patient(redis_port: int, exchange_url: str, **freshness: object) -> Tables:
    """No deadline and no breaker of the gateway's own comes in between where a thousand callers fill both cores."""
    settings = tables(redis_port, exchange_url, **freshness)
    settings["exchange"] |= {"timeout": "20s"}
    return settings


async def test_a_thousand_callers_of_four_replicas_on_a_cold_cache_cost_one_call_a_document(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = patient(redis_port, exchange_url, fresh_for="20s")
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        answers = await rush_while_held(crowd, exchange, held=4)

    assert len(answers) >= 1000
    assert {200} == {answer.status for answer in answers}
    assert requested(exchange) == dict.fromkeys(DOCUMENTS, 1)


async def test_a_thousand_callers_of_four_replicas_on_an_expired_cache_cost_one_more_call_a_document(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """`fresh_for` is what the test waits for first, and what it has to answer all callers in: some 2 s here.

    Who waits longer than it is answered by what was asked for on its behalf, so this is about late arrivals alone.
    Leverage brackets are fresh for an hour, whatever it says.
    """
    settings = patient(redis_port, exchange_url, fresh_for="8s", stale_while_revalidate="0s")
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        for path in DOCUMENTS:
            assert (await crowd.callers[0].ask(path)).status == 200
            await crowd.until_all_look(SOON, 200, path=path)
        for path in EXPIRING:
            await crowd.until_all_look(8 + SOON, 504, path=path)
        answers = await rush_while_held(crowd, exchange, held=len(EXPIRING))

    assert len(answers) >= 1000
    assert {200} == {answer.status for answer in answers}
    assert requested(exchange) == dict.fromkeys(EXPIRING, 2) | {BRACKETS: 1}


async def rush_while_held(crowd: Crowd, exchange: Exchange, held: int) -> list[Answer]:
    """A thousand callers of all replicas and documents at once, who have all asked before the exchange answers."""
    exchange.hold()
    rushes = [crowd.rush(63, path) for path in DOCUMENTS]
    await exchange.wait_held(held)
    for rush in rushes:
        await rush.sent()
    exchange.release()
    return [answer for rush in rushes for answer in await rush.answers()]


def requested(exchange: Exchange) -> dict[str, int]:
    """How often each document was, by what reads it."""
    return {path: exchange.calls.count(at_exchange) for path, at_exchange in DOCUMENTS.items()}


async def test_twenty_seconds_of_polling_four_replicas_cost_at_most_21_calls(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = tables(redis_port, exchange_url, fresh_for="1s")
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        async with crowd.asking(5, pause=0.2) as answers:
            await asyncio.sleep(20)
        snapshots = {answer.snapshot_time for answer in answers}

    assert {200} == {answer.status for answer in answers}
    assert 15 <= exchange.calls.count(ACCOUNT_PATH) <= 21
    assert len(snapshots) <= exchange.calls.count(ACCOUNT_PATH)


async def test_a_stale_fleet_answers_at_once_and_is_revalidated_by_one_call(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = tables(redis_port, exchange_url, fresh_for="1s", stale_while_revalidate="60s")
    settings["exchange"] |= {"timeout": "20s"}
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        await crowd.until_all_look(1 + SOON, 200, "swr")
        old = (await crowd.look())[0].snapshot_time
        exchange.hold()
        answers = await crowd.rush(10).answers()  # before the exchange has answered
        await exchange.wait_held()
        held, calls = exchange.held, exchange.calls.count(ACCOUNT_PATH)
        exchange.release()
        await until_newer(crowd, old)

    assert {(200, "swr", old)} == {(each.status, each.detail, each.snapshot_time) for each in answers}
    assert (held, calls) == (1, 2)
    assert exchange.calls.count(ACCOUNT_PATH) == 2


async def until_newer(crowd: Crowd, old: str) -> None:
    """Wait until all replicas have one and the same newer snapshot."""

    async def renewed() -> bool:
        times = {answer.snapshot_time for answer in await crowd.look()}
        return len(times) == 1 and min(times) > old

    await until(renewed, SOON, "all replicas have the new snapshot")


async def test_a_hundred_callers_who_want_no_cache_cause_one_refresh_and_none_right_after_it(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """Both hundreds have to be answered within the interval, which takes some 0.5 s here."""
    settings = tables(redis_port, exchange_url, fresh_for="60s", min_refresh_interval="5s")
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        await until_older(crowd, 5_000)
        first = await crowd.rush(25, cache_control="no-cache").answers()
        after_the_first = exchange.calls.count(ACCOUNT_PATH)
        second = await crowd.rush(25, cache_control="no-cache").answers()

    assert {200} == {answer.status for answer in first + second}
    assert len({answer.snapshot_time for answer in first + second}) == 1
    assert after_the_first == 2
    assert exchange.calls.count(ACCOUNT_PATH) == 2


async def until_older(crowd: Crowd, milliseconds: int) -> None:
    async def old() -> bool:
        return min(answer.snapshot_age for answer in await crowd.look()) > milliseconds

    await until(old, milliseconds / 1000 + SOON, f"every replica's snapshot is older than {milliseconds} ms")


async def test_what_one_replica_was_told_all_have_in_memory_though_nobody_reads_it_from_them(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    async with fleet(tmp_path, 4, tables(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        before = {(await caller.account())["snapshotTime"] for caller in crowd.callers}
        answer = await crowd.callers[0].ask()
        await crowd.until_all_hold(answer.snapshot_time)

    assert before == {None}
    assert answer.status == 200
    assert exchange.calls.count(ACCOUNT_PATH) == 1
