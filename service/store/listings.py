"""The one copy of exchangeInfo that the replicas share, as the exchange sent it; its remaining life tells its age."""

import contextlib
import secrets

from redis.exceptions import ResponseError

from service.account.snapshot import MAX_BODY
from service.exchange.ports import LISTING_MAX_AGE, SharedListing
from service.settings import Settings
from service.store.connection import AwayError, Link
from service.store.scripts import Found

_OF_ANOTHER_KIND = "WRONGTYPE"


def listing_key(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:{settings.environment}:{settings.exchange.host}:listing"


class ListingStore:
    """`exchange.ports.Listings`, in Redis; the claim stands beside it. Nothing here raises when Redis is away."""

    def __init__(self, link: Link, key: str) -> None:
        self.key = key
        self.claim_key = f"{key}-claim"
        self._link = link

    async def get(self) -> SharedListing | None:
        """What is shared; what somebody else wrote there (no string, no end of life, too large) counts as none."""
        with contextlib.suppress(AwayError):
            remaining, body = await self._link.run(self._read)
            if isinstance(body, bytes) and len(body) <= MAX_BODY and remaining > 0:
                return SharedListing(body, min(remaining, LISTING_MAX_AGE))
        return None

    async def put(self, body: bytes) -> None:
        await self._link.attempt(lambda: self._write(body))

    async def claim(self, milliseconds: int) -> bool | None:
        """Whether this replica may fetch it for all; it is its own for so long, whatever comes of it."""
        with contextlib.suppress(AwayError):
            return bool(await self._link.run(lambda: self._set_once(milliseconds)))
        return None

    async def _read(self) -> Found:
        """Ms left to live, then the body: one replaced in between is taken for older than it is, never for newer."""
        async with self._link.redis.pipeline(transaction=False) as pipeline:  # MULTI: one command more to allow
            _ = pipeline.pttl(self.key), pipeline.get(self.key)
            found: Found = await pipeline.execute(raise_on_error=False)
        for each in found:
            if isinstance(each, ResponseError) and not str(each).startswith(_OF_ANOTHER_KIND):
                raise each
        return found

    async def _write(self, body: bytes) -> None:
        await self._link.redis.set(self.key, body, px=LISTING_MAX_AGE)

    async def _set_once(self, milliseconds: int) -> object:
        return await self._link.redis.set(self.claim_key, secrets.token_hex(8), nx=True, px=milliseconds)
