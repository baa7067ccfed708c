"""The one copy of exchangeInfo that the replicas share, as the exchange sent it; its remaining life gives its age."""

from functools import partial

from service.account.parsing import MAX_BODY
from service.cache.wait_budget import carried
from service.exchange.exchange_info import EXCHANGE_INFO_MAX_AGE, SharedExchangeInfo
from service.store.guard import RedisGuard


class RedisExchangeInfo:
    """`exchange.exchange_info.ExchangeInfoStore`, in Redis."""

    def __init__(self, guard: RedisGuard, key: str) -> None:
        self.key = key
        self.claim_key = f"{key}-claim"
        self._guard = guard

    async def get(self) -> SharedExchangeInfo | None:
        """Read the shared copy; a foreign value (no string, no end of life, too large) counts as none."""
        found = await self._guard.call(partial(self._guard.scripts.exchange_info, [self.key], [MAX_BODY]), carried())
        remaining_ms, body = found or (0, None)
        if not isinstance(body, bytes) or remaining_ms <= 0:
            return None
        # Clamped: a longer life than replicas give it was set by something else.
        return SharedExchangeInfo(body, min(remaining_ms, EXCHANGE_INFO_MAX_AGE))

    async def put(self, body: bytes) -> None:
        redis = self._guard.redis
        await self._guard.post_and_wait(lambda: redis.set(self.key, body, px=EXCHANGE_INFO_MAX_AGE), carried())

    async def acquire_once(self, life_ms: int) -> bool | None:
        """Acquire the right to fetch it for the whole fleet; it lasts that long, whatever comes of the fetch."""
        return await self._guard.acquire_once(self.claim_key, life_ms, carried())
