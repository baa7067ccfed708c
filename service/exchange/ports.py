"""What the exchange's room needs of the replicas' shared state: one account book of weight and of refusals.

Redis keeps it; the room doesn't know that. Nothing here raises while it is away: the answer is `None` then.
"""

from typing import Protocol

import msgspec

from service.exchange.budget import Claim, Hold, Window


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
