"""The one copy of exchangeInfo that the replicas share, as the exchange sent it; its remaining life tells its age."""

import contextlib

from service.account.snapshot import MAX_BODY
from service.exchange.ports import EXCHANGE_INFO_MAX_AGE, SharedExchangeInfo
from service.settings import Settings
from service.store.guard import RedisGuard, RedisUnavailableError
from service.store.scripts import Scripts, claim


def exchange_info_key(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:{settings.environment}:{settings.exchange.host}:listing"


class RedisExchangeInfo:
    """`exchange.ports.ExchangeInfoStore`, in Redis, with the claim beside it; `None` while Redis is unavailable."""

    def __init__(self, link: RedisGuard, scripts: Scripts, key: str) -> None:
        self.key = key
        self.claim_key = f"{key}-claim"
        self._link = link
        self._scripts = scripts

    async def get(self) -> SharedExchangeInfo | None:
        """What is shared; what somebody else wrote there (no string, no end of life, too large) counts as none."""
        with contextlib.suppress(RedisUnavailableError):
            remaining, body = await self._link.run(lambda: self._scripts.listing(keys=[self.key], args=[MAX_BODY]))
            if isinstance(body, bytes) and remaining > 0:
                return SharedExchangeInfo(body, min(remaining, EXCHANGE_INFO_MAX_AGE))
        return None

    async def put(self, body: bytes) -> None:
        await self._link.attempt(lambda: self._write(body))

    async def claim(self, milliseconds: int) -> bool | None:
        """Whether this replica may fetch it for all; it is its own for so long, whatever comes of it."""
        return await claim(self._link, self._scripts, self.claim_key, milliseconds)

    async def _write(self, body: bytes) -> None:
        await self._link.redis.set(self.key, body, px=EXCHANGE_INFO_MAX_AGE)
