import hashlib
import hmac

import httpx
import pytest

from simulator.exchange import Exchange
from simulator.faults import Fault
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from simulator.wallet import RESTRICTIONS_PATH, Restrictions
from tests.simulator.conftest import NOW

ADDRESS = "127.0.0.1"


def signed(secret: str = DEMO_SECRET_KEY) -> str:
    query = f"recvWindow=5000&timestamp={NOW}"
    return f"{RESTRICTIONS_PATH}?{query}&signature={hmac.digest(secret.encode(), query.encode(), hashlib.sha256).hex()}"


async def test_a_key_reads_and_is_bound_to_addresses_by_default(client: httpx.AsyncClient) -> None:
    told = (await client.get(signed())).json()

    assert {name for name, value in told.items() if value is True} == {"ipRestrict", "enableReading"}
    assert list(told)[:4] == ["ipRestrict", "createTime", "enableReading", "enableWithdrawals"]
    assert isinstance(told["createTime"], int)


async def test_what_a_key_may_do_is_told_as_it_was_set(exchange: Exchange, client: httpx.AsyncClient) -> None:
    exchange.restrict(DEMO_API_KEY, Restrictions(permits_universal_transfer=True, enable_fix_api_trade=True))

    told = (await client.get(signed())).json()

    assert (told["permitsUniversalTransfer"], told["enableFixApiTrade"]) == (True, True)


async def test_it_is_set_over_the_control_api_and_survives_a_revocation(client: httpx.AsyncClient) -> None:
    body = {"apiKey": DEMO_API_KEY, "ipRestrict": False}
    changed = (await client.put("/_sim/restrictions", json=body)).json()
    await client.request("DELETE", "/_sim/keys", json={"apiKey": DEMO_API_KEY})
    kept = (await client.get("/_sim/restrictions")).json()

    assert changed[DEMO_API_KEY]["ipRestrict"] is False
    assert changed[DEMO_API_KEY]["enableReading"] is True
    assert kept == changed


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"apiKey": "nobody's", "ipRestrict": True}, "apiKey"),
        ({}, "apiKey"),
        ({"apiKey": DEMO_API_KEY, "enableTeleport": True}, "enableTeleport"),
        ({"apiKey": DEMO_API_KEY, "enableMargin": "yes"}, "enableMargin"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, object], named: str
) -> None:
    answer = await client.put("/_sim/restrictions", json=body)

    assert answer.status_code == 400
    assert named in answer.json()["error"]


async def test_it_is_signed_like_the_account(exchange: Exchange, client: httpx.AsyncClient) -> None:
    assert (await client.get(signed("another"))).json()["code"] == -1022
    exchange.revoke(DEMO_API_KEY)
    assert (await client.get(signed())).json()["code"] == -2015


async def test_its_weight_is_counted_by_itself(exchange: Exchange, client: httpx.AsyncClient) -> None:
    await client.get("/dapi/v1/ping")

    answer = await client.get(signed())

    assert answer.headers["x-sapi-used-ip-weight-1m"] == "1"
    assert "x-mbx-used-weight-1m" not in answer.headers
    assert exchange.limits.tally(ADDRESS, NOW).used == 1


async def test_a_ban_of_one_host_is_not_the_others(exchange: Exchange, client: httpx.AsyncClient) -> None:
    exchange.limits.ban(ADDRESS, NOW + 60_000, NOW)

    assert (await client.get("/dapi/v1/ping")).status_code == 418
    assert (await client.get(signed())).status_code == 200


async def test_it_fails_as_it_is_told(exchange: Exchange, client: httpx.AsyncClient) -> None:
    exchange.faults.add(Fault("502-html", path=RESTRICTIONS_PATH))

    assert (await client.get(signed())).status_code == 502
    assert (await client.get("/dapi/v1/ping")).status_code == 200


async def test_a_reset_gives_keys_their_first_permissions_back(exchange: Exchange, client: httpx.AsyncClient) -> None:
    exchange.restrict(DEMO_API_KEY, Restrictions(enable_withdrawals=True))
    await client.get(signed())
    exchange.reset()

    assert exchange.keys[DEMO_API_KEY].restrictions == Restrictions()
    assert exchange.wallet_limits.tally(ADDRESS, NOW).used == 0
