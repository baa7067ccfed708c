"""Settings → a client of Redis, and the breaker through which every operation goes.

redis-py's defaults wait and repeat (measured: 58 s against a hung server, and a repeated script counts twice).
Here an operation has 250 ms and no second try, a refresh waits for all of its operations together no longer than for
one, and after a failure nobody tries for a second: Redis is shared state, never a reason to fail a read that memory can
answer.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    MaxConnectionsError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.addresses import host_and_port
from service.clock import Clock
from service.settings import Redis as RedisSettings
from service.settings_file import read_secret, redis_url
from service.telemetry.metrics import Metrics
from service.tls import trust

log = structlog.get_logger("coinm.redis")

T = TypeVar("T")

TICK = 0.025
"""Seconds. Waits are counted in ticks of the event loop. One that comes late doesn't count: the loop was busy, and a
burst of callers must not be taken for a slow Redis. What is answered within one is a round trip, not a wait."""
PATIENCE = 10
"""Ticks for an operation, and for all of a refresh together, from one wait for other replicas to the next: 250 ms."""
LONGEST = 2.0
"""Seconds after which an operation is given up however busy the loop is."""
CONCURRENT = 32
"""Operations at a time; redis-py's pool refuses more than 100, and Redis does one after the other anyhow."""
BEAT_PATIENCE = 40
"""Ticks for a heartbeat, for which nobody waits: time to ask several Sentinels where the master is."""
CONNECT_TIMEOUT = 0.2
"""Seconds to connect."""
SENTINEL_TIMEOUT = 0.1
"""Seconds for a Sentinel to answer, before the next is asked."""
SOCKET_TIMEOUT = 3.0
"""Seconds that redis-py waits for an answer: never, for an operation is ended before."""
PAUSE = 1_000
"""Ms without a try after a failure; then one operation tries for all."""
BEAT = 1.0
"""Seconds between heartbeats."""
BEAT_LIFE = 5_000
"""Ms that one is seen in Redis."""


class RedisUnavailableError(Exception):
    """Redis did not answer in time, or is being left alone after it didn't; `kind` is `failure_kind`'s."""

    def __init__(self, kind: str) -> None:
        super().__init__(FAILURES[kind])
        self.kind = kind


FAILURES = {
    "refused": "it refuses our password or user, or its ACL lacks a command: a configuration error",
    "read-only": "it is read-only: expected the master",
    "full": "it is out of memory",
    "busy": "no free connection",
    "timeout": "no answer in time",
    "unreachable": "no connection",
    "sharded": "it is a cluster of several shards: expected one that has all keys, or Sentinel",
    "script": "it fails our script",
}
"""What can be wrong with it, in words for an operator."""


_REFUSED_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't run this command")
"""How newer and older servers say that the ACL denies a command to a script of ours."""


def connect(settings: RedisSettings) -> Redis:
    """A client; connects when it is first used.

    Raises:
        SettingsError: a secret file is unreadable, or the URL is none.
    """
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # plain answers: nothing here needs pushes, and Sentinel speaks it everywhere
        "driver_info": None,  # no CLIENT SETINFO: one command less for the ACL
    }
    if settings.ca_file is not None:
        trust(settings.ca_file, "redis.ca_file")  # redis-py reads the file itself, at the first connection
    tls = {"ssl_ca_certs": str(settings.ca_file)} if settings.ca_file is not None else {}
    if settings.sentinels:
        return _by_sentinel(settings, options | tls)
    url = redis_url(settings)
    if settings.password_file is not None:
        options |= {"password": read_secret(settings.password_file, "redis.password_file").reveal()}
    if url.reveal().startswith("rediss:"):
        options |= tls
    return Redis.from_url(url.reveal(), **options)


def _by_sentinel(settings: RedisSettings, options: dict[str, Any]) -> Redis:
    secrets = {
        "password": settings.password_file,
        "sentinel_password": settings.sentinel_password_file,
    }
    passwords = {
        name: read_secret(file, f"redis.{name}_file").reveal() for name, file in secrets.items() if file is not None
    }
    tls = {"ssl": True} if settings.ca_file is not None else {}
    addresses = [address for each in settings.sentinels if (address := host_and_port(each))]
    quick = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
    sentinel_options = options | tls | quick | {"password": passwords.get("sentinel_password")}
    sentinel = cast("Any", Sentinel)(addresses, sentinel_kwargs=sentinel_options)  # redis-py leaves it untyped
    redis: Redis = sentinel.master_for(settings.master, **options, **tls, password=passwords.get("password"))
    return redis


class WaitBudget:
    """The ticks that are left to wait for Redis."""

    def __init__(self, ticks: int = PATIENCE) -> None:
        self.ticks = ticks

    async def wait(self, task: asyncio.Task[Any]) -> bool:
        """Wait for a task as long as there are ticks left; whether it is done."""
        now = asyncio.get_running_loop().time
        end = now() + LONGEST
        while not task.done() and self.ticks > 0 and now() < end:
            began = now()
            await asyncio.wait({task}, timeout=TICK)
            if now() - began < 2 * TICK and not task.done():
                self.ticks -= 1
        return task.done()


_patience: ContextVar[WaitBudget | None] = ContextVar("patience", default=None)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Within the block, operations that name no patience of their own wait no longer together than one may alone."""
    token = _patience.set(WaitBudget())
    try:
        yield
    finally:
        _patience.reset(token)


async def while_patient(task: asyncio.Task[Any]) -> None:
    """Wait for what goes on without us, as long as the block's patience lasts."""
    await (_patience.get() or WaitBudget()).wait(task)


class RedisGuard:
    """The one way to Redis."""

    def __init__(self, redis: Redis, clock: Clock, metrics: Metrics) -> None:
        self.redis = redis
        self._clock = clock
        self._metrics = metrics
        self._next_try = 0
        self._kind = "unreachable"
        self._telling: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(CONCURRENT)
        self.up = True
        """Whether the last operation worked."""
        self.on_back: Callable[[], None] = lambda: None
        """Called when it works again."""

    async def run(self, operation: Callable[[], Coroutine[Any, Any, T]], limit: WaitBudget | None = None) -> T:
        """Carry out one operation, within `limit` or what is left of the block's patience.

        Raises:
            RedisUnavailableError: Redis failed it, or failed one within the last second, or there is no patience left.
        """
        limit, now = limit or _patience.get() or WaitBudget(), self._clock.monotonic()
        if limit.ticks <= 0:
            raise RedisUnavailableError("timeout")  # too slow for who asks; it may be well
        if not self.up:
            if now < self._next_try:
                raise RedisUnavailableError(self._kind)
            self._next_try = now + PAUSE  # this one tries; the others go on without
        patient = limit.ticks >= PATIENCE
        try:
            result = await self._in_time(operation, limit)
        except TimeoutError as exc:
            if patient:
                await self._fail(exc)
            raise RedisUnavailableError("timeout") from None  # after less than 250 ms it says little of how Redis is
        except (RedisError, OSError) as exc:
            await self._fail(exc)
            raise RedisUnavailableError(self._kind) from None
        if not self.up:
            self.up = True
            log.info("redis_back")
            self.on_back()
        return result

    def tell(self, operation: Callable[[], Coroutine[Any, Any, object]]) -> asyncio.Task[None]:
        """Carry out what nobody decides by; it goes on whatever becomes of who tells."""
        telling = asyncio.create_task(self._told(operation))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        return telling

    async def attempt(self, operation: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """The same, waited for as long as the block's patience lasts: what comes after should find it done."""
        await while_patient(self.tell(operation))

    async def reach(self) -> None:
        """Find Redis, with the time that several Sentinels and a handshake may take.

        Raises:
            RedisUnavailableError: it can't be reached.
        """
        await self.run(self._ping, WaitBudget(BEAT_PATIENCE))

    async def beat(self, key: str) -> None:
        """Write something every second: that Redis fails, and is back, is known before a request asks."""
        while True:
            with contextlib.suppress(RedisUnavailableError):
                await self.run(lambda: self._write(key), WaitBudget(BEAT_PATIENCE))
            await asyncio.sleep(BEAT)

    async def info(self) -> dict[str, Any]:
        """What Redis tells of itself."""
        return await self.redis.info()

    async def flush(self) -> None:
        """Wait until all has been told."""
        if self._telling:
            await asyncio.wait(self._telling)

    async def close(self) -> None:
        """Hang up, once all has been told."""
        await self.flush()
        await self.redis.aclose()

    async def _told(self, operation: Callable[[], Coroutine[Any, Any, object]]) -> None:
        with contextlib.suppress(RedisUnavailableError):
            await self.run(operation, WaitBudget())

    async def _ping(self) -> None:
        await self.redis.ping()

    async def _write(self, key: str) -> None:
        await self.redis.set(key, "", px=BEAT_LIFE)

    async def _in_time(self, operation: Callable[[], Coroutine[Any, Any, T]], limit: WaitBudget) -> T:
        """An operation's result, if it comes while there is patience left.

        Raises:
            TimeoutError: it didn't.
        """
        under_way = asyncio.create_task(self._in_turn(operation))
        try:
            if await limit.wait(under_way):
                return under_way.result()
            raise TimeoutError
        finally:
            under_way.cancel()

    async def _in_turn(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._slots:
            return await operation()

    async def _fail(self, exc: Exception) -> None:
        kind = self._kind = failure_kind(exc)
        self._metrics.redis_failures.labels(kind).inc()
        self._next_try = self._clock.monotonic() + PAUSE
        if self.up:
            self.up = False
            level = log.error if kind == "refused" else log.warning
            level("redis_away", kind=kind, error=type(exc).__name__)
        if kind == "read-only":  # behind a proxy the master may be another by now, for new connections
            await self.redis.connection_pool.disconnect(inuse_connections=False)


def failure_kind(exc: Exception) -> str:
    """What is wrong, as one of `FAILURES`."""
    match exc:
        case AuthenticationError() | AuthorizationError() | NoPermissionError():
            return "refused"
        case ResponseError() if any(words in str(exc) for words in _REFUSED_IN_SCRIPT):
            return "refused"
        case ReadOnlyError():
            return "read-only"
        case OutOfMemoryError():
            return "full"
        case MaxConnectionsError():
            return "busy"
        case TimeoutError() | RedisTimeoutError():
            return "timeout"
        case MovedError() | AskError() | ClusterCrossSlotError():
            return "sharded"
        case ResponseError():
            return "script"
        case _:
            return "unreachable"
