"""What must not become worse by being repeated: bugs, refusals, misprints."""

import asyncio
import gc
import io

import httpx
import pytest

from service.account import documents
from service.exchange.public_api import REFRESH_WEIGHT
from service.fleet.budget import MAX_COOLDOWN
from service.fleet.errors import ExchangeError
from service.settings_file import MIN_WEIGHT
from simulator.faults import Fault
from simulator.signature import DEMO_SECRET_KEY
from tests.app.harness import ADDRESS_HOLD, Stage, Wire, told
from tests.support import START


class Buggy(Wire):
    """A way to the exchange with a bug of our own in it."""

    tries = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tries += 1
        raise RuntimeError("nobody foresaw this")


async def test_a_bug_while_refreshing_pauses_like_a_failure_of_the_exchange(stage: Stage) -> None:
    wire = Buggy(stage.exchange)
    gateway = await stage.start_on(wire)
    statuses = [(await gateway.get()).status_code for _ in range(20)]
    tries = wire.tries
    await stage.advance(1_000)
    await gateway.get()

    assert statuses == [500] * 20
    assert tries == 1
    assert wire.tries == 2
    assert (await gateway.status())["accounts"][0]["lastRefresh"]["outcome"] == "internal-error"


@pytest.mark.parametrize("until", [9_999_999_999_999_999, START + MAX_COOLDOWN + 2 * 86_400_000])
async def test_a_not_before_that_somebody_mistyped_is_none(stage: Stage, until: int) -> None:
    async with stage.redis() as redis:
        await redis.hset(ADDRESS_HOLD, mapping={"until": until, "problem": "exchange-banned"})
    gateway = await stage.start()

    assert (await gateway.get()).status_code == 200
    assert (await gateway.status())["notBefore"] is None


async def test_a_mended_secret_is_tried_at_once(stage: Stage) -> None:
    secret = stage.folder / "secrets" / "secret_key"
    secret.write_text("wrong")
    refused = await (await stage.start()).get()
    still = await (await stage.start()).get()
    calls = stage.exchange.calls.count("/dapi/v1/account")
    secret.write_text(DEMO_SECRET_KEY)
    mended = await (await stage.start()).get()

    assert [answer.status_code for answer in (refused, still, mended)] == [502, 502, 200]
    assert calls == 1


async def test_a_live_limit_that_no_refresh_fits_in_is_taken_for_a_misprint(stage: Stage) -> None:
    body = (
        '{"symbols":[],"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":5}]}'
    )
    stage.exchange.faults.add(Fault("custom", path="/dapi/v1/exchangeInfo", body=body))
    gateway = await stage.warm(age=70_000)

    assert (await gateway.get()).status_code == 200
    assert (await gateway.status())["weight"]["ceiling"] == 1920


def test_settings_leave_room_for_one_refresh() -> None:
    assert MIN_WEIGHT == REFRESH_WEIGHT


async def test_a_live_limit_lowers_ours(stage: Stage) -> None:
    stage.exchange.limits.policy = type(stage.exchange.limits.policy)(weight_limit=1000)
    gateway = await stage.warm()

    assert (await gateway.status())["weight"]["ceiling"] == 800


async def test_what_the_exchange_sets_as_a_cookie_is_not_sent_back(stage: Stage) -> None:
    stage.exchange.faults.add(Fault("custom", path="/dapi/v1/time", count=1, status=503, headers={"set-cookie": "a=b"}))
    wire = Cookies(stage.exchange)
    gateway = await stage.start_on(wire)
    await gateway.get()

    assert wire.sent == {None}


class Cookies(Wire):
    """Remembers the cookies that were sent."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # as given
        self.sent: set[str | None] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.add(request.headers.get("cookie"))
        return await super().handle_async_request(request)


async def test_refused_reads_leave_nothing_behind_in_what_is_remembered(stage: Stage) -> None:
    """A raised exception collects the frames, and so the tokens, of everyone it is raised to."""
    stage.transport.down = True
    gateway = await stage.start()
    await asyncio.gather(*(gateway.get() for _ in range(50)))
    barrier = gateway.gateway.config.caches["main"].documents[documents.ACCOUNT].state.barrier(forced=False)

    assert barrier is not None
    gc.collect()
    assert [each for each in gc.get_objects() if isinstance(each, ExchangeError) and each.__traceback__] == []


async def test_a_malformed_host_is_a_problem_that_repeats_nothing_of_the_request(stage: Stage) -> None:
    gateway = await stage.start()
    answer = await gateway.get("/v1/accounts?planted=1", host="planted host")

    assert told(answer) == (400, "invalid-parameter", None)
    assert "planted" not in answer.text


async def test_a_bug_outside_of_a_refresh_is_a_500_with_its_trace_in_the_log(
    stage: Stage, log_text: io.StringIO
) -> None:
    gateway = await stage.start()
    stage.clock.broken = True
    answer = await gateway.get()
    stage.clock.broken = False

    assert told(answer) == (500, "internal-error", None)
    assert "ZeroDivisionError" not in answer.text
    assert "ZeroDivisionError" in log_text.getvalue()
