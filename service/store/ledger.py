"""The ledger of one public address: what the replicas have spent this minute, and until when nothing may be sent."""

import contextlib
import secrets

from service.exchange.budget import MINUTE, Claim, Hold, Window
from service.exchange.clock import ExchangeClock
from service.exchange.ports import Reservation, Standing
from service.store.connection import AwayError, Link
from service.store.holds import HOLD_MEMORY, hold_of, holds_of, life_of
from service.store.scripts import Args, EgressKeys, Found, Scripts

LEDGER_MEMORY = 3 * MINUTE
"""Ms that a minute's ledger is kept: its own minute, the next, which looks back, and room for wrong clocks."""

_ACCOUNT = b"account:"


class EgressLedger:
    """`exchange.ports.Ledger`, in Redis. Only `resume` raises when Redis is away."""

    def __init__(self, link: Link, scripts: Scripts, keys: EgressKeys, clock: ExchangeClock) -> None:
        self._link = link
        self._scripts = scripts
        self._keys = keys
        self._clock = clock

    async def reserve(self, reservation: Reservation) -> Standing | None:
        """Enter a call; the ledger as it was before."""
        claim, minute = reservation.claim, reservation.minute
        holds = [self._keys.hold, self._credential_hold(claim) if claim.credential else self._keys.hold]
        keys = [*self._minute(minute), self._minute(minute - 1)[0], *holds]
        args: Args = [reservation.id, claim.weight, claim.account, int(claim.forced), LEDGER_MEMORY]
        try:
            found: Found = await self._link.run(lambda: self._scripts.reserve(keys=keys, args=args))
        except AwayError:
            return None
        ledger, before, address, address_ttl, credential, credential_ttl = found
        window = window_of(minute, _pairs(ledger), _pairs(before))
        return Standing(window, holds_of(address, address_ttl, credential, credential_ttl))

    async def settle(self, reservation: Reservation, reported: int | None) -> None:
        await self._settle(reservation, "answered", reported)

    async def cancel(self, reservation: Reservation) -> None:
        await self._settle(reservation, "cancelled", None)

    async def hold_address(self, hold: Hold) -> None:
        """Share a not-before of the address, or that a probe after it was answered; what overrides it stands."""
        await self._hold(self._keys.hold, hold)

    async def hold_credential(self, claim: Claim, hold: Hold) -> None:
        await self._hold(self._credential_hold(claim), hold)

    async def probe(self, milliseconds: int) -> bool | None:
        """Whether this replica may send the probe; it is its own for so long, whatever comes of it."""
        token = secrets.token_hex(8)
        with contextlib.suppress(AwayError):
            return bool(await self._link.run(lambda: self._set_once(token, milliseconds)))
        return None

    async def resume(self, account: str, credential: str) -> dict[str, Hold]:
        """Forget the not-befores that bind an account with a credential; what each was, by scope.

        Raises:
            AwayError: Redis can't be reached: nothing was forgotten.
        """
        keys = {"address": self._keys.hold, "credential": self._keys.credential_hold(account, credential)}
        return {scope: await self._forget(key) for scope, key in keys.items()}

    def _credential_hold(self, claim: Claim) -> str:
        return self._keys.credential_hold(claim.account, claim.credential)

    def _minute(self, minute: int) -> list[str]:
        return [f"{self._keys.ledger}:{minute}", f"{self._keys.ledger}:{minute}:calls"]

    async def _settle(self, reservation: Reservation, outcome: str, reported: int | None) -> None:
        claim = reservation.claim
        figure = "" if reported is None else reported
        args: Args = [reservation.id, outcome, figure, claim.account, int(claim.forced)]
        keys = self._minute(reservation.minute)
        _ = self._link.tell(lambda: self._scripts.settle(keys=keys, args=args))  # nobody waits: it counts either way

    async def _hold(self, key: str, hold: Hold) -> None:
        """The replica keeps its own copy, and shares it again if this is lost."""
        args: Args = [hold.epoch, hold.problem, hold.until, int(hold.opened), life_of(hold, self._clock.now())]
        await self._link.attempt(lambda: self._scripts.hold(keys=[key], args=args))

    async def _forget(self, key: str) -> Hold:
        args: Args = [HOLD_MEMORY, self._clock.now() // 1000]
        return hold_of(await self._link.run(lambda: self._scripts.resume(keys=[key], args=args)))

    async def _set_once(self, token: str, milliseconds: int) -> object:
        return await self._link.redis.set(self._keys.probe, token, nx=True, px=milliseconds)


def window_of(minute: int, ledger: dict[bytes, bytes], before: dict[bytes, bytes]) -> Window:
    """The fleet's window, from its ledger and that of the minute before, whose last calls may be under way still."""
    return Window(
        minute,
        reported=_number(ledger, b"reported"),
        spent=_number(ledger, b"spent"),
        pending=_number(ledger, b"pending") + _number(before, b"pending"),
        forced=_number(ledger, b"forced"),
        accounts=_accounts(ledger),
        before=frozenset(_accounts(before)),
    )


def _accounts(ledger: dict[bytes, bytes]) -> dict[str, int]:
    return {name[len(_ACCOUNT) :].decode(): _number(ledger, name) for name in ledger if name.startswith(_ACCOUNT)}


def _number(ledger: dict[bytes, bytes], name: bytes) -> int:
    """A figure of the ledger; what somebody else wrote there counts as nothing."""
    value = ledger.get(name, b"0")
    return int(value) if value.isdigit() else 0


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    """`HGETALL` as a script gives it: names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
