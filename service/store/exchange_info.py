"""The one copy of exchangeInfo that the replicas share, as the exchange sent it; its remaining life tells its age."""

import contextlib

from service.account.snapshot import MAX_BODY
from service.exchange.exchange_info import EXCHANGE_INFO_MAX_AGE, SharedExchangeInfo
from service.settings import Settings
from service.store.guard import RedisGuard, RedisUnavailableError
from service.store.scripts import Scripts, acquire_once


def exchange_info_key(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:{settings.environment}:{settings.exchange.host}:listing"


class RedisExchangeInfo:
    """`exchange.exchange_info.ExchangeInfoStore`, in Redis; both reads return `None` while Redis is unavailable."""

    def __init__(self, guard: RedisGuard, scripts: Scripts, key: str) -> None:
        self.key = key
        self.claim_key = f"{key}-claim"
        self._guard = guard
        self._scripts = scripts

    async def get(self) -> SharedExchangeInfo | None:
        """Read the shared copy; a foreign value (no string, no end of life, too large) counts as none."""
        with contextlib.suppress(RedisUnavailableError):
            read = self._scripts.exchange_info
            remaining_ms, body = await self._guard.run(lambda: read(keys=[self.key], args=[MAX_BODY]))
            if isinstance(body, bytes) and remaining_ms > 0:
                # Clamped: a longer life than replicas give it was set by something else.
                return SharedExchangeInfo(body, min(remaining_ms, EXCHANGE_INFO_MAX_AGE))
        return None

    async def put(self, body: bytes) -> None:
        redis = self._guard.redis
        await self._guard.post_and_wait(lambda: redis.set(self.key, body, px=EXCHANGE_INFO_MAX_AGE))

    async def claim(self, milliseconds: int) -> bool | None:
        """Acquire the right to fetch it for the whole fleet; it lasts that long, whatever comes of the fetch."""
        return await acquire_once(self._guard, self._scripts, self.claim_key, milliseconds)
