"""The audit log: a line for every read and whatever became of it, and nothing in it that a caller chose freely."""

import asyncio
import io
import re
from collections.abc import Mapping

import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute

from service.clock import timestamp
from service.telemetry.audit import Filters, Line, SnapshotRead
from service.web.reads import LISTS_ACCOUNTS, READS
from simulator.exchange import DOCUMENTS
from simulator.faults import Fault
from tests.app import harness
from tests.app.conftest import MakeStage
from tests.app.harness import (
    ACCOUNT,
    ASSETS,
    AUDIT,
    BALANCE,
    BRACKETS,
    BTC,
    POSITIONS,
    RISK,
    SYMBOL,
    Replica,
    Stage,
    logged,
    told,
)
from tests.support import START, TOKENS

ROUTE = "/v1/accounts/{account}"
SNAPSHOT = SnapshotRead(timestamp(START), 0)


async def audited(stage: Stage) -> Line:
    """The one line there is."""
    (line,) = await stage.audited()
    return line


async def test_a_line_says_who_read_what_when_and_of_which_snapshot(stage: Stage) -> None:
    gateway = await stage.warm(age=700)
    answer = await gateway.get(f"{POSITIONS}?positionSide=LONG,BOTH&asset=ETH&asset=BTC&open=true", "treasury")
    line = (await stage.audited())[1]
    assert line == Line(
        time=timestamp(START + 700),
        request_id=answer.headers["x-request-id"],
        environment="testing",
        client="treasury",
        account="main",
        method="GET",
        route=f"{ROUTE}/positions",
        shape="positions",
        filters=Filters(assets=("BTC", "ETH"), sides=("BOTH", "LONG"), open=True),
        status=200,
        problem=None,
        snapshot=SnapshotRead(timestamp(START), 700),
    )


@pytest.mark.parametrize(
    ("path", "route", "shape", "filters"),
    [
        (ACCOUNT, "", "account", Filters()),
        (
            f"{ACCOUNT}?symbol=BTCUSD_PERP&nonzero=false",
            "",
            "account",
            Filters(symbols=("BTCUSD_PERP",), nonzero=False),
        ),
        (ASSETS, "/assets", "assets", Filters()),
        (BTC, "/assets/{asset}", "asset", Filters(assets=("BTC",))),
        (POSITIONS, "/positions", "positions", Filters()),
        (SYMBOL, "/positions/{symbol}", "symbol", Filters(symbols=("BTCUSD_PERP",))),
        (
            f"{SYMBOL}/BOTH",
            "/positions/{symbol}/{position_side}",
            "position",
            Filters(symbols=("BTCUSD_PERP",), sides=("BOTH",)),
        ),
        (f"{BALANCE}?asset=BTC", "/balance", "balance", Filters(assets=("BTC",))),
        (f"{BALANCE}/BTC", "/balance/{asset}", "balance/asset", Filters(assets=("BTC",))),
        (
            f"{RISK}?positionSide=LONG,BOTH&open=true",
            "/position-risk",
            "position-risk",
            Filters(sides=("BOTH", "LONG"), open=True),
        ),
        (
            f"{RISK}/BTCUSD_PERP",
            "/position-risk/{symbol}",
            "position-risk/symbol",
            Filters(symbols=("BTCUSD_PERP",)),
        ),
        (
            f"{RISK}/BTCUSD_PERP/BOTH",
            "/position-risk/{symbol}/{position_side}",
            "position-risk/symbol/positionSide",
            Filters(symbols=("BTCUSD_PERP",), sides=("BOTH",)),
        ),
        (f"{BRACKETS}?asset=BTC", "/leverage-brackets", "leverage-brackets", Filters(assets=("BTC",))),
        (
            f"{BRACKETS}/BTCUSD_PERP",
            "/leverage-brackets/{symbol}",
            "leverage-brackets/symbol",
            Filters(symbols=("BTCUSD_PERP",)),
        ),
    ],
)
async def test_every_path_has_its_shape_and_filters(
    stage: Stage, gateway: Replica, *, path: str, route: str, shape: str, filters: Filters
) -> None:
    assert (await gateway.caller.get(f"http://gateway{path}", headers=_bearer())).status_code == 200
    line = await audited(stage)
    assert (line.route, line.shape, line.filters, line.snapshot) == (ROUTE + route, shape, filters, SNAPSHOT)


@pytest.mark.parametrize(
    ("path", "query", "shape", "filters"),
    [
        ("/dapi/v1/account", "", "account", Filters()),
        ("/dapi/v1/balance", "?timestamp=1", "balance", Filters()),
        ("/dapi/v1/positionRisk", "?marginAsset=BTC", "position-risk", Filters(assets=("BTC",))),
        ("/dapi/v1/positionRisk", "?pair=BTCUSD", "position-risk", Filters(pairs=("BTCUSD",))),
        ("/dapi/v2/leverageBracket", "?symbol=BTCUSD_PERP", "leverage-brackets", Filters(symbols=("BTCUSD_PERP",))),
    ],
)
async def test_a_read_by_a_client_of_binances_says_what_it_chose(
    stage: Stage, gateway: Replica, *, path: str, query: str, shape: str, filters: Filters
) -> None:
    answer = await gateway.get(f"/binance/main{path}{query}", client=None, x_mbx_apikey=TOKENS["risk"])
    line = await audited(stage)
    assert (answer.status_code, line.route) == (200, f"/binance/{{account}}{path}")
    assert (line.client, line.shape, line.filters, line.snapshot) == ("risk", shape, filters, SNAPSHOT)


async def test_a_path_with_more_slashes_is_the_same_read(stage: Stage, gateway: Replica) -> None:
    answer = await gateway.caller.get("http://gateway//v1//accounts/main/assets/", headers=_bearer())
    stage.answers.clear()  # the document has no place for it
    line = await audited(stage)
    assert (answer.status_code, line.route, line.shape) == (200, f"{ROUTE}/assets", "assets")


def _bearer() -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS['risk']}"}


async def test_the_list_of_accounts_is_a_read_of_none_of_them(stage: Stage, gateway: Replica) -> None:
    await gateway.get("/v1/accounts", "nobody")
    line = await audited(stage)
    assert (line.client, line.account, line.route, line.shape) == ("nobody", None, "/v1/accounts", "accounts")
    assert (line.filters, line.status, line.snapshot) == (None, 200, None)


PATHS = tuple(harness.PATHS.values())


@pytest.mark.parametrize("path", ["/v1/accounts", *PATHS])
async def test_whoever_is_not_known_leaves_a_line(stage: Stage, gateway: Replica, path: str) -> None:
    await gateway.get(path, client=None)
    line = await audited(stage)
    assert (line.status, line.problem, line.client, line.filters) == (401, "unauthenticated", None, None)
    assert line.account == (None if path == "/v1/accounts" else "main")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("client", "query", "headers", "fault", "outcome"),
    [
        ("nobody", "", {}, "", (403, "forbidden")),
        ("risk", "?x=1", {}, "", (400, "invalid-parameter")),
        ("risk", "", {"cache_control": "max-age=x"}, "", (400, "invalid-parameter")),
        ("risk", "", {"cache_control": "only-if-cached"}, "", (504, "freshness-unmet")),
        ("risk", "", {}, "418", (503, "exchange-banned")),
        ("risk", "", {}, "-2015", (502, "exchange-rejected-credentials")),
    ],
    ids=["forbidden", "parameter", "directive", "unmet", "banned", "rejected"],
)
async def test_a_refused_read_leaves_a_line(
    stage: Stage,
    gateway: Replica,
    *,
    path: str,
    client: str,
    query: str,
    headers: Mapping[str, str],
    fault: str,
    outcome: tuple[int, str],
) -> None:
    stage.fail(*[Fault(fault, path=each) for each in DOCUMENTS if fault])
    answer = await gateway.get(path + query, client, **headers)
    line = await audited(stage)
    assert (line.status, line.problem) == outcome == told(answer)[:2]
    assert (line.client, line.account, line.snapshot) == (client, "main", None)
    assert (line.filters is None) == (client == "nobody" or bool(query))


@pytest.mark.parametrize(
    ("path", "client", "outcome"),
    [
        (f"{ASSETS}/NONESUCH", "risk", (404, "unknown-asset")),
        (f"{POSITIONS}/NONEUSD_PERP", "risk", (404, "unknown-symbol")),
        (f"{SYMBOL}/LONG", "risk", (404, "no-such-position-side")),
        (f"{BALANCE}/NONESUCH", "risk", (404, "unknown-asset")),
        (f"{RISK}/BTCUSD_PERP/LONG", "risk", (404, "no-such-position-side")),
        (f"{BRACKETS}/SOLUSD_PERP", "treasury", (403, "forbidden")),
        (f"{ASSETS}/SOL", "treasury", (403, "forbidden")),
    ],
)
async def test_a_read_of_what_is_not_there_or_not_granted_says_what_was_asked_for(
    stage: Stage, gateway: Replica, path: str, client: str, outcome: tuple[int, str]
) -> None:
    await gateway.get(path, client)
    line = await audited(stage)
    assert ((line.status, line.problem), line.snapshot) == (outcome, None)
    assert line.filters is not None
    assert path.split("/")[5] in (*(line.filters.assets or ()), *(line.filters.symbols or ()))


async def test_a_client_over_its_limit_leaves_a_line(make_stage: MakeStage) -> None:
    stage = make_stage(audit=AUDIT, exchange={"expected_replicas": 1}, clients={"treasury": {"requests_per_second": 1}})
    gateway = await stage.start()
    for _ in range(2):
        await gateway.get(client="treasury")
    line = (await stage.audited())[1]
    assert (line.status, line.problem, line.client) == (429, "too-many-requests", "treasury")


async def test_an_unchanged_answer_and_one_without_a_body_are_reads(stage: Stage, gateway: Replica) -> None:
    tag = (await gateway.get()).headers["etag"]
    await gateway.get(if_none_match=tag)
    await gateway.ask("HEAD", BTC)
    read = [(line.method, line.status, line.snapshot) for line in await stage.audited()]
    assert read == [("GET", 200, SNAPSHOT), ("GET", 304, SNAPSHOT), ("HEAD", 200, SNAPSHOT)]


async def test_a_bug_leaves_a_line(stage: Stage) -> None:
    gateway = await stage.warm()
    stage.clock.broken = True
    await gateway.get()
    stage.clock.broken = False
    line = (await stage.audited())[1]
    assert (line.status, line.problem, line.snapshot) == (500, "internal-error", None)


async def test_a_caller_who_hangs_up_leaves_a_line_without_a_status(stage: Stage, gateway: Replica) -> None:
    stage.exchange.hold()
    caller = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    caller.cancel()
    await asyncio.wait([caller])
    line = await audited(stage)
    assert (line.client, line.account, line.filters) == ("risk", "main", Filters(assets=("BTC",)))
    assert (line.status, line.problem, line.snapshot) == (None, None, None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{ACCOUNT}/PLANTED", 404),
        ("PUT", BTC, 405),
        ("GET", "//v1/accounts/main/assets/BTC/PLANTED", 404),
    ],
)
async def test_what_no_route_takes_on_the_data_paths_is_a_refused_read(
    stage: Stage, gateway: Replica, method: str, path: str, status: int
) -> None:
    await gateway.caller.request(method, f"http://gateway{path}", headers=_bearer())
    line = await audited(stage)
    assert (line.method, line.route, line.status, line.shape) == (method, "unmatched", status, None)


async def test_what_reads_nothing_leaves_no_line(stage: Stage, gateway: Replica) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/docs/openapi.json", "/v1/status", "/v1/accountsPLANTED", "/nothing"):
        await gateway.get(path)
    assert (await gateway.ask("OPTIONS", BTC)).status_code == 204
    stage.answers.pop()  # the document has no place for it
    assert await stage.audited() == []


async def test_without_its_table_there_is_no_audit(stage: Stage) -> None:
    stage.settings = msgspec.structs.replace(stage.settings, audit=None)
    gateway = await stage.warm()
    assert gateway.gateway.audit is None
    assert await stage.audited() == []


@pytest.mark.parametrize(
    ("account", "named"),
    [("nope", "nope"), ("a" * 63, "a" * 63), ("a" * 64, None), ("No", None), ("a%0Ab", None), ("a b", None)],
)
async def test_an_account_is_named_where_it_could_be_one(
    stage: Stage, gateway: Replica, account: str, named: str | None
) -> None:
    await gateway.get(f"/v1/accounts/{account}")
    assert (await audited(stage)).account == named


async def test_a_line_holds_nothing_that_a_caller_chose_freely(stage: Stage, gateway: Replica) -> None:
    for path in (
        f"{POSITIONS}/BTCUSD_PERP/planted",
        f"{ASSETS}?planted=1",
        f"{ASSETS}?asset=planted%00",
        "/v1/accounts/planted_",
    ):
        await gateway.get(path, user_agent="planted", cache_control="planted=", x_request_id="planted!")
    lines = await stage.audited()
    assert [line.status for line in lines] == [400, 400, 400, 403]
    assert "planted" not in msgspec.json.encode(lines).decode()


async def test_a_line_holds_no_row(stage: Stage, gateway: Replica) -> None:
    body = (await gateway.get(ACCOUNT)).json()
    text = msgspec.json.encode(await stage.audited()).decode()
    assert not [row["walletBalance"] for row in body["assets"] if f'"{row["walletBalance"]}"' in text]


@pytest.mark.parametrize("name", ["cgw_0123456789planted", "planted0" * 8])
async def test_a_secret_given_as_a_name_is_masked(stage: Stage, gateway: Replica, name: str) -> None:
    assert (await gateway.get(f"{ASSETS}?asset=BTC,{name}")).status_code == 404
    assert (await audited(stage)).filters == Filters(assets=("BTC", "…"))


@pytest.mark.parametrize("warm", [False, True])
async def test_a_token_given_as_a_request_id_is_replaced_wherever_it_would_stand(
    stage: Stage, gateway: Replica, log_text: io.StringIO, *, warm: bool
) -> None:
    if warm:
        await gateway.get()
    answer = await gateway.get(x_request_id="cgw_0123456789planted")
    given = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", given)
    assert logged(log_text)[-1]["request_id"] == given
    assert (await stage.audited())[-1].request_id == given


async def test_replicas_that_share_a_file_lose_none_of_each_others_lines(stage: Stage) -> None:
    replicas = [await stage.start(), await stage.start()]
    answers = await asyncio.gather(*(replica.get() for replica in replicas for _ in range(50)))
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert {line.request_id for line in await stage.audited()} == ids


# No read without its line.


async def refusing(make_stage: MakeStage, **audit: object) -> tuple[Stage, Replica]:
    stage = make_stage(audit={**AUDIT, "when_full": "refuse", **audit})
    return stage, await stage.start()


def refused(answer: httpx.Response) -> bool:
    assert told(answer) == (503, "audit-unavailable", "1")
    return "audit" in answer.json()["detail"]


async def test_a_read_without_room_for_its_line_is_refused_before_anything_is_asked(make_stage: MakeStage) -> None:
    stage, gateway = await refusing(make_stage, queue=1)
    stage.exchange.hold()
    first = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    for path in ("/v1/accounts", *PATHS):
        assert refused(await gateway.get(path, client=None)), path
        assert refused(await gateway.get(path)), path
    for path in ("/v1/status", "/healthz", "/docs"):
        assert (await gateway.get(path)).status_code == 200
    stage.exchange.release()
    assert (await first).status_code == 200
    assert gateway.figure("coinm_audit_lines_dropped_total") == 2 * (1 + len(PATHS))
    assert (await audited(stage)).status == 200


async def test_every_read_under_way_gives_its_place_back(make_stage: MakeStage) -> None:
    stage, gateway = await refusing(make_stage, queue=4)
    stage.exchange.hold()
    callers = [asyncio.create_task(gateway.get()) for _ in range(4)]
    await stage.exchange.wait_held()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    stage.exchange.release()
    async with asyncio.timeout(30):
        while (await gateway.get()).status_code == 503:  # until the writer has come by
            await asyncio.sleep(0.001)
    written = [line.status for line in await stage.audited()]
    assert (written[:4], written[-1]) == ([None] * 4, 200)


async def test_no_read_is_answered_once_the_disk_is_full(make_stage: MakeStage, log_text: io.StringIO) -> None:
    stage, gateway = await refusing(make_stage, file="/dev/full")
    assert (await gateway.get()).status_code == 200  # the one that finds out
    async with asyncio.timeout(30):
        while not logged(log_text, "audit_unwritable"):
            await asyncio.sleep(0.001)
    assert refused(await gateway.get())
    assert refused(await gateway.get("/v1/accounts"))
    assert (await gateway.get("/binance/main/dapi/v1/account", client=None)).json()["code"] == -1001
    assert gateway.figure("coinm_audit_failing") == 1
    await stage.stop()
    assert gateway.figure("coinm_audit_lines_dropped_total") == 4
    assert sum(line["lines"] for line in logged(log_text, "audit_lines_lost")) == 4


async def test_reads_go_on_while_the_disk_is_full_if_lines_may_be_lost(make_stage: MakeStage) -> None:
    stage = make_stage(audit={"file": "/dev/full", "queue": 5})
    gateway = await stage.start()
    assert {(await gateway.get()).status_code for _ in range(8)} == {200}
    assert gateway.figure("coinm_audit_lines_dropped_total") == 3
    await stage.stop()
    assert gateway.figure("coinm_audit_lines_dropped_total") == 8


READING_NOTHING = {"/healthz", "/readyz", "/v1/status", "/docs", "/docs/{name:str}"}
READING_NOTHING |= {f"/binance/{{account:str}}/dapi/v1/{name}" for name in ("exchangeInfo", "ping", "time")}


def test_every_route_says_that_it_reads_or_is_known_to_read_nothing(stage: Stage) -> None:
    """A route of data that doesn't say so would be read unseen."""
    silent = {
        route.path
        for route in stage.app().litestar.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.fn.__module__.startswith("service.") and not {READS, LISTS_ACCOUNTS} & set(handler.opt)
    }
    assert silent == READING_NOTHING
