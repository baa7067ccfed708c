"""What the exchange's room needs of the replicas' shared state: one book of weight and of refusals, one listing.

Redis keeps them; the room doesn't know that. Nothing here raises while it is away: the answer is `None` then.
"""

from typing import Protocol

import msgspec

from service.exchange.budget import Charge, Cooldown, Window

EXCHANGE_INFO_MAX_AGE = 60 * 60 * 1000
"""Ms after which exchangeInfo is fetched anew. Contracts are listed and delivered by the quarter."""


class Reservation(msgspec.Struct, frozen=True):
    """One call in the ledger; its id makes a repeat count once."""

    id: str
    minute: int
    """Minutes since the epoch, on the exchange's clock: the one it is sent in."""
    claim: Charge


class Cooldowns(msgspec.Struct, frozen=True):
    """The not-befores that bind an account, as the replicas share them."""

    address: Cooldown = Cooldown()
    credential: Cooldown = Cooldown()
    now: int | None = None
    """Epoch ms on the exchange's clock, by what is left of a hold; `None` without one."""


class LedgerState(msgspec.Struct, frozen=True):
    """The ledger just before a reservation entered it."""

    window: Window
    """The fleet's."""
    holds: Cooldowns


class Ledger(Protocol):
    """Shared by every replica on one public address."""

    async def reserve(self, reservation: Reservation) -> LedgerState | None: ...

    async def settle(self, reservation: Reservation, reported: int | None) -> None: ...

    async def cancel(self, reservation: Reservation) -> None: ...

    async def cool_down_address(self, hold: Cooldown) -> None: ...

    async def cool_down_credential(self, claim: Charge, hold: Cooldown) -> None: ...

    async def probe(self, milliseconds: int) -> bool | None:
        """Whether this replica may send the one probe after a refusal; nobody else may for so long."""
        ...


class SharedExchangeInfo(msgspec.Struct, frozen=True):
    """exchangeInfo as one replica fetched it for all."""

    body: bytes
    remaining: int
    """Ms of its `EXCHANGE_INFO_MAX_AGE` that are left."""


class ExchangeInfoStore(Protocol):
    """Shared by every replica of one environment and exchange."""

    async def get(self) -> SharedExchangeInfo | None: ...

    async def put(self, body: bytes) -> None:
        """Share what has just been fetched."""
        ...

    async def claim(self, milliseconds: int) -> bool | None:
        """Whether this replica may fetch it for all; no other one may for so long. `None`: each for itself."""
        ...
