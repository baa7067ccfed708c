"""Redis servers that a test may kill, hang, empty and fail over."""

import asyncio
import contextlib
import signal
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tests.process.certificates import write_certificate
from tests.programs import require
from tests.support import free_port, until

STARTUP = 20.0
"""Seconds for a server to answer, and for Sentinels to have found each other."""

MASTER = "mymaster"
"""The name that Sentinels watch the master by."""

ACL = (
    "ACL SETUSER gateway on >PASSWORD ~coinm:* &coinm:* -@all +del +evalsha +get +hdel +hget +hgetall +hlen "
    "+hmget +hset +hsetnx +hstrlen +info +pexpire +ping +pttl +publish +script|load +set +strlen +subscribe"
)
"""The user that the gateway needs, as the README has it."""

_PLAIN = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--loglevel", "warning")
"""Nothing on disk, and a replica is served at once."""

_MONITOR = """port {port}
dir "{folder}"
sentinel monitor {name} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 3000
"""


class RedisServer:
    """A redis-server of its own port, started by `async with`, dead after the block however it ends.

    Args:
        folder: its own; with `tls` the certificate is in there.
        options: of redis-server's command line.
        tls: whether to speak nothing but TLS.
        password: of its default user.
    """

    def __init__(self, folder: Path, *options: str, tls: bool = False, password: str | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.ca_file = folder / "certificate.pem" if tls else None
        self.password = password
        self.process: asyncio.subprocess.Process | None = None
        self._options = options

    @property
    def url(self) -> str:
        """Without the password."""
        return f"{'rediss' if self.ca_file else 'redis'}://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        if self.ca_file is not None:
            write_certificate(self.folder)
        try:
            await self.start()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self.process = await asyncio.create_subprocess_exec(
            require("redis-server"), *self.arguments(), stdout=subprocess.DEVNULL
        )
        await until(self._answers, STARTUP, "redis-server answers")

    async def kill(self) -> None:
        """End it at once; what it held is lost."""
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()
            await process.wait()

    def hang(self) -> None:
        """It keeps its port and its connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def command(self, *words: str | int) -> Any:
        """What it answers to its administrator."""
        async with self.client() as redis:
            return await redis.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it so

    def client(self) -> Redis:
        """A connection as administrator, to be closed."""
        options: dict[str, Any] = {"password": self.password, "socket_timeout": 5, "decode_responses": True}
        if self.ca_file is not None:
            options["ssl_ca_certs"] = str(self.ca_file)
        return Redis.from_url(self.url, protocol=2, driver_info=None, **options)

    def arguments(self) -> tuple[str, ...]:
        """Of redis-server."""
        ports: tuple[str, ...] = ("--port", str(self.port))
        if self.ca_file is not None:
            files = ("--tls-cert-file", str(self.ca_file), "--tls-key-file", str(self.folder / "key.pem"))
            ports = ("--port", "0", "--tls-port", str(self.port), *files, "--tls-auth-clients", "no")
        password = ("--requirepass", self.password) if self.password else ()
        return (*ports, *_PLAIN, "--dir", str(self.folder), *password, *self._options)

    async def _answers(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            pytest.fail(f"redis-server ended with {self.process.returncode}")
        try:
            return bool(await self.command("PING"))
        except (RedisError, OSError):
            return False

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


class Sentinel(RedisServer):
    """One watcher of a master."""

    def __init__(self, folder: Path, master: int) -> None:
        super().__init__(folder)
        self._file = folder / "sentinel.conf"
        self._file.write_text(_MONITOR.format(port=self.port, folder=folder, name=MASTER, master=master))

    def arguments(self) -> tuple[str, ...]:
        return (str(self._file), "--sentinel")

    async def master_port(self) -> int:
        """Where it sends those who ask for the master."""
        _, port = await self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(port)

    async def knows_all(self) -> bool:
        """Whether it could fail over: it has found the replica and the other Sentinels."""
        async with self.client() as redis:
            seen: Any = await redis.sentinel_master(MASTER)
            replicas: Any = await redis.sentinel_slaves(MASTER)
        linked = [replica for replica in replicas if replica["master-link-status"] == "ok"]
        return int(seen["num-other-sentinels"]) == 2 and len(linked) == 1


class SentinelSetup:
    """A master, its replica, and three Sentinels that have found all of these."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.master = RedisServer(folder / "first")
        self.replica = RedisServer(folder / "second", "--replicaof", "127.0.0.1", str(self.master.port))
        self.sentinels = [Sentinel(_made(folder / f"sentinel-{number}"), self.master.port) for number in range(3)]
        self._stack = AsyncExitStack()

    @property
    def addresses(self) -> list[str]:
        """As in `redis.sentinels`."""
        return [f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for server in (self.master, self.replica, *self.sentinels):
                await stack.enter_async_context(server)
            await until(self._settled, STARTUP, "the Sentinels have found each other")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def failed_over(self) -> None:
        """Return when every Sentinel names the replica as master, and it is one."""
        await until(self._replica_leads, STARTUP, "the replica is the master")

    async def demoted(self) -> None:
        """Return when the old master follows the new one."""
        await until(self._master_follows, STARTUP, "the old master is a replica")

    async def _settled(self) -> bool:
        return all([await sentinel.knows_all() for sentinel in self.sentinels])

    async def _replica_leads(self) -> bool:
        ports = {await sentinel.master_port() for sentinel in self.sentinels}
        role = await _role(self.replica)
        return ports == {self.replica.port} and role[0] == "master"

    async def _master_follows(self) -> bool:
        role = await _role(self.master)
        return bool(role[0] == "slave" and role[2] == self.replica.port)


async def _role(server: RedisServer) -> list[Any]:
    """What it says it is; a server whose role is just being changed hangs up on its clients."""
    with contextlib.suppress(RedisConnectionError):
        role: list[Any] = await server.command("ROLE")
        return role
    return ["changing"]


class RedisServers:
    """Starts servers for one test; all are dead after it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._started = 0

    async def one(self, *options: str, tls: bool = False, password: str | None = None) -> RedisServer:
        """A server as `RedisServer` describes it."""
        return await self._stack.enter_async_context(
            RedisServer(self._next_folder(), *options, tls=tls, password=password)
        )

    async def with_sentinels(self) -> SentinelSetup:
        return await self._stack.enter_async_context(SentinelSetup(self._next_folder()))

    def _next_folder(self) -> Path:
        self._started += 1
        return self._folder / str(self._started)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
