import asyncio
import time
from collections.abc import Callable

import httpx
import pytest

from simulator.exchange import Exchange
from simulator.signature import DEMO_API_KEY
from simulator.transport import SimulatorTransport
from tests.simulator.conftest import NOW


async def test_calls_are_recorded_with_who_asked_when_and_what_came(
    exchange: Exchange, client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    await client.get(signed())
    await client.get("/dapi/v1/none")
    neighbour = SimulatorTransport(exchange, client=("10.0.0.9", 1))
    async with httpx.AsyncClient(transport=neighbour, base_url="http://exchange") as other:
        await other.get("/dapi/v1/ping")
    first, missing, ping = exchange.calls.kept()

    assert (first.path, first.at, first.client, first.api_key, first.status) == (
        "/dapi/v1/account",
        NOW,
        "127.0.0.1",
        DEMO_API_KEY,
        200,
    )
    assert (missing.status, ping.client, ping.api_key) == (404, "10.0.0.9", None)
    assert exchange.calls.count() == 3
    assert exchange.calls.count("/dapi/v1/ping") == exchange.calls.count(client="10.0.0.9") == 1


async def test_waiting_for_calls_ends_with_the_last_of_them(exchange: Exchange, client: httpx.AsyncClient) -> None:
    waiting = asyncio.create_task(exchange.calls.wait_for("/dapi/v1/ping", 2))
    await client.get("/dapi/v1/ping")
    assert not waiting.done()
    await client.get("/dapi/v1/ping")

    await waiting


async def test_held_answers_show_the_account_as_it_was_when_asked(
    exchange: Exchange, client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    exchange.hold()
    early = asyncio.create_task(client.get(signed()))
    await exchange.wait_held(1)
    exchange.set_balance("LTC", "9")
    late = asyncio.create_task(client.get(signed()))
    await exchange.wait_held(2)
    ping = await client.get("/dapi/v1/ping")
    assert (exchange.held, ping.status_code) == (2, 200)
    exchange.release()
    bodies = [(await call).json() for call in (early, late)]

    wallets = [next(row["walletBalance"] for row in body["assets"] if row["asset"] == "LTC") for body in bodies]
    assert wallets == ["0.00000000", "9.00000000"]
    assert (await client.get(signed())).status_code == 200


async def test_cancelling_a_caller_takes_it_out_of_the_held(
    exchange: Exchange, client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    exchange.hold()
    call = asyncio.create_task(client.get(signed()))
    await exchange.wait_held()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True), 5)

    assert exchange.held == 0


async def test_the_clock_can_be_skewed_set_stopped_and_advanced(client: httpx.AsyncClient) -> None:
    exchange = Exchange(clock=lambda: NOW / 1000)
    clock = exchange.clock
    clock.skew_ms = -700
    skewed = exchange.now_ms()
    clock.set(NOW + 5)
    clock.advance(10)
    moved = exchange.now_ms()
    clock.freeze(NOW * 2)
    clock.advance(1)
    frozen = exchange.now_ms()
    clock.resume()

    assert (skewed, moved, frozen, exchange.now_ms()) == (NOW - 700, NOW + 15, NOW * 2 + 1, NOW + 15)


async def test_without_a_clock_of_the_tests_it_is_the_real_time() -> None:
    async with httpx.AsyncClient(transport=SimulatorTransport(Exchange()), base_url="http://exchange") as client:
        before = int(time.time() * 1000)
        server_time = (await client.get("/dapi/v1/time")).json()["serverTime"]

    assert before <= server_time <= int(time.time() * 1000)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/dapi/v1/account"), ("GET", "/fapi/v1/ping"), ("DELETE", "/dapi/v1/listenKey")]
)
async def test_other_paths_and_methods_are_404_in_the_exchanges_own_words(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == 404
    assert answer.text == f'{{"code":-5000,"msg":"Path {path}, Method {method} is invalid"}}'


async def test_public_paths_take_no_parameters(client: httpx.AsyncClient) -> None:
    answers = [await client.get(f"/dapi/v1/ping{query}") for query in ("", "?x=1")]

    assert answers[0].text == "{}"
    assert answers[1].json() == {"code": -1101, "msg": "Too many parameters; expected '0' and received '1'."}


async def test_the_date_is_the_exchanges_own(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/dapi/v1/ping")).headers

    assert (headers["Date"], headers["Server"]) == ("Wed, 18 Nov 2026 11:07:00 GMT", "Tengine")


async def test_a_transport_that_is_down_refuses_to_connect(exchange: Exchange) -> None:
    transport = SimulatorTransport(exchange)
    transport.down = True
    async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/dapi/v1/ping")

    assert exchange.calls.count() == 0
