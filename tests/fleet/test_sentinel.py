"""Redis found through Sentinel, and failed over while callers read."""

from pathlib import Path

from tests.fleet.outage import Fleet, Load, fleet
from tests.fleet.redis_servers import MASTER, RedisServer, RedisServers, SentinelSetup
from tests.process.conftest import run_command
from tests.support import until

LONGEST = 0.25 + 1.5
"""Seconds: what a request may wait for Redis, and a margin for a busy machine; the exchange answers at once."""


async def test_replicas_find_the_master_through_sentinel_and_share_one_call(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    setup = await redis_servers.with_sentinels()
    async with fleet(tmp_path, settings(setup), replicas=2) as replicas:
        first, second = await replicas.read(0), await replicas.read(1)
        calls = replicas.calls
        status, output, _ = await run_command("check", "--config", str(replicas.replicas[0].config))

    assert (first.status_code, second.status_code) == (200, 200)
    assert (calls, first.headers["etag"]) == (1, second.headers["etag"])
    assert status == 0
    assert "standalone, master" in output


async def test_no_read_fails_when_the_master_dies_and_the_replicas_meet_at_the_new_one(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    setup = await redis_servers.with_sentinels()
    async with fleet(tmp_path, settings(setup), replicas=2) as replicas, replicas.polled() as load:
        await replicas.more_calls(2)
        await setup.master.kill()
        await setup.failed_over()
        await assert_together(replicas, setup.replica)

    assert_unharmed(load)


async def test_no_read_fails_when_the_master_hangs_nor_when_it_comes_back_as_a_replica(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    """Connections to a hung master see no end, and for some seconds after its return there are two masters."""
    setup = await redis_servers.with_sentinels()
    async with fleet(tmp_path, settings(setup), replicas=2) as replicas, replicas.polled() as load:
        await replicas.more_calls(2)
        setup.master.hang()
        await setup.failed_over()
        await assert_together(replicas, setup.replica)
        setup.master.resume()
        await setup.demoted()
        await assert_together(replicas, setup.replica)

    assert_unharmed(load)


async def test_one_sentinel_that_answers_is_enough(tmp_path: Path, redis_servers: RedisServers) -> None:
    setup = await redis_servers.with_sentinels()
    setup.sentinels[0].hang()
    await setup.sentinels[1].kill()
    async with fleet(tmp_path, settings(setup), replicas=2) as replicas, replicas.polled() as load:
        await replicas.until_redis("ok")
        await assert_together(replicas, setup.master)

    assert_unharmed(load)


def settings(setup: SentinelSetup) -> dict[str, object]:
    return {"sentinels": setup.addresses, "master": MASTER}


async def assert_together(replicas: Fleet, master: RedisServer) -> None:
    """Redis is well, a call serves both replicas, and both hear what is announced at the master."""
    await replicas.until_redis("ok")
    await until(lambda: _both_listen(master), 6, "both replicas listen at the new master")
    await replicas.more_calls(1)
    # Four more calls take four fresh windows; two replicas by themselves make them in two.
    assert await replicas.more_calls(4) > 3
    assert {status["redis"] for status in await replicas.statuses()} == {"ok"}


async def _both_listen(master: RedisServer) -> bool:
    channels = await master.command("PUBSUB", "CHANNELS", "coinm:*")
    counted = await master.command("PUBSUB", "NUMSUB", *channels)
    return dict(zip(channels, counted[1::2], strict=True)) == dict.fromkeys(channels, 2) != {}


def assert_unharmed(load: Load) -> None:
    assert set(load.statuses) == {200}
    assert max(load.waits) < LONGEST
