"""Many callers, one call."""

import asyncio
import itertools

import httpx
import msgspec

from tests.app.conftest import MakeStage
from tests.app.harness import ASSETS, BTC, POSITIONS, Json, Replica, Stage, cache_status, problem

ASSET_NAMES = ("BTC", "ETH", "SOL", "XRP", "ADA")


def _rows(statement: Json, path: str, assets: set[str]) -> bytes:
    """What a simple reader of the exchange's own answer would cut from it."""
    if path == ASSETS:
        rows = [row for row in statement["assets"] if row["asset"] in assets]
    else:
        rows = [row for row in statement["positions"] if row["symbol"].partition("USD_")[0] in assets]
    return msgspec.json.encode(rows)


async def test_a_hundred_callers_with_different_filters_cost_one_call_and_each_gets_its_own(stage: Stage) -> None:
    gateway, sets = await stage.start(), list(itertools.combinations(ASSET_NAMES, 2))
    questions = [(path, names) for path in (ASSETS, POSITIONS) for names in sets for _ in range(5)]
    answers = await asyncio.gather(*(gateway.get(f"{path}?asset={','.join(names)}") for path, names in questions))
    assert len(answers) == 100
    assert stage.account_calls == 1
    statement = stage.statement()
    for (path, names), answer in zip(questions, answers, strict=True):
        assert answer.content == _rows(statement, path, set(names))
    assert sorted({cache_status(answer) for answer in answers}) == ["fwd=miss; collapsed", "fwd=miss; stored"]
    assert sum(cache_status(answer) == "fwd=miss; stored" for answer in answers) == 1


async def _waiting(gateway: Replica, count: int) -> list[asyncio.Task[httpx.Response]]:
    tasks = [asyncio.create_task(gateway.get(path)) for path in [BTC] * count]
    await asyncio.sleep(0)
    return tasks


async def test_a_leader_who_hangs_up_takes_nobody_with_it(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    leader, *others = await _waiting(gateway, 10)
    await stage.exchange.wait_held()
    leader.cancel()
    await asyncio.wait([leader])
    stage.exchange.release()
    answers = await asyncio.gather(*others)
    assert leader.cancelled()
    assert {answer.status_code for answer in answers} == {200}
    assert stage.account_calls == 1


async def test_what_was_asked_for_is_kept_when_every_caller_has_left(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    callers = await _waiting(gateway, 3)
    await stage.exchange.wait_held()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    late = asyncio.create_task(gateway.get())
    stage.exchange.release()
    assert (await late).status_code == 200
    assert stage.account_calls == 1


async def test_a_failure_is_shared_by_all_who_wait_for_it(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail("not-json")
    stage.exchange.hold()
    callers = await _waiting(gateway, 10)
    await stage.exchange.wait_held()
    stage.exchange.release()
    answers = await asyncio.gather(*callers)
    assert {(answer.status_code, problem(answer)) for answer in answers} == {(502, "exchange-answer-invalid")}
    assert stage.account_calls == 1


async def test_a_failure_on_a_stale_cache_is_shared_too_and_all_get_what_is_there(stage: Stage) -> None:
    gateway = await stage.warm(age=10_000)
    stage.fail("not-json")
    stage.exchange.hold()
    callers = await _waiting(gateway, 10)
    await stage.exchange.wait_held()
    stage.exchange.release()
    answers = await asyncio.gather(*callers)
    assert {cache_status(answer) for answer in answers} == {"fwd=stale; fwd-status=200; ttl=-9; detail=stale-if-error"}
    assert stage.account_calls == 2


async def test_a_slow_exchange_delays_nobody_who_has_a_fresh_snapshot(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    stage.exchange.hold()
    insisting = asyncio.create_task(gateway.get(cache_control="no-cache"))
    await stage.exchange.wait_held()
    assert cache_status(await gateway.get()) == "hit; ttl=-1; detail=swr"
    stage.exchange.release()
    assert (await insisting).status_code == 200


async def test_one_slow_account_delays_no_other(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": None, "other": None})
    gateway = await stage.start()
    stage.exchange.hold()
    tasks = [asyncio.create_task(gateway.get(f"/v1/accounts/{name}")) for name in ("main", "other")]
    await stage.exchange.wait_held(2)
    stage.exchange.release()
    assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200, 200]
