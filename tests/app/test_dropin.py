"""`/binance/{account}/dapi/v1/…`: what Binance's own clients get, and that nothing of theirs reaches the exchange."""

import itertools

import httpx
import pytest

from service.access import tokens
from service.account.documents import DOCUMENTS, WHOLE
from service.store.exchange_info import RedisExchangeInfo
from service.store.keys import exchange_info_key
from simulator.documents import leverage_brackets, position_risk
from simulator.faults import Fault
from tests.app.conftest import MakeStage
from tests.app.harness import DROP_INS, PATHS, Replica, Stage, cache_status, settle
from tests.conftest import LogText
from tests.support import TOKENS

ROOT = "/binance/main/dapi/v1"
PATH = f"{ROOT}/account"
SIGNED = "timestamp=PLANTED&recvWindow=5000&signature=PLANTED"
"""What every client sends; the gateway takes it, whatever it is."""
PUBLIC = ("ping", "time", "exchangeInfo")
INVALID_KEY = "Invalid API-key, or permissions for action."
FRESHNESS = {
    *("age", "gateway-snapshot-age", "gateway-snapshot-time", "cache-control", "cache-status", "etag", "vary"),
    *("gateway-environment", "gateway-position-mode"),
}


async def read(gateway: Replica, path: str = PATH, key: str | None = "risk", **headers: str) -> httpx.Response:
    """Ask as Binance's clients do; `key` is a client's name, or the key itself."""
    given = {} if key is None else {"x_mbx_apikey": TOKENS.get(key, key)}
    return await gateway.get(path, client=None, **given, **headers)


def refused(answer: httpx.Response) -> tuple[int, int]:
    """Status and code of an error, its form checked."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["code", "msg"]
    assert body["msg"]
    assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    return answer.status_code, body["code"]


async def keep_up(gateway: Replica) -> None:
    """One round of what a served process does by itself."""
    await gateway.gateway.exchange.keep_up()


def count(event: str, log_text: LogText) -> int:
    """How often an event was logged."""
    return log_text.getvalue().count(f'"event":"{event}"')


# What is read


async def test_an_unrestricted_key_gets_the_exchanges_answer_byte_for_byte(stage: Stage, gateway: Replica) -> None:
    answer = await read(gateway, f"{PATH}?{SIGNED}")
    assert (answer.status_code, answer.content) == (200, stage.raw())
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.headers) >= FRESHNESS
    assert (answer.headers["vary"], answer.headers["age"]) == ("X-MBX-APIKEY", "0")


async def test_a_restricted_key_gets_the_same_shape_cut_to_its_grant(stage: Stage, gateway: Replica) -> None:
    answer = await read(gateway, key="treasury")
    whole = stage.statement()
    cut = whole | {
        "assets": [row for row in whole["assets"] if row["asset"] in ("BTC", "ETH")],
        "positions": [row for row in whole["positions"] if row["symbol"][:4] in ("BTCU", "ETHU")],
    }
    assert answer.json() == cut
    assert list(answer.json()) == list(whole)


async def test_a_key_for_one_side_sees_its_positions_alone(stage: Stage, gateway: Replica) -> None:
    stage.exchange.book().set_mode(hedge=True)
    rows = (await read(gateway, key="longs")).json()
    assert {row["asset"] for row in rows["assets"]} == {"BTC"}
    assert {(row["symbol"][:3], row["positionSide"]) for row in rows["positions"]} == {("BTC", "LONG")}


@pytest.mark.parametrize("client", ["risk", "treasury", "longs"])
async def test_it_is_what_the_gateways_own_path_answers(gateway: Replica, client: str) -> None:
    for document, path in zip(DOCUMENTS, DROP_INS, strict=True):
        own = await gateway.get(PATHS[WHOLE[document]], client)
        answer = await read(gateway, path, client)
        assert (answer.content, answer.headers["etag"]) == (own.content, own.headers["etag"])


RISK, BRACKETS = DROP_INS[2:]


@pytest.mark.parametrize(
    ("query", "symbols"),
    [
        ("marginAsset=SOL", ["SOLUSD_PERP", "SOLUSD_261225", "SOLUSD_270326"]),
        ("pair=BTCUSD", ["BTCUSD_PERP", "BTCUSD_261225", "BTCUSD_270326"]),
        (f"pair=ADAUSD&{SIGNED}", ["ADAUSD_PERP"]),
        (f"{SIGNED}&marginAsset=ADA", ["ADAUSD_PERP"]),
    ],
)
async def test_position_risk_is_chosen_as_at_the_exchange(
    stage: Stage, gateway: Replica, query: str, symbols: list[str]
) -> None:
    stage.exchange.market.frozen = True
    answer = await read(gateway, f"{RISK}?{query}")
    book, market = stage.exchange.book(), stage.exchange.market
    own = position_risk(book, market, stage.exchange.now_ms(), lambda contract: contract.symbol in symbols)
    assert answer.content == own
    assert [row["symbol"] for row in answer.json()] == symbols


async def test_a_leverage_bracket_is_chosen_as_at_the_exchange(stage: Stage, gateway: Replica) -> None:
    answer = await read(gateway, f"{BRACKETS}?symbol=BTCUSD_PERP&{SIGNED}")
    own = leverage_brackets(stage.exchange.book(), lambda contract: contract.symbol == "BTCUSD_PERP")
    assert answer.content == own
    (row,) = answer.json()
    assert row["symbol"] == "BTCUSD_PERP"


async def test_a_key_for_one_side_sees_brackets_of_its_coin_whatever_the_side(gateway: Replica) -> None:
    """And no alias, for it doesn't see all coins."""
    rows = [(await read(gateway, path, "longs")).json() for path in DROP_INS[1:]]
    assert [[row.get("asset") or row["symbol"] for row in each] for each in rows] == [
        *(["BTC"], []),
        ["BTCUSD_PERP", "BTCUSD_261225", "BTCUSD_270326"],
    ]
    assert "accountAlias" not in rows[0][0]


async def test_head_is_the_answer_without_its_body(stage: Stage, gateway: Replica) -> None:
    await keep_up(gateway)
    answer = await gateway.ask("HEAD", PATH, None, x_mbx_apikey=TOKENS["risk"])
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(stage.raw()))
    for path in DROP_INS[1:]:
        whole, head = await read(gateway, path), await gateway.ask("HEAD", path, None, x_mbx_apikey=TOKENS["risk"])
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))
    for name in PUBLIC:
        head = await gateway.ask("HEAD", f"{ROOT}/{name}", None)
        assert (head.status_code, head.content) == (200, b"")


async def test_an_entity_tag_that_still_holds_is_a_304_with_the_headers_of_freshness(stage: Stage) -> None:
    gateway = await stage.warm(age=400)
    tag = (await read(gateway)).headers["etag"]
    same = await read(gateway, f"{PATH}?{SIGNED}", if_none_match=tag)
    assert (same.status_code, same.content) == (304, b"")
    assert set(same.headers) >= FRESHNESS
    assert same.headers["vary"] == "X-MBX-APIKEY"


async def test_the_requests_cache_control_is_honoured(stage: Stage) -> None:
    gateway = await stage.warm(age=2_000)
    assert cache_status(await read(gateway, cache_control="max-stale=30")).startswith("hit; ttl=-1")
    assert cache_status(await read(gateway, cache_control="max-age=1")).startswith("fwd=request; ")
    assert refused(await read(gateway, cache_control="min-fresh=9")) == (503, -1001)
    assert refused(await read(gateway, cache_control="max-age=soon")) == (400, -1104)


async def test_a_stale_answer_is_marked(stage: Stage) -> None:
    gateway = await stage.warm(age=10_000)
    stage.fail("418")
    answer = await read(gateway)
    assert answer.status_code == 200
    assert cache_status(answer) == "fwd=stale; fwd-status=418; ttl=-9; detail=stale-if-error"


# Who is calling


@pytest.mark.parametrize("state", ["cold", "warm", "banned"])
async def test_checks_come_in_one_order_whatever_is_in_the_cache(stage: Stage, state: str) -> None:
    gateway = await (stage.warm() if state == "warm" else stage.start())
    stage.fail("418")
    if state == "banned":
        await gateway.get()
    after = stage.exchange.calls.count()
    order = [  # each is wrong in all the ways that come later, too
        (None, "/binance/nope/dapi/v1/account?x=1", (401, -2014)),
        (tokens.generate(), "/binance/nope/dapi/v1/account?x=1", (401, -2015)),
        ("treasury", "/binance/nope/dapi/v1/account?x=1", (401, -2015)),
        ("nobody", f"{PATH}?x=1", (401, -2015)),
        ("treasury", f"{PATH}?x=1", (400, -1104)),
        (None, f"{RISK.replace('main', 'nope')}?pair=X&marginAsset=X", (401, -2014)),
        ("treasury", f"{RISK.replace('main', 'nope')}?pair=X&marginAsset=X", (401, -2015)),
        ("nobody", f"{RISK}?pair=X&marginAsset=X", (401, -2015)),
        ("treasury", f"{RISK}?pair=SOLUSD&marginAsset=SOL", (400, -1128)),
        ("treasury", f"{RISK}?pair=,&x=1", (400, -1104)),
        ("treasury", f"{RISK}?pair=NONEUSD", (401, -2015)),  # before anybody asks whether there is such a pair
        ("treasury", f"{RISK}?marginAsset=btc", (401, -2015)),
        ("treasury", f"{BRACKETS}?symbol=NONEUSD_PERP", (401, -2015)),
        ("treasury", f"{BRACKETS}?symbol=&x=1", (400, -1104)),
    ]
    for key, path, expected in order:
        assert refused(await read(gateway, path, key, if_none_match="*")) == expected, path
    assert stage.exchange.calls.count() == after


async def test_an_account_that_is_not_there_one_that_is_not_granted_and_a_wrong_key_look_alike(
    make_stage: MakeStage,
) -> None:
    gateway = await make_stage(accounts={"main": None, "other": None}).start()
    asked = [("other", "treasury"), ("nope", "treasury"), ("NOPE", "risk"), ("main", "nobody"), ("main", "wrong")]
    answers = [
        await read(gateway, f"/binance/{account}/dapi/v1/account", key, x_request_id="r") for account, key in asked
    ]
    assert len({(answer.status_code, answer.content, tuple(answer.headers.raw)) for answer in answers}) == 1
    assert answers[0].json() == {"code": -2015, "msg": INVALID_KEY}


@pytest.mark.parametrize("key", ["", "two words", "x\x7f", "\xfc", "x" * 8193], ids=["", "space", "del", "ü", "long"])
async def test_what_cannot_be_a_key_is_told_apart_from_one_that_nobody_holds(gateway: Replica, key: str) -> None:
    answer = await gateway.caller.get(PATH, headers={b"x-mbx-apikey": key.encode("latin-1")})
    assert refused(answer) == (401, -2014)


async def test_more_than_one_credential_is_none(gateway: Replica) -> None:
    key = TOKENS["risk"]
    twice = [("x-mbx-apikey", key), ("X-MBX-APIKEY", key)]
    for headers in (twice, [*twice[:1], ("authorization", f"Bearer {key}")], [("authorization", f"Bearer {key}")]):
        assert refused(await gateway.caller.get(PATH, headers=headers)) == (401, -2014)


async def test_a_key_in_the_query_is_none(gateway: Replica) -> None:
    assert refused(await read(gateway, f"{PATH}?apiKey={tokens.generate()}", key=None)) == (401, -2014)


async def test_the_callers_own_limit_is_a_429_with_a_time(make_stage: MakeStage) -> None:
    stage = make_stage(clients={"risk": {"requests_per_second": 1}}, exchange={"expected_replicas": 1})
    gateway = await stage.start()
    assert (await read(gateway)).status_code == 200
    limited = await read(gateway)
    assert refused(limited) == (429, -1003)
    assert limited.headers["retry-after"] == "1"
    assert refused(await read(gateway, "/binance/nope/dapi/v1/account")) == (429, -1003)


# What is refused


@pytest.mark.parametrize(
    "query",
    ["limit=5", f"{SIGNED}&x=1", "Timestamp=1", "timestamp", "%ff=1", "a=%ff", "=", "=1", "timestamp=1&=&signature=2"],
)
@pytest.mark.parametrize("path", [*DROP_INS, *(f"{ROOT}/{name}" for name in PUBLIC)])
async def test_any_other_parameter_and_no_query_at_all_is_refused(gateway: Replica, path: str, query: str) -> None:
    assert refused(await read(gateway, f"{path}?{query}")) == (400, -1104)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        *((DROP_INS[1], f"{name}=BTC", (400, -1104)) for name in ("asset", "marginAsset", "symbol")),
        *((RISK, f"{name}=BTCUSD_PERP", (400, -1104)) for name in ("symbol", "asset", "positionSide", "Pair")),
        *((BRACKETS, f"{name}=BTCUSD", (400, -1104)) for name in ("pair", "asset", "marginAsset", "Symbol")),
        *((RISK, query, (400, -1104)) for query in ("pair=", "pair", "pair=BTCUSD,ETHUSD", "pair=BTCUSD&pair=BTCUSD")),
        *((RISK, query, (400, -1104)) for query in ("marginAsset=", "marginAsset=BTC,ETH", "marginAsset=a%00")),
        *((BRACKETS, query, (400, -1104)) for query in ("symbol=", "symbol=BTCUSD_PERP,", "symbol=a&symbol=b")),
        (RISK, "marginAsset=BTC&pair=BTCUSD", (400, -1128)),
        (RISK, "pair=NONE&marginAsset=NONE", (400, -1128)),
        *((RISK, query, (400, -1121)) for query in ("pair=NONEUSD", "pair=BTCUSD_PERP", "pair=btcusd")),
        *((RISK, query, (400, -1121)) for query in ("marginAsset=NONE", "marginAsset=btc", "marginAsset=BTC%20")),
        *((BRACKETS, query, (400, -1121)) for query in ("symbol=NONEUSD_PERP", "symbol=BTCUSD", "symbol=btcusd_perp")),
    ],
)
@pytest.mark.parametrize("state", ["cold", "warm"])
async def test_what_chooses_nothing_is_refused_with_the_exchanges_own_code(
    stage: Stage, gateway: Replica, *, state: str, path: str, query: str, expected: tuple[int, int]
) -> None:
    if state == "warm":
        assert (await read(gateway, path)).status_code == 200
    for _ in range(2):
        answer = await read(gateway, f"{path}?{query}&{SIGNED}")
        assert refused(answer) == expected
        assert "NONE" not in answer.text
    if expected == (400, -1104) and state == "cold":
        assert stage.exchange.calls.count() == 0


async def test_a_refused_parameter_is_not_repeated_and_one_that_is_near_is_named(gateway: Replica) -> None:
    refusal = await read(gateway, f"{PATH}?recvwindow=PLANTED")
    assert "unknown, did you mean recvWindow? this path takes recvWindow, " in refusal.json()["msg"]
    assert "PLANTED" not in (await read(gateway, f"{PATH}?PLANTED=PLANTED")).text


@pytest.mark.parametrize("query", ["&", f"{SIGNED}&", "timestamp=1&&signature=2"])
async def test_an_ampersand_too_many_says_nothing(stage: Stage, gateway: Replica, query: str) -> None:
    assert (await read(gateway, f"{PATH}?{query}")).content == stage.raw()


@pytest.mark.parametrize("value", ["", "0", "-1", "abc", "x" * 2000, "a%26b", "%F0%9F%98%80"])
async def test_what_clients_sign_with_is_taken_whatever_it_is(stage: Stage, gateway: Replica, value: str) -> None:
    query = "&".join(f"{name}={value}" for name in ("timestamp", "recvWindow", "signature", "timestamp"))
    for path, document in zip(DROP_INS, DOCUMENTS, strict=True):
        assert (await read(gateway, f"{path}?{query}")).content == stage.raw(document.path)
    assert (await read(gateway, f"{ROOT}/ping?{query}", key=None)).status_code == 200


async def test_nothing_of_a_callers_query_or_key_reaches_the_exchange(stage: Stage, gateway: Replica) -> None:
    for path in DROP_INS:
        await read(gateway, f"{path}?{SIGNED}", cache_control="no-cache", cookie="PLANTED=1")
    await read(gateway, f"{RISK}?pair=PLANTED")
    await read(gateway, f"{BRACKETS}?symbol=PLANTEDUSD_PERP")
    sent = "".join(stage.transport.queries)
    assert "timestamp=" in sent
    assert "PLANTED" not in sent
    assert {call.api_key for call in stage.exchange.calls.kept()}.isdisjoint(TOKENS.values())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_every_other_method_is_told_as_a_path_that_is_not_there(gateway: Replica, method: str) -> None:
    for path in (*DROP_INS, f"{ROOT}/ping", f"{ROOT}/order"):
        answer = await gateway.ask(method, path, None, x_mbx_apikey=TOKENS["risk"])
        assert refused(answer) == (404, -5000)
        assert "allow" not in answer.headers


ELSEWHERE = [
    *(f"{ROOT}/{name}" for name in ("order", "userTrades", "positionrisk", "Account", "ping/", "account/x", "")),
    *(f"/binance/main/{rest}" for rest in ("fapi/v1/account", "dapi/v2/account", "dapi/v1", "api/v3/account")),
    *(f"/binance/main/dapi/{rest}" for rest in ("v2/balance", "v2/positionRisk", "v1/leverageBracket", "v2/ping")),
    *(f"{path}/BTC" for path in DROP_INS),
    *(f"{path}/" for path in DROP_INS),
    *("/binance/", "/binance/main", "/binance//main/dapi/v1/ping", "/binance/main//dapi/v1/ping"),
    *("/binance/main%2Fdapi/v1/ping", "/binance/main/dapi%2fv1/ping", "/binance/main/dapi/v1/%70ing"),
    *("/binance/%2e%2e/dapi/v1/ping", "/binance/%2e/dapi/v1/account", "/binance/main/dapi/v1/%2e%2e/v1/ping"),
    *("/binance/main%00/dapi/v1/ping", "/binance/%ff/dapi/v1/ping", "/binance/a%20b/dapi/v1/account"),
    *("/binance/" + "a" * 64 + "/dapi/v1/ping", "/binance/main/dapi/v1/ping%3Fx"),
]


@pytest.mark.parametrize("path", ELSEWHERE)
async def test_nothing_else_is_there_with_a_key_or_without(stage: Stage, gateway: Replica, path: str) -> None:
    for key in (None, "risk"):
        assert refused(await read(gateway, path, key)) == (404, -5000)
    assert stage.exchange.calls.count() == 0


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("418", 600),
        ("429", 61),
        ("500", 1),
        ("503-unavailable", 1),
        ("not-json", 1),
        ("403-html", 300),
        ("404-path", 1),
    ],
)
async def test_the_exchanges_trouble_is_one_error_that_says_when_to_come_back(
    stage: Stage, gateway: Replica, fault: str, seconds: int
) -> None:
    stage.fail(Fault(fault, seconds=600) if fault == "418" else fault)
    answer = await read(gateway)
    assert refused(answer) == (503, -1001)
    assert 1 <= int(answer.headers["retry-after"]) <= seconds
    assert answer.json()["msg"].startswith("Internal error; unable to process your request. Please try again. (")


async def test_a_rejected_credential_of_ours_is_not_told_as_the_callers(stage: Stage, gateway: Replica) -> None:
    stage.fail("-2015")
    answer = await read(gateway)
    assert refused(answer) == (503, -1001)
    assert answer.json()["msg"].endswith("(exchange-rejected-credentials)")


async def test_a_bug_of_ours_is_a_503_with_a_time_and_is_logged_with_its_trace(
    stage: Stage, gateway: Replica, log_text: LogText
) -> None:
    stage.clock.broken = True
    answer = await read(gateway)
    stage.clock.broken = False
    assert refused(answer) == (503, -1001)
    assert "(internal-error)" in answer.json()["msg"]
    assert any("ZeroDivisionError" in text for text in log_text.unmasked())


async def test_no_header_of_the_exchanges_is_handed_on(stage: Stage, gateway: Replica) -> None:
    await keep_up(gateway)
    stage.spent_by_neighbours(100)
    answers = [await read(gateway), *[await read(gateway, f"{ROOT}/{name}") for name in PUBLIC]]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert not [name for answer in answers for name in answer.headers if name.startswith("x-mbx")]


# What anybody may ask


async def public(gateway: Replica, account: str = "main") -> list[httpx.Response]:
    return [await read(gateway, f"/binance/{account}/dapi/v1/{name}", key=None) for name in PUBLIC]


async def test_the_public_paths_answer_as_the_exchange_does_whatever_the_account(
    stage: Stage, gateway: Replica
) -> None:
    await keep_up(gateway)
    info = (
        await httpx.AsyncClient(transport=stage.transport, base_url="http://x").get("/dapi/v1/exchangeInfo")
    ).content
    for account in ("main", "nope", "NOPE", "a.b"):
        ping, time, listing = await public(gateway, account)
        assert (ping.content, listing.content) == (b"{}", info)
        assert time.json() == {"serverTime": stage.exchange.now_ms()}


async def test_they_ask_for_no_key_and_take_a_wrong_one(gateway: Replica) -> None:
    for key in (None, "risk", "wrong", ""):
        assert (await read(gateway, f"{ROOT}/ping", key)).content == b"{}"


async def test_time_is_the_exchanges_by_a_wrong_clock_too(stage: Stage, gateway: Replica) -> None:
    stage.exchange.clock.skew_ms = 3_600_000
    await keep_up(gateway)
    await stage.advance(1_234)
    assert (await read(gateway, f"{ROOT}/time", key=None)).json() == {"serverTime": stage.exchange.now_ms()}


async def test_before_the_exchange_has_answered_they_say_when_to_come_back_and_never_ask_it(
    stage: Stage, gateway: Replica
) -> None:
    for _ in range(50):
        ping, time, listing = await public(gateway)
        assert ping.status_code == 200
        assert refused(time) == refused(listing) == (503, -1001)
        assert time.headers["retry-after"] == listing.headers["retry-after"] == "1"
    assert stage.exchange.calls.count() == 0


async def test_however_often_they_are_asked_nothing_is_sent_even_when_all_is_old(
    stage: Stage, gateway: Replica
) -> None:
    await keep_up(gateway)
    after = stage.exchange.calls.count()
    for _ in range(20):
        await stage.advance(3_600_000)
        assert [answer.status_code for answer in await public(gateway)] == [200] * 3
    assert stage.exchange.calls.count() == after
    assert (await public(gateway))[2].headers["age"] == str(20 * 3_600)


async def test_a_ban_that_is_known_says_when_they_may_answer(stage: Stage, gateway: Replica) -> None:
    stage.fail(Fault("418", path="*", seconds=120))
    await keep_up(gateway)
    _, time, listing = await public(gateway)
    assert time.status_code == 200  # the refusal's own Date tells it
    assert refused(listing) == (503, -1001)
    assert 118 <= int(listing.headers["retry-after"]) <= 121


# How the process keeps them

CALLS = {"/dapi/v1/exchangeInfo": 1, "/dapi/v1/time": 3}


async def test_one_round_at_the_start_costs_four_calls_and_the_next_ones_none(stage: Stage, gateway: Replica) -> None:
    for _ in range(3):
        await keep_up(gateway)
    assert stage.exchange.calls.by_path() == CALLS


async def test_a_read_finds_done_what_the_upkeep_did(stage: Stage, gateway: Replica) -> None:
    await keep_up(gateway)
    assert (await read(gateway)).status_code == 200
    assert stage.exchange.calls.by_path() == CALLS | {"/dapi/v1/account": 1}


async def test_and_the_upkeep_what_a_read_did(stage: Stage, gateway: Replica) -> None:
    assert (await read(gateway)).status_code == 200
    await keep_up(gateway)
    assert stage.exchange.calls.by_path() == CALLS | {"/dapi/v1/account": 1}


async def test_a_second_replica_takes_the_listing_from_redis_with_its_age(stage: Stage, gateway: Replica) -> None:
    await keep_up(gateway)
    await stage.advance(600_000)
    other = await stage.start()
    await keep_up(other)
    assert stage.exchange.calls.count("/dapi/v1/exchangeInfo") == 1
    first, second = (await public(gateway))[2], (await public(other))[2]
    assert first.content == second.content
    assert 599 <= int(second.headers["age"]) <= int(first.headers["age"]) + 1 <= 601


async def test_what_may_be_seen_is_cut_by_the_shared_listing(stage: Stage, gateway: Replica) -> None:
    stage.exchange.market.margin_assets["SOLUSD_PERP"] = "ETH"
    await keep_up(gateway)
    other = await stage.start()
    rows = (await read(other, key="treasury")).json()["positions"]
    assert "SOLUSD_PERP" in {row["symbol"] for row in rows}
    assert stage.exchange.calls.count("/dapi/v1/exchangeInfo") == 1


async def test_every_hour_one_replica_fetches_it_for_all(stage: Stage) -> None:
    replicas = [await stage.start() for _ in range(3)]
    for _ in range(5):
        for replica in replicas:
            await keep_up(replica)
        await stage.advance(3_600_001)
    assert stage.exchange.calls.count("/dapi/v1/exchangeInfo") == 5
    assert stage.exchange.calls.count("/dapi/v1/time") == 5 * 3 * 3


async def test_while_one_fetches_it_the_others_wait_and_look_again_every_second(stage: Stage) -> None:
    one, other = await stage.start(), await stage.start()
    slow = RedisExchangeInfo(one.gateway.redis, exchange_info_key(stage.settings))
    assert await slow.acquire_once(2_000)
    await keep_up(other)
    assert stage.exchange.calls.count("/dapi/v1/exchangeInfo") == 0
    await keep_up(other)
    assert stage.exchange.calls.count("/dapi/v1/exchangeInfo") == 0
    await stage.advance(2_001)  # it died over it
    await keep_up(other)
    assert (await public(other))[2].status_code == 200


async def test_without_redis_each_replica_fetches_it_for_itself(stage: Stage) -> None:
    replicas = [await stage.start() for _ in range(2)]
    stage.redis_server.connected = False
    for replica in replicas:
        await keep_up(replica)
        assert (await public(replica))[2].status_code == 200
    assert stage.exchange.calls.count("/dapi/v1/exchangeInfo") == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"symbols":1}', b"\xff", b"[" * 100_000])
async def test_garbage_in_redis_counts_as_none(stage: Stage, gateway: Replica, body: bytes) -> None:
    key = "coinm:testing:127.0.0.1:1:listing"
    async with stage.redis() as redis:
        await redis.set(key, body, px=60_000)
    await keep_up(gateway)
    listing = (await public(gateway))[2]
    async with stage.redis() as redis:
        assert listing.content == await redis.get(key)


async def test_a_failure_is_tried_again_after_half_a_minute_and_told_once(
    stage: Stage, gateway: Replica, log_text: LogText
) -> None:
    stage.transport.down = True
    for _ in range(29):
        await keep_up(gateway)
        await stage.advance(1_000)
    assert count("exchange_preparation_failed", log_text) == 2  # time, and exchangeInfo
    for _ in range(3):
        await stage.advance(30_000)
        await keep_up(gateway)
    stage.transport.down = False
    assert count("exchange_preparation_failed", log_text) == 2
    await stage.advance(30_000)
    await keep_up(gateway)
    assert [answer.status_code for answer in await public(gateway)] == [200] * 3
    assert count("exchange_preparation_back", log_text) == 2


async def test_an_old_listing_is_served_on_while_the_exchange_fails(stage: Stage, gateway: Replica) -> None:
    await keep_up(gateway)
    stage.transport.down = True
    await stage.advance(7_200_000)
    await keep_up(gateway)
    listing = (await public(gateway))[2]
    assert (listing.status_code, listing.headers["age"]) == (200, "7200")


async def test_during_a_ban_and_before_the_probe_after_it_nothing_is_sent(stage: Stage, gateway: Replica) -> None:
    stage.fail(Fault("418", seconds=120))
    assert refused(await read(gateway)) == (503, -1001)
    await stage.advance(3_600_000)  # over, and all is due; the probe is a read's to send
    other = await stage.start()
    after = stage.exchange.calls.count()
    for replica, _ in itertools.product((gateway, other), range(3)):
        await keep_up(replica)
        await stage.advance(31_000)
    assert stage.exchange.calls.count() == after
    stage.exchange.faults.clear()
    assert (await read(gateway)).status_code == 200
    assert stage.exchange.calls.kept()[after].path == "/dapi/v1/ping"


async def test_a_newcomer_during_a_ban_learns_of_it_and_sends_nothing(stage: Stage, gateway: Replica) -> None:
    stage.fail(Fault("418", path="/dapi/v1/account", seconds=600))
    assert refused(await read(gateway)) == (503, -1001)
    after = stage.exchange.calls.count()
    newcomer = await stage.start()
    for _ in range(3):
        await keep_up(newcomer)
        await stage.advance(31_000)
    assert stage.exchange.calls.count() == after


async def test_a_read_after_a_ban_does_not_wait_for_the_upkeeps_pause(stage: Stage, gateway: Replica) -> None:
    stage.fail(Fault("418", path="*", seconds=20))
    await keep_up(gateway)
    await stage.advance(21_000)  # what its `Date` told of the time may be a second behind
    stage.exchange.faults.clear()
    assert (await read(gateway)).status_code == 200
    assert [answer.status_code for answer in await public(gateway)] == [200] * 3


async def test_the_weight_ceiling_binds_the_upkeep_too(stage: Stage) -> None:
    gateway = await stage.warm()
    stage.spent_by_neighbours(2_400)
    await stage.advance(1_001)
    await gateway.get(cache_control="no-cache")
    after = stage.exchange.calls.count()
    other = await stage.start()
    await keep_up(other)
    assert stage.exchange.calls.count() == after


async def test_a_bug_in_a_round_is_logged_and_neither_ends_nor_hammers(
    stage: Stage, gateway: Replica, log_text: LogText
) -> None:
    async with gateway.app.background_tasks():
        stage.clock.broken = True
        for _ in range(5):
            await settle()
        stage.clock.broken = False
    assert count("upkeep_fault", log_text) == 1
    assert stage.exchange.calls.count() == 0


async def test_a_served_process_keeps_up_from_its_start_until_it_is_told_to_stop(
    stage: Stage, gateway: Replica
) -> None:
    async with gateway.app.background_tasks():
        await stage.exchange.calls.wait_for("/dapi/v1/exchangeInfo")
        await settle()
        assert [answer.status_code for answer in await public(gateway)] == [200] * 3
    await stage.advance(3_600_001)
    await settle()
    assert stage.exchange.calls.by_path() == CALLS


async def test_an_end_in_the_middle_of_a_call_leaves_nothing_behind(stage: Stage, gateway: Replica) -> None:
    stage.fail(Fault("slow", path="*", seconds=30))
    async with gateway.app.background_tasks():
        await stage.exchange.calls.wait_for("/dapi/v1/time")
    assert not gateway.gateway.exchange.prepare_lock.locked()
