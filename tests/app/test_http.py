"""HTTP itself: HEAD, headers, problems, request ids, health, and what the gateway says of itself."""

import asyncio
import hashlib
import io
import re
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

import service
from service.account.documents import Shape
from simulator.signature import DEMO_API_KEY
from tests.app.conftest import MakeStage
from tests.app.harness import (
    ACCOUNT,
    ASSETS,
    BRACKETS,
    BTC,
    ITEMS,
    LISTS,
    PATHS,
    POSITIONS,
    RISK,
    Replica,
    Stage,
    logged,
    problem,
)
from tests.support import TOKENS, bearer

EVERY_PATH = [*LISTS, *ITEMS, "/v1/accounts", "/v1/status", "/healthz", "/readyz"]
BROKEN = [
    f"{ASSETS}/NONESUCH",
    f"{ASSETS}?asset=btc",
    f"{POSITIONS}/BTCUSD_PERP/LONG",
    f"{RISK}/BTCUSD_PERP/LONG",
    f"{BRACKETS}?symbol=btc",
    "/v1/accounts/other",
    "/v1/nothing",
]
DATA_HEADERS = {
    "age": "0",
    "cache-control": "private, no-cache",
    "cache-status": "coinm-gateway; hit; ttl=1",
    "gateway-environment": "testing",
    "gateway-snapshot-age": "0",
    "gateway-snapshot-time": "2026-09-21T14:14:00.000Z",
    "vary": "Authorization",
    "x-content-type-options": "nosniff",
}


async def test_head_is_get_without_a_body(stage: Stage) -> None:
    gateway = await stage.warm()
    for path in LISTS:
        await gateway.get(path)
    for path in [*EVERY_PATH, *BROKEN]:
        get, head = await gateway.get(path, x_request_id="r"), await gateway.ask("HEAD", path, x_request_id="r")
        assert (head.status_code, head.headers, head.content) == (get.status_code, get.headers, b""), path
        assert head.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize(("shape", "path"), PATHS.items(), ids=PATHS.values())
async def test_every_data_answer_says_how_fresh_it_is_and_so_does_a_304(stage: Stage, shape: Shape, path: str) -> None:
    has_sides = shape.name.startswith(("account", "pos", "symbol"))
    gateway = await stage.warm()
    await gateway.get(path)
    answer = await gateway.get(path)
    expected = DATA_HEADERS | ({"gateway-position-mode": "one-way"} if has_sides else {})
    expected |= {"cache-status": "coinm-gateway; hit; ttl=3600"} if path.startswith(BRACKETS) else {}
    assert expected.items() <= dict(answer.headers).items()
    again = await gateway.get(path, if_none_match=answer.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert (expected | {"etag": answer.headers["etag"]}).items() <= dict(again.headers).items()
    assert ("gateway-position-mode" in answer.headers) is has_sides


@pytest.mark.parametrize("client", ["risk", None])
async def test_other_paths_are_not_found(gateway: Replica, client: str | None) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/v2/accounts/main", f"{ACCOUNT}/orders", f"{BTC}/x/y/z"):
        answer = await gateway.get(path, client)
        assert (answer.status_code, problem(answer)) == (404, "not-found"), path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW"])
async def test_nothing_can_be_written(stage: Stage, gateway: Replica, method: str) -> None:
    for path in EVERY_PATH:
        answer = await gateway.ask(method, path)
        assert (answer.status_code, problem(answer)) == (405, "method-not-allowed"), path
        allowed = {name.strip() for name in answer.headers["allow"].split(",")}
        assert {"GET", "HEAD"} <= allowed <= {"GET", "HEAD", "OPTIONS"}
    assert stage.exchange.calls.count() == 0


@pytest.mark.parametrize("given", ["a", "Az09._-", "x" * 63, "-" + "x" * 63, "0af7651916cd43dd8448eb211c80319c"])
async def test_a_callers_request_id_is_kept(gateway: Replica, given: str) -> None:
    for path in [*EVERY_PATH, *BROKEN]:
        answer = await gateway.get(path, x_request_id=given)
        assert answer.headers.get_list("x-request-id") == [given], path


async def test_an_unfit_request_id_is_replaced(gateway: Replica) -> None:
    for given in ("", "x" * 65, "a b", "a/b", "ä", '"', "a,b", "<script>"):
        answer = await gateway.caller.get("/v1/nothing", headers=[(b"x-request-id", given.encode())])
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"]), given
        assert problem(answer) == "not-found"


@pytest.mark.parametrize(
    "given",
    [
        "cgw_AAAAAAAAAAAA",
        "trace-cgw_x",
        "aB3" * 21 + "Z",
        "0af7651916cd43dd" * 4,
        "eyJhbGciOiJSUzI1NiJ9.eyJ",
    ],
)
async def test_a_request_id_that_looks_like_a_secret_is_replaced_in_answer_and_log_alike(
    gateway: Replica, log_text: io.StringIO, given: str
) -> None:
    for path in (*EVERY_PATH, *EVERY_PATH, *BROKEN):  # misses, hits and refusals
        own = (await gateway.get(path, x_request_id=given)).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", own), path
        assert path in ("/healthz", "/readyz") or logged(log_text)[-1]["request_id"] == own
    assert given not in log_text.getvalue()


async def test_requests_without_an_id_get_one_each(gateway: Replica) -> None:
    ids = {(await gateway.get()).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("path", [*BROKEN, ACCOUNT])
async def test_problems_are_not_to_be_stored(gateway: Replica, stage: Stage, path: str) -> None:
    stage.fail("not-json")
    answer = await gateway.get(path)
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


# Health.


async def test_health_asks_nobody(stage: Stage, gateway: Replica) -> None:
    stage.redis_server.connected, stage.transport.down = False, True
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = await gateway.get(path, client=None)
        assert (answer.status_code, answer.json()) == (200, {"status": status})
    assert stage.exchange.calls.count() == 0


async def test_a_banned_replica_without_redis_or_snapshot_is_still_ready(stage: Stage, gateway: Replica) -> None:
    stage.redis_server.connected = False
    stage.fail("418")
    assert (await gateway.get()).status_code == 503
    assert (await gateway.get("/readyz", client=None)).status_code == 200


async def test_a_draining_replica_is_alive_not_ready_and_closes_its_connections(stage: Stage) -> None:
    gateway = await stage.warm()
    gateway.gateway.draining = True
    for path, status in (("/healthz", 200), ("/readyz", 503), (BTC, 200), ("/v1/nothing", 404)):
        answer = await gateway.get(path)
        assert (answer.status_code, answer.headers["connection"]) == (status, "close")
    assert (await gateway.get("/readyz")).json() == {"status": "draining"}


# What there is.


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("risk", [("main", None, None), ("other", None, None)]),
        ("treasury", [("main", ["BTC", "ETH"], None)]),
        ("longs", [("main", ["BTC"], ["LONG"])]),
        ("nobody", []),
    ],
)
async def test_accounts_are_listed_with_the_callers_grants(
    make_stage: MakeStage, client: str, expected: list[tuple[str, list[str] | None, list[str] | None]]
) -> None:
    stage = make_stage(accounts={"main": None, "other": None})
    answer = await (await stage.start()).get("/v1/accounts", client)
    assert answer.json() == [
        {"account": account, "environment": "testing", "assets": assets, "positionSides": sides}
        for account, assets, sides in expected
    ]
    assert answer.headers["cache-control"] == "no-store"


async def test_the_status_of_a_replica_that_has_asked_nothing_yet(gateway: Replica) -> None:
    assert await gateway.status() == {
        "environment": "testing",
        "version": service.__version__,
        "redis": "ok",
        "clockOffsetMs": None,
        "weight": {"used": 0, "ceiling": 1920, "resetsAt": "2026-09-21T14:15:00.000Z", "savedTotal": 0},
        "notBefore": None,
        "accounts": [
            {
                "account": "main",
                "snapshotTime": None,
                "ageMs": None,
                "positionMode": None,
                "lastRefresh": None,
                "credential": hashlib.sha256(DEMO_API_KEY.encode()).hexdigest()[:8],
                "notBefore": None,
            }
        ],
    }


async def test_the_status_follows_what_happens(stage: Stage) -> None:
    gateway = await stage.warm(age=500)
    await gateway.get()
    await stage.advance(9_500)
    stage.fail("418")
    await gateway.get()
    status = await gateway.status()
    account = status.pop("accounts")[0]
    assert status["weight"] == {
        "used": 14,  # three times the clock, the listing, two signed calls
        "ceiling": 1920,
        "resetsAt": "2026-09-21T14:15:00.000Z",
        "savedTotal": 5,
    }
    assert (status["clockOffsetMs"], status["notBefore"]) == (0, "2026-09-21T14:16:10.000Z")
    assert account["lastRefresh"] == {
        "at": "2026-09-21T14:14:10.000Z",
        "outcome": "exchange-banned",
        "detail": "the exchange bans our address for too many requests",
    }
    assert (account["snapshotTime"], account["ageMs"]) == ("2026-09-21T14:14:00.000Z", 10_000)
    assert (account["positionMode"], account["notBefore"]) == ("one-way", None)


async def test_a_latched_credential_shows_in_its_accounts_status(stage: Stage, gateway: Replica) -> None:
    stage.fail("-2015")
    await gateway.get()
    status = await gateway.status()
    assert status["notBefore"] is None
    assert status["accounts"][0]["notBefore"] == "2026-09-21T14:24:00.000Z"
    await stage.advance(600_000)
    assert (await gateway.status())["accounts"][0]["notBefore"] is None


@pytest.mark.parametrize(
    ("client", "accounts"), [("risk", ["main", "other"]), ("treasury", ["main"]), ("longs", ["main"]), ("nobody", [])]
)
async def test_the_status_shows_a_client_its_own_accounts(
    make_stage: MakeStage, client: str, accounts: list[str]
) -> None:
    gateway = await make_stage(accounts={"main": None, "other": None}).start()
    status = (await gateway.get("/v1/status", client)).json()
    assert [account["account"] for account in status["accounts"]] == accounts


@pytest.mark.parametrize("prefix", ["/v1/accounts/", "/binance/", "/", "//v1//accounts/"])
async def test_a_path_that_is_too_long_to_be_one_is_not_there_and_not_remembered(gateway: Replica, prefix: str) -> None:
    answers = [await gateway.ask("GET", prefix + letter * 1_000, "risk") for letter in "abc"]
    assert {answer.status_code for answer in answers} == {404}
    expected = {"code", "msg"} if prefix == "/binance/" else {"type", "title", "status", "detail", "instance"}
    assert {frozenset(answer.json()) for answer in answers} == {frozenset(expected)}
    metrics = gateway.metrics()
    assert 'coinm_requests_total{method="GET",route="unmatched",status="404"} 3.0' in metrics


# The host.


async def sent(gateway: Replica, path: str, *hosts: str, version: str = "1.1", **headers: str) -> httpx.Response:
    """A request as the server hands it over, which no client would send."""
    given = [*(("host", host) for host in hosts), *bearer(**headers).items(), ("x-mbx-apikey", TOKENS["risk"])]
    given = [each for each in given if each[0] != ("authorization" if path.startswith("/binance") else "x-mbx-apikey")]
    raw, query = (part.encode() for part in (path + "?").split("?")[:2])
    scope: Any = {
        "type": "http",
        "http_version": version,
        "method": "GET",
        "path": unquote(raw.decode()),
        "headers": [],
    }
    scope |= {"raw_path": raw, "query_string": query, "scheme": "http", "server": ("gateway", 80), "root_path": ""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given]
    messages: list[Any] = []

    received = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return next(received, None) or await asyncio.get_running_loop().create_future()  # the caller stays

    async def send(message: Any) -> None:
        messages.append(message)

    await gateway.app(scope, receive, send)
    start, body = messages[0], b"".join(each.get("body", b"") for each in messages[1:])
    return httpx.Response(start["status"], headers=start["headers"], content=body)


HOST_PATHS = [*EVERY_PATH, "/v1/nothing", "/docs", "/docs/openapi.json", "/v1/accounts/nope"]


@pytest.mark.parametrize("hosts", [(), ("",), ("a", "b"), ("a", "a"), ("a", "")])
async def test_http_1_1_without_exactly_one_host_is_refused_on_every_path(stage: Stage, hosts: tuple[str, ...]) -> None:
    gateway = await stage.warm()
    for path in HOST_PATHS:
        for _ in range(2):  # the second could be a hit
            answer = await sent(gateway, path, *hosts)
            assert (answer.status_code, problem(answer)) == (400, "invalid-parameter"), path
            assert answer.json()["detail"] == "header Host: expected exactly once"


async def test_without_one_host_the_drop_in_paths_refuse_in_their_own_form(gateway: Replica) -> None:
    for path in ("/binance/main/dapi/v1/account", "/binance/main/dapi/v1/ping"):
        assert (await sent(gateway, path, "a")).status_code == 200
        answer = await sent(gateway, path, "a", "b")
        assert (answer.status_code, answer.json()) == (
            400,
            {"code": -1104, "msg": "header Host: expected exactly once"},
        )


async def test_http_1_0_needs_no_host(stage: Stage) -> None:
    gateway = await stage.warm()
    for path in (BTC, BTC, "/healthz"):
        for hosts in ((), ("",), ("a",)):
            assert (await sent(gateway, path, *hosts, version="1")).status_code == 200


async def test_what_is_saved_is_the_callers_own(stage: Stage) -> None:
    gateway = await stage.warm()
    for client, reads in (("treasury", 3), ("longs", 1)):
        for _ in range(reads):
            assert (await gateway.get(BTC, client)).status_code == 200
    saved = {
        client: (await gateway.get("/v1/status", client)).json()["weight"]["savedTotal"]
        for client in ("risk", "treasury", "longs", "nobody")
    }
    assert saved == {"risk": 0, "treasury": 15, "longs": 5, "nobody": 0}


async def test_ids_in_a_row_tell_nothing_of_each_other(stage: Stage) -> None:
    gateway = await stage.warm()
    ids = [(await gateway.get(BTC)).headers["x-request-id"] for _ in range(300)]
    assert len(set(ids)) == len({each[:16] for each in ids}) == len({each[16:] for each in ids}) == 300
