"""How often the exchange is asked: tries, resyncs, not-befores, pauses after failures, and the weight."""

import asyncio

import pytest

from simulator.faults import Fault
from tests.app.conftest import MakeStage
from tests.app.harness import ADDRESS, Stage, cache_status, told

TIME = "/dapi/v1/time"
INFO = "/dapi/v1/exchangeInfo"

HOLDS = {  # fault: (problem, seconds it holds the next call back)
    "418": ("exchange-banned", 120),
    "429": ("exchange-rate-limited", 60.5),  # the minute's turn, and half a second for a wrong idea of it
    "-1003-400": ("exchange-rate-limited", 60.5),
    "403-html": ("exchange-blocked", 300),
    "403-retry-after": ("exchange-blocked", 3_600),
    "challenge": ("exchange-blocked", 300),
    "captcha": ("exchange-blocked", 300),
    "503-retry-after": ("exchange-rate-limited", 120),
    "-2014": ("exchange-rejected-credentials", 600),
    "-2015": ("exchange-rejected-credentials", 600),
    "-1022": ("exchange-rejected-credentials", 600),
    "-1002": ("exchange-rejected-credentials", 600),
}
OF_THE_ADDRESS = ("418", "429", "403-html", "challenge", "503-retry-after")
OF_THE_CREDENTIAL = ("-2015", "-1022")

DEMANDS: tuple[dict[str, str], ...] = (
    {},
    {"cache_control": "no-cache"},
    {"cache_control": "max-age=0"},
    {"pragma": "no-cache"},
)
"""Whatever callers send."""


async def test_the_first_read_measures_the_clock_and_lists_the_symbols_the_next_only_asks(stage: Stage) -> None:
    gateway = await stage.warm(age=10_000)
    assert stage.exchange.calls.by_path() == {"/dapi/v1/account": 1, INFO: 1, TIME: 3}
    await gateway.get()
    assert stage.exchange.calls.by_path() == {"/dapi/v1/account": 2, INFO: 1, TIME: 3}


@pytest.mark.parametrize("fault", ["503-unknown", "reset", "408"])
async def test_a_fault_that_passes_is_ridden_out_within_one_read(stage: Stage, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(Fault(fault, count=2))
    answer = await gateway.get()
    assert (answer.status_code, cache_status(answer)) == (200, "fwd=miss; stored")
    assert stage.account_calls == 3


async def test_tries_end_with_the_time_for_one_refresh(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"timeout": "190ms"})  # shorter than the first pause
    gateway = await stage.start()
    stage.fail("503-unknown")
    assert told(await gateway.get()) == (504, "exchange-timeout", "1")
    assert stage.account_calls == 1


@pytest.mark.parametrize("fault", ["-1021-ahead", "-1021-behind"])
async def test_a_rejected_clock_is_measured_once_more_and_the_call_repeated(stage: Stage, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(Fault(fault, count=1))
    assert (await gateway.get()).status_code == 200
    assert (stage.account_calls, stage.exchange.calls.count(TIME)) == (2, 6)


async def test_a_clock_rejected_again_is_told_after_one_resync(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail("-1021-ahead")
    assert told(await gateway.get()) == (502, "exchange-clock-skew", "1")
    assert (stage.account_calls, stage.exchange.calls.count(TIME)) == (2, 6)


@pytest.mark.parametrize("skew", [-90_000, 90_000])
async def test_an_exchange_with_another_time_is_asked_in_its_own(stage: Stage, skew: int) -> None:
    stage.exchange.clock.skew_ms = skew
    gateway = await stage.start()
    answer = await gateway.get()
    assert (answer.status_code, answer.headers["age"], stage.account_calls) == (200, "0", 1)
    assert (await gateway.status())["clockOffsetMs"] == skew


@pytest.mark.parametrize("path", [TIME, INFO])
@pytest.mark.parametrize("fault", ["500", "not-json", "404-path"])
async def test_a_read_does_without_the_clock_and_the_listing_if_it_must(stage: Stage, path: str, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(Fault(fault, path=path))
    assert (await gateway.get()).status_code == 200
    await stage.advance(10_000)
    assert (await gateway.get()).status_code == 200
    assert stage.exchange.calls.count(path) == 1  # not tried again with every refresh


# Not-before: whatever callers send, nothing is asked until then.


@pytest.mark.parametrize("fault", HOLDS)
async def test_nothing_is_asked_until_the_time_an_answer_sets_whatever_callers_send(stage: Stage, fault: str) -> None:
    (name, seconds), gateway = HOLDS[fault], await stage.start()
    stage.fail(Fault(fault, count=1))
    first = await gateway.get()
    await stage.advance(int(seconds * 1000) - 1)
    after = stage.exchange.calls.count()
    for demand in DEMANDS:
        assert told(await gateway.get(**demand)) == (first.status_code, name, "1")
    assert stage.exchange.calls.count() == after
    await stage.advance(1)
    assert (await gateway.get()).status_code == 200
    assert stage.account_calls == 2


@pytest.mark.parametrize("fault", HOLDS)
async def test_what_is_stale_is_served_while_the_exchange_may_not_be_asked(stage: Stage, fault: str) -> None:
    gateway = await stage.warm(age=10_000)
    stage.fail(fault)
    for demand in ("no-cache", "max-age=5"):
        assert told(await gateway.get(cache_control=demand))[1] == HOLDS[fault][0]
    after = stage.exchange.calls.count()
    assert cache_status(await gateway.get()) == "hit; ttl=-9; detail=not-before"
    assert stage.exchange.calls.count() == after


@pytest.mark.parametrize("fault", OF_THE_ADDRESS)
async def test_what_holds_the_address_is_what_the_ban_alert_looks_at(stage: Stage, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(fault)
    await gateway.get()
    seconds = float(gateway.metrics().partition("\ncoinm_exchange_not_before_seconds ")[2].split("\n")[0])
    assert HOLDS[fault][1] - 1 <= seconds <= HOLDS[fault][1]


@pytest.mark.parametrize("fault", [*OF_THE_ADDRESS, *OF_THE_CREDENTIAL])
async def test_a_replica_started_meanwhile_asks_nothing_either(stage: Stage, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(fault)
    problem = told(await gateway.get())
    after, second = stage.exchange.calls.count(), await stage.start()
    for demand in DEMANDS:
        assert told(await second.get(**demand)) == problem
    assert stage.exchange.calls.count() == after


@pytest.mark.parametrize("fault", [*OF_THE_ADDRESS, *OF_THE_CREDENTIAL])
async def test_a_replica_started_meanwhile_serves_what_is_stale_and_says_that_it_did_not_ask(
    stage: Stage, fault: str
) -> None:
    gateway = await stage.warm(age=10_000)
    stage.fail(fault)
    await gateway.get()
    after, second = stage.exchange.calls.count(), await stage.start()
    assert cache_status(await second.get()).endswith("; detail=not-before")
    assert stage.exchange.calls.count() == after


@pytest.mark.parametrize("fault", [*OF_THE_ADDRESS, *OF_THE_CREDENTIAL])
async def test_a_replica_remembers_what_it_was_told_when_redis_is_gone(stage: Stage, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(fault)
    problem = told(await gateway.get())
    after, stage.redis_server.connected = stage.exchange.calls.count(), False
    assert told(await gateway.get()) == problem
    assert stage.exchange.calls.count() == after


async def test_a_not_before_learnt_while_redis_was_away_is_shared_when_it_is_back(stage: Stage) -> None:
    stage.redis_server.connected = False
    gateway = await stage.start()
    stage.fail("418")
    await gateway.get()
    stage.redis_server.connected = True
    await stage.advance(1_000)
    await gateway.get()
    after, second = stage.exchange.calls.count(), await stage.start()
    assert told(await second.get())[1:] == ("exchange-banned", "119")
    assert stage.exchange.calls.count() == after


async def test_a_running_replica_learns_of_a_ban_that_another_was_told(stage: Stage) -> None:
    one, other = await stage.warm(), await stage.warm()
    await stage.advance(10_000)
    stage.fail("418")
    await one.get()
    after = stage.exchange.calls.count()
    assert cache_status(await other.get()).endswith("; detail=not-before")
    assert stage.exchange.calls.count() == after


async def test_a_latch_binds_one_credential_and_a_changed_key_file_is_free_of_it(stage: Stage) -> None:
    await stage.start()
    stage.fail(Fault("-2015", count=1))
    first = await stage.start()
    await first.get()
    stage.change_key("anotherApiKey".ljust(64, "1"))
    second = await stage.start()
    assert (await second.get()).status_code == 200
    assert (await second.status())["accounts"][0]["notBefore"] is None


async def test_a_latch_on_one_account_leaves_the_others_alone_and_a_ban_binds_all(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": None, "other": None})
    key = "otherApiKey".ljust(64, "2")
    stage.exchange.add_secret_key(key, "otherSecretKey".ljust(64, "2"))
    stage.give_credential("other", key, "otherSecretKey".ljust(64, "2"))
    gateway = await stage.start()
    stage.fail(Fault("-2015", count=1))
    assert told(await gateway.get())[1] == "exchange-rejected-credentials"
    assert (await gateway.get("/v1/accounts/other")).status_code == 200
    await stage.advance(601_000)
    stage.fail(Fault("418", count=1))
    assert told(await gateway.get())[1] == "exchange-banned"
    assert told(await gateway.get("/v1/accounts/other/assets", cache_control="no-cache"))[1] == "exchange-banned"


@pytest.mark.parametrize("fault", ["418", "-2015"])
async def test_an_operators_resume_frees_a_running_replica(stage: Stage, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(Fault(fault, count=1))
    await gateway.get()
    await gateway.resume()
    await stage.advance(200)  # how often a barred replica looks in Redis
    assert (await gateway.get()).status_code == 200
    assert stage.account_calls == 2


async def test_an_answer_after_a_resume_can_hold_again(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail("418")
    await gateway.get()
    await gateway.resume()
    await stage.advance(200)
    assert told(await gateway.get()) == (503, "exchange-banned", "120")
    assert told(await (await stage.start()).get()) == (503, "exchange-banned", "120")
    assert stage.account_calls == 2


async def test_a_503_that_says_until_when_gets_one_call_whoever_asks_and_starts_meanwhile(stage: Stage) -> None:
    replicas = [await stage.start() for _ in range(3)]
    stage.fail("503-retry-after")
    for second in range(0, 120, 10):
        answers = await asyncio.gather(*(each.get(**demand) for each in replicas for demand in DEMANDS for _ in "abc"))
        assert {told(answer)[:2] for answer in answers} == {(503, "exchange-rate-limited")}
        if second == 50:
            await stage.end(replicas.pop())
            replicas.append(await stage.start())
        await stage.advance(10_000)
    assert stage.account_calls == 1
    assert stage.exchange.calls.count("/dapi/v1/ping") == 0
    stage.exchange.faults.clear()
    assert (await replicas[0].get()).status_code == 200
    assert (stage.account_calls, stage.exchange.calls.count("/dapi/v1/ping")) == (2, 1)


@pytest.mark.parametrize("body", ['{"code":-2015}', "{}"])
@pytest.mark.parametrize("path", [TIME, INFO])
async def test_an_unsigned_call_that_is_refused_for_a_while_holds_the_address(
    stage: Stage, path: str, body: str
) -> None:
    stage.fail(Fault("custom", path=path, status=401, headers={"retry-after": "60"}, body=body))
    gateway = await stage.start()
    assert told(await gateway.get()) == (502, "exchange-refused", "60")
    assert (stage.account_calls, stage.exchange.calls.count(path)) == (0, 1)


@pytest.mark.parametrize("figure", ["999999999", "-1", "-999999", "9" * 400])
async def test_an_absurd_figure_of_the_weight_stops_us_for_its_minute_at_the_most(stage: Stage, figure: str) -> None:
    gateway = await stage.warm()
    headers = {"x-mbx-used-weight-1m": figure}
    stage.fail(Fault("custom", headers=headers, body=stage.raw().decode(), count=1))
    await stage.advance(10_000)
    assert (await gateway.get()).status_code == 200
    await stage.advance(60_000)
    assert (await gateway.get(cache_control="no-cache")).status_code == 200


@pytest.mark.parametrize("date", ["Fri, 31 Dec 2099 00:00:00 GMT", "Tue, 03 Jan 2017 00:00:00 GMT", "\x00", ""])
async def test_an_absurd_date_of_a_refusal_makes_its_not_before_no_longer(stage: Stage, date: str) -> None:
    stage.fail(Fault("custom", path="*", status=418, headers={"retry-after": "60", "date": date}, body="{}"))
    gateway = await stage.start()
    assert told(await gateway.get()) == (503, "exchange-banned", "60")
    stage.exchange.faults.clear()
    await stage.advance(61_000)
    assert (await gateway.get()).status_code == 200


# Pauses after failures.


async def test_pauses_double_from_one_second_to_thirty_and_end_with_a_success(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail("not-json")
    for attempt, pause in enumerate([1, 2, 4, 8, 16, 30, 30], start=1):
        assert told(await gateway.get()) == (502, "exchange-answer-invalid", str(pause))
        await stage.advance(pause * 1000 - 1)
        assert told(await gateway.get(cache_control="no-cache")) == (502, "exchange-answer-invalid", "1")
        assert stage.account_calls == attempt
        await stage.advance(1)
    stage.exchange.faults.clear()
    assert (await gateway.get()).status_code == 200
    stage.fail("not-json")
    await stage.advance(100_000)
    assert told(await gateway.get()) == (502, "exchange-answer-invalid", "1")


async def test_a_second_fault_of_another_kind_goes_on_counting(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail(Fault("not-json", count=1), Fault("404-path", count=1))
    await gateway.get()
    await stage.advance(1_000)
    assert told(await gateway.get()) == (502, "exchange-endpoint-gone", "2")


# Weight.


async def test_a_neighbours_spending_on_the_address_stops_our_calls_below_the_limit(stage: Stage) -> None:
    gateway = await stage.warm()
    stage.spent_by_neighbours(1_910)
    await stage.advance(4_000)
    assert (await gateway.get()).status_code == 200  # its answer reports 1915; the next would pass 0.8 x 2400
    await stage.advance(4_000)
    assert (await gateway.get()).status_code == 200
    await stage.advance(4_000)
    assert cache_status(await gateway.get()) == "hit; ttl=-3; detail=weight-budget"
    assert told(await gateway.get(cache_control="no-cache")) == (503, "weight-budget-spent", "48")
    assert stage.account_calls == 3
    await stage.advance(48_000)
    assert cache_status(await gateway.get()) == "fwd=stale; fwd-status=200; stored"


async def test_the_exchanges_own_limit_lowers_our_ceiling(stage: Stage) -> None:
    stage.exchange.limits.policy = type(stage.exchange.limits.policy)(weight_limit=100)
    gateway = await stage.warm()
    assert (await gateway.status())["weight"]["ceiling"] == 80


async def test_forced_refreshes_stop_at_a_quarter_of_the_share_and_normal_reads_go_on(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"weight_limit": 400}, freshness={"fresh_for": "2s", "min_refresh_interval": "100ms"})
    gateway = await stage.warm(age=200)
    for _ in range(7):  # 7 x 5 of a quarter of 320: half of it, but for an eighth that is kept for others
        assert (await gateway.get(cache_control="no-cache")).status_code == 200
        await stage.advance(200)
    assert told(await gateway.get(cache_control="no-cache")) == (503, "weight-budget-spent", "33")
    assert cache_status(await gateway.get()) == "hit; ttl=1"
    await stage.advance(10_000)
    assert cache_status(await gateway.get()) == "fwd=stale; fwd-status=200; stored"
    assert stage.account_calls == 9


async def test_calls_without_an_answer_count_as_spent(stage: Stage) -> None:
    gateway = await stage.start()
    stage.transport.down = True
    await gateway.get()
    assert (await gateway.status())["weight"]["used"] == 1 + 1 + 3 * 5


async def test_a_replica_alone_without_redis_keeps_to_its_part_of_the_share(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"weight_limit": 90, "expected_replicas": 3})  # 72 for all, 24 for each
    stage.redis_server.connected = False
    gateway = await stage.start()
    for calls in (1, 2, 3, 4):  # 9 for the first, with the clock and the listing; 5 for each of the others
        assert (await gateway.get()).status_code == 200
        assert stage.account_calls == calls
        await stage.advance(4_000)
    assert cache_status(await gateway.get()) == "hit; ttl=-3; detail=weight-budget"


async def test_neighbours_that_reach_the_limit_are_told_as_the_exchanges_refusal(stage: Stage) -> None:
    gateway = await stage.start()
    stage.spent_by_neighbours(2_400)
    assert told(await gateway.get())[1] == "exchange-rate-limited"
    assert stage.exchange.calls.count(client=ADDRESS) == 1  # the first /time said it all
