import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from simulator.exchange import Exchange
from simulator.faults import NAMES
from simulator.operations import OPERATIONS, PREFIX
from simulator.signature import DEMO_API_KEY
from tests.simulator.conftest import NOW

SECOND_KEY = "secondKey".ljust(64, "0")


class Control:
    """The control API of one exchange; an answer other than 200 fails the test."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self._client.request(method, f"/_sim/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def control(client: httpx.AsyncClient) -> Control:
    return Control(client)


async def test_help_lists_every_operation_and_fault(control: Control) -> None:
    listed = await control("GET", "")

    assert {(it["method"], it["path"]) for it in listed["operations"]} == set(OPERATIONS)
    assert all(it["does"] for it in listed["operations"])
    assert listed["faults"] == list(NAMES)


async def test_control_costs_nothing_and_works_while_banned(
    exchange: Exchange, client: httpx.AsyncClient, control: Control
) -> None:
    banned = await control("POST", "bans", {"address": "127.0.0.1", "seconds": 1.5})
    assert (await client.get("/dapi/v1/ping")).status_code == 418
    await control("DELETE", "bans", {"address": "127.0.0.1"})

    assert banned["addresses"]["127.0.0.1"]["bannedUntilMs"] == NOW + 1500
    assert (await client.get("/dapi/v1/ping")).headers["X-MBX-USED-WEIGHT-1M"] == "1"
    assert exchange.calls.count() == 2


async def test_calls_can_be_read_and_forgotten(client: httpx.AsyncClient, control: Control) -> None:
    await client.get("/dapi/v1/ping")
    calls = await control("GET", "calls")
    await control("DELETE", "calls")

    assert calls == {
        "calls": [
            {"path": "/dapi/v1/ping", "at": NOW, "client": "127.0.0.1", "apiKey": DEMO_API_KEY, "status": 200},
        ],
        "byPath": {"/dapi/v1/ping": 1},
        "byClient": {"127.0.0.1": 1},
    }
    assert (await control("GET", "calls"))["calls"] == []


async def test_balances_and_positions_show_in_the_account(control: Control, account: Callable[[], Any]) -> None:
    await control("PUT", "balances", {"LTC": "7.123456789", "BTC": 0})
    await control("PUT", "positions", {"symbol": "LTCUSD_PERP", "amount": -5, "entryPrice": "99.5", "leverage": 3})
    await control("PUT", "positions", {"symbol": "BTCUSD_PERP", "amount": 0})
    await control("DELETE", "positions", {"symbol": "BTCUSD_261225"})
    body = await account()
    assets = {row["asset"]: row for row in body["assets"]}
    positions = {row["symbol"]: row for row in body["positions"]}

    assert (assets["LTC"]["walletBalance"], assets["LTC"]["updateTime"]) == ("7.12345678", NOW)
    assert assets["BTC"]["marginBalance"] == "0.00000000"
    litecoin = positions["LTCUSD_PERP"]
    assert (litecoin["positionAmt"], litecoin["entryPrice"], litecoin["leverage"]) == ("-5", "99.5", "3")
    assert positions["BTCUSD_PERP"]["positionAmt"] == positions["BTCUSD_261225"]["positionAmt"] == "0"
    assert len(await control("GET", "positions")) == 3


async def test_orders_alone_bind_margin_in_a_row_without_amount(control: Control, account: Callable[[], Any]) -> None:
    order = {"symbol": "ADAUSD_PERP", "amount": 0, "openOrderInitialMargin": "2.5"}
    await control("PUT", "positions", order)
    row = next(it for it in (await account())["positions"] if it["symbol"] == "ADAUSD_PERP")

    assert (row["positionAmt"], row["entryPrice"], row["initialMargin"]) == ("0", "0.0", "2.50000000")


async def test_mode_options_and_raw_body_change_the_answer(
    client: httpx.AsyncClient, control: Control, account: Callable[[], Any], signed: Callable[..., str]
) -> None:
    await control("PUT", "mode", {"mode": "hedge"})
    options = await control("PUT", "options", {"assets": 33, "notionalValue": "all"})
    body = await account()
    await client.put("/_sim/raw", content=b' {"assets": [ ]} ')
    raw = await client.get(signed())
    await control("DELETE", "raw")

    assert (len(body["positions"]), len(body["assets"])) == (90, 33)
    assert (options["notionalValue"], options["keyOrder"]) == ("all", "rest")
    assert raw.content == b' {"assets": [ ]} '
    assert len((await account())["positions"]) == 90


async def test_clock_market_and_limits_can_be_turned(
    exchange: Exchange, client: httpx.AsyncClient, control: Control
) -> None:
    clock = await control("PUT", "clock", {"skewMs": -1500, "frozen": True, "advanceMs": 500})
    market = await control("PUT", "market", {"frozen": True, "marginAssets": {"BTCUSD_PERP": "XBT"}})
    limits = await control("PUT", "limits", {"weightLimit": 50, "retryAfter": True})
    await control("PUT", "used", {"address": "127.0.0.1", "used": 50})
    refused = await client.get("/dapi/v1/ping")

    assert clock == {"nowMs": NOW - 1000, "skewMs": -1500, "frozen": True}
    assert market == {"frozen": True, "marginAssets": {"BTCUSD_PERP": "XBT"}}
    assert limits == {"weightLimit": 50, "grace": 3, "retryAfter": True}
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert exchange.now_ms() == NOW - 1000


async def test_keys_are_added_bound_to_an_account_and_revoked(
    client: httpx.AsyncClient, control: Control, signed: Callable[..., str]
) -> None:
    pem = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    await control("POST", "accounts", {"name": "second", "mode": "hedge"})
    await control("POST", "keys?account=second", {"apiKey": SECOND_KEY, "secretKey": "s"})
    theirs = await client.get(signed(secret="s"), headers={"X-MBX-APIKEY": SECOND_KEY})
    keys = await control("DELETE", "keys", {"apiKey": SECOND_KEY})
    replaced = await control("POST", "keys", {"apiKey": SECOND_KEY, "publicKey": pem.decode()})

    assert len(theirs.json()["positions"]) == 90
    assert keys[1] == {"apiKey": SECOND_KEY, "account": "second", "kind": "hmac", "allowed": False}
    assert replaced[1] == {"apiKey": SECOND_KEY, "account": "main", "kind": "ed25519", "allowed": True}


async def test_faults_are_added_replaced_and_cleared(
    client: httpx.AsyncClient, control: Control, signed: Callable[..., str]
) -> None:
    await control("POST", "faults", {"name": "500", "count": 1})
    await control("POST", "faults", {"name": "custom", "status": 507, "headers": {"X-Own": "1"}, "body": "{}"})
    statuses = [(await client.get(signed())).status_code for _ in range(2)]
    left = await control("PUT", "faults", [{"name": "408", "path": "*"}])
    statuses.append((await client.get("/dapi/v1/ping")).status_code)
    await control("DELETE", "faults")
    statuses.append((await client.get(signed())).status_code)

    assert statuses == [500, 507, 408, 200]
    assert [fault["name"] for fault in left] == ["408"]


async def test_answers_are_held_and_released(
    exchange: Exchange, client: httpx.AsyncClient, control: Control, signed: Callable[..., str]
) -> None:
    await control("POST", "hold")
    call = asyncio.create_task(client.get(signed()))
    await exchange.wait_held()
    held = await control("GET", "held")
    released = await control("POST", "release")

    assert (held, released) == ({"held": 1}, {"held": 0})
    assert (await call).status_code == 200


async def test_reset_restores_the_start_state(
    exchange: Exchange, client: httpx.AsyncClient, control: Control, signed: Callable[..., str]
) -> None:
    before = (await client.get(signed())).content
    exchange.set_balance("BTC", "9")
    exchange.book().set_mode(hedge=True)
    exchange.faults.add("500")
    exchange.revoke(DEMO_API_KEY)
    exchange.clock.skew_ms = 9999
    exchange.market.frozen = True
    exchange.limits.set_used("127.0.0.1", 2400, NOW)
    await control("POST", "reset")
    after = await client.get(signed())

    assert after.content == before
    assert after.headers["X-MBX-USED-WEIGHT-1M"] == "5"
    assert exchange.calls.count() == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "named"),
    [
        ("PUT", "balances", '{"ETH":1,"BTC":"much"}', "BTC must be"),
        ("PUT", "balances", '{"BTC":"NaN"}', "BTC must be"),
        ("PUT", "balances", '{"BTC":"1E99"}', "BTC must be"),
        ("PUT", "balances?account=nobody", '{"BTC":"1"}', "account nobody"),
        ("PUT", "positions", '{"symbol":"BTCUSD_PERP","amount":1.5}', "$.amount"),
        ("PUT", "positions", '{"symbol":"NOUSD_PERP","amount":1}', "symbol"),
        ("PUT", "positions", '{"symbol":"BTCUSD_PERP","amount":1,"side":"SHORT"}', "side"),
        ("PUT", "mode", '{"mode":"both"}', "$.mode"),
        ("PUT", "options", '{"assets":7}', "assets"),
        ("PUT", "options", '{"colour":"red"}', "colour"),
        ("PUT", "limits", '{"weightLimit":"x"}', "$.weightLimit"),
        ("PUT", "market", '{"marginAssets":{"NOUSD_PERP":"X"}}', "NOUSD_PERP"),
        ("PUT", "clock", '{"skew":1}', "skew"),
        ("POST", "faults", '{"name":"no-such"}', "name"),
        ("POST", "keys", '{"apiKey":"short","secretKey":"s"}', "64 letters"),
        ("POST", "keys", f'{{"apiKey":"{SECOND_KEY}"}}', "secretKey"),
        ("DELETE", "keys", f'{{"apiKey":"{SECOND_KEY}"}}', "apiKey"),
        ("POST", "hold", '{"x":1}', "x"),
        ("POST", "faults", "{", "truncated"),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(
    client: httpx.AsyncClient, method: str, path: str, body: str, named: str
) -> None:
    answer = await client.request(method, f"/_sim/{path}", content=body)

    assert answer.status_code == 400
    assert named in answer.json()["error"]


async def test_an_unknown_operation_points_to_the_help(client: httpx.AsyncClient) -> None:
    answer = await client.get("/_sim/nothing")

    assert answer.status_code == 404
    assert PREFIX in answer.json()["error"]
