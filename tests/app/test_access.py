"""Who is calling and what it may see: refused in one order, on hits and misses alike, and no row beside the grant."""

import itertools

import httpx
import msgspec
import pytest

from service.access import tokens
from simulator.faults import Fault
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, ASSETS, BTC, ITEMS, LISTS, POSITIONS, Json, Replica, Stage, problem, told
from tests.support import TOKENS

TOKEN = TOKENS["risk"]

Headers = list[tuple[str, str]]

NOBODY_KNOWN: list[Headers] = [
    [],
    [("authorization", "")],
    [("authorization", "Bearer")],
    [("authorization", "Bearer ")],
    [("authorization", TOKEN)],
    [("authorization", f"Basic {TOKEN}")],
    [("authorization", f"Token {TOKEN}")],
    [("authorization", f"Bearer {tokens.generate()}")],
    [("authorization", f"Bearer {TOKEN}x")],
    [("authorization", f"Bearer {TOKEN[:-1]}")],
    [("authorization", f"Bearer {TOKEN} {TOKEN}")],
    [("authorization", f"Bearer {TOKEN}, Bearer {TOKEN}")],
    [("authorization", f"Bearer {tokens.digest(TOKEN.encode())}")],
    [("authorization", "Bearer \xff\xfe")],
    [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
    [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")],
    [("authorization", f"Bearer {TOKEN}"), ("x-mbx-apikey", TOKEN)],
    [("authorization", f"Bearer {TOKEN}"), ("x-mbx-apikey", "")],
    [("x-mbx-apikey", TOKEN)],  # of the drop-in paths alone
    [("cookie", f"authorization=Bearer {TOKEN}")],
]


async def _as(gateway: Replica, headers: Headers, path: str = BTC) -> httpx.Response:
    return await gateway.caller.get(path, headers=[(name.encode(), value.encode("latin-1")) for name, value in headers])


async def test_who_is_not_known_gets_a_401_with_a_challenge(stage: Stage, gateway: Replica) -> None:
    for headers in NOBODY_KNOWN:
        answer = await _as(gateway, headers)
        assert (answer.status_code, problem(answer)) == (401, "unauthenticated"), headers
        assert answer.headers["www-authenticate"].startswith('Bearer realm="coinm-gateway"')
    assert stage.exchange.calls.count() == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_the_scheme_is_read_in_any_case(gateway: Replica, scheme: str) -> None:
    assert (await _as(gateway, [("authorization", f"{scheme} {TOKEN}")])).status_code == 200


async def test_a_token_in_the_query_is_none(gateway: Replica) -> None:
    assert (await gateway.get(f"{BTC}?access_token={tokens.generate()}", client=None)).status_code == 401


async def test_every_path_wants_to_know_who_calls(stage: Stage) -> None:
    gateway = await stage.warm()
    for path in ["/v1/accounts", "/v1/status", *LISTS, *ITEMS, "/v1/accounts/nope"]:
        assert problem(await gateway.get(path, client=None)) == "unauthenticated", path


async def test_an_account_that_is_not_granted_looks_like_one_that_does_not_exist(make_stage: MakeStage) -> None:
    gateway = await make_stage(accounts={"main": None, "other": None}).start()
    rests = ["", "/assets", "/positions", "/assets/BTC", "/positions/BTCUSD_PERP/BOTH", "?asset=btc"]
    answers = [
        await gateway.get(f"/v1/accounts/{account}{rest}", "treasury", x_request_id="r")
        for account, rest in itertools.product(("other", "nope", "NOPE", "%00", "%ff", "a" * 200), rests)
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({(answer.content, tuple(answer.headers.raw)) for answer in answers}) == 1


@pytest.mark.parametrize("state", ["cold", "warm"])
async def test_a_client_without_grants_is_known_and_sees_nothing(stage: Stage, state: str) -> None:
    gateway = await (stage.warm() if state == "warm" else stage.start())
    after = stage.exchange.calls.count()
    for path in [*LISTS, *ITEMS]:
        assert told(await gateway.get(path, "nobody"))[:2] == (403, "forbidden"), path
    assert stage.exchange.calls.count() == after


ORDER = [
    # (client, path, what is told): each row is wrong in all the ways that come later in the order, too
    (None, "/v1/accounts/nope/assets/btc?x=1", "unauthenticated"),
    ("treasury", "/v1/accounts/nope/assets/btc?x=1", "forbidden"),
    ("treasury", f"{ASSETS}?asset=SOL&x=1", "invalid-parameter"),
    ("treasury", f"{ASSETS}/SOL?x=1", "invalid-parameter"),
    ("treasury", f"{POSITIONS}/NONESUCH/UP", "invalid-parameter"),
    ("treasury", f"{ASSETS}?asset=SOL", "forbidden"),
    ("treasury", f"{ASSETS}/NONESUCH", "forbidden"),
    ("treasury", f"{POSITIONS}/SOLUSD_NONE", "forbidden"),
    ("longs", f"{POSITIONS}/BTCUSD_PERP/SHORT", "forbidden"),
]


@pytest.mark.parametrize("state", ["cold", "warm", "banned"])
async def test_checks_come_in_one_order_whatever_is_in_the_cache(stage: Stage, state: str) -> None:
    gateway = await (stage.warm() if state == "warm" else stage.start())
    stage.fail("418")
    if state == "banned":
        await gateway.get()
    after = stage.exchange.calls.count()
    for client, path, expected in ORDER:
        assert problem(await gateway.get(path, client, if_none_match="*")) == expected, path
    assert stage.exchange.calls.count() == after


async def test_a_malformed_directive_comes_before_a_forbidden_name(gateway: Replica) -> None:
    assert problem(await gateway.get(f"{ASSETS}/SOL", "treasury", cache_control="max-age=x")) == "invalid-parameter"


async def test_a_404_is_told_only_of_what_is_granted(stage: Stage) -> None:
    gateway = await stage.warm()
    assert problem(await gateway.get(f"{ASSETS}/NONESUCH")) == "unknown-asset"
    assert problem(await gateway.get(f"{ASSETS}/NONESUCH", "treasury")) == "forbidden"
    assert problem(await gateway.get(f"{POSITIONS}/BTCUSD_NONE", "treasury")) == "unknown-symbol"


NOT_GRANTED = [
    (f"{ASSETS}/SOL", "treasury"),
    (f"{ASSETS}?asset=BTC,SOL", "treasury"),
    (f"{ACCOUNT}?asset=SOL", "treasury"),
    (f"{POSITIONS}?asset=SOL", "treasury"),
    (f"{POSITIONS}?symbol=BTCUSD_PERP,SOLUSD_PERP", "treasury"),
    (f"{POSITIONS}/SOLUSD_PERP", "treasury"),
    (f"{POSITIONS}/SOLUSD_PERP/BOTH", "treasury"),
    (f"{POSITIONS}?positionSide=SHORT", "longs"),
    (f"{POSITIONS}?positionSide=LONG,BOTH", "longs"),
    (f"{ACCOUNT}?positionSide=BOTH", "longs"),
    (f"{POSITIONS}/BTCUSD_PERP/SHORT", "longs"),
    (f"{POSITIONS}/ETHUSD_PERP/LONG", "longs"),
]


@pytest.mark.parametrize("state", ["cold", "warm", "not-modified"])
async def test_to_name_what_is_not_granted_is_refused(stage: Stage, state: str) -> None:
    gateway = await (stage.start() if state == "cold" else stage.warm())
    headers = {"if_none_match": "*"} if state == "not-modified" else {}
    for path, client in NOT_GRANTED:
        assert told(await gateway.get(path, client, **headers))[:2] == (403, "forbidden"), path


OF_A_SYMBOL = [f"{POSITIONS}?symbol={{}}", f"{POSITIONS}/{{}}", f"{POSITIONS}/{{}}/BOTH"]


@pytest.mark.parametrize("path", OF_A_SYMBOL)
@pytest.mark.parametrize("warm", [False, True])
async def test_a_symbol_margined_in_what_is_not_granted_is_refused(stage: Stage, path: str, *, warm: bool) -> None:
    stage.exchange.market.margin_assets["BTCUSD_PERP"] = "SOL"
    gateway = await (stage.warm() if warm else stage.start())
    assert problem(await gateway.get(path.format("BTCUSD_PERP"), "treasury")) == "forbidden"


@pytest.mark.parametrize("path", OF_A_SYMBOL)
async def test_a_symbol_is_granted_by_its_margin_asset_once_the_listing_is_known(stage: Stage, path: str) -> None:
    stage.exchange.market.margin_assets["SOLUSD_PERP"] = "BTC"
    gateway = await stage.start()
    # Until then its form decides: to refuse is the safe side, and asks the exchange for nobody who may not see.
    assert problem(await gateway.get(path.format("SOLUSD_PERP"), "treasury")) == "forbidden"
    await gateway.get()
    assert (await gateway.get(path.format("SOLUSD_PERP"), "treasury")).status_code == 200


@pytest.mark.parametrize("path", OF_A_SYMBOL)
@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("listing", ["read", "not to be had"])
async def test_a_symbol_whose_margin_asset_nobody_tells_is_refused_to_those_who_do_not_see_all(
    stage: Stage, path: str, state: str, listing: str
) -> None:
    stage.answer_with(positions=[{"symbol": "WEIRD", "positionSide": "BOTH", "positionAmt": "1"}])
    stage.fail(*[Fault("500", path="/dapi/v1/exchangeInfo")] if listing != "read" else [])
    gateway = await (stage.warm() if state == "warm" else stage.start())
    assert problem(await gateway.get(path.format("WEIRD"), "treasury")) == "forbidden"


# No row beside the grant.

GRANTS: dict[str, tuple[set[str] | None, set[str] | None]] = {
    "risk": (None, None),
    "treasury": ({"BTC", "ETH"}, None),
    "longs": ({"BTC"}, {"LONG"}),
    "nobody": (set(), set()),
}
FILTERS = ["", "?open=true", "?open=false", "?asset=BTC", "?positionSide=LONG", "?symbol=BTCUSD_PERP", "?nonzero=true"]
MATRIX = [*(f"{path}{query}" for path, query in itertools.product(LISTS, FILTERS)), *ITEMS]
MATRIX += [f"{ASSETS}/SOL", f"{POSITIONS}/SOLUSD_PERP", f"{POSITIONS}/BTCUSD_PERP/LONG", "/v1/accounts", "/v1/status"]


def _rows(body: Json) -> list[Json]:
    if isinstance(body, dict) and "assets" in body and "positions" in body:
        return [*body["assets"], *body["positions"]]
    rows = body if isinstance(body, list) else [body]
    return [row for row in rows if "walletBalance" in row or "positionAmt" in row]


def _granted(row: Json, client: str) -> bool:
    assets, sides = GRANTS[client]
    if "positionAmt" in row:
        asset, side = row["symbol"].partition("USD_")[0], row["positionSide"]
        return (assets is None or asset in assets) and (sides is None or side in sides)
    return assets is None or row["asset"] in assets


@pytest.mark.parametrize("client", GRANTS)
@pytest.mark.parametrize("state", ["miss", "hit", "stale"])
async def test_no_answer_holds_a_row_beside_the_grant(make_stage: MakeStage, client: str, state: str) -> None:
    stage, seen = make_stage(), 0
    stage.exchange.book().set_mode(hedge=True)
    gateway = await stage.warm()
    for path in MATRIX:
        await stage.advance(10_000 if state == "miss" else 0)
        if state == "stale":
            stage.fail(Fault("not-json"))
            await stage.advance(10)
        answer = await gateway.get(path, client)
        rows = _rows(answer.json()) if answer.status_code == 200 else []
        assert all(_granted(row, client) for row in rows), path
        seen += len(rows)
    assert (seen > 0) is (client != "nobody")


@pytest.mark.parametrize("client", ["risk", "treasury", "longs"])
async def test_an_unfiltered_answer_holds_every_row_of_the_grant(stage: Stage, client: str) -> None:
    stage.exchange.book().set_mode(hedge=True)
    gateway = await stage.start()
    statement = stage.statement()
    expected = {name: [row for row in statement[name] if _granted(row, client)] for name in ("assets", "positions")}
    assert (await gateway.get(ACCOUNT, client)).json() == statement | expected
    assert (await gateway.get(ASSETS, client)).content == msgspec.json.encode(expected["assets"])
    assert (await gateway.get(POSITIONS, client)).content == msgspec.json.encode(expected["positions"])


async def test_a_grant_on_sides_hides_positions_and_not_the_assets_totals(stage: Stage) -> None:
    stage.exchange.book().set_mode(hedge=True)
    gateway = await stage.start()
    assert (await gateway.get(BTC, "longs")).content == (await gateway.get(BTC, "risk")).content
    symbol = (await gateway.get(f"{POSITIONS}/BTCUSD_PERP", "longs")).json()
    assert [row["positionSide"] for row in symbol] == ["LONG"]


async def test_in_one_way_mode_a_grant_on_long_rows_sees_no_positions_and_is_told_why(gateway: Replica) -> None:
    answer = await gateway.get(POSITIONS, "longs")
    assert (answer.content, answer.headers["gateway-position-mode"]) == (b"[]", "one-way")


async def test_views_of_two_clients_are_never_mixed(stage: Stage) -> None:
    gateway = await stage.warm()
    first = {client: (await gateway.get(ACCOUNT, client)).content for client in ("risk", "treasury", "longs")}
    again = {client: (await gateway.get(ACCOUNT, client)).content for client in ("longs", "treasury", "risk")}
    assert first == again
    assert len(set(first.values())) == 3


async def test_an_entity_tag_of_another_client_gives_nothing_away(stage: Stage) -> None:
    gateway = await stage.warm()
    etag = (await gateway.get(ASSETS)).headers["etag"]
    assert (await gateway.get(ASSETS, "treasury", if_none_match=etag)).status_code == 200
    assert (await gateway.get(ASSETS, "nobody", if_none_match=etag)).status_code == 403
    assert (await gateway.get(ASSETS, None, if_none_match=etag)).status_code == 401


# A client's own limit.


async def test_a_client_that_asks_too_often_is_told_when_to_come_back(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"expected_replicas": 1}, clients={"risk": {"requests_per_second": 3}})
    gateway = await stage.start()
    assert [(await gateway.get()).status_code for _ in range(3)] == [200] * 3
    assert told(await gateway.get()) == (429, "too-many-requests", "1")
    assert (await gateway.get(client="treasury")).status_code == 200
    await stage.advance(334)
    assert (await gateway.get()).status_code == 200
    await stage.advance(10_000)  # no more than the burst is saved up
    assert [(await gateway.get()).status_code for _ in range(4)] == [200] * 3 + [429]


async def test_a_slow_limit_names_its_seconds(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"expected_replicas": 2}, clients={"risk": {"requests_per_second": 0.2}})
    gateway = await stage.start()
    assert (await gateway.get()).status_code == 200
    assert told(await gateway.get("/v1/accounts/nope?x")) == (429, "too-many-requests", "10")


async def test_a_wrong_token_spends_nothing_of_anybodys_limit(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"expected_replicas": 1}, clients={"risk": {"requests_per_second": 1}})
    gateway = await stage.start()
    for headers in NOBODY_KNOWN:
        assert (await _as(gateway, headers)).status_code == 401
    assert (await gateway.get()).status_code == 200


async def test_two_tokens_of_one_client_overlap_while_one_is_rotated_out(make_stage: MakeStage) -> None:
    stage, token = make_stage(), tokens.generate()
    risk = stage.settings.clients["risk"]
    both = msgspec.structs.replace(risk, token_sha256=[*risk.token_sha256, tokens.digest(token.encode())])
    clients = stage.settings.clients | {"risk": both}
    stage.settings = msgspec.structs.replace(stage.settings, clients=clients)
    gateway = await stage.start()
    for each in (token, TOKEN):
        assert (await _as(gateway, [("authorization", f"Bearer {each}")])).status_code == 200
