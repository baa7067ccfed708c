"""One exchange call for any number of callers, measured at the exchange."""

import asyncio
import json
from pathlib import Path

import httpx

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH
from tests.process.conftest import GatewayProcess, gateway_process, tables
from tests.support import bearer


def cold_questions() -> list[str]:
    """100 different questions."""
    assets = ("BTC", "ETH", "SOL", "XRP", "BNB")
    paths = [f"assets?asset={one},{other}" for one in assets for other in assets if one < other]
    paths += [f"positions?asset={asset}&open={flag}" for asset in assets for flag in ("true", "false")]
    paths += [f"?asset={asset}&symbol={asset}USD_{term}" for asset in assets for term in ("PERP", "261225")]
    paths += [f"positions/{asset}USD_{term}" for asset in assets for term in ("PERP", "261225", "270326")]
    paths += [f"positions/{asset}USD_PERP/BOTH" for asset in assets] + [f"assets/{asset}" for asset in assets]
    paths += [f"positions?symbol={asset}USD_PERP&positionSide={side}" for asset in assets for side in ("BOTH", "LONG")]
    paths += [f"assets?asset={asset}&nonzero={flag}" for asset in assets for flag in ("true", "false")]
    paths += [f"?nonzero=true&open=true&asset={asset}" for asset in assets]
    paths += [f"?asset={asset}&positionSide={side}" for asset in assets for side in ("BOTH", "LONG", "SHORT")]
    paths += [f"positions?asset={asset},XRP" for asset in assets]
    return paths


async def test_a_hundred_callers_with_different_filters_on_a_cold_cache_cause_one_account_call(
    gateway: GatewayProcess, exchange: Exchange
) -> None:
    questions = cold_questions()
    async with httpx.AsyncClient(base_url=f"{gateway.url}/v1/accounts/", headers=bearer(), timeout=30) as caller:
        exchange.hold()
        asked = [asyncio.create_task(caller.get(f"main{'' if path[0] == '?' else '/'}{path}")) for path in questions]
        await exchange.wait_held()
        exchange.release()
        answers = await asyncio.gather(*asked)
        whole = (await caller.get("main", headers={"cache-control": "max-stale"})).json()

    assert len(set(questions)) == 100
    assert {200} == {answer.status_code for answer in answers}
    assert exchange.calls.count(ACCOUNT_PATH) == 1
    rows = {json.dumps(row) for row in whole["assets"] + whole["positions"]}
    for answer in answers:
        assert rows_in(answer.json()) <= rows


async def test_hundreds_who_wait_for_a_slow_exchange_keep_no_probe_waiting(
    gateway: GatewayProcess, exchange: Exchange
) -> None:
    """The server's own default is 128 requests at a time."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(), timeout=30, limits=limits) as caller:
        exchange.hold()
        asked = [asyncio.create_task(caller.get("/v1/accounts/main")) for _ in range(300)]
        await exchange.wait_held()
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as probe:
            healthy = await asyncio.gather(*(probe.get("/healthz") for _ in range(10)))
        exchange.release()
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in healthy} == {200}
    assert {answer.status_code for answer in answers} == {200}


async def test_ten_seconds_of_polling_by_fifty_callers_cause_at_most_eleven_account_calls(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = tables(redis_port, exchange_url, fresh_for="1s")
    async with (
        gateway_process(tmp_path, settings, measured=False) as gateway,
        httpx.AsyncClient(headers=bearer()) as caller,
    ):
        url = f"{gateway.url}/v1/accounts/main/assets/BTC"
        statuses = await asyncio.gather(*(poll(caller, url) for _ in range(50)))

    assert {200} == {status for polled in statuses for status in polled}
    assert 9 <= exchange.calls.count(ACCOUNT_PATH) <= 11


async def poll(caller: httpx.AsyncClient, url: str) -> set[int]:
    """Ask every 200 ms, or as often as this machine can, for 10 s; the statuses seen."""
    now = asyncio.get_running_loop().time
    statuses, due, end = set(), now(), now() + 10
    while now() < end:
        statuses.add((await caller.get(url)).status_code)
        due = max(due + 0.2, now())
        await asyncio.sleep(due - now())
    return statuses


def rows_in(answer: object) -> set[str]:
    """The rows of an answer of any shape, as JSON."""
    if isinstance(answer, dict) and "assets" in answer:
        answer = answer["assets"] + answer["positions"]
    listed = answer if isinstance(answer, list) else [answer]
    return {json.dumps(row) for row in listed}
