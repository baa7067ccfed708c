"""A misspelt filter never answers unfiltered data: everything unknown or malformed is a 400 that names it."""

from urllib.parse import quote

import msgspec
import pytest

from simulator.exchange import BALANCE_PATH, LEVERAGE_BRACKET_PATH, POSITION_RISK_PATH
from simulator.faults import Fault
from tests.app.harness import (
    ACCOUNT,
    ASSETS,
    BALANCE,
    BRACKETS,
    BTC,
    DROP_INS,
    ITEMS,
    LISTS,
    POSITIONS,
    RISK,
    Replica,
    Stage,
    keys,
    problem,
)
from tests.support import TOKENS

MANY = ",".join(f"A{number}" for number in range(101))

MALFORMED = [
    # (path, query, what the answer says)
    (ACCOUNT, "assets=BTC", "did you mean asset?"),
    (ACCOUNT, "Asset=BTC", "did you mean asset?"),
    (ACCOUNT, "limit=5", "unknown: this path takes asset, nonzero, open, positionSide, symbol"),
    (ACCOUNT, "asset=BTC&limit=5", "unknown"),
    (ACCOUNT, "timestamp=1", "unknown"),
    (ASSETS, "symbol=BTCUSD_PERP", "unknown"),
    (ASSETS, "open=true", "unknown"),
    (ASSETS, "positionSide=BOTH", "unknown"),
    (POSITIONS, "nonzero=true", "unknown"),
    (POSITIONS, "positionside=LONG", "did you mean positionSide?"),
    (BALANCE, "nonzero=true", "unknown: this path takes asset"),
    (BALANCE, "symbol=BTCUSD_PERP", "unknown"),
    (BALANCE, "accountAlias=SgsR", "unknown"),
    (RISK, "nonzero=true", "unknown: this path takes asset, open, positionSide, symbol"),
    (RISK, "marginAsset=BTC", "unknown"),
    (RISK, "pair=BTCUSD", "unknown"),
    (BRACKETS, "positionSide=BOTH", "unknown: this path takes asset, symbol"),
    (BRACKETS, "open=true", "unknown"),
    # empty
    *((path, "asset=", "parameter asset") for path in (BALANCE, RISK, BRACKETS)),
    *((path, "symbol=BTCUSD_PERP,", "parameter symbol") for path in (RISK, BRACKETS)),
    (RISK, "positionSide=", "parameter positionSide"),
    (RISK, "open=True", "parameter open"),
    (ACCOUNT, "asset=", "parameter asset"),
    (ACCOUNT, "asset=BTC,", "parameter asset"),
    (ACCOUNT, "asset=,BTC", "parameter asset"),
    (ACCOUNT, "asset=BTC&asset=", "parameter asset"),
    (ACCOUNT, "symbol=", "parameter symbol"),
    (ACCOUNT, "positionSide=", "parameter positionSide"),
    (ACCOUNT, "open=", "parameter open"),
    (ACCOUNT, "nonzero=", "parameter nonzero"),
    # what can be no name
    (ACCOUNT, "asset=BTC%00", "parameter asset"),
    (ACCOUNT, "asset=BTC%0A", "parameter asset"),
    (ACCOUNT, "asset=B%2FC", "parameter asset"),
    (ACCOUNT, f"asset={'A' * 65}", "parameter asset"),
    (ACCOUNT, "symbol=BTCUSD%7F", "parameter symbol"),
    (ACCOUNT, f"symbol={'A' * 65}", "parameter symbol"),
    # misspelt
    (ACCOUNT, "positionSide=long", "parameter positionSide"),
    (ACCOUNT, "positionSide=UP", "parameter positionSide"),
    (ACCOUNT, "positionSide=LONG,LONGER", "parameter positionSide"),
    (ACCOUNT, "open=yes", "parameter open"),
    (ACCOUNT, "open=True", "parameter open"),
    (ACCOUNT, "open=1", "parameter open"),
    (ACCOUNT, "nonzero=TRUE", "parameter nonzero"),
    # repeated
    (ACCOUNT, "open=true&open=true", "parameter open"),
    (ACCOUNT, "open=true&open=false", "parameter open"),
    (ASSETS, "nonzero=true&nonzero=false", "parameter nonzero"),
    (ACCOUNT, "open=true,false", "parameter open"),
    # too many
    (ACCOUNT, f"asset={MANY}", "parameter asset"),
    (ACCOUNT, "&".join(f"asset={name}" for name in MANY.split(",")), "parameter asset"),
    (POSITIONS, f"symbol={MANY}", "parameter symbol"),
    # not of the form
    (ACCOUNT, "asset", "the query"),
    (ACCOUNT, "asset=%ff", "the query"),
    (ACCOUNT, "asset=%zz", "the query"),
    (ACCOUNT, "%ff=BTC", "the query"),
    (ACCOUNT, "=BTC", "the query"),
    (ACCOUNT, "&".join(["asset=BTC"] * 1001), "the query"),
    # paths that take no parameters
    *((path, "asset=BTC", "unknown: this path takes no parameters") for path in ITEMS),
    (BTC, "x", "the query"),
    ("/v1/accounts", "account=main", "unknown"),
    ("/v1/status", "account=main", "unknown"),
]

MALFORMED_PATHS = [
    (f"{ASSETS}/BTC%00", "parameter asset"),
    (f"{ASSETS}/%ff", "the path"),
    (f"{ASSETS}/%zz", "the path"),
    (f"{ASSETS}/BTC,ETH", "parameter asset"),
    (f"{ASSETS}/BTC%0A", "parameter asset"),
    (f"{ASSETS}/{'A' * 65}", "parameter asset"),
    (f"{POSITIONS}/BTCUSD%C2%85", "parameter symbol"),
    (f"{POSITIONS}/BTCUSD_PERP/long", "parameter positionSide"),
    (f"{POSITIONS}/BTCUSD_PERP/UP", "parameter positionSide"),
    (f"{POSITIONS}/BTCUSD_PERP/%00", "parameter positionSide"),
    (f"{BALANCE}/BTC,ETH", "parameter asset"),
    (f"{BALANCE}/%ff", "the path"),
    (f"{RISK}/BTCUSD_PERP/both", "parameter positionSide"),
    (f"{RISK}/{'A' * 65}/BOTH", "parameter symbol"),
    (f"{BRACKETS}/BTCUSD_PERP%0A", "parameter symbol"),
]


@pytest.mark.parametrize("state", ["cold", "warm"])
async def test_a_query_that_is_not_understood_is_refused(stage: Stage, state: str) -> None:
    gateway = await (stage.warm() if state == "warm" else stage.start())
    after = stage.exchange.calls.count()
    for path, query, said in MALFORMED:
        answer = await gateway.get(f"{path}?{query}")
        assert (answer.status_code, problem(answer)) == (400, "invalid-parameter"), (path, query)
        assert said in answer.json()["detail"], query
    assert stage.exchange.calls.count() == after


async def test_a_malformed_name_in_a_path_is_refused(gateway: Replica) -> None:
    for path, said in MALFORMED_PATHS:
        answer = await gateway.get(path)
        assert (answer.status_code, problem(answer)) == (400, "invalid-parameter"), path
        assert said in answer.json()["detail"], path


PLANTED = [
    *("asset=PLANTED", "asset=PLANTED%00", "symbol=PLANTED", "positionSide=PLANTED", "open=PLANTED", "PLANTED=1"),
    *("PLANTED", "asset=BTC;PLANTED", "assets=PLANTED", "symbol=PLANTEDUSD_PERP"),
]


@pytest.mark.parametrize("client", ["risk", "treasury", "longs", "nobody"])
async def test_what_is_refused_is_not_repeated(gateway: Replica, client: str) -> None:
    """Whatever the refusal: a 400, a 403 or a 404."""
    queries = [f"{path}?{query}" for path in (*LISTS, *ITEMS) for query in PLANTED]
    paths = [
        f"{ASSETS}/PLANTED",
        f"{POSITIONS}/PLANTED",
        f"{POSITIONS}/PLANTED/BOTH",
        f"{POSITIONS}/BTCUSD_PERP/PLANTED",
        f"{BALANCE}/PLANTED",
        f"{RISK}/PLANTED",
        f"{RISK}/BTCUSD_PERP/PLANTED",
        f"{BRACKETS}/PLANTED",
    ]
    for path in (*queries, *paths, "/v1/accounts/PLANTED", "/PLANTED", "/binance/PLANTED/dapi/v1/ping?PLANTED=1"):
        answer = await gateway.get(path, client)
        assert answer.status_code >= 400, path
        assert "PLANTED" not in f"{answer.text}{answer.headers}", path


UNKNOWN = [
    *((f"{path}?asset={names}", "asset") for path in LISTS for names in ("btc", "XBT", "BTC,XBT", "BTC%20", "BTC;ETH")),
    *(
        (f"{path}?symbol={names}", "symbol")
        for path in (ACCOUNT, POSITIONS, RISK, BRACKETS)
        for names in ("BTCUSDPERP", "btcusd_perp")
    ),
    (f"{POSITIONS}?symbol=BTCUSD_PERP,BTCUSD_PREP&open=true", "symbol"),
    (f"{POSITIONS}?symbol=BTCUSD_991231", "symbol"),  # its day has not come
    (f"{POSITIONS}?symbol=XBTUSD_201225", "symbol"),
    (f"{ACCOUNT}?symbol=BTCUSDPERP&asset=btc", "asset"),
]


@pytest.mark.parametrize("state", ["cold", "warm"])
async def test_a_name_that_nobody_knows_is_a_404_and_does_not_read_as_flat(stage: Stage, state: str) -> None:
    gateway = await (stage.warm() if state == "warm" else stage.start())
    for path, parameter in UNKNOWN:
        for _ in range(2):
            answer = await gateway.get(path)
            assert (answer.status_code, problem(answer)) == (404, f"unknown-{parameter}"), path
            assert answer.json()["detail"].startswith(f"parameter {parameter}: ")


async def test_a_name_that_the_listing_alone_knows_filters_to_nothing(stage: Stage, gateway: Replica) -> None:
    stage.answer_with(assets=[{"asset": "OWN"}], positions=[{"symbol": "OWNUSD_PERP", "positionSide": "BOTH"}])
    for query in ("symbol=ETHUSD_PERP", "asset=ETH", "symbol=BTCUSD_201225", "symbol=ETHUSD_PERP,BTCUSD_210326"):
        answer = await gateway.get(f"{POSITIONS}?{query}")
        assert (answer.status_code, answer.json()) == (200, []), query
    assert len((await gateway.get(f"{POSITIONS}?symbol=ETHUSD_PERP,OWNUSD_PERP")).json()) == 1


async def test_without_a_listing_the_account_alone_decides(stage: Stage, gateway: Replica) -> None:
    stage.exchange.faults.add(Fault("500", path="/dapi/v1/exchangeInfo"))
    stage.answer_with(assets=[{"asset": "OWN"}], positions=[{"symbol": "OWNUSD_PERP", "positionSide": "BOTH"}])
    assert len((await gateway.get(f"{POSITIONS}?asset=OWN&symbol=OWNUSD_PERP")).json()) == 1
    for query in ("symbol=ETHUSD_PERP", "symbol=BTCUSD_201225", "asset=ETH"):
        assert (await gateway.get(f"{POSITIONS}?{query}")).status_code == 404, query


STRANGE = ["币安人生", "lower", "BTC.e", "BNSOL-W", "a b", "%41", "a&b=c", "É💰", "+", "?", "#", "..", "x" * 64]


@pytest.mark.parametrize("name", STRANGE)
async def test_every_name_that_the_exchange_uses_can_be_asked_for(stage: Stage, gateway: Replica, name: str) -> None:
    symbol = f"{name[:50]}USD_PERP"
    stage.answer_with(assets=[{"asset": name}], positions=[{"symbol": symbol, "positionSide": "BOTH"}])
    sent = quote(name, safe="") if name != ".." else "%2e%2e"
    assert (await gateway.get(f"{ASSETS}?asset={sent}")).json() == [{"asset": name}]
    assert (await gateway.get(f"{ASSETS}/{sent}")).json() == {"asset": name}
    found = await gateway.get(f"{POSITIONS}/{quote(symbol, safe='')}/BOTH")
    assert found.json() == {"symbol": symbol, "positionSide": "BOTH"}


@pytest.mark.parametrize("name", STRANGE)
async def test_every_name_in_a_further_document_can_be_asked_for(stage: Stage, gateway: Replica, name: str) -> None:
    symbol = f"{name[:50]}USD_PERP"
    rows = {
        BALANCE_PATH: {"asset": name},
        POSITION_RISK_PATH: {"symbol": symbol, "positionSide": "BOTH"},
        LEVERAGE_BRACKET_PATH: {"symbol": symbol},
    }
    stage.exchange.book().raw_by_path |= {path: msgspec.json.encode([row]) for path, row in rows.items()}
    sent, of_symbol = quote(name, safe="") if name != ".." else "%2e%2e", quote(symbol, safe="")
    balance, risk, bracket = rows.values()
    for path, expected in (
        (f"{BALANCE}/{sent}", balance),
        (f"{BALANCE}?asset={sent}", [balance]),
        (f"{RISK}/{of_symbol}/BOTH", risk),
        (f"{RISK}?symbol={of_symbol}", [risk]),
        (f"{BRACKETS}/{of_symbol}", [bracket]),
        (f"{BRACKETS}?symbol={of_symbol}&asset={quote(name[:50], safe='')}", [bracket]),
    ):
        assert (await gateway.get(path)).json() == expected, path
    for path, query, expected in (
        (DROP_INS[2], f"marginAsset={quote(name[:50], safe='')}", [risk]),
        (DROP_INS[2], f"pair={quote(symbol[:-5], safe='')}", [risk]),
        (DROP_INS[3], f"symbol={of_symbol}", [bracket]),
    ):
        answer = await gateway.get(f"{path}?{query}", client=None, x_mbx_apikey=TOKENS["risk"])
        assert answer.json() == expected, query


async def test_a_slash_in_a_name_is_another_path(gateway: Replica) -> None:
    assert problem(await gateway.get(f"{ASSETS}/A%2FB")) == "not-found"


@pytest.mark.parametrize("query", ["asset=BTC&", "&asset=BTC", "&&asset=BTC&&"])
async def test_an_ampersand_too_many_says_nothing(gateway: Replica, query: str) -> None:
    assert (await gateway.get(f"{ASSETS}?{query}")).content == (await gateway.get(f"{ASSETS}?asset=BTC")).content


async def test_a_hundred_values_are_taken(gateway: Replica) -> None:
    hundred = ",".join(["BTC", *(f"ETHUSD_21{day:02}{month:02}" for day in range(1, 12) for month in range(1, 10))])
    symbols = hundred.replace("BTC,", "BTCUSD_PERP,")
    assert symbols.count(",") == 99
    assert [row["symbol"] for row in (await gateway.get(f"{POSITIONS}?symbol={symbols}")).json()] == ["BTCUSD_PERP"]


@pytest.mark.parametrize("path", LISTS)
async def test_an_empty_query_is_none(gateway: Replica, path: str) -> None:
    assert (await gateway.get(f"{path}?")).content == (await gateway.get(path)).content


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_ignores_queries(gateway: Replica, path: str) -> None:
    assert (await gateway.get(f"{path}?verbose", client=None)).status_code == 200


async def test_replicas_know_the_same_names_by_the_snapshot_that_they_share(stage: Stage) -> None:
    stage.answer_with(assets=[{"asset": "OWN"}], positions=[{"symbol": "OWNUSD_PERP", "positionSide": "BOTH"}])
    first = await stage.start()
    known, unknown = f"{POSITIONS}?symbol=ETHUSD_PERP", f"{POSITIONS}?symbol=ETHUSDPERP"
    assert [(await first.get(path)).status_code for path in (known, unknown)] == [200, 404]
    stage.exchange.faults.add(Fault("500", path="/dapi/v1/exchangeInfo"))
    async with stage.redis() as redis:
        await redis.delete(*[key for key in await keys(redis) if key.endswith(b":listing")])
    second = await stage.start()
    assert [(await second.get(path)).status_code for path in (known, unknown)] == [200, 404]
    assert second.gateway.exchange.exchange_info is None
    assert stage.account_calls == 1
