"""Every way in which the exchange can fail, and what a caller is told: on a cold cache, and with something to show."""

import asyncio
import re

import msgspec
import pytest

from service.account import documents
from service.fleet.errors import ERRORS
from simulator.faults import NAMES, Fault
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, DROP_INS, Stage, Wire, cache_status, problem, told
from tests.support import START, TOKENS
from tests.unit.account.bodies import hostile_arrays

QUICK: dict[str, object] = {"timeout": "300ms"}
"""For faults that only time ends."""


class Expected(msgspec.Struct, frozen=True):
    """What becomes of one fault."""

    problem: str
    status: int
    answered: int | None
    """The exchange's status, in `Cache-Status`; `None` where it gave none."""
    calls: int = 1
    """Signed calls that one refresh takes."""
    retry_after: int = 1
    """Seconds; the first pause unless the exchange's answer means a longer one."""
    detail: str = "backoff"
    """Why the next caller gets what is there, at once."""

    def stale(self, ttl: int) -> str:
        status = f"fwd-status={self.answered}; " if self.answered else ""
        return f"fwd=stale; {status}ttl={ttl}; detail=stale-if-error"


def _unavailable(answered: int | None, calls: int = 3) -> Expected:
    return Expected("exchange-unavailable", 503, answered, calls)


def _rejected(answered: int) -> Expected:
    return Expected("exchange-rejected-credentials", 502, answered, retry_after=600, detail="not-before")


INVALID = Expected("exchange-answer-invalid", 502, 200)
SKEWED = Expected("exchange-clock-skew", 502, 400, calls=2)
TIMED_OUT = Expected("exchange-timeout", 504, None)

EXPECTED: dict[str, Expected] = {
    "503-unknown": _unavailable(503),
    "503-unavailable": _unavailable(503),
    "503-internal": _unavailable(503),
    "503-throttled": _unavailable(503),
    "503-retry-after": Expected("exchange-rate-limited", 503, 503, retry_after=120, detail="not-before"),
    "500": _unavailable(500),
    "502-html": _unavailable(502),
    "504-html": _unavailable(504),
    "403-html": Expected("exchange-blocked", 502, 403, retry_after=300, detail="not-before"),
    "403-retry-after": Expected("exchange-blocked", 502, 403, retry_after=3600, detail="not-before"),
    "challenge": Expected("exchange-blocked", 502, 202, retry_after=300, detail="not-before"),
    "captcha": Expected("exchange-blocked", 502, 405, retry_after=300, detail="not-before"),
    "404-html": Expected("exchange-endpoint-gone", 502, 404),
    "404-path": Expected("exchange-endpoint-gone", 502, 404),
    "408": Expected("exchange-timeout", 504, 408, calls=3),
    "451": Expected("exchange-blocked", 502, 451),
    "maintenance": _unavailable(503, calls=1),  # said to last: a second try is no read's business
    "maintenance-200": _unavailable(200, calls=1),
    "-1016": _unavailable(503, calls=1),
    "-1016-gone": _unavailable(503, calls=1),
    "-1016-400": _unavailable(400, calls=1),
    "-1109": Expected("exchange-refused", 502, 400),
    "-1000": Expected("exchange-refused", 502, 400),
    "-1002": _rejected(401),
    "-2014": _rejected(401),
    "-2015": _rejected(401),
    "-1022": _rejected(400),
    "-1021-ahead": SKEWED,
    "-1021-behind": SKEWED,
    "429": Expected("exchange-rate-limited", 503, 429, retry_after=61, detail="not-before"),
    "-1003-400": Expected("exchange-rate-limited", 503, 400, retry_after=61, detail="not-before"),
    "418": Expected("exchange-banned", 503, 418, retry_after=120, detail="not-before"),
    "301": Expected("exchange-refused", 502, 301),
    "204": Expected("exchange-answer-invalid", 502, 204),
    "not-json": INVALID,
    "compressed-twice": INVALID,
    "compressed-twice-418": Expected("exchange-banned", 503, 418, retry_after=600, detail="not-before"),
    "empty-body": INVALID,
    "array": INVALID,
    "deep-nesting": INVALID,
    "custom": INVALID,
    "duplicate-keys": INVALID,
    "duplicate-keys-asset": INVALID,
    "duplicate-keys-top": INVALID,
    "invalid-utf8": INVALID,
    "nan": INVALID,
    "row-not-object": INVALID,
    "asset-row-not-object": INVALID,
    "row-without-symbol": INVALID,
    "row-without-asset": INVALID,
    "row-without-side": INVALID,
    "unknown-side": INVALID,
    "huge": INVALID,
    "slow": TIMED_OUT,
    "hang": TIMED_OUT,
    "truncated": _unavailable(None),
    "reset": _unavailable(None),
}

FOREIGN = re.compile(
    "cloudfront|html|try again|service is under|no longer|api-key|unknown error|occured|binance.com|elsewhere"
    "|throttled|websocket|backend|futurefield|banned until|recvwindow|invalid account|msg|127.0.0.1",
    re.IGNORECASE,
)
"""What stands in the simulated exchange's errors, and has no business in ours."""


def test_every_fault_of_the_simulator_has_an_expectation() -> None:
    assert set(EXPECTED) == set(NAMES)


def test_every_problem_that_is_the_exchanges_has_a_fault() -> None:
    ours = {"weight-budget-spent", "internal-error"}
    assert {expected.problem for expected in EXPECTED.values()} == set(ERRORS) - ours


TRIED_AGAIN = [fault for fault in NAMES if EXPECTED[fault].calls == 3]
"""These pause between their tries, in real time; so they are tested side by side."""
TOGETHER = [pytest.param([fault], id=fault) for fault in NAMES if fault not in TRIED_AGAIN]
TOGETHER.append(pytest.param(TRIED_AGAIN, id="tried-again"))


def _stage(make_stage: MakeStage, fault: str) -> Stage:
    return make_stage(exchange=QUICK if fault in ("slow", "hang") else {})


@pytest.mark.parametrize("faults", TOGETHER)
async def test_a_fault_on_a_cold_cache_is_a_problem_that_says_when_to_come_back(
    make_stage: MakeStage, faults: list[str]
) -> None:
    await asyncio.gather(*(_cold(_stage(make_stage, fault), fault) for fault in faults))


async def _cold(stage: Stage, fault: str) -> None:
    gateway, expected = await stage.start(), EXPECTED[fault]
    stage.fail(fault)
    answer = await gateway.get()
    assert told(answer) == (expected.status, expected.problem, str(expected.retry_after)), fault
    assert stage.account_calls == expected.calls, fault
    assert "cache-status" not in answer.headers
    assert FOREIGN.search(answer.text) is None, fault


@pytest.mark.parametrize("faults", TOGETHER)
async def test_a_fault_leaves_the_last_good_snapshot_in_memory_and_in_redis(
    make_stage: MakeStage, faults: list[str]
) -> None:
    await asyncio.gather(*(_warm(_stage(make_stage, fault), fault) for fault in faults))


async def _warm(stage: Stage, fault: str) -> None:
    gateway, expected = await stage.warm(), EXPECTED[fault]
    good = stage.answers[-1]
    await stage.advance(30_000)
    stage.fail(fault)
    tried, next_one = await gateway.get(), await gateway.get()
    second = await stage.start()
    elsewhere = await second.get(cache_control="max-stale=60, only-if-cached")
    assert [each.content for each in (tried, next_one, elsewhere)] == [good.content] * 3, fault
    assert cache_status(tried) == expected.stale(-29), fault
    assert cache_status(next_one) == f"hit; ttl=-29; detail={expected.detail}", fault
    assert elsewhere.headers["gateway-snapshot-time"] == good.headers["gateway-snapshot-time"]
    assert stage.account_calls == 1 + expected.calls, fault


@pytest.mark.parametrize("path", DROP_INS[1:])
async def test_an_array_that_can_be_no_answer_is_told_as_such_and_nothing_is_served_of_it(
    stage: Stage, path: str
) -> None:
    gateway = await stage.start()
    document = next(each for each in documents.DOCUMENTS if path.endswith(each.path))
    own, planted = f"{ACCOUNT}/{document.name}", stage.exchange.book().raw_by_path
    for fault, body in hostile_arrays(document).items():
        planted[document.path] = body
        calls = stage.exchange.calls.count(document.path)
        answers = [await gateway.get(own), await gateway.get(path, client=None, x_mbx_apikey=TOKENS["risk"])]
        assert told(answers[0])[:2] == (502, "exchange-answer-invalid"), fault
        assert (answers[1].status_code, answers[1].json()["code"]) == (503, -1001), fault
        assert not [answer for answer in answers if "BTC" in answer.text or "cache-status" in answer.headers], fault
        assert stage.exchange.calls.count(document.path) == calls + 1
        await stage.advance(60_000)
    del planted[document.path]
    assert (await gateway.get(own)).content == stage.raw(document.path)
    good = stage.answers[-1]
    await stage.advance(3_605_000 if document.fresh_for else 5_000)
    planted[document.path] = b"{}"
    answer = await gateway.get(own)
    assert (answer.content, cache_status(answer)[:19]) == (good.content, "fwd=stale; fwd-stat")


async def test_a_refused_connection_is_tried_three_times_and_told_as_unavailable(stage: Stage) -> None:
    gateway = await stage.start()
    stage.transport.down = True
    assert told(await gateway.get()) == (503, "exchange-unavailable", "1")
    signed = [query for query in stage.transport.queries if "signature=" in query]
    assert len(signed) == 3


async def test_a_stale_answer_says_nothing_of_a_status_where_the_exchange_gave_none(stage: Stage) -> None:
    gateway = await stage.warm(age=10_000)
    stage.transport.down = True
    assert cache_status(await gateway.get()) == "fwd=stale; ttl=-9; detail=stale-if-error"


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        (Fault("418", seconds=7 * 24 * 3600), 3 * 24 * 3600),  # a misread time must not be an outage for ever
        (Fault("custom", status=418, body="{}"), 600),
        (Fault("custom", status=418, headers={"retry-after": "42"}, body="{}"), 42),
        (Fault("custom", status=429, headers={"retry-after": "90"}, body="{}"), 90),
        (Fault("custom", status=429, headers={"retry-after": "3"}, body="{}"), 61),
        (Fault("custom", status=429, headers={"retry-after": "soon"}, body="{}"), 61),
        (Fault("custom", status=400, body=f'{{"code":-1003,"msg":"banned until {START + 33_000}."}}'), 33),
    ],
)
async def test_the_exchanges_own_times_are_heeded_within_reason(stage: Stage, fault: Fault, retry_after: int) -> None:
    gateway = await stage.start()
    stage.fail(fault)
    assert (await gateway.get()).headers["retry-after"] == str(retry_after)


async def test_text_in_an_error_of_the_exchange_never_reaches_a_caller(stage: Stage) -> None:
    gateway = await stage.start()
    for status in (200, 302, 400, 403, 404, 418, 429, 451, 500, 501):
        stage.fail(
            Fault("custom", status=status, body='{"code":-7,"msg":"<b>PLANTED</b>"}', headers={"x-p": "PLANTED"})
        )
        answer = await gateway.get(cache_control="no-cache")
        assert answer.status_code >= 500
        assert "PLANTED" not in answer.text + str(answer.headers.raw)
        await stage.advance(700_000)


class Faulty(Wire):
    """A way to the exchange with a bug of our own in it."""

    async def handle_async_request(self, request: object) -> object:  # type: ignore[override]
        raise RuntimeError("a fault nobody foresaw")


async def test_a_bug_is_a_500_whose_trace_is_only_in_the_log(stage: Stage) -> None:
    gateway = await stage.start_on(Faulty(stage.exchange))
    answer = await gateway.get()
    assert (answer.status_code, problem(answer)) == (500, "internal-error")
    assert "foresaw" not in answer.text
