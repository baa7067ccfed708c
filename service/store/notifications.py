"""Hearing what other replicas announce.

A subscription doesn't heal itself (measured: on a hung server it saw no error in 15 s, and after a failover it went
on listening to the old master). So it is pinged every second; without an answer within a second it is dropped and
made anew, wherever the master is by then, and everything is looked at once, for what was missed.
"""

import asyncio
import random
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from service.store.guard import failure_kind

log = structlog.get_logger("coinm.redis")

INTERVAL = 1.0
"""Seconds between pings, and that an answer may take."""


class Notifications:
    """One subscription, for as long as the process lives.

    Args:
        redis: where to subscribe.
        channel: to what.
        hear: called with each message, whoever sent it; with `None` when any number of them may have been missed.
    """

    def __init__(self, redis: Redis, channel: str, hear: Callable[[bytes | None], None]) -> None:
        self._redis = redis
        self._channel = channel
        self._hear = hear
        self._well = True

    async def listen(self) -> None:
        """Listen, and start again whenever the subscription has died; ends only by being cancelled."""
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await self._follow(subscription)
            except (RedisError, OSError, TimeoutError) as exc:
                self._tell(well=False, kind=failure_kind(exc))
            except Exception:
                log.exception("announcements_fault")  # a deaf replica still polls; a dead listener would stay deaf
            await asyncio.sleep(random.uniform(0.5, 1) * INTERVAL)  # noqa: S311 - spreads replicas, keeps no secret

    async def _follow(self, subscription: PubSub) -> None:
        async with asyncio.timeout(INTERVAL):
            await subscription.subscribe(self._channel)
        while await self._hear_out(subscription):
            async with asyncio.timeout(INTERVAL):
                await subscription.ping()
        raise TimeoutError

    async def _hear_out(self, subscription: PubSub) -> bool:
        """Hand on what comes in one interval; whether anything did: what was sent before wants an answer."""
        now = asyncio.get_running_loop().time
        end, answered = now() + INTERVAL, False
        while True:
            left = max(0.0, end - now())
            message = await subscription.get_message(timeout=left)
            if message is None and left == 0:  # asked once more than the time allows: it may be us who were slow
                return answered
            answered = answered or message is not None
            self._take(message)

    def _take(self, message: dict[str, object] | None) -> None:
        kind, data = (message["type"], message["data"]) if message else ("nothing", None)
        if kind == "subscribe":
            self._tell(well=True)
            self._hear(None)
        elif kind == "message" and isinstance(data, bytes):
            self._hear(data)

    def _tell(self, *, well: bool, kind: str = "") -> None:
        if well == self._well:
            return
        self._well = well
        if well:
            log.info("announcements_back")
        elif kind == "refused":
            log.error("announcements_lost", kind=kind)  # the password or the ACL: a configuration error
        else:
            log.warning("announcements_lost", kind=kind)
