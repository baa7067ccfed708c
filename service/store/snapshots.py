"""What the replicas share about one account: its snapshot, and the not-befores that bind it.

Keys: `{prefix}:{environment}:{exchange host}:{account}:…`. A public address belongs to no environment, so its
not-before is `{prefix}:egress:{exchange host}:{egress}:hold`. All numbers are whole milliseconds.
"""

import contextlib
from importlib import resources

import msgspec
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from service.exchange.budget import MAX_HOLD, NO_HOLD, Hold
from service.settings import Settings
from service.store.connection import AwayError, Link
from service.store.entries import Entry, Look

FORMAT = 1
"""Of the snapshot's hash; an entry of another format counts as none."""

_HOLD_MEMORY = 10 * MAX_HOLD
"""Ms that a hold and its epoch are remembered: far longer than any hold the epoch could void."""


class Keys(msgspec.Struct, frozen=True):
    """The names of one account's state."""

    snapshot: str
    credential: str
    address_hold: str
    credential_hold: str


def keys_of(settings: Settings, account: str, credential: str) -> Keys:
    """Names for an account under a credential's identity; a changed credential leaves its latch behind."""
    prefix, host = settings.redis.key_prefix, settings.exchange.host
    own = f"{prefix}:{settings.environment}:{host}:{account}"
    return Keys(
        snapshot=f"{own}:snapshot",
        credential=f"{own}:credential",
        address_hold=f"{prefix}:egress:{host}:{settings.exchange.egress}:hold",
        credential_hold=f"{own}:hold:{credential}",
    )


class Scripts:
    """The Lua scripts, registered with one client; each is atomic and safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self.look = _script(redis, "look")
        self.keep = _script(redis, "keep")
        self.hold = _script(redis, "hold")
        self.prove = _script(redis, "prove")
        self.resume = _script(redis, "resume")


class AccountStore:
    """One account's shared state, for one credential. Nothing here raises when Redis is away."""

    def __init__(self, link: Link, scripts: Scripts, keys: Keys, credential: str) -> None:
        self._link = link
        self._scripts = scripts
        self._keys = keys
        self._credential = credential

    async def try_out(self) -> None:
        """One harmless operation of the real kind.

        Raises:
            AwayError: why it failed.
        """
        keys = [self._keys.snapshot, self._keys.address_hold, self._keys.credential_hold]
        await self._link.run(lambda: self._scripts.look(keys=keys, args=[FORMAT, 0]))

    async def look(self, known: int) -> Look | None:
        """What is shared now; the snapshot only if it is newer than `known` (its asked_at). `None`: away."""
        keys = [self._keys.snapshot, self._keys.address_hold, self._keys.credential_hold]
        try:
            found = await self._link.run(lambda: self._scripts.look(keys=keys, args=[FORMAT, known]))
        except AwayError:
            return None
        entry, remaining, body, address, credential = found
        return Look(_entry(entry, body), remaining, _hold(address), _hold(credential))

    async def keep(self, entry: Entry, remaining: int) -> bool | None:
        """Share a snapshot for `remaining` ms; `False`: a newer one stands, `None`: away."""
        margin_assets = msgspec.json.encode(dict(entry.margin_assets))
        args: list[bytes | int] = [
            FORMAT,
            entry.asked_at,
            entry.generation,
            entry.life,
            margin_assets,
            entry.body,
            remaining,
        ]
        try:
            return bool(await self._link.run(lambda: self._scripts.keep(keys=[self._keys.snapshot], args=args)))
        except AwayError:
            return None

    async def prove(self) -> int | None:
        """Tell that the credential was accepted; its generation, or `None`: away."""
        keys, args = [self._keys.credential], [self._credential]
        try:
            return int(await self._link.run(lambda: self._scripts.prove(keys=keys, args=args)))
        except AwayError:
            return None

    async def hold_address(self, hold: Hold) -> None:
        """Share a not-before of the address; one that overrides it stands."""
        await self._hold(self._keys.address_hold, hold)

    async def hold_credential(self, hold: Hold) -> None:
        await self._hold(self._keys.credential_hold, hold)

    async def resume(self) -> dict[str, Hold]:
        """Forget the not-befores; what each was, by scope.

        Raises:
            AwayError: Redis can't be reached: nothing was forgotten.
        """
        holds = {"address": self._keys.address_hold, "credential": self._keys.credential_hold}
        return {scope: await self._forget(key) for scope, key in holds.items()}

    async def _forget(self, key: str) -> Hold:
        return _hold(await self._link.run(lambda: self._scripts.resume(keys=[key], args=[_HOLD_MEMORY])))

    async def _hold(self, key: str, hold: Hold) -> None:
        args: list[str | int] = [hold.epoch, hold.problem, hold.until, _HOLD_MEMORY]
        with contextlib.suppress(AwayError):  # the replica keeps its own copy, and shares it again
            await self._link.run(lambda: self._scripts.hold(keys=[key], args=args))


def _script(redis: Redis, name: str) -> AsyncScript:
    source = resources.files("service.store").joinpath(f"{name}.lua").read_text("utf-8")
    return redis.register_script(source)


def _entry(fields: list[bytes | None], body: bytes | None) -> Entry | None:
    """An entry as it stands in Redis; what somebody else wrote there counts as none."""
    _, asked_at, generation, life, margin_assets = fields
    if body is None or asked_at is None or generation is None or life is None or margin_assets is None:
        return None
    try:
        listed = msgspec.json.decode(margin_assets, type=dict[str, str])
        return Entry(body, int(asked_at), int(generation), int(life), listed)
    except (msgspec.MsgspecError, ValueError):
        return None


def _hold(fields: list[bytes | None]) -> Hold:
    """A not-before as it stands in Redis; what somebody else wrote there counts as none."""
    epoch, problem, until = fields
    try:
        return Hold(int(epoch or 0), int(until or 0), (problem or b"").decode())
    except ValueError:  # UnicodeDecodeError is one too
        return NO_HOLD
