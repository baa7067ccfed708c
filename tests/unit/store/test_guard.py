import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions as errors
from fakeredis import FakeAsyncRedis, FakeServer

from service.cache.flight import cancel_and_wait
from service.cache.wait_budget import TICK_S, WAIT_TICKS, WaitBudget
from service.settings import Duration
from service.settings import Redis as RedisSettings
from service.settings_file import SettingsError
from service.store.guard import (
    CONCURRENT,
    RedisGuard,
    RedisUnavailableError,
    connect,
    failure_kind,
)
from service.telemetry.metrics import Metrics
from tests.process.certificates import write_certificate
from tests.support import FakeClock


class Wire:
    """A link to a Redis that can be unplugged; counts what really went out."""

    def __init__(self, clock: FakeClock) -> None:
        self.server = FakeServer()
        self.redis: Any = FakeAsyncRedis(server=self.server)
        self.metrics = Metrics()
        self.guard = RedisGuard(self.redis, clock, self.metrics)
        self.tries = 0

    async def ping(self) -> bool:
        self.tries += 1
        return bool(await self.redis.ping())

    async def answers(self) -> bool:
        return await self.guard.call(self.ping) or False


@pytest.fixture
def wire(clock: FakeClock) -> Wire:
    return Wire(clock)


async def test_after_a_failure_nobody_tries_for_a_second(wire: Wire, clock: FakeClock) -> None:
    wire.server.connected = False
    assert not await wire.answers()
    wire.server.connected = True
    clock.advance(999)
    assert [await wire.answers() for _ in range(5)] == [False] * 5
    assert (wire.tries, wire.guard.up) == (1, False)
    clock.advance(1)
    assert await wire.answers()
    assert wire.guard.up


async def test_after_the_pause_one_tries_for_all(wire: Wire, clock: FakeClock) -> None:
    wire.server.connected = False
    await wire.answers()
    clock.advance(1_000)
    gate = asyncio.Event()

    async def slow() -> bool:
        await gate.wait()
        return await wire.ping()

    wire.server.connected = True
    probe = asyncio.create_task(wire.guard.run(slow))
    await asyncio.sleep(0)
    assert not await wire.answers()
    gate.set()
    assert await probe
    assert await wire.answers()


async def test_a_probe_that_fails_too_begins_another_pause(wire: Wire, clock: FakeClock) -> None:
    wire.server.connected = False
    for _ in range(3):
        assert not await wire.answers()
        clock.advance(1_000)
    clock.advance(-1)
    assert not await wire.answers()
    assert wire.tries == 3


async def hang() -> None:
    await asyncio.Event().wait()


async def test_a_hung_operation_is_given_up_after_250_ms(wire: Wire) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(RedisUnavailableError):
        await wire.guard.run(hang)
    assert WAIT_TICKS * TICK_S == 0.25 <= loop.time() - began < 0.25 + 1
    assert wire.metrics.registry.get_sample_value("coinm_redis_failures_total", {"kind": "timeout"}) == 1


async def test_all_operations_of_one_refresh_together_wait_no_longer(wire: Wire, clock: FakeClock) -> None:
    async def slow() -> None:
        await asyncio.sleep(4 * TICK_S)

    async def patient() -> int:
        done, budget = 0, WaitBudget()
        for _ in range(9):
            try:
                await wire.guard.run(slow, budget)
            except RedisUnavailableError:
                clock.advance(1_000)  # the pause after a failure is another matter
            else:
                done += 1
        return done

    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await patient() <= 3
    assert loop.time() - began < 0.25 + 1
    await wire.guard.run(slow)  # without that budget


async def test_who_has_no_patience_left_says_nothing_of_how_redis_is(wire: Wire) -> None:
    with pytest.raises(RedisUnavailableError):
        await wire.guard.run(wire.ping, WaitBudget(0))
    assert (wire.tries, wire.guard.up) == (0, True)


async def test_what_goes_on_without_us_is_waited_for_no_longer_than_patience_lasts(wire: Wire) -> None:
    task = asyncio.create_task(hang())
    loop = asyncio.get_running_loop()
    began = loop.time()
    budget = WaitBudget()
    assert not await budget.wait(task)
    assert not await budget.wait(task)
    assert WAIT_TICKS * TICK_S <= loop.time() - began < WAIT_TICKS * TICK_S + 1
    assert not task.done()
    await cancel_and_wait(task)


async def test_a_hundred_operations_at_once_take_turns(wire: Wire) -> None:
    under_way = most = 0

    async def count() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await asyncio.gather(*(wire.guard.run(count) for _ in range(100)))
    assert most == CONCURRENT


async def test_who_wants_to_know_is_told_when_redis_is_back(wire: Wire, clock: FakeClock) -> None:
    told: list[str] = []
    wire.guard.on_back = lambda: told.append("back")
    wire.server.connected = False
    await wire.answers()
    wire.server.connected = True
    clock.advance(1_000)
    await wire.answers()
    await wire.answers()
    assert told == ["back"]


async def test_a_busy_event_loop_is_not_taken_for_a_slow_redis(wire: Wire) -> None:
    async def busy() -> bool:
        answer = asyncio.ensure_future(wire.ping())
        time.sleep(2 * WAIT_TICKS * TICK_S)  # noqa: ASYNC251 - this is what a burst of callers does to the loop
        return await answer

    assert await wire.guard.run(busy)
    assert wire.guard.up


async def until(link: RedisGuard, *, up: bool) -> None:
    async with asyncio.timeout(10):
        while link.up != up:
            await asyncio.sleep(0.01)


async def test_a_heartbeat_notices_that_redis_goes_and_comes_without_a_request(wire: Wire, clock: FakeClock) -> None:
    wire.server.connected = False
    beating = asyncio.create_task(wire.guard.beat("heartbeat"))
    await until(wire.guard, up=False)
    wire.server.connected = True
    clock.advance(1_000)
    await until(wire.guard, up=True)
    await cancel_and_wait(beating)
    assert 0 < await wire.redis.pttl("heartbeat") <= 5_000


async def test_a_heartbeat_has_more_patience_than_a_request(wire: Wire) -> None:
    async def slow() -> bool:
        await asyncio.sleep(2 * WAIT_TICKS * TICK_S)
        return True

    assert await wire.guard.run(slow, WaitBudget(4 * WAIT_TICKS))


@pytest.mark.parametrize("end", [None, ConnectionError(), errors.TimeoutError(), TimeoutError()])
async def test_a_cancellation_that_an_operation_swallows_is_not_lost(wire: Wire, end: Exception | None) -> None:
    begun = asyncio.Event()

    async def swallow() -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await hang()
        if end is not None:
            raise end

    running = asyncio.create_task(wire.guard.run(swallow))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert wire.guard.up


async def test_an_operation_that_swallows_its_end_of_patience_has_none_all_the_same(wire: Wire) -> None:
    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await hang()

    with pytest.raises(RedisUnavailableError):
        await wire.guard.run(swallow)
    assert (task := asyncio.current_task()) is not None
    assert not task.cancelling()


async def test_a_script_takes_a_setting_as_it_is(wire: Wire) -> None:
    assert await wire.guard.acquire_once("once", Duration(5_000))
    assert 4_000 < await wire.redis.pttl("once") <= 5_000


async def test_a_script_that_redis_has_forgotten_is_loaded_again(wire: Wire) -> None:
    await wire.redis.script_flush()
    assert await wire.guard.acquire_once("once", 5_000)


async def test_a_cancelled_script_ends_at_once_whatever_step_it_had_reached(clock: FakeClock) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    redis = connect(RedisSettings(url=f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    loop, guard = asyncio.get_running_loop(), RedisGuard(redis, clock, Metrics())
    longest = 0.0
    for steps in range(20):
        task = asyncio.create_task(guard.acquire_once("once", 5_000, WaitBudget(10 * WAIT_TICKS)))
        for _ in range(steps):
            await asyncio.sleep(0)
        began = loop.time()
        task.cancel()  # once
        await asyncio.wait({task})
        longest = max(longest, loop.time() - began)
    await guard.close()
    server.close()
    assert longest < 1  # the budget allows 2 s


async def test_who_is_not_let_through_is_told_why(wire: Wire) -> None:
    async def refused() -> None:
        raise errors.NoPermissionError

    for operation in (refused, wire.ping):
        with pytest.raises(RedisUnavailableError, match="a configuration error") as away:
            await wire.guard.run(operation)
        assert away.value.kind == "refused"


async def test_a_bug_of_ours_is_not_taken_for_redis_being_away(wire: Wire) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await wire.guard.run(broken)
    assert wire.guard.up


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.AuthenticationError(), "refused"),
        (errors.AuthorizationError(), "refused"),
        (errors.NoPermissionError(), "refused"),
        (errors.ResponseError("ACL failure in script: User x has no permissions to run the 'set' command"), "refused"),
        (errors.ResponseError("The user executing the script can't run this command or subcommand"), "refused"),
        (errors.ReadOnlyError(), "read-only"),
        (errors.MaxConnectionsError(), "busy"),
        (errors.OutOfMemoryError(), "full"),
        (errors.TimeoutError(), "timeout"),
        (TimeoutError(), "timeout"),
        (errors.ConnectionError(), "unreachable"),
        (errors.ResponseError(), "script"),
        (OSError(), "unreachable"),
    ],
)
def test_failures_are_told_apart_by_what_the_operator_can_do(error: Exception, kind: str) -> None:
    assert failure_kind(error) == kind


def test_a_client_never_repeats_and_waits_longer_than_an_operation_may(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("canary\n")
    settings = RedisSettings(url="redis://u@redis:7000/3", password_file=tmp_path / "password")
    options = connect(settings).connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"], options["password"]) == ("redis", 7000, 3, "canary")
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (3, 0.2)
    assert options["retry"].get_retries() == 0


def test_a_url_may_stand_in_a_secret_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("rediss://:canary@redis/0\n")
    certificate, _ = write_certificate(tmp_path)
    options = connect(RedisSettings(url_file=tmp_path / "url", ca_file=certificate)).connection_pool.connection_kwargs
    assert (options["password"], options["ssl_ca_certs"]) == ("canary", str(certificate))


@pytest.mark.parametrize("content", ["", "canary", "-----BEGIN CERTIFICATE-----\ncanary"])
def test_a_file_that_holds_no_certificates_is_refused_by_its_key(tmp_path: Path, content: str) -> None:
    (tmp_path / "canary").write_text(content)
    with pytest.raises(SettingsError) as refusal:
        _ = connect(RedisSettings(url="rediss://redis", ca_file=tmp_path / "canary"))
    assert str(refusal.value) == "redis.ca_file: expected certificates in PEM"


def test_a_bad_url_in_a_secret_file_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("canary://redis")
    with pytest.raises(SettingsError) as refusal:
        _ = connect(RedisSettings(url_file=tmp_path / "url"))
    assert str(refusal.value) == "redis.url_file: expected redis://, rediss:// or unix://"


def test_sentinels_have_a_password_of_their_own(tmp_path: Path) -> None:
    for name in ("password", "sentinel"):
        (tmp_path / name).write_text(name)
    files: Any = {"password_file": tmp_path / "password", "sentinel_password_file": tmp_path / "sentinel"}
    client = connect(RedisSettings(sentinels=["a:26379", "[::1]:26380"], master="m", **files))
    pool: Any = client.connection_pool
    sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert (pool.service_name, pool.connection_kwargs["password"]) == ("m", "password")
    assert [(each["host"], each["port"]) for each in sentinels] == [("a", 26379), ("::1", 26380)]
    assert {each["password"] for each in sentinels} == {"sentinel"}
    assert {each["socket_timeout"] for each in sentinels} == {0.1}  # so that the next is asked before time is up
