"""Redis away in every way it can be: reads go on, within the weight, and the fleet finds together again by itself."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from simulator.faults import Fault
from tests.fleet.outage import Fleet, fleet
from tests.fleet.redis_servers import RedisServer, RedisServers
from tests.process.conftest import run_command
from tests.support import free_port, unmeasured, until

LONGEST = 0.25 + 1.5
"""Seconds: what a request may wait for Redis, and a margin for a busy machine; the exchange answers at once."""


class Outage(msgspec.Struct, frozen=True):
    """A way for Redis to be away, and back."""

    name: str
    begin: Callable[[RedisServer], Awaitable[object]]
    end: Callable[[RedisServer], Awaitable[object]]


async def hang(server: RedisServer) -> None:
    server.hang()


async def resume(server: RedisServer) -> None:
    server.resume()


async def memory(server: RedisServer, limit: int) -> None:
    await server.command("CONFIG", "SET", "maxmemory", limit)


OUTAGES = [
    Outage("killed, back empty", RedisServer.kill, RedisServer.start),
    Outage("hung", hang, resume),
    Outage(
        "read-only",
        lambda server: server.command("REPLICAOF", "127.0.0.1", free_port()),
        lambda server: server.command("REPLICAOF", "NO", "ONE"),
    ),
    Outage("out of memory", lambda server: memory(server, 1), lambda server: memory(server, 0)),
]


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
async def test_no_read_fails_or_waits_long_while_redis_is_away_and_the_fleet_shares_again_after_it(
    tmp_path: Path, redis_servers: RedisServers, outage: Outage
) -> None:
    server = await redis_servers.one()
    async with fleet(tmp_path, {"url": server.url}) as replicas, replicas.polled() as load:
        await replicas.more_calls(2)
        await outage.begin(server)
        await replicas.until_redis("degraded")
        await replicas.more_calls(6)
        assert {status["redis"] for status in await replicas.statuses()} == {"degraded"}
        await outage.end(server)
        await replicas.until_redis("ok")
        await assert_shared(replicas)

    assert set(load.statuses) == {200}
    assert max(load.waits) < LONGEST


async def test_the_first_read_of_a_replica_waits_for_a_hung_redis_but_once(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    """It has nothing to serve meanwhile, and uses Redis several times on its way to the exchange and back."""
    server = await redis_servers.one()
    server.hang()
    async with fleet(tmp_path, {"url": server.url}, replicas=1) as replicas:
        read = await replicas.read()

    assert read.status_code == 200
    assert read.elapsed.total_seconds() < 1


async def test_without_redis_the_replicas_together_stay_within_the_weight(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    """Four calls are made together, fourteen alone; none of the three replicas can have spent its third before."""
    server = await redis_servers.one()
    redis = {"url": server.url}
    async with fleet(tmp_path, redis, weight_limit=120, weight_share=0.75) as replicas, replicas.polled() as load:
        await replicas.more_calls(4)
        await server.kill()
        await until(lambda: all_barred(replicas), 40, "every replica has spent its part of the weight")
        spent = replicas.weight

    assert set(load.statuses) == {200}
    assert 60 <= spent <= 90


async def test_a_ban_is_written_back_to_an_emptied_redis_and_binds_a_new_replica(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    server = await redis_servers.one()
    async with fleet(tmp_path, {"url": server.url}, replicas=2) as replicas:
        newcomer = replicas.replicas[1]
        await newcomer.stop()
        replicas.exchange.faults.add(Fault("418", seconds=60))
        assert "exchange-banned" in (await replicas.read()).text
        calls = replicas.exchange.calls.count()

        await server.kill()
        await server.start()
        key = f"coinm:{{egress:{replicas.exchange_host}:default}}:hold"
        await until(lambda: written(replicas, server, key), 10, f"{key} is there again")
        await newcomer.start()
        answer = await replicas.read(1)

    assert answer.status_code == 503
    assert "exchange-banned" in answer.text
    assert replicas.exchange.calls.count() == calls


async def test_a_wrong_password_is_told_as_a_configuration_error_and_reads_go_on(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    server = await redis_servers.one(password="right-password")
    url = server.url.replace("://", "://:wrong-password@")
    async with fleet(tmp_path, {"url": url}, replicas=1) as replicas:
        await assert_told_as_refused(replicas)


@pytest.mark.parametrize("command", ["evalsha", "set", "hmget"])
async def test_a_command_that_the_acl_lacks_is_told_as_a_configuration_error_and_reads_go_on(
    tmp_path: Path, redis_servers: RedisServers, command: str
) -> None:
    server = await redis_servers.one()
    await server.command("ACL", "SETUSER", "gateway", "on", ">right-password", "~*", "&*", "+@all", f"-{command}")
    url = server.url.replace("://", "://gateway:right-password@")
    async with fleet(tmp_path, {"url": url}, replicas=1) as replicas:
        await assert_told_as_refused(replicas)


async def test_outages_are_measured_as_a_table(redis_servers: RedisServers) -> None:
    """One line of docs/reliability.md, in little."""
    options = ["--only", "killed", "--seconds", "4", "--replicas", "2", "--callers", "2"]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.fleet.outage", *options], stdout=asyncio.subprocess.PIPE, env=unmeasured()
    )
    output, _ = await process.communicate()
    heading, _, line = output.decode().splitlines()
    measured = dict(zip(cells(heading), cells(line), strict=True))

    assert process.returncode == 0
    assert measured["what breaks"] == "Redis killed, started empty 1 s later"
    assert int(measured["requests"]) > 0
    assert measured["not 200"] == "0"


async def assert_shared(replicas: Fleet) -> None:
    """One call a fresh window for all: four more take four of them, where three replicas by themselves take two."""
    await replicas.more_calls(1)
    assert await replicas.more_calls(4) > 3


async def assert_told_as_refused(replicas: Fleet) -> None:
    """By `check`, by the log soon after the start, and by the status; but reads are answered."""
    gateway = replicas.replicas[0]
    status, output, _ = await run_command("check", "--config", str(gateway.config))
    async with replicas.polled() as load:
        await replicas.until_redis("degraded")
        await replicas.more_calls(1)
    _, log = await gateway.stop()

    assert set(load.statuses) == {200}
    assert set(away_lines(log)) == {("error", "refused")}
    assert status == 1
    assert "a configuration error" in output


def away_lines(log: str) -> list[tuple[str, str]]:
    """Level and kind of each time that Redis was lost."""
    lines = [json.loads(line) for line in log.splitlines()]
    return [(line["level"], line["kind"]) for line in lines if line["event"] == "redis_away"]


async def all_barred(replicas: Fleet) -> bool:
    return all(last_outcome(status) == "weight-budget-spent" for status in await replicas.statuses())


def last_outcome(status: dict[str, object]) -> str | None:
    account = msgspec.convert(status["accounts"], list[dict[str, object]])[0]
    last = msgspec.convert(account["lastRefresh"], dict[str, object] | None)
    return str(last["outcome"]) if last else None


async def written(replicas: Fleet, server: RedisServer, key: str) -> bool:
    """Whether the ban is in Redis, after one more read: it is reads that bring a replica to look there."""
    await replicas.read()
    return await server.command("HGET", key, "until") is not None


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
