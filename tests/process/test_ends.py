"""How a gateway process begins anew and ends."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import httpx

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from tests.process.conftest import STARTUP, GatewayProcess, closed, gateway_process, keep_asking, tables
from tests.support import BTC, bearer, until


async def test_a_restart_within_the_fresh_window_serves_from_redis_without_asking_for_the_account(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    """Its upkeep measures the clock, which no other process can do for it; the listing too is in Redis."""
    settings = tables(redis_port, exchange_url, fresh_for="1m")
    async with gateway_process(tmp_path, settings) as gateway, httpx.AsyncClient(headers=bearer()) as caller:
        before = await caller.get(gateway.url + BTC)
        assert (await gateway.stop())[0] == 0
        await gateway.start()
        after = await caller.get(gateway.url + BTC)

    assert exchange.calls.count(ACCOUNT_PATH) == 1
    assert before.content == after.content
    assert before.headers["etag"] == after.headers["etag"]
    assert after.headers["cache-status"].startswith("coinm-gateway; hit; ttl=5")


async def test_a_ban_is_remembered_across_a_restart(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = tables(redis_port, exchange_url)
    exchange.faults.add(Fault(name="418", seconds=600))
    async with gateway_process(tmp_path, settings) as gateway, httpx.AsyncClient(headers=bearer()) as caller:
        first = await caller.get(gateway.url + BTC)
        await gateway.stop()
        exchange.faults.clear()
        calls = exchange.calls.count()
        await gateway.start()
        second = await caller.get(gateway.url + BTC)

    assert calls == exchange.calls.count()
    for answer in (first, second):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:coinm-gateway:problem:exchange-banned"
        assert 590 <= int(answer.headers["retry-after"]) <= 601


async def test_sigterm_under_load_fails_no_request_and_exits_with_0(gateway: GatewayProcess) -> None:
    """20 keep-alive callers, five requests a second each; they go elsewhere when they are told to."""
    seen: Counter[int] = Counter()
    callers = [asyncio.create_task(keep_asking(gateway.url + BTC, seen)) for _ in range(20)]
    async with httpx.AsyncClient() as probe:
        await until(lambda: seen.total() >= 100, STARTUP, "100 answers")
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: seen.total() >= 120, STARTUP, "20 more while it drains")
        readiness = await probe.get(f"{gateway.url}/readyz")
        closings = await asyncio.gather(*callers)
    status, log = await gateway.ended()

    assert {200} == set(seen)
    assert readiness.status_code == 503
    assert closings == ["close"] * 20
    assert status == 0
    assert '"event":"stopped"' in log


async def test_a_request_under_way_at_the_end_of_the_drain_is_still_answered(
    gateway: GatewayProcess, exchange: Exchange
) -> None:
    exchange.hold()
    async with httpx.AsyncClient(headers=bearer(), timeout=30) as caller:
        asked = asyncio.create_task(caller.get(gateway.url + BTC))
        await exchange.wait_held()
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.send_signal(signal.SIGTERM)  # ends the drain at once
        await closed(gateway.url)
        exchange.release()
        answer = await asked
    status, _ = await gateway.ended()

    assert answer.status_code == 200
    assert status == 0


async def test_ctrl_c_ends_it_cleanly(gateway: GatewayProcess) -> None:
    status, log = await gateway.stop(signal.SIGINT)

    assert status == 0
    assert "Traceback" not in log
