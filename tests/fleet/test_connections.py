"""Ways to Redis: TLS with a private CA, a Unix socket, passwords in files, a user with no more commands than needed."""

from pathlib import Path

from simulator.faults import Fault
from tests.fleet.fleets import SOON
from tests.fleet.outage import Fleet, fleet
from tests.fleet.redis_servers import ACL, RedisServer, RedisServers
from tests.process.certificates import write_certificate
from tests.process.conftest import run_command
from tests.support import IDENTITY, until

PASSWORD = "correct-horse"

ADMINISTRATION = ("config|resetstat", "exists", "keys", "acl|log")
"""What these tests themselves use."""


async def test_redis_by_tls_with_a_private_ca_and_a_password_file(tmp_path: Path, redis_servers: RedisServers) -> None:
    server = await redis_servers.one(tls=True, password=PASSWORD)
    file = written(tmp_path / "password", PASSWORD)
    redis = {"url": server.url, "ca_file": str(server.ca_file), "password_file": file}
    async with fleet(tmp_path, redis, replicas=1) as replicas:
        await assert_at_work(replicas, server)


async def test_redis_whose_certificate_another_ca_made_is_unreachable_and_reads_go_on(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    server = await redis_servers.one(tls=True)
    other, _ = write_certificate(tmp_path)
    async with fleet(tmp_path, {"url": server.url, "ca_file": str(other)}, replicas=1) as replicas:
        status, output, _ = await checked(replicas)
        await replicas.until_redis("degraded")
        read = await replicas.read()

    assert read.status_code == 200
    assert status == 1
    assert "no connection" in output


async def test_redis_by_a_unix_socket(tmp_path: Path, redis_servers: RedisServers) -> None:
    server = await redis_servers.one("--unixsocket", "redis.sock")
    async with fleet(tmp_path, {"url": f"unix://{server.folder}/redis.sock"}, replicas=1) as replicas:
        await assert_at_work(replicas, server)


async def test_a_password_in_a_url_file(tmp_path: Path, redis_servers: RedisServers) -> None:
    server = await redis_servers.one(password=PASSWORD)
    file = written(tmp_path / "url", server.url.replace("://", f"://:{PASSWORD}@"))
    async with fleet(tmp_path, {"url_file": file}, replicas=1) as replicas:
        await assert_at_work(replicas, server)
        _, log = await replicas.replicas[0].stop()

    assert PASSWORD not in log


async def test_a_user_needs_no_other_commands_than_the_readme_grants_and_uses_each_of_them(
    tmp_path: Path, redis_servers: RedisServers
) -> None:
    server = await redis_servers.one()
    await server.command(*ACL.replace("PASSWORD", PASSWORD).split())
    await server.command("CONFIG", "RESETSTAT")
    url = server.url.replace("://", f"://gateway:{PASSWORD}@")
    async with fleet(tmp_path, {"url": url}, replicas=2) as replicas:
        await use_everything(replicas, server)

    assert await server.command("ACL", "LOG") == []
    assert await used(server) == granted(ACL)


async def assert_at_work(replicas: Fleet, server: RedisServer) -> None:
    """What is read is stored there, the replica is content, and so is `check`."""

    async def stored() -> bool:  # a first handshake may take longer than a read waits; then it goes by itself
        read = await replicas.read(cache_control="no-cache")
        assert read.status_code == 200
        return bool(
            await server.command(
                "EXISTS", f"coinm:{{account:testing:{replicas.exchange_host}:main}}:snapshot:{IDENTITY}"
            )
        )

    await until(stored, SOON, "what is read is stored")
    await replicas.until_redis("ok")
    status, output, errors = await checked(replicas)

    assert (status, errors) == (0, ""), output


async def use_everything(replicas: Fleet, server: RedisServer) -> None:
    """Reads that two replicas share, `check`, a failure, a ban, and `resume`."""
    await assert_at_work(replicas, server)
    async with replicas.polled():
        await replicas.more_calls(2)
        replicas.exchange.faults.add(Fault("503-unavailable", count=1))
        await replicas.more_calls(2)
        replicas.exchange.faults.add(Fault("418", seconds=600))
        await until(lambda: answer(server, "KEYS", "*{egress:*}:hold"), 10, "the ban is in Redis")
    _, output, _ = await run_command("resume", "--config", str(replicas.replicas[0].config))
    assert "exchange-banned" in output
    await replicas.until_redis("ok")


async def answer(server: RedisServer, *command: str) -> bool:
    return bool(await server.command(*command))


def granted(rule: str) -> set[str]:
    """The commands that a rule lets through."""
    return {word[1:] for word in rule.split() if word.startswith("+")}


async def used(server: RedisServer) -> set[str]:
    """The commands that were carried out since the figures were reset, by clients and in scripts."""
    async with server.client() as redis:
        figures = await redis.info("commandstats")
    counted = {name.removeprefix("cmdstat_") for name in figures}
    return counted - {"auth"} - {*ADMINISTRATION}


async def checked(replicas: Fleet) -> tuple[int | None, str, str]:
    return await run_command("check", "--config", str(replicas.replicas[0].config))


def written(file: Path, text: str) -> str:
    file.write_text(text + "\n")
    return str(file)
