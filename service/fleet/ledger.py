"""The weight ledger that all replicas on one public address share: its values, and how it is called."""

from typing import Protocol

import msgspec

from service.fleet.budget import Charge, Cooldown, Window


class Reservation(msgspec.Struct, frozen=True):
    """One call in the ledger; its id makes a repeated write count once."""

    id: str
    minute: int
    """The minute it is sent in: minutes since the epoch, on the exchange's clock."""
    charge: Charge


class Cooldowns(msgspec.Struct, frozen=True):
    """The cooldowns that bind an account, as the replicas share them."""

    address: Cooldown = Cooldown()
    credential: Cooldown = Cooldown()
    now: int | None = None
    """Epoch ms on the exchange's clock, derived from the remaining life of a cooldown's entry; `None` without one."""


class LedgerState(msgspec.Struct, frozen=True):
    """The ledger just before a reservation was entered."""

    window: Window
    """The fleet's."""
    cooldowns: Cooldowns


class Ledger(Protocol):
    """Nothing here raises. While Redis is unavailable a call returns `None`, and each replica decides for itself."""

    async def reserve(self, reservation: Reservation) -> LedgerState | None: ...

    async def settle(self, reservation: Reservation, reported: int | None) -> None: ...

    async def cancel(self, reservation: Reservation) -> None: ...

    async def cool_down_address(self, cooldown: Cooldown) -> None: ...

    async def cool_down_credential(self, charge: Charge, cooldown: Cooldown) -> None: ...

    async def acquire_probe(self, life_ms: int) -> bool | None:
        """Whether this replica may send the one probe after a cooldown; no other may for that time."""
        ...
