"""Who is calling, and in which order it is refused; who gets which rows is `test_authorisation_matrix`'s."""

import asyncio
import itertools

import httpx
import msgspec
import pytest

from service.access import tokens
from simulator.exchange import LEVERAGE_BRACKET_PATH, POSITION_RISK_PATH
from simulator.faults import Fault
from tests.app.conftest import MakeStage
from tests.app.harness import (
    ACCOUNT,
    ASSETS,
    BALANCE,
    BRACKETS,
    BTC,
    PATHS,
    POSITIONS,
    RISK,
    Replica,
    Stage,
    problem,
    told,
)
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


async def test_an_account_that_is_not_granted_looks_like_one_that_does_not_exist(make_stage: MakeStage) -> None:
    gateway = await make_stage(accounts={"main": None, "other": None}).start()
    rests = [*(path.removeprefix(ACCOUNT) for path in PATHS.values()), "?asset=btc"]
    answers = [
        await gateway.get(f"/v1/accounts/{account}{rest}", "treasury", x_request_id="r")
        for account, rest in itertools.product(("other", "nope", "NOPE", "%00", "%ff", "a" * 200), rests)
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({(answer.content, tuple(answer.headers.raw)) for answer in answers}) == 1


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
    (None, "/v1/accounts/nope/balance/btc?x=1", "unauthenticated"),
    ("treasury", "/v1/accounts/nope/position-risk/btc/UP?x=1", "forbidden"),
    ("treasury", f"{BALANCE}?asset=SOL&x=1", "invalid-parameter"),
    ("treasury", f"{BALANCE}/SOL?x=1", "invalid-parameter"),
    ("treasury", f"{RISK}/NONESUCH/UP", "invalid-parameter"),
    ("treasury", f"{BRACKETS}?symbol=SOLUSD_PERP&positionSide=LONG", "invalid-parameter"),
    ("treasury", f"{BALANCE}/NONESUCH", "forbidden"),
    ("treasury", f"{RISK}/SOLUSD_NONE", "forbidden"),
    ("treasury", f"{BRACKETS}/SOLUSD_NONE", "forbidden"),
    ("longs", f"{RISK}/BTCUSD_PERP/SHORT", "forbidden"),
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


OF_A_SYMBOL = [
    *(f"{path}{rest}" for path in (POSITIONS, RISK) for rest in ("?symbol={}", "/{}", "/{}/BOTH")),
    *(f"{BRACKETS}{rest}" for rest in ("?symbol={}", "/{}")),
]


@pytest.mark.parametrize("path", OF_A_SYMBOL)
@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("listing", ["read", "not to be had"])
async def test_a_symbol_whose_margin_asset_nobody_tells_is_refused_to_those_who_do_not_see_all(
    stage: Stage, path: str, state: str, listing: str
) -> None:
    weird = {"symbol": "WEIRD", "positionSide": "BOTH", "positionAmt": "1"}
    stage.answer_with(positions=[weird])
    stage.exchange.book().raw_by_path |= dict.fromkeys(
        (POSITION_RISK_PATH, LEVERAGE_BRACKET_PATH), msgspec.json.encode([weird])
    )
    stage.fail(*[Fault("500", path="/dapi/v1/exchangeInfo")] if listing != "read" else [])
    gateway = await (stage.warm() if state == "warm" else stage.start())
    if state == "warm":
        assert (await gateway.get(path.format("WEIRD"))).status_code == 200
    assert problem(await gateway.get(path.format("WEIRD"), "treasury")) == "forbidden"


async def test_rows_and_names_are_granted_by_the_listing_that_the_snapshot_was_indexed_by(stage: Stage) -> None:
    """exchangeInfo may come while an account call is under way, for another account's sake."""
    stage.exchange.market.margin_assets["BTCUSD_PERP"] = "SOL"
    stage.fail(Fault("500", path="/dapi/v1/exchangeInfo"))
    gateway = await stage.start()
    stage.exchange.hold()
    reading = asyncio.create_task(gateway.get(POSITIONS, "treasury"))
    await stage.exchange.wait_held()
    stage.exchange.faults.clear()
    await gateway.gateway.exchange.load_exchange_info()
    stage.exchange.release()
    first = await reading
    another = await (await stage.start()).get(POSITIONS, "treasury")
    assert another.headers["etag"] == first.headers["etag"]
    seen = "BTCUSD_PERP" in {row["symbol"] for row in first.json()}
    assert (await gateway.get(f"{POSITIONS}/BTCUSD_PERP", "treasury")).status_code == (200 if seen else 403)


async def test_brackets_that_came_before_the_listing_are_cut_by_their_form_no_longer_than_positions(
    stage: Stage,
) -> None:
    """Though brackets are fresh for an hour: who may see a row would be wrong for as long."""
    stage.exchange.market.margin_assets |= {"ETHUSD_PERP": "SOL", "SOLUSD_PERP": "ETH"}
    stage.fail(Fault("500", path="/dapi/v1/exchangeInfo"))
    replicas = [await stage.start(), await stage.start()]
    for gateway, symbol in itertools.product(replicas, ("ETHUSD_PERP", "SOLUSD_PERP")):
        by_form = 200 if symbol == "ETHUSD_PERP" else 403
        for path in (f"{BRACKETS}/{symbol}", f"{POSITIONS}/{symbol}"):
            assert (await gateway.get(path)).status_code == 200
            assert (await gateway.get(path, "treasury")).status_code == by_form, path
    stage.exchange.faults.clear()
    await stage.advance(65_000)
    await replicas[0].gateway.exchange.keep_up()
    for gateway, symbol in itertools.product(replicas, ("ETHUSD_PERP", "SOLUSD_PERP")):
        by_listing = 200 if symbol == "SOLUSD_PERP" else 403
        for path in (f"{BRACKETS}/{symbol}", f"{POSITIONS}/{symbol}"):
            assert (await gateway.get(path)).status_code == 200
            assert (await gateway.get(path, "treasury")).status_code == by_listing, path
    answer = await replicas[0].get(f"{BRACKETS}?symbol=BTCUSD_201225")
    assert (answer.status_code, answer.json()) == (200, [])
    assert answer.headers["cache-status"] == "coinm-gateway; hit; ttl=3600"
    assert stage.exchange.calls.count("/dapi/v2/leverageBracket") == 2


async def test_in_one_way_mode_a_grant_on_long_rows_sees_no_positions_and_is_told_why(gateway: Replica) -> None:
    answer = await gateway.get(POSITIONS, "longs")
    assert (answer.content, answer.headers["gateway-position-mode"]) == (b"[]", "one-way")


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
