"""What the exchange's room needs of the replicas' shared state: one book of weight and of refusals, one listing.

Redis keeps them; the room doesn't know that. Nothing here raises while it is away: the answer is `None` then.
"""

from typing import Protocol

import msgspec

from service.exchange.budget import Claim, Hold, Window

LISTING_MAX_AGE = 60 * 60 * 1000
"""Ms after which exchangeInfo is fetched anew. Contracts are listed and delivered by the quarter."""


class Reservation(msgspec.Struct, frozen=True):
    """One call in the ledger; its id makes a repeat count once."""

    id: str
    minute: int
    """Minutes since the epoch, on the exchange's clock: the one it is sent in."""
    claim: Claim


class Holds(msgspec.Struct, frozen=True):
    """The not-befores that bind an account, as the replicas share them."""

    address: Hold = Hold()
    credential: Hold = Hold()
    now: int | None = None
    """Epoch ms on the exchange's clock, by what is left of a hold; `None` without one."""


class Standing(msgspec.Struct, frozen=True):
    """The ledger just before a reservation entered it."""

    window: Window
    """The fleet's."""
    holds: Holds


class Ledger(Protocol):
    """Shared by every replica on one public address."""

    async def reserve(self, reservation: Reservation) -> Standing | None: ...

    async def settle(self, reservation: Reservation, reported: int | None) -> None: ...

    async def cancel(self, reservation: Reservation) -> None: ...

    async def hold_address(self, hold: Hold) -> None: ...

    async def hold_credential(self, claim: Claim, hold: Hold) -> None: ...

    async def probe(self, milliseconds: int) -> bool | None:
        """Whether this replica may send the one probe after a refusal; nobody else may for so long."""
        ...


class SharedListing(msgspec.Struct, frozen=True):
    """exchangeInfo as one replica fetched it for all."""

    body: bytes
    remaining: int
    """Ms of its `LISTING_MAX_AGE` that are left."""


class Listings(Protocol):
    """Shared by every replica of one environment and exchange."""

    async def get(self) -> SharedListing | None: ...

    async def put(self, body: bytes) -> None:
        """Share what has just been fetched."""
        ...

    async def claim(self, milliseconds: int) -> bool | None:
        """Whether this replica may fetch it for all; no other one may for so long. `None`: each for itself."""
        ...
