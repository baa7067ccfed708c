"""`/binance/{account}/dapi/v1/…`: what an existing Binance client meets, its own forms of errors included."""

import itertools

import httpx
import pytest

from service.access import tokens
from simulator.faults import Fault
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, Json, Replica, Stage, cache_status
from tests.support import START, TOKENS

BASE = "/binance/main/dapi/v1"
PUBLIC = ("ping", "time", "exchangeInfo")
SIGNED = "timestamp=1790000000000&recvWindow=5000&signature=c0ffee"
UNAVAILABLE = "Internal error; unable to process your request. Please try again."


async def ask(gateway: Replica, path: str, client: str | None = "risk", **headers: str) -> httpx.Response:
    """As a Binance client does: the token as API key, and a signed query."""
    key = {"x-mbx-apikey": TOKENS[client]} if client else {}
    sent = key | {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.caller.get(path, headers=sent)


def refused(answer: httpx.Response) -> tuple[int, int]:
    """Status and code of an error in the exchange's form."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["code", "msg"]
    assert ("www-authenticate" in answer.headers) is (answer.status_code == 401)
    return answer.status_code, body["code"]


async def prepared(stage: Stage) -> Replica:
    """A replica that knows the exchange's time and contracts."""
    gateway = await stage.start()
    await gateway.get()
    return gateway


# The account.


@pytest.mark.parametrize("hedge", [False, True])
async def test_whoever_may_see_everything_gets_the_exchanges_own_bytes(stage: Stage, *, hedge: bool) -> None:
    stage.exchange.book().set_mode(hedge=hedge)
    gateway = await stage.start()
    raw = stage.raw()
    for _ in range(2):  # a miss, and a hit
        answer = await ask(gateway, f"{BASE}/account?{SIGNED}")
        assert (answer.status_code, answer.content) == (200, raw)
    assert stage.account_calls == 1


@pytest.mark.parametrize("client", ["treasury", "longs"])
async def test_whoever_may_not_gets_the_same_shape_with_both_arrays_cut(stage: Stage, client: str) -> None:
    stage.exchange.book().set_mode(hedge=True)
    gateway = await stage.start()
    answer = await ask(gateway, f"{BASE}/account", client)
    assert answer.content == (await gateway.get(ACCOUNT, client)).content
    body, whole = answer.json(), stage.statement()
    assert list(body) == list(whole)
    assert 0 < len(body["positions"]) < len(whole["positions"])
    assert {row["asset"] for row in body["assets"]} == ({"BTC", "ETH"} if client == "treasury" else {"BTC"})


async def test_its_freshness_is_told_and_asked_for_as_elsewhere(stage: Stage) -> None:
    gateway = await prepared(stage)
    await stage.advance(400)
    answer = await ask(gateway, f"{BASE}/account")
    same = await gateway.get(ACCOUNT)
    told = [name for name in same.headers if name not in ("vary", "x-request-id")]
    assert {name: answer.headers[name] for name in told} == {name: same.headers[name] for name in told}
    assert answer.headers["vary"] == "X-MBX-APIKEY"
    unchanged = await ask(gateway, f"{BASE}/account", if_none_match=answer.headers["etag"])
    assert (unchanged.status_code, unchanged.content, unchanged.headers["vary"]) == (304, b"", "X-MBX-APIKEY")
    await stage.advance(1_000)
    assert cache_status(await ask(gateway, f"{BASE}/account", cache_control="no-cache")).startswith("fwd=request")


async def test_a_head_is_a_get_without_its_body(stage: Stage) -> None:
    gateway = await prepared(stage)
    for path in ("account", *PUBLIC):
        head = await gateway.caller.head(f"{BASE}/{path}", headers={"x-mbx-apikey": TOKENS["risk"]})
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0


async def test_nothing_that_a_caller_sends_reaches_the_exchange_and_nothing_of_its_headers_a_caller(
    stage: Stage,
) -> None:
    gateway = await prepared(stage)
    await stage.advance(10_000)
    answer = await ask(gateway, f"{BASE}/account?timestamp=1&recvWindow=canary&signature=canary", x_mbx_canary="canary")
    assert answer.status_code == 200
    assert not any("canary" in query for query in stage.transport.queries)
    for each in (answer, *[await ask(gateway, f"{BASE}/{path}") for path in PUBLIC]):
        assert not [name for name in each.headers if name.startswith("x-mbx")]


# Refusals, in the exchange's form.


@pytest.mark.parametrize("warm", [False, True])
async def test_who_calls_is_asked_first_and_told_in_the_exchanges_codes(stage: Stage, *, warm: bool) -> None:
    gateway = await (prepared(stage) if warm else stage.start())
    after = stage.exchange.calls.count()
    path, wrong = f"{BASE}/account?symbol=BTCUSD_PERP", tokens.generate()
    keys: list[tuple[list[tuple[str, str]], tuple[int, int]]] = [
        ([], (401, -2014)),
        ([("x-mbx-apikey", "")], (401, -2014)),
        ([("x-mbx-apikey", "two words")], (401, -2014)),
        ([("x-mbx-apikey", "x" * 8193)], (401, -2014)),
        ([("x-mbx-apikey", TOKENS["risk"]), ("x-mbx-apikey", TOKENS["risk"])], (401, -2014)),
        ([("x-mbx-apikey", TOKENS["risk"]), ("authorization", f"Bearer {TOKENS['risk']}")], (401, -2014)),
        ([("authorization", f"Bearer {TOKENS['risk']}")], (401, -2014)),
        ([("x-mbx-apikey", "x")], (401, -2015)),
        ([("x-mbx-apikey", wrong)], (401, -2015)),
        ([("x-mbx-apikey", TOKENS["nobody"])], (401, -2015)),
        ([("x-mbx-apikey", TOKENS["risk"])], (400, -1104)),
    ]
    for headers, expected in keys:
        assert refused(await gateway.caller.get(path, headers=headers)) == expected, headers
    assert stage.exchange.calls.count() == after


async def test_a_token_of_the_drop_in_paths_is_none_under_v1(gateway: Replica) -> None:
    assert (await gateway.caller.get(ACCOUNT, headers={"x-mbx-apikey": TOKENS["risk"]})).status_code == 401


async def test_an_account_that_is_not_granted_looks_like_one_that_does_not_exist(make_stage: MakeStage) -> None:
    gateway = await make_stage(accounts={"main": None, "other": None}).start()
    names = ("other", "nope", "NOPE", "%00", "a" * 200)
    answers = [await ask(gateway, f"/binance/{name}/dapi/v1/account", "treasury", x_request_id="r") for name in names]
    assert {refused(answer) for answer in answers} == {(401, -2015)}
    assert len({(answer.content, tuple(answer.headers.raw)) for answer in answers}) == 1


@pytest.mark.parametrize("path", ["account", *PUBLIC])
async def test_any_other_parameter_is_refused_by_name(stage: Stage, path: str) -> None:
    gateway = await prepared(stage)
    for query, named in (
        ("asset=BTC", "asset"),
        (f"{SIGNED}&symbol=", "symbol"),
        ("recvwindow=1", "recvwindow"),
        ("%00=1", "malformed"),
        ("a", "name=value"),
        ("timestamp=%ff", "UTF-8"),
        (f"signature={'x' * 8193}", "signature"),
    ):
        answer = await ask(gateway, f"{BASE}/{path}?{query}")
        assert refused(answer) == (400, -1104), query
        assert named in answer.json()["msg"]
    for query in ("", SIGNED, "signature=&timestamp=x&timestamp=y", "signature=%2Bab%3D%3D"):
        assert (await ask(gateway, f"{BASE}/{path}?{query}")).status_code == 200, query


async def test_a_malformed_directive_is_refused_by_name(gateway: Replica) -> None:
    answer = await ask(gateway, f"{BASE}/account", cache_control="max-age=x")
    assert refused(answer) == (400, -1104)
    assert "Cache-Control" in answer.json()["msg"]


ELSEWHERE = [
    f"{BASE}/balance",
    f"{BASE}/positionRisk",
    f"{BASE}/order",
    f"{BASE}/account/x",
    f"{BASE}/accounts",
    "/binance/main/dapi/v2/account",
    "/binance/main/fapi/v1/account",
    "/binance/main/dapi/v1",
    "/binance/main",
    "/binance",
    "/binance/",
    f"{BASE}/../v1/order",
    f"{BASE}/%2e%2e/account",
    "/binance/a/b/dapi/v1/account",
]


@pytest.mark.parametrize("path", ELSEWHERE)
async def test_nothing_else_exists_there(gateway: Replica, path: str) -> None:
    assert refused(await ask(gateway, path)) == (404, -5000)


@pytest.mark.parametrize("path", ["account", *PUBLIC, "order"])
async def test_whatever_would_write_is_a_path_that_is_not(stage: Stage, path: str) -> None:
    gateway = await stage.start()
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = await gateway.caller.request(method, f"{BASE}/{path}", headers={"x-mbx-apikey": TOKENS["risk"]})
        assert refused(answer) == (404, -5000)
    assert stage.exchange.calls.count() == 0


async def test_a_clients_own_limit_is_a_1003(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"expected_replicas": 1}, clients={"risk": {"requests_per_second": 1}})
    gateway = await stage.start()
    assert (await ask(gateway, f"{BASE}/account")).status_code == 200
    answer = await ask(gateway, f"{BASE}/account")
    assert refused(answer) == (429, -1003)
    assert (answer.headers["retry-after"], answer.headers["ratelimit"]) == ("1", '"requests";r=0;t=1')


@pytest.mark.parametrize(
    ("fault", "problem", "retry_after"),
    [
        ("418", "exchange-banned", "120"),
        ("429", "exchange-rate-limited", "61"),
        ("-2015", "exchange-rejected-credentials", "600"),
        ("-2014", "exchange-rejected-credentials", "600"),
        ("403-html", "exchange-blocked", "300"),
        ("maintenance", "exchange-unavailable", "1"),
        ("404-path", "exchange-endpoint-gone", "1"),
        ("not-json", "exchange-answer-invalid", "1"),
    ],
)
async def test_the_exchanges_trouble_is_a_1001_and_never_its_own_code(
    stage: Stage, fault: str, problem: str, retry_after: str
) -> None:
    gateway = await stage.start()
    stage.fail(fault)
    for _ in range(2):
        answer = await ask(gateway, f"{BASE}/account")
        assert refused(answer) == (503, -1001)
        assert answer.json()["msg"].startswith(f"{UNAVAILABLE} ({problem}: ")
        assert answer.headers["retry-after"] == retry_after


async def test_a_fault_of_ours_is_a_1001_too(stage: Stage) -> None:
    gateway = await stage.start()
    stage.clock.broken = True
    answer = await ask(gateway, f"{BASE}/account")
    stage.clock.broken = False
    assert refused(answer) == (503, -1001)
    assert answer.headers["retry-after"] == "1"
    assert "internal-error" in answer.json()["msg"]


async def test_a_demand_that_can_not_be_met_is_a_1001(gateway: Replica) -> None:
    answer = await ask(gateway, f"{BASE}/account", cache_control="only-if-cached")
    assert refused(answer) == (503, -1001)


# What needs no token.


async def test_public_paths_are_the_same_for_any_account_and_ask_nobody(stage: Stage) -> None:
    gateway = await prepared(stage)
    after = stage.exchange.calls.count()
    for path in PUBLIC:
        answers = [
            await ask(gateway, f"/binance/{name}/dapi/v1/{path}?{SIGNED}", client, x_request_id="r")
            for name, client in itertools.product(("main", "nope", "NOPE"), (None, "risk", "nobody"))
        ]
        assert {answer.status_code for answer in answers} == {200}
        assert len({(answer.content, tuple(answer.headers.raw)) for answer in answers}) == 1
    assert stage.exchange.calls.count() == after


async def test_they_answer_as_the_exchange_does(stage: Stage) -> None:
    gateway = await prepared(stage)
    await stage.advance(1_234)
    found: dict[str, Json] = {path: (await ask(gateway, f"{BASE}/{path}", None)).content for path in PUBLIC}
    async with httpx.AsyncClient(transport=stage.transport, base_url="http://exchange") as direct:
        assert found["ping"] == (await direct.get("/dapi/v1/ping")).content
        listed = (await direct.get("/dapi/v1/exchangeInfo")).json()
    assert found["time"] == b'{"serverTime":%d}' % (START + 1_234)
    copy = (await ask(gateway, f"{BASE}/exchangeInfo", None)).json()
    assert copy | {"serverTime": 0} == listed | {"serverTime": 0}


async def test_time_is_the_exchanges_whatever_this_machine_believes(stage: Stage) -> None:
    stage.clock.misset(3_600_000)
    stage.exchange.clock.skew_ms = -3_600_000
    gateway = await prepared(stage)
    assert (await ask(gateway, f"{BASE}/time", None)).json() == {"serverTime": START}


async def test_what_the_gateway_does_not_know_yet_is_a_1001_and_no_call(stage: Stage) -> None:
    gateway = await stage.start()
    for _ in range(3):
        for path in ("time", "exchangeInfo"):
            answer = await ask(gateway, f"{BASE}/{path}", None)
            assert refused(answer) == (503, -1001)
            assert answer.headers["retry-after"] == "1"
    assert (await ask(gateway, f"{BASE}/ping", None)).content == b"{}"
    assert stage.exchange.calls.count() == 0


async def test_a_stale_account_is_served_and_marked_during_a_ban(stage: Stage) -> None:
    gateway = await prepared(stage)
    stage.fail(Fault("418", seconds=60))
    await stage.advance(5_000)
    await gateway.get()
    answer = await ask(gateway, f"{BASE}/account")
    assert (answer.status_code, cache_status(answer)) == (200, "hit; ttl=-4; detail=not-before")
