"""Machines whose clocks are wrong: nothing is refused, hammered or shown younger for it."""

import pytest

from simulator.faults import ACCOUNT_PATH, Fault
from tests.app.harness import BTC, Stage

HOUR = 3_600_000


def ahead(stage: Stage, milliseconds: int) -> None:
    """Turn this machine's clock so far ahead; the exchange's goes on as it was."""
    stage.clock.misset(milliseconds)
    stage.exchange.clock.skew_ms -= milliseconds


@pytest.mark.parametrize("lead", [HOUR, -HOUR])
async def test_a_wrong_clock_spends_no_weight_of_minutes_to_come(stage: Stage, lead: int) -> None:
    ahead(stage, lead)
    gateway = await stage.start()
    for _ in range(60):
        assert (await gateway.get(cache_control="no-cache")).status_code == 200
        await stage.advance(5_000)
    assert (await gateway.status())["weight"]["used"] <= 5 * 12


async def test_a_ban_met_by_the_first_call_of_all_is_understood_by_the_exchanges_clock(stage: Stage) -> None:
    ahead(stage, HOUR)
    stage.exchange.faults.add(Fault("418", path="*", seconds=120))
    gateway = await stage.start()
    answer = await gateway.get()
    calls = stage.exchange.calls.count()
    for _ in range(11):
        await stage.advance(10_000)
        assert (await gateway.get(cache_control="no-cache")).status_code == 503
    assert calls == stage.exchange.calls.count()
    assert 119 <= int(answer.headers["retry-after"]) <= 121


async def test_a_rate_limit_met_by_a_wrong_clock_costs_the_others_no_more_than_a_minute(stage: Stage) -> None:
    ahead(stage, 24 * HOUR)
    stage.exchange.faults.add(Fault("429", path="*"))
    assert (await (await stage.start()).get()).status_code == 503
    ahead(stage, -24 * HOUR)
    stage.exchange.faults.clear()
    refused = await (await stage.start()).get()
    assert int(refused.headers["retry-after"]) <= 62


async def test_a_clock_that_is_put_right_does_not_prolong_a_pause(stage: Stage) -> None:
    ahead(stage, HOUR)
    stage.transport.down = True
    gateway = await stage.start()
    assert (await gateway.get()).status_code == 503
    ahead(stage, -HOUR)
    stage.transport.down = False
    await stage.advance(1_001)
    assert (await gateway.get()).status_code == 200


async def test_a_snapshot_of_a_replica_with_a_wrong_clock_is_not_taken_for_younger_than_it_is(stage: Stage) -> None:
    """Its clock could not be measured: what it tells is the `Date` of answers."""
    ahead(stage, -HOUR)
    stage.exchange.faults.add(Fault("503-unavailable", path="/dapi/v1/time"))
    assert (await (await stage.start()).get()).status_code == 200
    stage.exchange.faults.clear()
    await stage.advance(30_000)
    other = await stage.start()
    answer = await other.get(cache_control="max-stale, only-if-cached")
    assert int(answer.headers["gateway-snapshot-age"]) >= 30_000


async def test_the_clock_is_measured_once_a_refresh_however_often_it_is_rejected(stage: Stage) -> None:
    gateway = await stage.warm(age=70_000)
    before = stage.exchange.calls.by_path()
    stage.exchange.faults.set([Fault("-1021-behind", count=1), Fault("503-unavailable", count=1), "-1021-behind"])
    answer = await gateway.get()
    after = stage.exchange.calls.by_path()
    assert answer.json()["type"] == "urn:coinm-gateway:problem:exchange-clock-skew"
    assert after["/dapi/v1/time"] - before["/dapi/v1/time"] == 3
    assert after[ACCOUNT_PATH] - before[ACCOUNT_PATH] <= 4


async def test_a_rejected_clock_that_cannot_be_measured_is_told_as_such(stage: Stage) -> None:
    gateway = await stage.warm(age=70_000)
    stage.exchange.faults.set(["-1021-ahead", Fault("503-unavailable", path="/dapi/v1/time")])
    answer = await gateway.get(BTC)
    assert answer.json()["type"] == "urn:coinm-gateway:problem:exchange-clock-skew"
