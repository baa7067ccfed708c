import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions as errors
from fakeredis import FakeAsyncRedis, FakeServer

from service.settings import Redis as RedisSettings
from service.settings_file import SettingsError
from service.store.connection import OPERATION_TIMEOUT, AwayError, Link, connect, failure_kind
from service.telemetry.metrics import Metrics
from tests.support import FakeClock


class Wire:
    """A link to a Redis that can be unplugged; counts what really went out."""

    def __init__(self, clock: FakeClock) -> None:
        self.server = FakeServer()
        self.redis: Any = FakeAsyncRedis(server=self.server)
        self.metrics = Metrics()
        self.link = Link(self.redis, clock, self.metrics)
        self.tries = 0

    async def ping(self) -> bool:
        self.tries += 1
        return bool(await self.redis.ping())

    async def answers(self) -> bool:
        try:
            return await self.link.run(self.ping)
        except AwayError:
            return False


@pytest.fixture
def wire(clock: FakeClock) -> Wire:
    return Wire(clock)


async def test_after_a_failure_nobody_tries_for_a_second(wire: Wire, clock: FakeClock) -> None:
    wire.server.connected = False
    assert not await wire.answers()
    wire.server.connected = True
    clock.advance(999)
    assert [await wire.answers() for _ in range(5)] == [False] * 5
    assert (wire.tries, wire.link.up) == (1, False)
    clock.advance(1)
    assert await wire.answers()
    assert wire.link.up


async def test_after_the_pause_one_tries_for_all(wire: Wire, clock: FakeClock) -> None:
    wire.server.connected = False
    await wire.answers()
    clock.advance(1_000)
    gate = asyncio.Event()

    async def slow() -> bool:
        await gate.wait()
        return await wire.ping()

    wire.server.connected = True
    probe = asyncio.create_task(wire.link.run(slow))
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


async def test_a_hung_operation_is_given_up_after_250_ms(wire: Wire) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(AwayError):
        await wire.link.run(asyncio.Event().wait)
    assert OPERATION_TIMEOUT <= loop.time() - began < OPERATION_TIMEOUT + 1
    assert wire.metrics.registry.get_sample_value("coinm_redis_failures_total", {"kind": "timeout"}) == 1


async def test_who_is_not_let_through_is_told_why(wire: Wire) -> None:
    async def refused() -> None:
        raise errors.NoPermissionError

    for operation in (refused, wire.ping):
        with pytest.raises(AwayError, match="a configuration error") as away:
            await wire.link.run(operation)
        assert away.value.kind == "refused"


async def test_a_bug_of_ours_is_not_taken_for_redis_being_away(wire: Wire) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await wire.link.run(broken)
    assert wire.link.up


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.AuthenticationError(), "refused"),
        (errors.AuthorizationError(), "refused"),
        (errors.NoPermissionError(), "refused"),
        (errors.ReadOnlyError(), "read-only"),
        (errors.MaxConnectionsError(), "busy"),
        (errors.TimeoutError(), "timeout"),
        (TimeoutError(), "timeout"),
        (errors.ConnectionError(), "unreachable"),
        (errors.ResponseError(), "script"),
        (OSError(), "unreachable"),
    ],
)
def test_failures_are_told_apart_by_what_the_operator_can_do(error: Exception, kind: str) -> None:
    assert failure_kind(error) == kind


def test_a_client_never_repeats_and_never_waits_long(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("canary\n")
    settings = RedisSettings(url="redis://u@redis:7000/3", password_file=tmp_path / "password")
    options = connect(settings).connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"], options["password"]) == ("redis", 7000, 3, "canary")
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.2, 0.2)
    assert options["retry"].get_retries() == 0


def test_a_url_may_stand_in_a_secret_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("rediss://:canary@redis/0\n")
    settings = RedisSettings(url_file=tmp_path / "url", ca_file=tmp_path / "ca.pem")
    options = connect(settings).connection_pool.connection_kwargs
    assert (options["password"], options["ssl_ca_certs"]) == ("canary", str(tmp_path / "ca.pem"))


def test_a_bad_url_in_a_secret_file_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("canary://redis")
    with pytest.raises(SettingsError) as refusal:
        _ = connect(RedisSettings(url_file=tmp_path / "url"))
    assert str(refusal.value) == f"{tmp_path / 'url'}: expected redis://, rediss:// or unix://"


def test_sentinels_have_a_password_of_their_own(tmp_path: Path) -> None:
    for name in ("password", "sentinel"):
        (tmp_path / name).write_text(name)
    files: Any = {"password_file": tmp_path / "password", "sentinel_password_file": tmp_path / "sentinel"}
    client = connect(RedisSettings(sentinels=["a:26379", "::1:26380"], master="m", **files))
    pool: Any = client.connection_pool
    sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert (pool.service_name, pool.connection_kwargs["password"]) == ("m", "password")
    assert [(each["host"], each["port"]) for each in sentinels] == [("a", 26379), ("::1", 26380)]
    assert {each["password"] for each in sentinels} == {"sentinel"}
