"""What the replicas share about one account: its lease, its snapshot, and its failed refreshes."""

import contextlib

import msgspec

from service.exchange.errors import ERRORS, ExchangeError, ExchangeUnavailableError
from service.store.connection import AwayError, Link, Patience
from service.store.entries import Entry, Failed, Kept, Look, News, Try, Wish
from service.store.holds import holds_of
from service.store.scripts import AccountKeys, Args, Found, Scripts

FORMAT = 1
"""Of the snapshot's hash; an entry of another format counts as none."""
LEASE = 2_000
"""Ms that a lease outlives its holder; who holds it renews it four times as often."""
CREDENTIAL_MEMORY = 120_000
"""Ms, at the least, that the credential last accepted is remembered: as long as a snapshot asked with it may live, and
longer than two replicas see a changed Secret apart (kubelet's minute and its cache: 90 s). If nobody has used it for so
long, replicas with another one may ask again."""
FAILURE_MEMORY = 60 * 60 * 1000
"""Ms past its pause that a failure is counted on: far longer than the longest pause, and no account's for ever."""

JUST_LOOK = Try("", 0, 0)


class _Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of the exchange's tree, as it stands in Redis."""

    problem: str
    detail: str
    answered: int | None = None
    code: int | None = None


class AccountStore:
    """One account's shared state, for one credential. Nothing here raises when Redis is away."""

    def __init__(self, link: Link, scripts: Scripts, keys: AccountKeys, credential: str) -> None:
        self.keys = keys
        self._link = link
        self._scripts = scripts
        self._credential = credential

    async def look(self, known: int) -> Look | None:
        """What is shared now; the snapshot only if it is newer than `known` (its asked_at). `None`: away."""
        return await self.take(known, JUST_LOOK)

    async def take(self, known: int, wanted: Try) -> Look | None:
        """The same, and a try for the lease if no shared snapshot is young enough to do without."""
        own = self.keys
        keys = [own.snapshot, own.address_hold, own.credential_hold, own.failures, own.lease, own.credential]
        mine: Args = [self._credential, wanted.generation]
        args: Args = [FORMAT, known, wanted.token, LEASE, wanted.acceptable, *mine]
        try:
            found: Found = await self._link.run(lambda: self._scripts.look(keys=keys, args=args))
        except AwayError:
            return None
        entry, remaining, body, address, address_ttl, credential, credential_ttl, *rest = found
        failed, failed_ttl, generation, newest, lease = rest
        return Look(
            _entry(entry, body),
            remaining,
            holds_of(address, address_ttl, credential, credential_ttl),
            _failed(failed, failed_ttl),
            generation,
            newest,
            lease.decode(),
        )

    async def renew(self, token: str, *, in_time: bool) -> bool | None:
        """Hold the lease for longer; `False`: it is no longer ours, `None`: away.

        Args:
            token: whose lease.
            in_time: whether it can't have expired since it was last renewed: if it is gone, Redis has lost it.
        """
        args: Args = [token, LEASE, int(in_time)]
        with contextlib.suppress(AwayError):
            return bool(
                await self._link.run(lambda: self._scripts.renew(keys=[self.keys.lease], args=args), Patience())
            )
        return None

    async def release(self, token: str) -> None:
        """Give the lease back, unless somebody else has it by now."""
        args: Args = [token, *self._news()]
        await self._link.attempt(lambda: self._scripts.release(keys=[self.keys.lease], args=args))

    async def keep(self, entry: Entry, remaining: int, token: str) -> Kept | None:
        """Share a snapshot for `remaining` ms, and give the lease back. `None`: away."""
        own = self.keys
        listed = msgspec.json.encode(dict(entry.margin_assets))
        mine: Args = [self._credential, entry.generation, max(entry.life, CREDENTIAL_MEMORY)]
        numbers: Args = [FORMAT, entry.asked_at, entry.life]
        args: Args = [*numbers, listed, entry.body, remaining, token, *self._news(), *mine]
        keys = [own.snapshot, own.lease, own.failures, own.credential]
        with contextlib.suppress(AwayError):
            verdict, generation = await self._link.run(lambda: self._scripts.keep(keys=keys, args=args), Patience())
            return Kept(verdict.decode(), generation)
        return None

    async def fail(self, failed: Failed, token: str) -> None:
        """Share a failed refresh, and give the lease back; without the lease it is nobody's business."""
        error = failed.error
        told = msgspec.json.encode(_Failure(error.problem, error.detail, error.answered, error.code))
        args: Args = [failed.count, told, max(0, failed.pause) + FAILURE_MEMORY, token, *self._news()]
        await self._link.attempt(lambda: self._scripts.fail(keys=[self.keys.failures, self.keys.lease], args=args))

    async def claim(self, milliseconds: int) -> bool | None:
        """Whether this replica may try the credential out; nobody else does for so long. `None`: away."""
        with contextlib.suppress(AwayError):
            return bool(await self._link.run(lambda: self._set_once(milliseconds), Patience()))
        return None

    async def prove(self, replaced: str, generation: int) -> int | None:
        """Share that the exchange accepts the credential, in the place of another; its generation. `None`: away.

        Args:
            replaced: the other's identity.
            generation: the other's, as far as known; Redis may have forgotten it.
        """
        own = self.keys
        args: Args = [self._credential, replaced, generation, CREDENTIAL_MEMORY, *self._news()]
        with contextlib.suppress(AwayError):
            keys = [own.credential, own.snapshot, own.failures]
            number: int = await self._link.run(lambda: self._scripts.prove(keys=keys, args=args), Patience())
            return number
        return None

    def wish(self, wish: Wish) -> None:
        """Ask a replica with the newest credential for a refresh."""
        news = News(self.keys.snapshot, wish)
        _ = self._link.tell(lambda: self._publish(news))

    async def _set_once(self, milliseconds: int) -> object:
        return await self._link.redis.set(self.keys.proof, 1, nx=True, px=milliseconds)

    async def _publish(self, news: News) -> object:
        return await self._link.redis.publish(self.keys.channel, news.encode())

    def _news(self) -> tuple[str, str]:
        """Channel and message that tell the replicas to look."""
        return self.keys.channel, self.keys.snapshot


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


def _failed(fields: list[bytes | None], left: int) -> Failed | None:
    """A failed refresh as it stands in Redis; what somebody else wrote there counts as none."""
    count, told = fields
    if count is None or told is None or left <= 0:
        return None
    try:
        return Failed(int(count), _error(msgspec.json.decode(told, type=_Failure)), left - FAILURE_MEMORY)
    except (msgspec.MsgspecError, ValueError):
        return None


def _error(told: _Failure) -> ExchangeError:
    """The error again; a problem type that a newer release wrote counts as the exchange being unavailable."""
    kind = ERRORS.get(told.problem, ExchangeUnavailableError)
    return kind(told.detail, answered=told.answered, code=told.code)
