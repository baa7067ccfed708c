"""Whose weight it is, where the server runs the requests."""

import asyncio
import re
from pathlib import Path

import httpx

from simulator.exchange import Exchange
from tests.process.conftest import gateway_process, tables
from tests.support import bearer


async def test_callers_at_the_same_time_are_told_apart(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """Two accounts, each asked for by another client while both calls are under way."""
    accounts: dict[str, object] = {"main": None, "other": None}
    exchange.hold()
    async with (
        gateway_process(tmp_path, tables(redis_port, exchange_url) | {"accounts": accounts}, measured=False) as gateway,
        httpx.AsyncClient(base_url=f"{gateway.url}/v1/accounts", timeout=30) as caller,
    ):
        asked = [
            asyncio.create_task(caller.get(f"/{account}", headers=bearer(client)))
            for account, client in (("main", "treasury"), ("other", "risk"))
        ]
        await exchange.wait_held()
        exchange.release()
        answers = await asyncio.gather(*asked)
        metrics = (await caller.get(gateway.metrics_url)).text

    assert [answer.status_code for answer in answers] == [200, 200]
    spent = re.findall(r'^coinm_weight_spent_total\{client="(\w*)",endpoint="account"\} (\S+)$', metrics, re.MULTILINE)
    assert dict(spent) == {"risk": "5.0", "treasury": "5.0"}
