"""Nothing leaves the fleet before the exchange's not-before has passed; then one unsigned probe goes first."""

import asyncio
from pathlib import Path

from redis.asyncio import Redis

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from simulator.limits import MINUTE_MS
from simulator.observing import Call
from tests.fleet.fleets import BROKEN, SOON, Answer, Crowd, fleet
from tests.process.conftest import GatewayProcess, Tables, run_command, tables

PING_PATH = "/dapi/v1/ping"
OTHER = "/v1/accounts/other/assets/BTC"

CLOCK_ERROR = 100
"""Ms that a replica's idea of the exchange's clock may be wrong by, where every core is busy."""
LATE = 1_000
"""Ms more that a replica may name: a `Retry-After` counts from when it is read, which a full machine does late."""


def impatient(redis_port: int, exchange_url: str) -> Tables:
    """Asks at once when it has grown old, and falls silent in the middle of a short ban."""
    return tables(redis_port, exchange_url, fresh_for="1s", stale_while_revalidate="0s", stale_if_error="4s")


def calls_from(exchange: Exchange, status: int) -> list[Call]:
    """The first call that was answered with this status, and all after it."""
    calls = exchange.calls.kept()
    return calls[[call.status for call in calls].index(status) :]


async def refusal(exchange: Exchange, crowd: Crowd, status: int) -> Call:
    """The refusal that a warm fleet's next call meets; every replica knows of it."""
    await crowd.until_all_look(1 + SOON, 504)  # nobody asks meanwhile, so it's old everywhere
    await crowd.callers[0].ask()
    await crowd.until_all_know_the_ban()
    return calls_from(exchange, status)[0]


async def test_a_ban_silences_the_fleet_and_its_newcomers_until_one_probe_has_gone_ahead(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """Half of the replicas want one account and half the other: two want to probe, while one probe takes a second."""
    settings = impatient(redis_port, exchange_url)
    settings["accounts"] = {"main": None, "other": None}
    async with (
        fleet(tmp_path, 4, settings) as replicas,
        Crowd(replicas) as crowd,
        Crowd(replicas[:2]) as half,
        Crowd(replicas[2:]) as others,
    ):
        await crowd.warm()
        assert (await crowd.callers[0].ask(OTHER)).status == 200
        await crowd.until_all_look(1 + SOON, 504, path=OTHER)
        exchange.faults.set([Fault("418", count=1, seconds=10), Fault("slow", path=PING_PATH, seconds=1)])
        until_ms = (await refusal(exchange, crowd, 418)).at + 10_000
        async with half.asking() as answers, others.asking(path=OTHER) as of_the_other:
            newcomer = await newcomers_answer(tmp_path / "later", settings, replicas[3])
            silent_for = exchange.calls.kept()[-1].status, exchange.now_ms() < until_ms
            await exchange.calls.wait_for(ACCOUNT_PATH, 5)
        await crowd.until_all_are_fresh()
        await crowd.until_all_are_fresh(OTHER)

    assert silent_for == (418, True)
    assert_are_told_of_the_ban([newcomer, *answers, *of_the_other], until_ms)
    assert {(200, "not-before"), (503, "")} <= {(answer.status, answer.detail) for answer in answers}
    assert_one_probe_went_ahead(calls_from(exchange, 418)[1:], until_ms)


async def newcomers_answer(folder: Path, settings: Tables, restarted: GatewayProcess) -> Answer:
    """What a replica answers that starts during a ban; another is restarted meanwhile."""

    async def restart() -> None:
        await restarted.stop()
        await restarted.start()

    restarting = asyncio.create_task(restart())
    async with fleet(folder, 1, settings) as started, Crowd(started) as crowd:
        answer = await crowd.callers[0].ask()
    await restarting
    return answer


def assert_are_told_of_the_ban(answers: list[Answer], until_ms: int) -> None:
    """Stale and marked within the window, then an error that says when; from restarted replicas maybe nothing."""
    during = [answer for answer in answers if answer.answered < until_ms and answer.status != BROKEN]
    told = {(answer.status, answer.detail or answer.problem) for answer in during}
    refused = [answer for answer in during if answer.status == 503]
    assert told <= {(200, "not-before"), (503, "exchange-banned")}
    for answer in refused:
        assert answer.retry_after is not None
        until_then = answer.retry_after * 1000  # rounded up
        assert answer.asked + until_then - 1000 <= until_ms + CLOCK_ERROR + LATE
        assert answer.answered + until_then >= until_ms - CLOCK_ERROR


def assert_one_probe_went_ahead(after: list[Call], until_ms: int) -> None:
    assert min(call.at for call in after) >= until_ms
    assert after[0].path == PING_PATH
    assert [call.path for call in after].count(PING_PATH) == 1
    assert {200} == {call.status for call in after}


async def test_a_429_silences_the_fleet_until_the_minute_turns_and_a_refused_probe_for_longer(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    exchange.faults.set([Fault("418", path=PING_PATH, count=1, seconds=4)])
    settings = impatient(redis_port, exchange_url)
    # Before the replicas start, for they measure it at once. The minute turns when they have been started and warmed.
    exchange.clock.skew_ms = 35_000 - exchange.now_ms() % MINUTE_MS
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        exchange.faults.add(Fault("429", count=1))
        turn = ((await refusal(exchange, crowd, 429)).at // MINUTE_MS + 1) * MINUTE_MS
        async with crowd.asking() as answers:
            await exchange.calls.wait_for(ACCOUNT_PATH, 3)
        await crowd.until_all_are_fresh()

    refused, probe, *after = calls_from(exchange, 429)
    assert refused.at < turn <= probe.at
    assert (probe.path, probe.status) == (PING_PATH, 418)
    assert_one_probe_went_ahead(after, probe.at + 4_000)
    assert {"exchange-rate-limited", "exchange-banned"} == {answer.problem for answer in answers} - {""}


async def test_without_redis_each_replica_keeps_to_the_ban_it_knows_of_and_none_probes_twice(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    async with fleet(tmp_path, 4, impatient(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        exchange.faults.set([Fault("418", count=1, seconds=6)])
        until_ms = (await refusal(exchange, crowd, 418)).at + 6_000
        async with Redis(port=redis_port) as redis:
            await redis.shutdown(nosave=True)
        async with crowd.asking():
            await exchange.calls.wait_for(ACCOUNT_PATH, 3)
        await crowd.until_all_are_fresh()

    after = calls_from(exchange, 418)[1:]
    assert min(call.at for call in after) >= until_ms
    assert after[0].path == PING_PATH
    assert 1 <= [call.path for call in after].count(PING_PATH) <= 4


async def test_an_operators_resume_frees_the_running_fleet(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = impatient(redis_port, exchange_url)
    settings["freshness"] |= {"stale_if_error": "0s"}
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        await crowd.warm()
        exchange.faults.set([Fault("418", count=1, seconds=3600)])
        await refusal(exchange, crowd, 418)
        banned = await crowd.rush(1).answers()
        status, output, errors = await run_command("resume", "--config", str(replicas[0].config))
        await crowd.until_all_are_fresh()

    assert {(503, "exchange-banned")} == {(answer.status, answer.problem) for answer in banned}
    assert (status, errors) == (0, "")
    assert "exchange-banned" in output
    assert len(calls_from(exchange, 418)) > 1
