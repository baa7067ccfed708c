"""Settings → a Redis client, and the guard through which every operation on it goes.

redis-py's defaults wait and repeat (measured: 58 s against a hung server, and a repeated script counts twice). Here an
operation has 250 ms and one attempt, and all operations of one refresh share one such budget. After a failure, no
operation is sent for a second. Redis is shared state, never a reason to fail a read that memory can answer.
"""

# Waiting. Every operation spends a wait budget (`cache.wait_budget`); waiting for one of the `CONCURRENT` slots counts
# like waiting for the answer. When the budget is spent, the operation is cancelled. redis-py then drops the connection,
# so a late answer can't be read as the answer to the next operation. Redis may have run the script: the scripts are
# therefore safe to repeat.
#
# The breaker. Each replica has its own; it is not shared.
#
#     up ──failure──► down until `_next_trial_ms` ──first operation after that──► trial ──success──► up (`on_back`)
#                      ▲                                                           │
#                      └────────────────────── any other outcome ──────────────────┘
#
# - Only one operation is the trial: it moves `_next_trial_ms` before its first await, so operations that start while it
#   runs still fail at once. A trial that is cancelled therefore leaves the breaker down until the next one.
# - Operations that were already under way at the failure run to their own end. The success of any closes the breaker.
# - A timeout opens the breaker only if the operation had a full budget. What was left of a refresh's budget may be too
#   short for a healthy Redis, so that timeout says little about it.
# - Other exceptions are bugs of ours and pass through; they change nothing here.

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
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
from service.cache.wait_budget import WAIT_TICKS, WaitBudget
from service.clock import Clock
from service.settings import Redis as RedisSettings
from service.settings_file import read_secret, redis_url
from service.store.scripts import Args, Scripts
from service.telemetry.metrics import Metrics
from service.tls import trust

log = structlog.get_logger("coinm.redis")

T = TypeVar("T")

CONCURRENT = 32
"""Operations at a time: redis-py's pool refuses more than 100 connections, and Redis serves one at a time anyhow."""
HEARTBEAT_TICKS = 40
"""For a heartbeat, which no request waits for: time to query several Sentinels for the master."""
CONNECT_TIMEOUT_S = 0.2
SENTINEL_TIMEOUT_S = 0.1
"""For one Sentinel to answer, before the next is queried."""
SOCKET_TIMEOUT_S = 3.0
"""redis-py's own limit on an answer. It is never reached, because the guard cancels the operation first."""
PAUSE_MS = 1_000
"""From a failure to the next trial."""
HEARTBEAT_INTERVAL_S = 1.0
HEARTBEAT_LIFE_MS = 5_000
"""How long one heartbeat stays visible in Redis."""


class RedisUnavailableError(Exception):
    """Redis failed an operation, or the breaker is open after a failure; `kind` is a key of `FAILURES`."""

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
"""What can be wrong with Redis, in words for an operator."""

_REFUSED_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't run this command")
"""How newer and older servers report that the ACL denies a command to one of our scripts."""


def connect(settings: RedisSettings) -> Redis:
    """Create a client; it connects when it is first used.

    Raises:
        SettingsError: a secret file is unreadable, or the URL is invalid.
    """
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # plain answers: nothing here needs pushes, and Sentinel speaks it everywhere
        "driver_info": None,  # no CLIENT SETINFO: the ACL has one command less to allow
    }
    tls: dict[str, Any] = {}
    if settings.ca_file is not None:
        trust(settings.ca_file, "redis.ca_file")  # redis-py reads the file itself, but only at the first connection
        tls = {"ssl_ca_certs": str(settings.ca_file)}
    if not settings.sentinels:
        url = redis_url(settings)
        if settings.password_file is not None:
            options |= {"password": read_secret(settings.password_file, "redis.password_file").reveal()}
        if url.reveal().startswith("rediss:"):
            options |= tls
        return Redis.from_url(url.reveal(), **options)
    secret_files = {"password": settings.password_file, "sentinel_password": settings.sentinel_password_file}
    passwords = {
        name: read_secret(file, f"redis.{name}_file").reveal()
        for name, file in secret_files.items()
        if file is not None
    }
    # Sentinels have no URL whose scheme says TLS: a CA file does, and it holds for the Sentinels and the master.
    options |= tls | ({"ssl": True} if tls else {})
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    sentinel_options = options | timeouts | {"password": passwords.get("sentinel_password")}
    addresses = [address for each in settings.sentinels if (address := host_and_port(each))]
    sentinel = cast("Any", Sentinel)(addresses, sentinel_kwargs=sentinel_options)  # redis-py leaves it untyped
    redis: Redis = sentinel.master_for(settings.master, **options, password=passwords.get("password"))
    return redis


class RedisGuard:
    """The only way to Redis: bounds each operation in time, and stops calling a Redis that fails."""

    def __init__(self, redis: Redis, clock: Clock, metrics: Metrics) -> None:
        self.redis = redis
        self.scripts = Scripts(redis)
        self._clock = clock
        self._metrics = metrics
        self._next_trial_ms = 0
        self._kind = "unreachable"
        self._posted: set[asyncio.Task[object]] = set()
        self._slots = asyncio.Semaphore(CONCURRENT)
        self.up = True
        """Whether the last operation worked."""
        self.on_back: Callable[[], None] = lambda: None
        """Called when Redis works again."""

    async def call(self, operation: Callable[[], Awaitable[T]], budget: WaitBudget | None = None) -> T | None:
        """Run one operation, whose own answer is never `None`; `None`: Redis is unavailable."""
        with contextlib.suppress(RedisUnavailableError):
            return await self.run(operation, budget)
        return None

    async def run(self, operation: Callable[[], Awaitable[T]], budget: WaitBudget | None = None) -> T:
        """Like `call`, for `check`, `resume` and the log of a start, which report why Redis is unavailable.

        Raises:
            RedisUnavailableError: Redis failed the operation, or one within the last second, or the budget is spent.
        """
        budget, now = budget or WaitBudget(), self._clock.monotonic()
        if budget.ticks <= 0:
            raise RedisUnavailableError("timeout")  # too slow for this caller; Redis itself may be well
        if not self.up:
            if now < self._next_trial_ms:
                raise RedisUnavailableError(self._kind)
            self._next_trial_ms = now + PAUSE_MS  # this operation is the trial; the others go on without Redis
        full_budget = budget.ticks >= WAIT_TICKS
        try:
            async with budget.bound(), self._slots:
                result = await operation()
        except TimeoutError as exc:
            if full_budget:
                await self._open_breaker(exc)
            raise RedisUnavailableError("timeout") from None
        except (RedisError, OSError) as exc:
            await self._open_breaker(exc)
            raise RedisUnavailableError(self._kind) from None
        if not self.up:
            self.up = True
            log.info("redis_back")
            self.on_back()
        return result

    def post(self, operation: Callable[[], Awaitable[object]]) -> asyncio.Task[object]:
        """Fire and forget: runs on even if the caller is cancelled, with a budget of its own."""
        task = asyncio.create_task(self.call(operation))
        self._posted.add(task)  # the loop holds a task only weakly
        task.add_done_callback(self._posted.discard)
        return task

    async def post_and_wait(self, operation: Callable[[], Awaitable[object]], budget: WaitBudget | None = None) -> None:
        """Post, and wait within the budget, so that what the caller does next normally finds it done."""
        await (budget or WaitBudget()).wait(self.post(operation))

    async def acquire_once(self, key: str, life_ms: int, budget: WaitBudget | None = None) -> bool | None:
        """Acquire the sole right to do something; it lasts `life_ms`, whatever comes of it. `None`: unavailable."""
        args: Args = [secrets.token_hex(8), life_ms]
        acquired = await self.call(partial(self.scripts.acquire_once, [key], args), budget)
        return None if acquired is None else bool(acquired)

    async def reach(self) -> None:
        """Ping Redis, within the time that several Sentinels and a handshake may take.

        Raises:
            RedisUnavailableError: Redis can't be reached.
        """
        await self.run(self.redis.ping, WaitBudget(HEARTBEAT_TICKS))

    async def beat(self, key: str) -> None:
        """Write a key every second, so that a failure and a recovery are noticed before a request needs Redis."""
        while True:
            _ = await self.call(lambda: self.redis.set(key, "", px=HEARTBEAT_LIFE_MS), WaitBudget(HEARTBEAT_TICKS))
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    async def info(self) -> dict[str, Any]:
        """What Redis reports about itself."""
        return await self.redis.info()

    async def flush(self) -> None:
        """Wait until every posted operation has ended."""
        if self._posted:
            await asyncio.wait(self._posted)

    async def close(self) -> None:
        """Flush, then close the connections."""
        await self.flush()
        await self.redis.aclose()

    async def _open_breaker(self, exc: Exception) -> None:
        kind = self._kind = failure_kind(exc)
        self._metrics.redis_failures.labels(kind).inc()
        self._next_trial_ms = self._clock.monotonic() + PAUSE_MS  # from the end of the failed attempt, not its start
        if self.up:
            self.up = False
            level = log.error if kind == "refused" else log.warning
            level("redis_away", kind=kind, error=type(exc).__name__)
        if kind == "read-only":  # behind a proxy, new connections may lead to another master by now
            await self.redis.connection_pool.disconnect(inuse_connections=False)


def failure_kind(exc: Exception) -> str:
    """Classify what is wrong, as a key of `FAILURES`."""
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
