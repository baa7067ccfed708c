"""The exchange's listing, as the replicas share it: one of them reads it for all."""

import contextlib
import secrets

from service.exchange.ports import SharedListing
from service.store.connection import AwayError, Link


class ListingStore:
    """`exchange.ports.Listings`, in Redis. Nothing here raises while it is away."""

    def __init__(self, link: Link, key: str) -> None:
        self._link = link
        self._key = key

    async def get(self) -> SharedListing | None:
        with contextlib.suppress(AwayError):
            body, left = await self._link.run(self._read)
            return SharedListing(body, left) if isinstance(body, bytes) and left > 0 else None
        return None

    async def put(self, body: bytes, milliseconds: int) -> None:
        await self._link.attempt(lambda: self._write(body, milliseconds))

    async def claim(self, milliseconds: int) -> bool | None:
        with contextlib.suppress(AwayError):
            return bool(await self._link.run(lambda: self._set_once(milliseconds)))
        return None

    async def _read(self) -> tuple[bytes | str | None, int]:
        return await self._link.redis.get(self._key), int(await self._link.redis.pttl(self._key))

    async def _write(self, body: bytes, milliseconds: int) -> object:
        return await self._link.redis.set(self._key, body, px=milliseconds)

    async def _set_once(self, milliseconds: int) -> object:
        return await self._link.redis.set(f"{self._key}:claim", secrets.token_hex(8), nx=True, px=milliseconds)
