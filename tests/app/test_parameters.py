"""A misspelt filter never answers unfiltered data: everything unknown or malformed is a 400 that names it."""

import pytest

from tests.app.harness import ACCOUNT, ASSETS, BTC, ITEMS, LISTS, POSITIONS, Replica, Stage, problem

MANY = ",".join(f"A{number}" for number in range(101))

MALFORMED = [
    # (path, query, what the answer names)
    (ACCOUNT, "assets=BTC", "assets"),
    (ACCOUNT, "Asset=BTC", "Asset"),
    (ACCOUNT, "limit=5", "limit"),
    (ACCOUNT, "asset=BTC&limit=5", "limit"),
    (ACCOUNT, "timestamp=1", "timestamp"),
    (ASSETS, "symbol=BTCUSD_PERP", "symbol"),
    (ASSETS, "open=true", "open"),
    (ASSETS, "positionSide=BOTH", "positionSide"),
    (POSITIONS, "nonzero=true", "nonzero"),
    (POSITIONS, "positionside=LONG", "positionside"),
    # empty
    (ACCOUNT, "asset=", "asset"),
    (ACCOUNT, "asset=BTC,", "asset"),
    (ACCOUNT, "asset=,BTC", "asset"),
    (ACCOUNT, "asset=BTC&asset=", "asset"),
    (ACCOUNT, "symbol=", "symbol"),
    (ACCOUNT, "positionSide=", "positionSide"),
    (ACCOUNT, "open=", "open"),
    (ACCOUNT, "nonzero=", "nonzero"),
    # misspelt
    (ACCOUNT, "asset=btc", "asset"),
    (ACCOUNT, "asset=BTC;ETH", "asset"),
    (ACCOUNT, "asset=BTC%20", "asset"),
    (ACCOUNT, "asset=BTC+ETH", "asset"),
    (ACCOUNT, "asset=B%C3%89", "asset"),
    (ACCOUNT, "asset=BTC%00", "asset"),
    (ACCOUNT, "asset=BTC%0A", "asset"),
    (ACCOUNT, "asset=%zz", "asset"),
    (ACCOUNT, f"asset={'A' * 21}", "asset"),
    (ACCOUNT, "symbol=btcusd_perp", "symbol"),
    (ACCOUNT, "symbol=BTCUSD-PERP", "symbol"),
    (ACCOUNT, f"symbol={'A' * 41}", "symbol"),
    (ACCOUNT, "positionSide=long", "positionSide"),
    (ACCOUNT, "positionSide=UP", "positionSide"),
    (ACCOUNT, "positionSide=LONG,LONGER", "positionSide"),
    (ACCOUNT, "open=yes", "open"),
    (ACCOUNT, "open=True", "open"),
    (ACCOUNT, "open=1", "open"),
    (ACCOUNT, "nonzero=TRUE", "nonzero"),
    # repeated
    (ACCOUNT, "open=true&open=true", "open"),
    (ACCOUNT, "open=true&open=false", "open"),
    (ASSETS, "nonzero=true&nonzero=false", "nonzero"),
    (ACCOUNT, "open=true,false", "open"),
    # too many
    (ACCOUNT, f"asset={MANY}", "asset"),
    (ACCOUNT, "&".join(f"asset={name}" for name in MANY.split(",")), "asset"),
    (POSITIONS, f"symbol={MANY}", "symbol"),
    # not of the form
    (ACCOUNT, "asset", "query"),
    (ACCOUNT, "asset=BTC&", "query"),
    (ACCOUNT, "&asset=BTC", "query"),
    (ACCOUNT, "asset=BTC&&open=true", "query"),
    (ACCOUNT, "asset=%ff", "query"),
    (ACCOUNT, "%ff=BTC", "query"),
    (ACCOUNT, "=BTC", "malformed name"),
    (ACCOUNT, "asset%00=BTC", "malformed name"),
    (ACCOUNT, "&".join(["asset=BTC"] * 1001), "query"),
    # paths that take no parameters
    *((path, "asset=BTC", "asset") for path in ITEMS),
    (BTC, "x", "query"),
    ("/v1/accounts", "account=main", "account"),
    ("/v1/status", "account=main", "account"),
]

MALFORMED_PATHS = [
    (f"{ASSETS}/btc", "asset"),
    (f"{ASSETS}/BTC%00", "asset"),
    (f"{ASSETS}/%ff", "asset"),
    (f"{ASSETS}/BTC,ETH", "asset"),
    (f"{ASSETS}/BTC%20", "asset"),
    (f"{ASSETS}/BTC%0A", "asset"),
    (f"{ASSETS}/{'A' * 21}", "asset"),
    (f"{POSITIONS}/btcusd_perp", "symbol"),
    (f"{POSITIONS}/BTCUSD-PERP", "symbol"),
    (f"{POSITIONS}/%C3%89/BOTH", "symbol"),
    (f"{POSITIONS}/BTCUSD_PERP/long", "positionSide"),
    (f"{POSITIONS}/BTCUSD_PERP/UP", "positionSide"),
    (f"{POSITIONS}/BTCUSD_PERP/%00", "positionSide"),
]


@pytest.mark.parametrize("state", ["cold", "warm"])
async def test_a_query_that_is_not_understood_is_refused(stage: Stage, state: str) -> None:
    gateway = await (stage.warm() if state == "warm" else stage.start())
    after = stage.exchange.calls.count()
    for path, query, named in MALFORMED:
        answer = await gateway.get(f"{path}?{query}")
        assert (answer.status_code, problem(answer)) == (400, "invalid-parameter"), (path, query)
        assert named in answer.json()["detail"], query
    assert stage.exchange.calls.count() == after


async def test_a_malformed_name_in_a_path_is_refused(gateway: Replica) -> None:
    for path, named in MALFORMED_PATHS:
        answer = await gateway.get(path)
        assert (answer.status_code, problem(answer)) == (400, "invalid-parameter"), path
        assert f"parameter {named}" in answer.json()["detail"], path


async def test_what_is_refused_is_not_repeated(gateway: Replica) -> None:
    answer = await gateway.get(f"{ACCOUNT}?asset=PLANTED-9&open=PLANTED")
    assert "PLANTED" not in answer.text
    assert "PLANTED" not in (await gateway.get(f"{ACCOUNT}?PLANTED%3Cb%3E=1")).text


async def test_a_hundred_values_are_taken(gateway: Replica) -> None:
    hundred = MANY.rpartition(",")[0]
    assert (await gateway.get(f"{ASSETS}?asset=BTC,{hundred.rpartition(',')[0]}")).json()[0]["asset"] == "BTC"


@pytest.mark.parametrize("path", LISTS)
async def test_an_empty_query_is_none(gateway: Replica, path: str) -> None:
    assert (await gateway.get(f"{path}?")).content == (await gateway.get(path)).content


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_ignores_queries(gateway: Replica, path: str) -> None:
    assert (await gateway.get(f"{path}?verbose", client=None)).status_code == 200
