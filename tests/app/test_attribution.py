"""Whose reads the exchange's weight is spent on, and whose are spared it."""

import asyncio
import re

from simulator.faults import Fault
from tests.app.harness import Replica, Stage, cache_status, settle

FIRST = {("account", "risk"): 5, ("time", "risk"): 3, ("exchangeInfo", "risk"): 1}
"""What the first refresh of all costs, when client "risk" is the one to ask."""


def weight(gateway: Replica, which: str) -> dict[tuple[str, str], float]:
    """Weight that was spent or saved, by endpoint or account, and client."""
    found = re.findall(rf"^coinm_weight_{which}_total\{{(.+)\}} (\S+)$", gateway.metrics(), re.MULTILINE)
    every = [(dict(re.findall(r'(\w+)="(.*?)"', labels)), float(value)) for labels, value in found]
    return {(labels.get("endpoint") or labels["account"], labels["client"]): value for labels, value in every}


async def test_who_misses_spends_and_who_hits_is_spared(stage: Stage) -> None:
    gateway = await stage.start()
    for client in ("risk", "treasury", "treasury"):
        await gateway.get(client=client)
    assert weight(gateway, "spent") == FIRST
    assert weight(gateway, "saved") == {("main", "treasury"): 10}


async def test_who_joins_a_call_under_way_is_spared_it(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    leader = asyncio.create_task(gateway.get(client="risk"))
    await stage.exchange.wait_held()
    follower = asyncio.create_task(gateway.get(client="treasury"))
    await settle()
    stage.exchange.release()
    assert cache_status(await leader) == "fwd=miss; stored"
    assert cache_status(await follower) == "fwd=miss; collapsed"
    assert weight(gateway, "spent") == FIRST
    assert weight(gateway, "saved") == {("main", "treasury"): 5}


async def test_retries_are_put_to_whose_read_it_was(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail(Fault("503-unavailable", count=2))
    assert (await gateway.get(client="risk")).status_code == 200
    assert weight(gateway, "spent") == FIRST | {("account", "risk"): 15}


async def test_a_refresh_behind_a_callers_back_is_put_to_it(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    answer = await gateway.get(client="treasury")
    await settle()
    assert cache_status(answer) == "hit; ttl=-1; detail=swr"
    assert weight(gateway, "spent") == FIRST | {("account", "treasury"): 5}
    assert weight(gateway, "saved") == {("main", "treasury"): 5}


async def test_whoever_hangs_up_has_spent_what_it_began(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    caller = asyncio.create_task(gateway.get(client="risk"))
    await stage.exchange.wait_held()
    caller.cancel()
    await asyncio.wait([caller])
    stage.exchange.release()
    await gateway.get(client="treasury")
    assert weight(gateway, "spent") == FIRST


async def test_the_gateways_own_calls_are_nobodys(stage: Stage) -> None:
    """What a command asks by itself, in the very task that a caller was served in before."""
    gateway = await stage.start()
    await gateway.get(client="risk")
    await gateway.gateway.exchange.synchronise()
    assert weight(gateway, "spent") == FIRST | {("time", ""): 3}


async def test_who_is_refused_spends_nothing(stage: Stage) -> None:
    gateway = await stage.start()
    for client in ("nobody", None):
        await gateway.get(client=client)
    assert (weight(gateway, "spent"), weight(gateway, "saved")) == ({}, {})
