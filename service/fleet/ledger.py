"""The values of the weight ledger that all replicas on one public address share."""

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
