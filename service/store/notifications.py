"""The subscription on which this replica receives what other replicas publish.

A subscription doesn't heal itself (measured: on a hung server it saw no error in 15 s, and after a failover it went on
listening to the old master). So it is pinged every second, and dropped when a second passes without an answer.
"""

# Redis keeps no message, so a replica misses what is published while it isn't subscribed. No decision depends on a
# message: a message only says what to read now, and waiters poll as well.
#
# The states of one subscription:
#
#     subscribing ──confirmed──► subscribed ──interval with a message──► ping ──► subscribed (next interval)
#          ▲                         └──────── interval without one, or an error ──────► dropped
#          └──────────────────── 0.5 to 1 s later, wherever the master is by then ─────────┘
#
# - Every confirmation is passed on as `None` before any message: what was published while there was no subscription is
#   lost, so the receiver reads everything once.
# - The confirmation counts as the answer of the first interval, and each pong as that of the next: only the first
#   interval has no ping before it.
# - The guard's breaker plays no part. The subscription has a connection of its own, and retries at its own pace.

import asyncio
import random
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from service.store.guard import failure_kind

log = structlog.get_logger("coinm.redis")

INTERVAL_S = 1.0
"""Between pings, and within which an answer must arrive."""


class Notifications:
    """One subscription, for as long as the process lives.

    Args:
        redis: where to subscribe.
        channel: what to subscribe to.
        receive: called with each message, whatever sent it; with `None` when any number may have been missed.
    """

    def __init__(self, redis: Redis, channel: str, receive: Callable[[bytes | None], None]) -> None:
        self._redis = redis
        self._channel = channel
        self._receive = receive
        self._healthy = True

    async def listen(self) -> None:
        """Listen, and subscribe again whenever the subscription has died; ends only by being cancelled."""
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await self._follow(subscription)
            except (RedisError, OSError, TimeoutError) as exc:
                self._note(healthy=False, kind=failure_kind(exc))
            except Exception:
                # A bug in the receiver. Without messages this replica still polls, but only a live listener recovers.
                log.exception("announcements_fault")
            await asyncio.sleep(random.uniform(0.5, 1) * INTERVAL_S)  # noqa: S311 - spreads replicas, keeps no secret

    async def _follow(self, subscription: PubSub) -> None:
        """Subscribe, and pass messages on until the server stays silent.

        Raises:
            TimeoutError: no message came in a whole interval, though an answer was due.
        """
        now = asyncio.get_running_loop().time
        async with asyncio.timeout(INTERVAL_S):
            await subscription.subscribe(self._channel)
        while True:
            end, answered = now() + INTERVAL_S, False
            while True:
                left = max(0.0, end - now())
                message = await subscription.get_message(timeout=left)
                if message is None:
                    # Only a read that began after the end decides: if this loop was slow, the answer is in the socket.
                    if left == 0:
                        break
                    continue
                answered = True
                kind, data = message["type"], message["data"]
                if kind == "subscribe":
                    self._note(healthy=True)
                    self._receive(None)
                elif kind == "message" and isinstance(data, bytes):
                    self._receive(data)
            if not answered:
                raise TimeoutError
            async with asyncio.timeout(INTERVAL_S):
                await subscription.ping()

    def _note(self, *, healthy: bool, kind: str = "") -> None:
        """Log a change of health, once."""
        if healthy == self._healthy:
            return
        self._healthy = healthy
        if healthy:
            log.info("announcements_back")
        elif kind == "refused":
            log.error("announcements_lost", kind=kind)  # the password or the ACL: a configuration error
        else:
            log.warning("announcements_lost", kind=kind)
