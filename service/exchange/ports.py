"""The shared state of the replicas that this package needs: one ledger of weight, the cooldowns, one exchangeInfo.

`service.store` implements these in Redis; this package doesn't know that. While Redis is unavailable, nothing here
raises. A call then returns `None`, and each replica decides for itself.
"""

from typing import Protocol

import msgspec

from service.fleet.budget import Charge, Cooldown
from service.fleet.ledger import LedgerState, Reservation

EXCHANGE_INFO_MAX_AGE = 60 * 60 * 1000
"""Ms after which exchangeInfo is fetched again. Contracts are listed and delivered by the quarter."""


class Ledger(Protocol):
    """Shared by every replica on one public address."""

    async def reserve(self, reservation: Reservation) -> LedgerState | None: ...

    async def settle(self, reservation: Reservation, reported: int | None) -> None: ...

    async def cancel(self, reservation: Reservation) -> None: ...

    async def cool_down_address(self, cooldown: Cooldown) -> None: ...

    async def cool_down_credential(self, charge: Charge, cooldown: Cooldown) -> None: ...

    async def acquire_probe(self, life_ms: int) -> bool | None:
        """Whether this replica may send the one probe after a cooldown; no other may for that time."""
        ...


class SharedExchangeInfo(msgspec.Struct, frozen=True):
    """exchangeInfo as one replica fetched it for all."""

    body: bytes
    remaining_ms: int
    """Of its `EXCHANGE_INFO_MAX_AGE`."""


class ExchangeInfoStore(Protocol):
    """Shared by every replica of one environment and exchange."""

    async def get(self) -> SharedExchangeInfo | None: ...

    async def put(self, body: bytes) -> None:
        """Share what this replica has just fetched."""
        ...

    async def acquire_once(self, life_ms: int) -> bool | None:
        """Whether this replica may fetch it for all; no other may for that time. `None`: each for itself."""
        ...
