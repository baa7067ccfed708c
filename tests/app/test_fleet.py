"""Several replicas on one Redis: what one asks, tells or is told, all know."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from service.app import create_app
from service.fleet.budget import MINUTE
from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from simulator.transport import SimulatorTransport
from tests.app.conftest import MakeStage
from tests.app.harness import (
    ASSETS,
    NO_CACHE,
    Replica,
    Stage,
    ages,
    cache_status,
    fresh,
    problem,
    settle,
    told,
)
from tests.support import IDENTITY, START, FakeClock

PING = "/dapi/v1/ping"
LEASE = f"coinm:{{account:testing:127.0.0.1:1:main}}:lease:{IDENTITY}"


class WrongClock(FakeClock):
    """A machine whose clock is so many ms ahead of the stage's."""

    def __init__(self, right: FakeClock, lead: int) -> None:
        super().__init__()
        self._right = right
        self._lead = lead

    def monotonic(self) -> int:
        return self._right.monotonic() + 77_777  # every machine counts from a moment of its own

    def epoch(self) -> int:
        return self._right.epoch() + self._lead


class HeadersOnly(SimulatorTransport):
    """An exchange whose answers to signed calls are a 429, and then nothing."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "signature" not in request.url.params:
            return await super().handle_async_request(request)
        return httpx.Response(429, stream=Nothing())


class LateBan(SimulatorTransport):
    """An exchange that takes its time with a signed call, and then says that the address is banned for long."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "signature" not in request.url.params:
            return await super().handle_async_request(request)
        self.asked.set()
        await self.answer.wait()
        return httpx.Response(418, json={"code": -1003, "msg": f"IP banned until {START + 600_000}."})


class Nothing(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""


async def start_with_wrong_clock(stage: Stage, lead: int) -> Replica:
    async with stage.redis():
        redis = stage.app().gateway.redis.redis
    clock = WrongClock(stage.clock, lead)
    return await stage.start_app(create_app(stage.settings, transport=stage.transport, redis=redis, clock=clock))


async def ask_all(replicas: Sequence[Replica], callers: int, **headers: str) -> list[httpx.Response]:
    """Many callers of every replica, at once."""
    return list(await asyncio.gather(*(each.get(**headers) for each in replicas for _ in range(callers))))


def paths(stage: Stage, since: int) -> list[str]:
    """What the exchange was asked, after so many calls."""
    return [call.path for call in stage.exchange.calls.kept()[since:]]


# One call for all.


async def test_any_number_of_replicas_and_callers_on_a_cold_cache_cost_one_call(stage: Stage) -> None:
    answers = await ask_all(await stage.start_fleet(4), 25)
    assert {answer.status_code for answer in answers} == {200}
    assert stage.account_calls == 1
    told_of = [cache_status(answer) for answer in answers]
    assert told_of.count("fwd=miss; stored") == 1
    assert set(told_of) == {"fwd=miss; stored", "fwd=miss; collapsed"}


async def test_an_expired_snapshot_costs_the_fleet_one_call(stage: Stage) -> None:
    replicas = await stage.start_fleet()
    await replicas[0].get()
    await stage.advance(10_000)
    answers = await ask_all(replicas, 25)
    assert fresh(answers)
    assert stage.account_calls == 2


async def test_an_announcement_puts_the_snapshot_into_every_memory(stage: Stage) -> None:
    one, *others = await stage.start_fleet()
    await one.get()
    await settle()
    for other in others:
        assert (await other.status())["accounts"][0]["snapshotTime"] == "2026-09-21T14:14:00.000Z"
        assert fresh([await other.get(cache_control="only-if-cached")])
    assert stage.account_calls == 1


async def test_within_stale_while_revalidate_the_fleet_refreshes_once_behind_everybodys_back(stage: Stage) -> None:
    replicas = await stage.start_fleet()
    await replicas[0].get()
    await stage.advance(2_000)
    stage.exchange.hold()
    answers = await ask_all(replicas, 10)
    await stage.exchange.wait_held()
    stage.exchange.release()
    assert {cache_status(answer).partition("=-")[2][1:] for answer in answers} == {"; detail=swr"}
    await settle()
    assert fresh([await each.get() for each in replicas])
    assert stage.account_calls == 2


async def test_any_number_who_insist_cost_one_refresh_an_interval(make_stage: MakeStage) -> None:
    stage = make_stage(freshness={"min_refresh_interval": "3s"})
    replicas = await stage.start_fleet()
    await replicas[0].get()
    for age, calls in ((2_500, 1), (1_000, 2), (2_500, 2), (1_000, 3)):
        await stage.advance(age)
        answers = await ask_all(replicas, 10, **NO_CACHE)
        assert {answer.status_code for answer in answers} == {200}
        assert stage.account_calls == calls, age


async def test_one_slow_call_is_waited_for_by_every_replica_however_old_its_answer_becomes(stage: Stage) -> None:
    replicas = await stage.start_fleet()
    stage.exchange.hold()
    asked = [asyncio.create_task(each.get()) for each in replicas]
    await stage.exchange.wait_held()
    await stage.advance(1_800)
    stage.exchange.release()
    answers = await asyncio.gather(*asked)
    assert ages(answers) == {1_800}
    assert stage.account_calls == 1


async def test_when_the_lease_expires_exactly_one_waiter_takes_over(stage: Stage) -> None:
    holder, *others = await stage.start_fleet(4)
    stage.fail(Fault("hang", count=1))
    dead = asyncio.create_task(holder.get())
    await stage.exchange.wait_held()
    waiting = [asyncio.create_task(each.get()) for each in others]
    await settle()
    async with stage.redis() as redis:
        await redis.set(LEASE, "of somebody who died", px=100)  # so that the holder doesn't renew its own
    await stage.advance(101)
    answers = await asyncio.gather(*waiting)
    assert {answer.status_code for answer in answers} == {200}
    assert stage.account_calls == 2
    stage.exchange.release()
    assert (await dead).status_code == 200


async def test_a_waiter_without_the_lease_gives_up_at_its_own_deadline_and_never_asks(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"timeout": "500ms"})
    gateway = await stage.start()
    async with stage.redis() as redis:
        await redis.set(LEASE, "of somebody who renews it and never comes back", px=2_000)
        waiting = asyncio.create_task(gateway.get())
        await stage.advance(1_900)
        await redis.set(LEASE, "of somebody who renews it and never comes back", px=2_000)
        await stage.advance(1_601)
    assert (await waiting).status_code == 504
    assert stage.exchange.calls.count() == 0


async def test_a_redis_that_is_slow_but_well_splits_no_fleet(make_stage: MakeStage) -> None:
    """Every operation takes longer than a tick; a slow call means renewals and polls besides."""
    stage = make_stage(exchange={"timeout": "10s"})
    replicas = [await stage.start_lagging() for _ in range(3)]
    await replicas[0].get()  # loads the scripts, which takes longer than an operation may
    await stage.advance(5_000)
    stage.redis_server.lag = 0.03
    stage.exchange.hold()
    asked = [asyncio.create_task(each.get()) for each in replicas]
    await stage.exchange.wait_held()
    await asyncio.sleep(2.5)  # longer than a lease
    stage.exchange.release()
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert stage.account_calls == 2
    assert {(await each.status())["redis"] for each in replicas} == {"ok"}


async def test_a_redis_restarted_empty_in_the_middle_of_a_call_costs_no_second_one(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"timeout": "10s"})
    holder, other = await stage.start_fleet(2)
    stage.exchange.hold()
    asked = [asyncio.create_task(holder.get())]
    await stage.exchange.wait_held()
    async with stage.redis() as redis:
        await redis.flushall()
        async with asyncio.timeout(10):
            while not await redis.exists(LEASE):  # its next renewal
                await asyncio.sleep(0.01)
    asked.append(asyncio.create_task(other.get()))
    await settle()
    stage.exchange.release()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    assert stage.account_calls == 1


async def test_over_a_hundred_accounts_are_no_outage_of_redis(make_stage: MakeStage) -> None:
    names = ["main", *(f"account-{number}" for number in range(120))]
    stage = make_stage(accounts=dict.fromkeys(names), freshness={"fresh_for": "60s"}, exchange={"timeout": "20s"})
    gateway = await stage.start()
    answers = await asyncio.gather(*(gateway.get(f"/v1/accounts/{name}/assets/BTC") for name in names))
    assert {answer.status_code for answer in answers} == {200}
    assert (await gateway.status())["redis"] == "ok"
    assert "coinm_redis_failures_total{" not in gateway.metrics()


# Failures and refusals.


async def test_a_failure_is_announced_and_nobody_tries_what_is_known_to_fail(stage: Stage) -> None:
    replicas = await stage.start_fleet()
    stage.fail("not-json")
    assert told(await replicas[0].get()) == (502, "exchange-answer-invalid", "1")
    for other in replicas[1:]:
        assert told(await other.get()) == (502, "exchange-answer-invalid", "1")
    assert stage.account_calls == 1


async def test_pauses_double_for_the_whole_fleet_whoever_tries(stage: Stage) -> None:
    replicas = await stage.start_fleet()
    stage.fail("maintenance")
    for turn, pause in enumerate([1, 2, 4, 8, 16, 30, 30]):
        answers = [await replicas[(turn + number) % 3].get() for number in range(3)]
        assert [told(answer) for answer in answers] == [(503, "exchange-unavailable", str(pause))] * 3
        await stage.advance(pause * 1_000 - 500)
        await ask_all(replicas, 5)
        assert stage.account_calls == turn + 1
        await stage.advance(500)
    stage.exchange.faults.clear()
    assert {answer.status_code for answer in await ask_all(replicas, 5)} == {200}


async def test_a_success_anywhere_ends_the_pause_everywhere(stage: Stage) -> None:
    one, other = await stage.start_fleet(2)
    stage.fail(Fault("not-json", count=1))
    await one.get()
    await stage.advance(1_000)
    assert cache_status(await other.get()) == "fwd=miss; stored"
    await stage.advance(10_000)
    stage.fail("not-json")
    assert cache_status(await one.get()).endswith("detail=stale-if-error")
    await stage.advance(500)
    assert cache_status(await other.get()).endswith("detail=backoff")
    await stage.advance(500)  # one second: the first of a new row
    assert cache_status(await other.get()).endswith("detail=stale-if-error")


async def test_after_a_ban_one_unsigned_probe_opens_the_way_for_the_fleet(stage: Stage) -> None:
    replicas = await stage.start_fleet()
    stage.fail(Fault("418", seconds=30, count=1))
    await ask_all(replicas, 5)
    silent_since = stage.exchange.calls.count()
    await stage.advance(29_500)
    assert {told(answer) for answer in await ask_all(replicas, 5)} == {(503, "exchange-banned", "1")}
    assert paths(stage, silent_since) == []
    await stage.advance(1_500)  # who knows the time from the others alone waits for the second that it may be off
    assert {answer.status_code for answer in await ask_all(replicas, 5)} == {200}
    assert paths(stage, silent_since) == [PING, ACCOUNT_PATH]
    (probe, _) = stage.exchange.calls.kept()[silent_since:]
    assert probe.api_key is None


async def test_a_probe_that_is_refused_keeps_the_fleet_silent_for_as_long_as_it_says(stage: Stage) -> None:
    replicas = await stage.start_fleet()
    stage.fail(Fault("429", count=1), Fault("418", path=PING, seconds=240, count=1))
    await ask_all(replicas, 5)
    await stage.advance(MINUTE + 1_500)
    silent_since = stage.exchange.calls.count()
    assert {problem(answer) for answer in await ask_all(replicas, 5)} == {"exchange-banned"}
    for _ in range(8):
        await stage.advance(29_000)
        await ask_all([*replicas, await stage.start()], 5)
    assert paths(stage, silent_since) == [PING]
    await stage.advance(9_500)
    assert {answer.status_code for answer in await ask_all(replicas, 5)} == {200}
    assert paths(stage, silent_since) == [PING, PING, ACCOUNT_PATH]


async def test_while_one_account_probes_another_waits_for_what_it_brings(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": None, "other": None})
    one, other = await stage.start_fleet(2)
    stage.fail(Fault("418", seconds=5, count=1), Fault("hang", path=PING, count=1))
    await one.get()
    await stage.advance(5_000)
    probing = asyncio.create_task(one.get())
    await stage.exchange.wait_held()
    assert told(await other.get(ASSETS.replace("main", "other"))) == (503, "exchange-banned", "1")
    stage.exchange.release()
    assert (await probing).status_code == 200
    await stage.advance(1_000)
    assert (await other.get(ASSETS.replace("main", "other"))).status_code == 200
    assert stage.exchange.calls.count(PING) == 1


async def test_a_probe_without_an_answer_pauses_like_any_failure_and_is_sent_again(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail(Fault("418", seconds=5, count=1), Fault("maintenance", path=PING, count=1))
    await gateway.get()
    await stage.advance(5_000)
    assert told(await gateway.get()) == (503, "exchange-unavailable", "1")
    await stage.advance(5_000)  # for so long the probe was this replica's own
    assert (await gateway.get()).status_code == 200
    assert stage.exchange.calls.count(PING) == 2


async def test_a_ban_binds_a_replica_that_hears_nothing_before_its_call(make_stage: MakeStage) -> None:
    """The ledger is asked before every call, and knows: also of what was told on another account a moment ago."""
    stage = make_stage(accounts={"main": None, "other": None})
    one, other = await stage.start_fleet(2)
    stage.fail(Fault("418", seconds=60, count=1))
    await one.get()
    assert other.gateway.exchange.address.cooldown("").until in (0, START + 60_000)
    assert told(await other.get(ASSETS.replace("main", "other"))) == (503, "exchange-banned", "60")
    assert stage.account_calls == 1


@pytest.mark.parametrize("status", [418, 429])
async def test_a_refusal_binds_the_fleet_whatever_its_body_is(stage: Stage, status: int) -> None:
    replicas = await stage.start_fleet()
    stage.fail(Fault("custom", status=status, body="x" * (5 * 1024 * 1024)))
    problems = {problem(answer) for each in replicas for answer in [await each.get()]}
    assert problems == {"exchange-banned" if status == 418 else "exchange-rate-limited"}
    assert stage.account_calls == 1


async def test_a_refusal_whose_body_never_comes_binds_the_fleet(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"timeout": "1s"})
    gateway = await stage.start_on(HeadersOnly(stage.exchange))
    assert problem(await gateway.get()) == "exchange-rate-limited"
    await stage.advance(1_000)
    assert problem(await (await stage.start()).get()) == "exchange-rate-limited"
    assert stage.account_calls == 0


async def test_a_ban_that_a_call_under_way_meets_is_not_undone_by_a_probe_that_went_before(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(accounts={"main": None, "other": None}, exchange={"timeout": "10s"})
    one, slow = await stage.start(), LateBan(stage.exchange)
    other = await stage.start_on(slow)
    late = asyncio.create_task(other.get(ASSETS.replace("main", "other")))
    await slow.asked.wait()
    stage.fail(Fault("418", seconds=2, count=1))
    await one.get()
    await stage.advance(2_000)
    assert (await one.get()).status_code == 200  # its probe was answered
    slow.answer.set()
    assert problem(await late) == "exchange-banned"
    await stage.advance(5_000)
    calls = stage.exchange.calls.count()
    for each in (one, other, await stage.start()):
        assert problem(await each.get(cache_control="no-cache")) == "exchange-banned"
    assert stage.exchange.calls.count() == calls


async def test_a_ban_that_could_not_be_shared_is_as_soon_as_redis_is_back(stage: Stage) -> None:
    one, other = await stage.start_fleet(2)
    stage.redis_server.connected = False
    stage.fail(Fault("418", seconds=60, count=1))
    await one.get()
    stage.redis_server.connected = True
    await stage.advance(1_000)
    calls = stage.exchange.calls.count()
    async with asyncio.timeout(10):
        while not one.gateway.redis.up:  # its heartbeat notices; nobody asks
            await asyncio.sleep(0.01)
    await settle()
    assert problem(await other.get()) == "exchange-banned"
    assert stage.exchange.calls.count() == calls


# The weight.


async def test_the_fleet_together_keeps_to_the_share(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"weight_limit": 100, "weight_share": 0.5}, freshness={"fresh_for": "100ms"})
    replicas = await stage.start_fleet()
    for turn in range(30):
        await replicas[turn % 3].get()
        await stage.advance(200)
    used = stage.exchange.limits.tally("127.0.0.1", stage.exchange.now_ms()).used
    assert 45 <= used <= 50
    assert {(await each.status())["weight"]["used"] for each in replicas} <= set(range(45, 51))


async def test_refreshes_on_demand_have_a_quarter_of_the_share_in_all(make_stage: MakeStage) -> None:
    windows = {"fresh_for": "60s", "min_refresh_interval": "100ms"}
    stage = make_stage(exchange={"weight_limit": 400, "weight_share": 0.8}, freshness=windows)
    replicas = await stage.start_fleet()
    await replicas[0].get()
    statuses: list[int] = []
    for turn in range(9):
        await stage.advance(200)
        statuses.append((await replicas[turn % 3].get(**NO_CACHE)).status_code)
    assert statuses == [200] * 7 + [503] * 2  # half of it, but for what is kept for others; then by the minute
    assert stage.account_calls == 8


async def test_an_account_that_has_had_its_equal_slice_waits_first_and_its_status_says_so(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(
        accounts={"main": {"fresh_for": "1ms", "stale_while_revalidate": "0ms"}, "other": None},
        exchange={"weight_limit": 1_000, "weight_share": 0.4},
    )
    one, other = await stage.start_fleet(2)
    modest: list[httpx.Response] = []
    greedy: list[str] = []
    for turn in range(500):
        if turn % 50 == 0:
            modest.append(await other.get(ASSETS.replace("main", "other")))
        greedy.append(cache_status(await one.get()))
        await stage.advance(100)
    assert {answer.status_code for answer in modest} == {200}
    assert ages(modest) == {0}
    waited = [each for each in greedy if each.endswith("detail=weight-budget")]
    assert 0 < len(waited) < len(greedy)
    assert greedy[30] == "fwd=stale; fwd-status=200; stored"  # half of the minute's weight goes at any pace
    assert "fwd=stale; fwd-status=200; stored" in greedy[-20:]  # and later it has what the other leaves
    waiting = (await one.status())["accounts"][0]["lastRefresh"]
    assert waiting["outcome"] == "weight-budget-spent"
    assert waiting["detail"] == "account main has had its equal slice of the request weight for now"


async def test_a_count_of_a_replica_with_a_wrong_clock_is_not_taken_for_another_minutes(stage: Stage) -> None:
    right = await stage.warm(age=40_000)
    stage.spent_by_neighbours(1_900)
    wrong = await start_with_wrong_clock(stage, 30_000)
    await wrong.get(cache_control="no-cache")
    await stage.advance(20_000)
    assert fresh([await right.get(cache_control="max-age=1")])


# Clocks, and Redis.


@pytest.mark.parametrize("lead", [-30_000, 30_000])
async def test_a_replica_whose_clock_is_wrong_tells_right_ages_and_replaces_nothing_newer(
    stage: Stage, lead: int
) -> None:
    right, wrong = await stage.start(), await start_with_wrong_clock(stage, lead)
    for turn in range(8):
        asker, other = (wrong, right) if turn % 2 else (right, wrong)
        await stage.advance(10_000)
        asked = await asker.get()
        await stage.advance(500)
        adopted = await other.get()
        assert asked.headers["gateway-snapshot-age"] == "0"
        assert abs(int(adopted.headers["gateway-snapshot-age"]) - 500) < 100  # Redis' own clock goes on meanwhile
        assert asked.headers["gateway-snapshot-time"] == adopted.headers["gateway-snapshot-time"]
    assert stage.account_calls == 8


@pytest.mark.parametrize("lead", [-3_600_000, 30_000, 3_600_000])
async def test_a_replica_started_with_a_wrong_clock_during_a_ban_asks_nothing(stage: Stage, lead: int) -> None:
    told_first = await stage.start()
    stage.fail(Fault("418", seconds=40, count=1))
    await told_first.get()
    after = stage.exchange.calls.count()
    await stage.advance(15_000)
    started = await start_with_wrong_clock(stage, lead)
    answer = await started.get()
    assert told(answer)[:2] == (503, "exchange-banned")
    assert 24 <= int(answer.headers["retry-after"]) <= 26
    assert stage.exchange.calls.count() == after


async def test_without_redis_every_replica_goes_by_itself_within_its_part(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"weight_limit": 200, "weight_share": 0.45}, freshness={"fresh_for": "10ms"})
    replicas = await stage.start_fleet()
    stage.redis_server.connected = False
    for _ in range(20):
        for each in replicas:
            await each.get()
        await stage.advance(1_000)
    assert stage.exchange.limits.tally("127.0.0.1", stage.exchange.now_ms()).used <= 90
    assert {(await each.status())["redis"] for each in replicas} == {"degraded"}


async def test_a_ban_after_a_resume_binds_the_fleet_though_who_met_it_knew_of_no_resume(stage: Stage) -> None:
    knows = await stage.warm()
    await knows.gateway.ledger.resume(IDENTITY)
    await stage.advance(5_000)
    await knows.get()
    stage.redis_server.connected = False
    met = await stage.start()
    stage.fail(Fault("418", seconds=60, count=1))
    assert (await met.get()).status_code == 503
    calls = stage.exchange.calls.count()
    stage.redis_server.connected = True
    await stage.advance(5_000)
    for each in (met, knows, met):
        await each.get(cache_control="no-cache")
        assert problem(await each.get(cache_control="no-cache")) == "exchange-banned"
    assert stage.exchange.calls.count() == calls


async def test_a_ban_seen_without_redis_is_written_back_and_binds_the_others(stage: Stage) -> None:
    one, other = await stage.start_fleet(2)
    stage.redis_server.connected = False
    stage.fail(Fault("418", seconds=60, count=1))
    await one.get()
    calls = stage.exchange.calls.count()
    stage.redis_server.connected = True
    await stage.advance(5_000)
    await one.get()
    assert told(await other.get()) == (503, "exchange-banned", "55")
    assert stage.exchange.calls.count() == calls
