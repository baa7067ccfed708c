"""Several accounts share a fleet: each has calls of its own, and no one's callers use up the weight of all."""

import asyncio
from collections import Counter
from pathlib import Path

from simulator.exchange import ROUTES, Exchange
from simulator.faults import ACCOUNT_PATH
from simulator.limits import MINUTE_MS
from tests.fleet.fleets import SOON, Answer, Crowd, fleet
from tests.process.conftest import Tables, tables
from tests.support import until

MAIN, OTHER = "/v1/accounts/main/assets/BTC", "/v1/accounts/other/assets/BTC"

CEILING = 120
"""Of request weight a minute: 24 account calls, less what preparing them costs."""
PATIENT = 4_000
"""Ms: `fresh_for` of the account whose callers are modest; it may be twice as much older while the weight lacks, which
is 3 s at the end of a minute, and what a busy machine adds."""


async def test_callers_of_two_accounts_on_four_replicas_cost_one_call_each(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = tables(redis_port, exchange_url, fresh_for="20s")
    settings["accounts"] = {"main": None, "other": None}
    settings["exchange"] |= {"timeout": "20s"}
    async with fleet(tmp_path, 4, settings) as replicas, Crowd(replicas) as crowd:
        exchange.hold()
        rushes = [crowd.rush(25, path) for path in (MAIN, OTHER)]
        await exchange.wait_held(2)
        for rush in rushes:
            await rush.sent()
        exchange.release()
        answers = [await rush.answers() for rush in rushes]

    assert [answer.status for answer in answers[0] + answers[1]] == [200] * 200
    assert [len({answer.snapshot_time for answer in group}) for group in answers] == [1, 1]
    assert exchange.calls.count(ACCOUNT_PATH) == 2


def scarce(redis_port: int, exchange_url: str) -> Tables:
    """Little weight; `main` would spend all of it in a moment, `other` is content with a quarter."""
    settings = tables(redis_port, exchange_url, stale_while_revalidate="0s")
    settings["exchange"] |= {"weight_limit": 2 * CEILING, "weight_share": 0.5}
    settings["accounts"] = {
        "main": {"fresh_for": "50ms", "stale_if_error": "1s"},
        "other": {"fresh_for": f"{PATIENT}ms", "stale_if_error": f"{2 * PATIENT}ms"},
    }
    return settings


async def test_a_greedy_accounts_callers_do_not_starve_another_account(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """The last seconds of an exchange's minute, in which its weight is used up, and the first 5 s of the next.

    20 s, less what the replicas take to start: they look at its clock as they do.
    """
    exchange.clock.skew_ms = 40_000 - exchange.now_ms() % MINUTE_MS
    async with fleet(tmp_path, 2, scarce(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        assert (await crowd.callers[0].ask(OTHER)).status == 200
        async with crowd.asking(3, MAIN, pause=0.05) as greedy, crowd.asking(1, OTHER, pause=0.5) as modest:
            await until_main_is_told_to_wait(crowd)
            await asyncio.sleep(25)

    assert {200} == {answer.status for answer in modest}
    assert len({answer.snapshot_time for answer in modest}) >= 4
    assert {(200, "weight-budget", ""), (503, "", "weight-budget-spent")} <= kinds(greedy)
    assert CEILING - 10 <= max(weights(exchange).values()) <= CEILING


async def until_main_is_told_to_wait(crowd: Crowd) -> None:
    async def waits() -> bool:
        last = (await crowd.callers[0].account("main"))["lastRefresh"]
        return last is not None and bool(last["outcome"] == "weight-budget-spent")

    await until(waits, SOON, "the greedy account has to wait for weight")


def kinds(answers: list[Answer]) -> set[tuple[int, str, str]]:
    return {(answer.status, answer.detail, answer.problem) for answer in answers}


def weights(exchange: Exchange) -> Counter[int]:
    """Of all calls, by the exchange's minute."""
    minutes: Counter[int] = Counter()
    for call in exchange.calls.kept():
        minutes[call.at // MINUTE_MS] += ROUTES[call.path].weight
    return minutes
