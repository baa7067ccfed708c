"""What operators see: one line a request, and metrics whose labels are bounded."""

import asyncio
import io
import logging
import re

import pytest

import service
from service.fleet.budget import CREDENTIAL_PROBE
from simulator.faults import Fault
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, ASSETS, BTC, POSITIONS, Json, Replica, Stage, logged

LINE = {"request_id", "method", "route", "status", "duration_ms", "event", "logger", "level", "time"}
"""What every request's line has; the rest is there where it is known."""


@pytest.mark.parametrize(
    ("path", "client", "fault", "level", "facts"),
    [
        (BTC, "risk", None, "info", {"client": "risk", "account": "main", "result": "stored", "refresh": "absent"}),
        (f"{ASSETS}/NONESUCH", "risk", None, "warning", {"client": "risk", "account": "main", "status": 404}),
        (BTC, "nobody", None, "warning", {"client": "nobody", "problem": "forbidden", "status": 403}),
        (BTC, None, None, "warning", {"problem": "unauthenticated", "status": 401}),
        (f"{ASSETS}?x=1", "risk", None, "warning", {"client": "risk", "account": "main", "status": 400}),
        ("/nothing", None, None, "warning", {"route": "unmatched", "problem": "not-found", "status": 404}),
        (BTC, "risk", "418", "error", {"account": "main", "problem": "exchange-banned", "status": 503}),
        ("/v1/accounts", "risk", None, "info", {"client": "risk", "route": "/v1/accounts"}),
        ("/v1/status", "risk", None, "info", {"client": "risk", "route": "/v1/status"}),
    ],
)
async def test_a_request_is_one_line(
    stage: Stage, log_text: io.StringIO, *, path: str, client: str | None, fault: str | None, level: str, facts: Json
) -> None:
    gateway = await stage.start()
    stage.fail(*[fault] if fault else [])
    answer = await gateway.get(path, client)
    (line,) = logged(log_text)
    expected = {"method": "GET", "status": answer.status_code, "level": level} | facts
    assert expected.items() <= line.items()
    assert line["request_id"] == answer.headers["x-request-id"]
    assert set(line) >= LINE
    assert set(line) - LINE <= {"client", "account", "result", "refresh", "age_ms", "problem"}


async def test_a_line_holds_neither_query_nor_names_from_the_path(stage: Stage, log_text: io.StringIO) -> None:
    gateway = await stage.start()
    await gateway.get(f"{POSITIONS}/PLANTED/BOTH?x=PLANTED", user_agent="PLANTED")
    await gateway.get("/PLANTED?PLANTED=1")
    assert "PLANTED" not in log_text.getvalue()
    assert logged(log_text)[0]["route"] == "/v1/accounts/{account}/positions/{symbol}/{position_side}"


async def test_an_account_is_named_only_once_it_is_granted(gateway: Replica, log_text: io.StringIO) -> None:
    await gateway.get("/v1/accounts/PLANTED")
    assert "PLANTED" not in log_text.getvalue()


async def test_probes_do_not_fill_the_log_but_a_draining_one_warns(gateway: Replica, log_text: io.StringIO) -> None:
    for path in ("/healthz", "/readyz"):
        await gateway.get(path, client=None)
    assert logged(log_text) == []
    gateway.gateway.draining = True
    await gateway.get("/readyz", client=None)
    assert [line["level"] for line in logged(log_text)] == ["warning"]


async def test_head_is_told_from_get(gateway: Replica, log_text: io.StringIO) -> None:
    await gateway.ask("HEAD", ACCOUNT)
    assert logged(log_text)[0]["method"] == "HEAD"


async def test_a_caller_who_hangs_up_leaves_a_line_too(stage: Stage, log_text: io.StringIO) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    caller = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    caller.cancel()
    await asyncio.wait([caller])
    (line,) = logged(log_text)
    assert (line["status"], line["client"], line["account"]) == (0, "risk", "main")


async def test_a_failed_refresh_says_what_the_exchange_answered(stage: Stage, log_text: io.StringIO) -> None:
    gateway = await stage.start()
    stage.fail("-2015")
    await gateway.get()
    (line,) = logged(log_text, "refresh_failed")
    expected = {"account": "main", "problem": "exchange-rejected-credentials", "answered": 401, "code": -2015}
    assert expected.items() <= line.items()


async def test_redis_going_and_coming_are_a_line_each(stage: Stage, log_text: io.StringIO) -> None:
    gateway = await stage.warm()
    for reachable in (False, False, True, True):
        stage.redis_server.connected = reachable
        await stage.advance(10_000)
        await gateway.get()
    assert [line["level"] for line in logged(log_text, "redis_away")] == ["warning"]
    assert len(logged(log_text, "redis_back")) == 1


async def test_nothing_foreign_is_logged_at_info(gateway: Replica) -> None:
    await gateway.get()
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)


# Metrics.


async def test_requests_are_counted_by_route_method_and_status(gateway: Replica) -> None:
    for path in (BTC, f"{ASSETS}/ETH", f"{ASSETS}/NONESUCH", "/made/up", "/made/up/too"):
        await gateway.get(path)
    await gateway.ask("HEAD", BTC)
    await gateway.ask("BREW", BTC)
    route = "/v1/accounts/{account}/assets/{asset}"
    assert gateway.figure(f'coinm_requests_total{{method="GET",route="{route}",status="200"}}') == 2
    assert gateway.figure(f'coinm_requests_total{{method="GET",route="{route}",status="404"}}') == 1
    assert gateway.figure(f'coinm_requests_total{{method="HEAD",route="{route}",status="200"}}') == 1
    assert gateway.figure('coinm_requests_total{method="GET",route="unmatched",status="404"}') == 2
    assert gateway.figure(f'coinm_request_duration_seconds_count{{route="{route}"}}') is not None
    assert not re.search("BTC|made|BREW|NONESUCH", gateway.metrics())


async def test_reads_are_counted_by_how_the_cache_met_them(stage: Stage) -> None:
    gateway = await stage.warm()
    await gateway.get()
    await stage.advance(10_000)
    stage.fail(Fault("not-json", count=1))
    await gateway.get()
    await gateway.get()
    labels = 'account="main",client="risk",document="account"'
    counts = {
        result: gateway.figure(f'coinm_cache_results_total{{{labels},result="{result}"}}')
        for result in ("stored", "fresh", "stale-if-error", "backoff", "collapsed")
    }
    assert counts == {"stored": 1, "fresh": 1, "stale-if-error": 1, "backoff": 1, "collapsed": None}


async def test_weight_saved_is_what_answers_from_a_snapshot_would_have_cost(stage: Stage) -> None:
    gateway = await stage.warm()
    await asyncio.gather(*(gateway.get() for _ in range(10)))
    assert gateway.figure('coinm_weight_saved_total{account="main",client="risk"}') == 50
    assert (await gateway.status())["weight"]["savedTotal"] == 50


async def test_calls_and_their_weight_are_counted_by_endpoint_and_outcome(stage: Stage) -> None:
    gateway = await stage.warm(age=10_000)
    stage.fail("not-json")
    await gateway.get()
    await stage.advance(10_000)
    stage.fail("418")
    await gateway.get()
    calls = "coinm_exchange_calls_total"
    assert gateway.figure(f'{calls}{{endpoint="account",outcome="exchange-banned"}}') == 1
    assert gateway.figure(f'{calls}{{endpoint="time",outcome="ok"}}') == 3
    assert gateway.figure(f'{calls}{{endpoint="exchangeInfo",outcome="ok"}}') == 1
    assert gateway.figure('coinm_weight_spent_total{client="risk",endpoint="account"}') == 15
    assert gateway.figure("coinm_exchange_used_weight") == 19
    assert gateway.figure("coinm_exchange_weight_ceiling") == 1920
    assert gateway.figure("coinm_exchange_not_before_seconds") == 120


async def test_a_release_and_its_environment_are_told(stage: Stage) -> None:
    gateway = await stage.start()
    assert gateway.figure(f'coinm_build_info{{environment="testing",version="{service.__version__}"}}') == 1


async def test_the_age_that_no_answer_has_unmarked_is_told_and_follows_the_settings(make_stage: MakeStage) -> None:
    stage = make_stage(freshness={"fresh_for": "3s", "stale_while_revalidate": "500ms"})
    gateway, reloader = await stage.start_watched()
    objective = 'coinm_snapshot_objective_seconds{account="main",document="account"}'
    assert gateway.figure(objective) == 3.5
    stage.edit('fresh_for = "3s"', 'fresh_for = "4s"')
    await reloader.check_now()
    assert gateway.figure(objective) == 4.5


async def test_a_rejected_credential_is_told_for_as_long_as_it_is_not_tried_again(stage: Stage) -> None:
    gateway = await stage.warm(age=10_000)
    refused = 'coinm_credential_refused{account="main"}'
    assert gateway.figure(refused) == 0
    stage.fail("-2015")
    await gateway.get()
    assert gateway.figure(refused) == 1
    stage.fail()
    await stage.advance(CREDENTIAL_PROBE + 1_000)
    assert (await gateway.get()).status_code == 200
    assert gateway.figure(refused) == 0


@pytest.mark.parametrize(("fault", "outcome"), [("hang", "exchange-timeout"), ("reset", "exchange-unavailable")])
async def test_calls_without_an_answer_are_counted_by_what_a_caller_is_told(
    make_stage: MakeStage, fault: str, outcome: str
) -> None:
    stage = make_stage(exchange={"timeout": "300ms"})
    gateway = await stage.start()
    stage.fail(Fault(fault, count=1))
    await gateway.get()
    assert gateway.figure(f'coinm_exchange_calls_total{{endpoint="account",outcome="{outcome}"}}') == 1


async def test_the_snapshots_age_and_the_refreshes_are_exposed_by_account(stage: Stage) -> None:
    gateway = await stage.start()
    assert 'coinm_snapshot_age_seconds{account="main",document="account"} NaN' in gateway.metrics()
    await gateway.get()
    await stage.advance(2_500)
    assert gateway.figure('coinm_snapshot_age_seconds{account="main",document="account"}') == 2.5
    assert gateway.figure('coinm_refresh_duration_seconds_count{account="main",document="account"}') == 1


async def test_a_refresh_that_asks_nothing_is_not_timed(stage: Stage) -> None:
    await stage.warm()
    second = await stage.start()
    await second.get()
    assert not second.figure('coinm_refresh_duration_seconds_count{account="main",document="account"}')


async def test_the_state_of_a_replica_is_exposed(stage: Stage) -> None:
    gateway = await stage.warm()
    names = ("redis_up", "ready", "exchange_clock_offset_seconds")
    assert [gateway.figure(f"coinm_{name}") for name in names] == [1, 1, 0]
    gateway.gateway.draining, stage.redis_server.connected = True, False
    await stage.advance(10_000)
    await gateway.get()
    assert [gateway.figure(f"coinm_{name}") for name in names] == [0, 0, 0]
    assert gateway.figure('coinm_redis_failures_total{kind="unreachable"}') == 1


async def test_every_metric_of_ours_says_what_it_counts(gateway: Replica) -> None:
    types = re.findall(r"^# TYPE (coinm_\S+)", gateway.metrics(), re.MULTILINE)
    helped = re.findall(r"^# HELP (coinm_\S+) [A-Z].*\.$", gateway.metrics(), re.MULTILINE)
    assert types == helped
