"""Hostile values in a real Redis, and one whose keys are spread over slots."""

from pathlib import Path

from tests.fleet.fleets import SOON
from tests.fleet.outage import fleet
from tests.fleet.redis_servers import RedisServers
from tests.hostile import CANARY, hostile_states
from tests.process.conftest import run_command
from tests.support import until


async def test_whatever_stands_in_a_real_redis_reads_go_on_and_no_text_of_it_gets_out(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    server = await redis_servers.one()
    async with fleet(tmp_path, {"url": server.url}, replicas=1) as replicas, server.client() as redis:
        assert (await replicas.read()).status_code == 200
        for key in [key async for key in redis.scan_iter("coinm:*")]:
            async for state in hostile_states(redis, key):
                read = await replicas.read(cache_control="max-age=0")
                assert read.status_code in {200, 503}, (key, state)  # 503: its demand, past the forced share
                assert CANARY not in read.text
        await replicas.until_redis("ok")
        status, output, errors = await run_command("check", "--config", str(replicas.replicas[0].config))
        _, log = await replicas.replicas[0].stop()

    assert (status, errors) == (0, ""), output
    assert "redis_away" not in log
    assert CANARY not in log


async def test_a_cluster_of_one_shard_serves_with_the_ordinary_client(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    server = await redis_servers.one("--cluster-enabled", "yes")
    await server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

    async def covered() -> bool:
        return "cluster_state:ok" in str(await server.command("CLUSTER", "INFO"))

    await until(covered, SOON, "the cluster is whole")
    async with fleet(tmp_path, {"url": server.url}, replicas=2) as replicas:
        assert [(await replicas.read(number)).status_code for number in (0, 1)] == [200, 200]
        assert replicas.exchange.calls.count("/dapi/v1/account") == 1
        await replicas.until_redis("ok")
        status, output, _ = await run_command("check", "--config", str(replicas.replicas[0].config))
        log = [(await replica.stop())[1] for replica in replicas.replicas]

    assert status == 0, output
    assert "redis_away" not in "".join(log)


async def test_a_cluster_of_several_shards_is_named(tmp_path: Path, redis_servers: RedisServers) -> None:
    server, other = (
        await redis_servers.one("--cluster-enabled", "yes"),
        await redis_servers.one("--cluster-enabled", "yes"),
    )
    await server.command("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
    await other.command("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
    await server.command("CLUSTER", "MEET", "127.0.0.1", other.port)

    async def covered() -> bool:
        return "cluster_state:ok" in str(await server.command("CLUSTER", "INFO"))

    await until(covered, SOON, "the cluster is whole")
    async with fleet(tmp_path, {"url": server.url}, replicas=1) as replicas:
        assert (await replicas.read()).status_code == 200
        status, output, _ = await run_command("check", "--config", str(replicas.replicas[0].config))

    assert status == 1
    assert "several shards" in output
