"""Reads that wait: who may, until when, and what they are given after it."""

import asyncio
import io
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from service.access import tokens
from service.telemetry.audit import Line
from service.web.edge import FUTILE_LINES
from tests.app.conftest import MakeStage
from tests.app.harness import BTC, Replica, Stage, cache_status, logged, problem, settle, told
from tests.app.pods import CLIENTS, KUBERNETES, Pods, ask
from tests.support import TOKENS, bearer

DROP_IN = "/binance/main/dapi/v1/account"


class Connection:
    """A caller's connection, as the server shows it to the app."""

    def __init__(self, gateway: Replica, path: str = BTC, client: str = "risk") -> None:
        self.gone = asyncio.Event()
        self.sent: list[Mapping[str, Any]] = []
        self._received = False
        headers = [(name.encode(), value.encode()) for name, value in bearer(client, host="gateway").items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 9),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        self.answering = asyncio.create_task(self._answered(gateway, scope))

    async def _answered(self, gateway: Replica, scope: Any) -> None:
        """As the server does: a request comes to the app in its own task."""
        await gateway.app(scope, self.receive, self.send)

    async def receive(self) -> Any:
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def hang_up(self) -> None:
        self.gone.set()
        await self.answering


async def _slow(stage: Stage) -> Replica:
    """A replica with nothing at hand, whose exchange doesn't answer."""
    gateway = await stage.start()
    stage.exchange.hold()
    return gateway


def _requests(gateway: Replica, status: int) -> float:
    labels = {"route": "/v1/accounts/{account}/assets/{asset}", "method": "GET", "status": str(status)}
    return gateway.gateway.metrics.registry.get_sample_value("coinm_requests_total", labels) or 0


async def test_a_wait_ends_when_its_caller_hangs_up_and_the_refresh_goes_on(stage: Stage) -> None:
    gateway = await _slow(stage)
    callers = [Connection(gateway) for _ in range(20)]
    await stage.exchange.wait_held()
    assert gateway.gateway.waiting.waiting == 20
    for caller in callers:
        await caller.hang_up()
    assert (gateway.gateway.waiting.waiting, [caller.sent for caller in callers]) == (0, [[]] * 20)
    stage.exchange.release()
    assert (await gateway.get()).status_code == 200
    assert stage.account_calls == 1


async def test_a_hang_up_is_counted_and_audited_once_without_a_status(stage: Stage) -> None:
    gateway = await _slow(stage)
    caller = Connection(gateway)
    await stage.exchange.wait_held()
    await caller.hang_up()
    assert _requests(gateway, 0) == 1
    lines: list[Line] = [line for line in await stage.audited() if line.shape == "asset"]
    assert [(line.client, line.account, line.status, line.snapshot) for line in lines] == [("risk", "main", None, None)]


async def test_tasks_of_a_caller_that_left_end_with_it(stage: Stage) -> None:
    gateway = await _slow(stage)
    stayer = Connection(gateway)
    await stage.exchange.wait_held()
    before = len(asyncio.all_tasks())
    leavers = [Connection(gateway) for _ in range(50)]
    await settle()
    for each in leavers:
        await each.hang_up()
    await settle()
    assert len(asyncio.all_tasks()) == before
    stage.exchange.release()
    await stayer.answering
    assert stayer.sent[0]["status"] == 200


async def test_a_hit_needs_no_place_and_no_task(make_stage: MakeStage) -> None:
    stage = make_stage(server={"waiters": 1})
    gateway = await stage.warm()
    before = len(asyncio.all_tasks())
    caller = Connection(gateway, "/v1/accounts/main")
    await caller.answering
    assert (caller.sent[0]["status"], len(asyncio.all_tasks())) == (200, before)


async def test_beyond_the_places_there_are_a_client_is_refused_at_once(make_stage: MakeStage) -> None:
    stage = make_stage(server={"waiters": 3})
    gateway = await _slow(stage)
    waiting = [asyncio.create_task(gateway.get()) for _ in range(3)]
    await stage.exchange.wait_held()
    refused, dropped = await gateway.get(), await gateway.caller.get(DROP_IN, headers={"x-mbx-apikey": TOKENS["risk"]})
    assert told(refused)[:2] == (503, "overloaded")
    assert 1 <= int(refused.headers["retry-after"]) <= 5
    assert (dropped.status_code, dropped.json()["code"]) == (503, -1001)
    assert 1 <= int(dropped.headers["retry-after"]) <= 5
    stage.exchange.release()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3
    assert 'coinm_overloaded_total{client="risk"} 2.0' in gateway.metrics()


async def test_a_client_that_fills_the_places_shuts_out_no_other(make_stage: MakeStage) -> None:
    stage = make_stage(server={"waiters": 4})
    gateway = await _slow(stage)
    flood = [asyncio.create_task(gateway.get()) for _ in range(10)]
    await stage.exchange.wait_held()
    others = [asyncio.create_task(gateway.get(client="treasury")) for _ in range(3)]
    await settle()
    stage.exchange.release()
    assert sorted(answer.status_code for answer in await asyncio.gather(*flood)) == [200, 200] + [503] * 8
    assert sorted(answer.status_code for answer in await asyncio.gather(*others)) == [200, 200, 503]


async def test_that_there_is_no_room_is_logged_once_and_so_is_its_end(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage = make_stage(server={"waiters": 2})
    gateway = await _slow(stage)
    flood = [asyncio.create_task(gateway.get()) for _ in range(9)]
    await stage.exchange.wait_held()
    stage.exchange.release()
    await asyncio.gather(*flood)
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    events = [line["event"] for line in lines if line.get("waiting_for") == "refresh"]  # on a slow machine "turn" too
    assert events == ["waiting_room_full", "waiting_room_has_room"]


async def test_all_of_a_burst_that_finds_no_room_are_refused_alike_and_few_have_a_log_line(
    make_stage: MakeStage, log_text: io.StringIO
) -> None:
    stage = make_stage(server={"waiters": 3}, audit=None)
    gateway = await _slow(stage)
    burst = [Connection(gateway) for _ in range(1000)]
    await stage.exchange.wait_held()
    await settle()
    refused = [caller.sent for caller in burst if caller.sent]
    stage.exchange.release()
    await asyncio.gather(*(caller.answering for caller in burst))
    assert [caller.sent[0]["status"] for caller in burst].count(503) == len(refused) >= 990
    heads = [dict(sent[0]["headers"]) for sent in refused]
    assert len({head.pop(b"x-request-id") for head in heads}) == len(refused)
    assert {int(head.pop(b"retry-after")) for head in heads} == {1, 2, 3, 4, 5}
    lengths = {
        int(head.pop(b"content-length")) - len(sent[1]["body"]) for head, sent in zip(heads, refused, strict=True)
    }
    assert lengths == {0}
    assert {frozenset(head.items()) for head in heads} == {
        frozenset(
            {
                b"content-type": b"application/problem+json",
                b"cache-control": b"no-store",
                b"x-content-type-options": b"nosniff",
            }.items()
        )
    }
    bodies = [msgspec.json.decode(sent[1]["body"]) for sent in refused]
    assert len({body.pop("instance") for body in bodies}) == len(refused)
    assert {body["type"].rpartition(":")[2] for body in bodies} == {"overloaded"}
    lines = logged(log_text)
    assert sum((line["route"], line["status"]) == ("unmatched", 503) for line in lines) == FUTILE_LINES.per_second
    waited = max(line["duration_ms"] for line in lines if line["status"] == 503 and line["route"] != "unmatched")
    assert waited > 5  # one of the three that found a place: it waited while hundreds were refused
    unrouted = {"route": "unmatched", "method": "GET", "status": "503"}
    short = gateway.gateway.metrics.registry.get_sample_value("coinm_requests_total", unrouted) or 0
    assert short > FUTILE_LINES.per_second
    assert short + _requests(gateway, 503) == len(refused)


async def _while_waiting(stage: Stage, path: str, headers: Mapping[str, str], old: str, new: str) -> Any:
    """A read during whose wait the settings change."""
    gateway, reloader = await stage.start_watched()
    stage.exchange.hold()
    waiting = asyncio.create_task(gateway.caller.get(path, headers=dict(headers)))
    await stage.exchange.wait_held()
    stage.edit(old, new)
    await reloader.check_now()
    stage.exchange.release()
    return await waiting


@pytest.mark.parametrize(
    ("path", "headers"),
    [(BTC, bearer("treasury")), (DROP_IN, {"x-mbx-apikey": TOKENS["treasury"]})],
    ids=["v1", "drop-in"],
)
async def test_a_token_that_is_revoked_during_a_wait_gets_401(
    stage: Stage, path: str, headers: Mapping[str, str]
) -> None:
    digest = tokens.digest(TOKENS["treasury"].encode())
    answer = await _while_waiting(stage, path, headers, f'"{digest}"', f'"{"0" * 64}"')
    assert answer.status_code == 401
    (line,) = [line for line in await stage.audited() if line.shape in ("asset", "account")]
    assert (line.status, line.snapshot) == (401, None)


async def test_a_token_that_is_moved_during_a_wait_is_judged_as_the_other_client(stage: Stage) -> None:
    """From one that sees all assets to one that sees LONG rows alone."""
    risk, longs = (tokens.digest(TOKENS[name].encode()) for name in ("risk", "longs"))
    gateway, reloader = await stage.start_watched()
    stage.exchange.hold()
    asked = [asyncio.create_task(gateway.get(path)) for path in ("/v1/accounts/main/assets", f"{BTC[:-3]}ETH")]
    await stage.exchange.wait_held()
    stage.edit(f'"{risk}"', f'"{"0" * 64}"')
    stage.edit(f'"{longs}"', f'"{risk}"')
    await reloader.check_now()
    stage.exchange.release()
    assets, other = await asyncio.gather(*asked)
    assert [row["asset"] for row in assets.json()] == ["BTC"]
    assert told(other)[:2] == (403, "forbidden")
    assert {line.client for line in await stage.audited() if line.shape in ("assets", "asset")} == {"longs"}


async def test_a_failure_is_not_told_to_a_token_that_was_revoked_during_the_wait(stage: Stage) -> None:
    digest = tokens.digest(TOKENS["treasury"].encode())
    stage.fail("not-json")
    answer = await _while_waiting(stage, BTC, bearer("treasury"), f'"{digest}"', f'"{"0" * 64}"')
    assert (answer.status_code, problem(answer)) == (401, "unauthenticated")


async def test_a_service_accounts_token_is_reviewed_again_after_a_wait_that_outlasts_its_verdict(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(kubernetes=KUBERNETES, clients=CLIENTS)
    pods, gateway = Pods(stage), await stage.start()
    token = pods.token()
    stage.exchange.hold()
    waiting = asyncio.create_task(ask(gateway, token))
    await stage.exchange.wait_held()
    stage.cluster.delete(pods.caller)
    await stage.advance(11_000)
    stage.exchange.release()
    assert (await waiting).status_code == 401


async def test_callers_of_a_slow_exchange_get_what_is_there_once_it_has_been_slow_for_half_a_second(
    stage: Stage,
) -> None:
    gateway = await stage.warm(age=5_000)
    stage.exchange.hold()
    first = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    await stage.advance(500)
    later = await gateway.get()
    assert (cache_status(later), later.headers["gateway-snapshot-age"]) == ("hit; ttl=-5; detail=slow", "5500")
    assert cache_status(await first) == "hit; ttl=-5; detail=slow"
    stage.exchange.release()
    assert stage.account_calls == 2


async def test_a_caller_with_a_bound_waits_for_a_slow_exchange(stage: Stage) -> None:
    gateway = await stage.warm(age=5_000)
    stage.exchange.hold()
    waiting = [asyncio.create_task(gateway.get(cache_control=each)) for each in ("max-age=4", "no-cache")]
    await stage.exchange.wait_held()
    await stage.advance(900)
    assert not any(task.done() for task in waiting)
    stage.exchange.release()
    assert {cache_status(answer).partition(";")[0] for answer in await asyncio.gather(*waiting)} == {
        "fwd=stale",
        "fwd=request",
    }


async def test_who_came_while_a_slow_refresh_was_under_way_waits_for_no_second_one(stage: Stage) -> None:
    gateway = await stage.start()
    stage.exchange.hold()
    early = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    await stage.advance(3_000)
    late = asyncio.create_task(gateway.get())
    await settle()
    await stage.advance(500)
    stage.exchange.release()
    answers = await asyncio.gather(early, late)
    assert [answer.headers["gateway-snapshot-age"] for answer in answers] == ["3500", "3500"]
    assert [cache_status(answer) for answer in answers] == ["fwd=miss; stored", "fwd=miss; collapsed"]
    assert stage.account_calls == 1


async def test_another_replica_that_waited_for_a_slow_refresh_asks_for_no_second_one(stage: Stage) -> None:
    first, second = await stage.start(), await stage.start()
    stage.exchange.hold()
    early = asyncio.create_task(first.get())
    await stage.exchange.wait_held()
    await stage.advance(1_500)
    late = asyncio.create_task(second.get())
    await settle()  # it has seen that the lease is held
    await stage.advance(400)
    stage.exchange.release()
    assert [(await each).status_code for each in (early, late)] == [200, 200]
    assert stage.account_calls == 1
