"""The ledger of one public address: what the replicas have spent this minute, and until when nothing may be sent."""

import re

from service.exchange.budget import MINUTE, Charge, Cooldown, Window
from service.exchange.clock import ExchangeClock
from service.exchange.ports import LedgerState, Reservation
from service.settings import NAME_PATTERN
from service.store.cooldowns import COOLDOWN_MEMORY, cooldown_of, cooldowns_of, latest_moment, latest_until
from service.store.guard import RedisGuard, RedisUnavailableError
from service.store.scripts import Args, EgressKeys, Found, Scripts, claim
from service.store.values import whole

LEDGER_MEMORY = 3 * MINUTE
"""Ms that a minute's ledger is kept: its own minute, the next, which looks back, and room for wrong clocks."""
MOST_WEIGHT = 1_000_000
"""Of any figure: a hundred times what an address may spend a minute."""

_ACCOUNT = re.compile(f"account:({NAME_PATTERN})")
_FORCED = re.compile(f"forced:((?:{NAME_PATTERN})?):({NAME_PATTERN})")


class EgressLedger:
    """`exchange.ports.Ledger`, in Redis. Only `resume` raises when Redis is away."""

    def __init__(self, link: RedisGuard, scripts: Scripts, keys: EgressKeys, clock: ExchangeClock) -> None:
        self._link = link
        self._scripts = scripts
        self._keys = keys
        self._clock = clock

    async def reserve(self, reservation: Reservation) -> LedgerState | None:
        """Enter a call; the ledger as it was before."""
        claim, own = reservation.charge, self._keys
        holds = [own.hold, own.credential_cooldown(claim.credential) if claim.credential else own.hold]
        keys = [*own.minute(reservation.minute), own.minute(reservation.minute - 1)[0], *holds]
        args: Args = [reservation.id, claim.weight, claim.account, _forced_by(claim), LEDGER_MEMORY]
        try:
            found: Found = await self._link.run(lambda: self._scripts.reserve(keys=keys, args=args))
        except RedisUnavailableError:
            return None
        ledger, before, *held = found
        window = window_of(reservation.minute, _pairs(ledger), _pairs(before))
        return LedgerState(window, cooldowns_of(held, self._clock))

    async def settle(self, reservation: Reservation, reported: int | None) -> None:
        await self._settle(reservation, "answered", reported)

    async def cancel(self, reservation: Reservation) -> None:
        await self._settle(reservation, "cancelled", None)

    async def cool_down_address(self, hold: Cooldown) -> None:
        """Share a not-before of the address, or that a probe after it was answered; what overrides it stands."""
        await self._hold(self._keys.hold, hold)

    async def cool_down_credential(self, claim: Charge, hold: Cooldown) -> None:
        await self._hold(self._keys.credential_cooldown(claim.credential), hold)

    async def probe(self, milliseconds: int) -> bool | None:
        """Whether this replica may send the probe; it is its own for so long, whatever comes of it."""
        return await claim(self._link, self._scripts, self._keys.probe, milliseconds)

    async def resume(self, credential: str) -> dict[str, Cooldown]:
        """Forget the not-befores that bind a credential; what each was, by scope.

        Raises:
            RedisUnavailableError: Redis can't be reached: nothing was forgotten.
        """
        keys = {"address": self._keys.hold, "credential": self._keys.credential_cooldown(credential)}
        return {scope: await self._forget(key) for scope, key in keys.items()}

    async def _settle(self, reservation: Reservation, outcome: str, reported: int | None) -> None:
        claim = reservation.charge
        figure = "" if reported is None else reported
        args: Args = [reservation.id, outcome, figure, claim.account, _forced_by(claim), LEDGER_MEMORY]
        keys = self._keys.minute(reservation.minute)
        _ = self._link.tell(lambda: self._scripts.settle(keys=keys, args=args))  # nobody waits: it counts either way

    async def _hold(self, key: str, hold: Cooldown) -> None:
        """The replica keeps its own copy, and shares it again if this is lost."""
        now = self._clock.now()
        args: Args = [hold.resumed, hold.imposed, hold.until, int(hold.cleared), hold.problem, now]
        args += [latest_moment(self._clock), latest_until(now), COOLDOWN_MEMORY]
        await self._link.attempt(lambda: self._scripts.hold(keys=[key], args=args))

    async def _forget(self, key: str) -> Cooldown:
        args: Args = [COOLDOWN_MEMORY, self._clock.now(), latest_moment(self._clock)]
        fields, _ = await self._link.run(lambda: self._scripts.resume(keys=[key], args=args))
        return cooldown_of(fields, self._clock.now(), latest_moment(self._clock))


def window_of(minute: int, ledger: dict[bytes, bytes], before: dict[bytes, bytes]) -> Window:
    """The fleet's window, from its ledger and that of the minute before, whose last calls may be under way still."""
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


def _forced_by(claim: Charge) -> str:
    """The client that forces a call; `-`, which no client's name begins with: it is not forced."""
    return claim.client if claim.forced else "-"


def _named(pattern: re.Pattern[str], ledger: dict[bytes, bytes]) -> dict[tuple[str, ...], int]:
    """The figures whose names are such, by what the names tell."""
    found = ((pattern.fullmatch(name.decode("latin-1")), name) for name in ledger)
    return {match.groups(): _number(ledger, name) for match, name in found if match}


def _number(ledger: dict[bytes, bytes], name: bytes) -> int:
    """A figure of the ledger; what no replica can have written there counts as nothing."""
    return whole(ledger.get(name), MOST_WEIGHT) or 0


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    """Names and values in turn, as a script gives them."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
