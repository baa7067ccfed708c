"""The ledger of one public address: what the replicas have spent this minute, and until when nothing may be sent."""

# One call in the ledger of its minute:
#
#     reserve: pending += weight ──► sent ──answer──► settle: pending -= weight, spent += weight, reported = max
#                                     ├──not sent after all──► cancel: pending -= weight
#                                     └──no answer, or this replica dies──► pending stays until the ledger expires
#
# - The reservation comes before the call, so two replicas can't both see the last weight as free. The state returned is
#   that *before* the reservation: the caller decides by it, and cancels if there was no room.
# - An id counts once: `reserve` enters it among the calls in flight, `settle` and `cancel` act only on an id that is
#   in there and remove it. So a repeat, or an answer of Redis that gets lost, doesn't change the sums.
# - A `settle` that never arrives leaves the call pending. The sum then errs towards too much weight, never too little.
# - A call is entered in the minute it is sent in, but may be counted by the exchange in the next. So a window includes
#   what is still pending of the minute before.

import re
from functools import partial

from service.cache.wait_budget import carried
from service.exchange.clock import ExchangeClock
from service.fleet.budget import MINUTE, Charge, Cooldown, Window
from service.fleet.ledger import LedgerState, Reservation
from service.settings import NAME_PATTERN
from service.store.cooldowns import COOLDOWN_MEMORY_MS, cooldown_of, cooldowns_of, latest_moment, latest_until
from service.store.guard import RedisGuard
from service.store.keys import EgressKeys
from service.store.scripts import Args
from service.store.values import whole

LEDGER_MEMORY_MS = 3 * MINUTE
"""How long a minute's ledger is kept: its own minute, the next (which reads it too), and one more for wrong clocks."""
MAX_WEIGHT = 1_000_000
"""Bound of any figure: a hundred times what an address may spend per minute."""

_ACCOUNT = re.compile(f"account:({NAME_PATTERN})")
_FORCED = re.compile(f"forced:((?:{NAME_PATTERN})?):({NAME_PATTERN})")


class EgressLedger:
    """`fleet.ledger.Ledger`, in Redis. If Redis is unavailable, only `resume` raises."""

    def __init__(self, guard: RedisGuard, keys: EgressKeys, clock: ExchangeClock) -> None:
        self._guard = guard
        self._scripts = guard.scripts
        self._keys = keys
        self._clock = clock

    async def reserve(self, reservation: Reservation) -> LedgerState | None:
        """Enter a call; return the ledger as it was before. `None`: Redis is unavailable."""
        charge, minute, own = reservation.charge, reservation.minute, self._keys
        # An unsigned call is bound by the address alone; the script wants two cooldowns all the same.
        credential = own.credential_cooldown(charge.credential) if charge.credential else own.address_cooldown
        keys = [*own.minute(minute), own.minute(minute - 1)[0], own.address_cooldown, credential]
        args: Args = [reservation.id, charge.weight, charge.account, _forced_by(charge), LEDGER_MEMORY_MS]
        state = await self._guard.call(partial(self._scripts.reserve, keys, args), carried())
        if state is None:
            return None
        ledger, before, *cooldowns = state
        window = window_of(minute, _pairs(ledger), _pairs(before))
        return LedgerState(window, cooldowns_of(cooldowns, self._clock))

    async def settle(self, reservation: Reservation, reported: int | None) -> None:
        """Record that the exchange answered; `reported` is its own count for the minute, if it gave one."""
        self._settle(reservation, "answered", "" if reported is None else reported)

    async def cancel(self, reservation: Reservation) -> None:
        """Record that the call was not sent."""
        self._settle(reservation, "cancelled", "")

    def _settle(self, reservation: Reservation, outcome: str, reported: str | int) -> None:
        charge, keys = reservation.charge, self._keys.minute(reservation.minute)
        args: Args = [reservation.id, outcome, reported, charge.account, _forced_by(charge), LEDGER_MEMORY_MS]
        # Posted: the answer is already here, and must not wait for the books.
        _ = self._guard.post(partial(self._scripts.settle, keys, args))

    async def cool_down_address(self, cooldown: Cooldown) -> None:
        """Share a cooldown of the address, or that a probe after it was answered; Redis keeps what takes precedence."""
        await self._cool_down(self._keys.address_cooldown, cooldown)

    async def cool_down_credential(self, charge: Charge, cooldown: Cooldown) -> None:
        await self._cool_down(self._keys.credential_cooldown(charge.credential), cooldown)

    async def _cool_down(self, key: str, cooldown: Cooldown) -> None:
        # If this is lost, the replica still has its own copy, and shares that again.
        now, latest = self._clock.now(), latest_moment(self._clock)
        args: Args = [cooldown.resumed, cooldown.imposed, cooldown.until, int(cooldown.cleared), cooldown.problem]
        args += [now, latest, latest_until(now), COOLDOWN_MEMORY_MS]
        await self._guard.post_and_wait(partial(self._scripts.cool_down, [key], args), carried())

    async def acquire_probe(self, life_ms: int) -> bool | None:
        """Acquire the sole right to send the probe; it lasts that long, whatever comes of the probe."""
        return await self._guard.acquire_once(self._keys.probe, life_ms, carried())

    async def resume(self, credential: str) -> dict[str, Cooldown]:
        """Forget the cooldowns that bind a credential; return what each was, by scope.

        Raises:
            RedisUnavailableError: Redis can't be reached: not all of them were forgotten.
        """
        keys = {"address": self._keys.address_cooldown, "credential": self._keys.credential_cooldown(credential)}
        forgotten = {}
        for scope, key in keys.items():
            args: Args = [COOLDOWN_MEMORY_MS, self._clock.now(), latest_moment(self._clock)]
            fields, _ = await self._guard.run(partial(self._scripts.resume, [key], args))
            forgotten[scope] = cooldown_of(fields, self._clock.now(), latest_moment(self._clock))
        return forgotten


def window_of(minute: int, ledger: dict[bytes, bytes], before: dict[bytes, bytes]) -> Window:
    """The fleet's window, from the ledger of its minute and of the minute before, whose last calls may be in flight."""
    return Window(
        minute,
        reported=_number(ledger, b"reported"),
        spent=_number(ledger, b"spent"),
        pending=_number(ledger, b"pending") + _number(before, b"pending"),
        forced=_number(ledger, b"forced"),
        forced_by={(client, account): weight for (client, account), weight in _named(_FORCED, ledger).items()},
        forced_before=frozenset((client, account) for client, account in _named(_FORCED, before)),
        accounts={account: weight for (account,), weight in _named(_ACCOUNT, ledger).items()},
        before=frozenset(account for (account,) in _named(_ACCOUNT, before)),
    )


def _forced_by(charge: Charge) -> str:
    """The client that forces the call, or `-`, with which no client's name begins."""
    return charge.client if charge.forced else "-"


def _named(pattern: re.Pattern[str], ledger: dict[bytes, bytes]) -> dict[tuple[str, ...], int]:
    """The figures whose names match, by the groups of the pattern."""
    found = ((pattern.fullmatch(name.decode("latin-1")), name) for name in ledger)
    return {match.groups(): _number(ledger, name) for match, name in found if match}


def _number(ledger: dict[bytes, bytes], name: bytes) -> int:
    """A figure of the ledger; a value that no replica can have written counts as 0."""
    return whole(ledger.get(name), MAX_WEIGHT) or 0


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    """A hash from its names and values in turn, which is how a script returns one."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
