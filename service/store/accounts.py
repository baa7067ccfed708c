"""What the replicas share about one account: its lease, its snapshot, and its failed refreshes."""

import contextlib
from typing import Any

import msgspec

from service.account.snapshot import MAX_BODY
from service.exchange.budget import MAX_BACKOFF
from service.exchange.clock import ExchangeClock
from service.exchange.errors import ERRORS, ExchangeError, ExchangeUnavailableError
from service.store.cooldowns import cooldowns_of
from service.store.entries import (
    Bond,
    Cleared,
    Entry,
    Failed,
    LeaseRequest,
    Notification,
    RefreshRequest,
    SharedState,
    StoreResult,
)
from service.store.guard import RedisGuard, RedisUnavailableError, WaitBudget
from service.store.lineage import MEMORY, lineage_of, uses_of
from service.store.scripts import AccountKeys, Args, EgressKeys, Found, Scripts, claim
from service.store.values import whole

FORMAT = 2
"""Of the snapshot's hash; an entry of another format counts as none."""
LEASE = 2_000
"""Ms that a lease outlives its holder; who holds it renews it four times as often."""
FAILURE_MEMORY = 60 * 60 * 1000
"""Ms past its pause that a failure is counted on: far longer than the longest pause, and no account's for ever."""
MOST_FAILURES = 1_000_000
"""In a row; far more than an hour's, one each 30 s."""
LATEST_TIME = 10**14
"""Ms, of a request time or a life; the scripts have the same bound."""
MARGIN_ASSETS = 1024 * 1024
"""Bytes at the most, beside the body: some 30 for each of the exchange's contracts."""

JUST_LOOK = LeaseRequest("", 0)


class _Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of the exchange's tree, as it stands in Redis. Its words don't: what stands there reaches callers."""

    problem: str
    answered: int | None = None
    code: int | None = None


class AccountStore:
    """One account's shared state, for one credential. Nothing here raises when Redis is away, but `clear`."""

    def __init__(  # noqa: PLR0913, PLR0917 - what one account's state is made of
        self,
        link: RedisGuard,
        scripts: Scripts,
        keys: AccountKeys,
        egress: EgressKeys,
        clock: ExchangeClock,
        identity: str,
    ) -> None:
        self.keys = keys
        self.identity = identity
        self.followed = identity
        """Whose snapshot is read: that of the credential in use which replaced this one, or its own."""
        self._link = link
        self._scripts = scripts
        self._holds = [egress.hold, egress.credential_cooldown(identity)]
        self._clock = clock

    async def read_state(self, known: int) -> SharedState | None:
        """What is shared now; the snapshot only if it is newer than `known` (its request_time). `None`: away."""
        return await self.try_acquire(known, JUST_LOOK)

    async def try_acquire(self, known: int, wanted: LeaseRequest) -> SharedState | None:
        """The same, and a try for the lease if no shared snapshot is young enough to do without."""
        found = await self._look(known, wanted)
        if found is not None and found[0][0].decode() != self.followed:
            self.followed = found[0][0].decode()  # seldom: a credential has just replaced another
            found = await self._look(known, wanted)
        if found is None:
            return None
        (newest, uses, entry, remaining, body, listed, failed, failed_ttl, lease), holds = found
        followed = newest.decode() == self.followed
        return SharedState(
            _entry(entry, body, listed) if followed else None,
            remaining,
            cooldowns_of(holds, self._clock),
            _failed(failed, failed_ttl) if followed else None,
            lineage_of(uses_of(uses), self.identity, newest.decode(), self._clock.now()),
            lease.decode(),
        )

    async def renew(self, token: str, *, in_time: bool) -> bool | None:
        """Hold the lease for longer; `False`: it is no longer ours, `None`: away.

        Args:
            token: whose lease.
            in_time: whether it can't have expired since it was last renewed: if it is gone, Redis has lost it.
        """
        args: Args = [token, LEASE, int(in_time)]
        keys = [self.keys.lease(self.identity)]
        with contextlib.suppress(RedisUnavailableError):
            return bool(await self._link.run(lambda: self._scripts.renew(keys=keys, args=args), WaitBudget()))
        return None

    async def release(self, token: str) -> None:
        """Give the lease back, unless somebody else has it by now."""
        args: Args = [token, *self._news()]
        await self._link.attempt(lambda: self._scripts.release(keys=[self.keys.lease(self.identity)], args=args))

    async def store_fenced(self, entry: Entry, remaining: int, token: str, replaced: str = "") -> StoreResult | None:
        """Share a snapshot for `remaining` ms, and give the lease back; what became of it. `None`: away.

        `replaced`: the identity that this process has used before this one, by an accepted rotation.
        """
        own = self.keys
        listed = msgspec.json.encode(dict(entry.margin_assets))
        args: Args = [FORMAT, entry.request_time, entry.life, listed, entry.body, remaining, token, *self._news()]
        args += [self.identity, replaced, self._clock.now(), MEMORY]
        keys = [own.snapshot(self.identity), own.lease(self.identity), own.failures(self.identity), own.credentials]
        with contextlib.suppress(RedisUnavailableError):
            verdict: Any = await self._link.run(lambda: self._scripts.keep(keys=keys, args=args), WaitBudget())
            kept: StoreResult = verdict.decode()
            return kept
        return None

    async def record_failure(self, failed: Failed, token: str) -> None:
        """Share a failed refresh, and give the lease back; without the lease it is nobody's business."""
        error, keys = failed.error, [self.keys.failures(self.identity), self.keys.lease(self.identity)]
        told = msgspec.json.encode(_Failure(error.problem, error.answered, error.code))
        count, pause = min(failed.count, MOST_FAILURES), min(max(0, failed.pause), MAX_BACKOFF)
        args: Args = [count, told, pause + FAILURE_MEMORY, token, *self._news()]
        await self._link.attempt(lambda: self._scripts.fail(keys=keys, args=args))

    async def claim(self, milliseconds: int) -> bool | None:
        """Whether this replica may try the credential out; nobody else does for so long. `None`: away."""
        return await claim(self._link, self._scripts, self.keys.proof(self.identity), milliseconds, WaitBudget())

    async def link(self, replaced: str, bond: Bond = "lasting") -> None:
        """Share that the exchange accepts the credential in the hands of who used another until now."""
        args: Args = [self.identity, replaced, self._clock.now(), MEMORY, self.keys.channel]
        args += [Notification(self.keys.account, each).encode() for each in (self.identity, replaced)]
        args.append(bond)
        own, identity = self.keys, self.identity
        keys = [own.credentials, own.failures(identity), own.proof(identity)]
        with contextlib.suppress(RedisUnavailableError):
            await self._link.run(lambda: self._scripts.link(keys=keys, args=args), WaitBudget())

    def request_refresh(self, max_age_ms: int) -> None:
        """Ask a replica with the credential that replaced this one for a refresh."""
        news = Notification(self.keys.account, self.followed, RefreshRequest(self.identity, max_age_ms))
        _ = self._link.tell(lambda: self._publish(news))

    async def clear(self) -> Cleared:
        """Forget what stands in the account's way; what it was.

        Raises:
            RedisUnavailableError: Redis can't be reached: nothing was forgotten.
        """
        own, identity = self.keys, self.identity
        keys = [own.failures(identity), own.lease(identity), own.proof(identity), own.credentials]
        args: Args = [LEASE, identity, self._clock.now(), MEMORY]
        failures, lease, others = await self._link.run(lambda: self._scripts.clear(keys=keys, args=args))
        return Cleared(failures, bool(lease), others)

    async def _look(self, known: int, wanted: LeaseRequest) -> tuple[Found, Found] | None:
        own, followed = self.keys, self.followed
        keys = [own.snapshot(followed), own.failures(followed), own.lease(self.identity), own.credentials]
        args: Args = [FORMAT, known, wanted.token, LEASE, wanted.max_age_ms, self.identity, followed]
        args += [self._clock.now(), MEMORY, MAX_BODY + MARGIN_ASSETS, MAX_BACKOFF + FAILURE_MEMORY]
        try:
            return await self._link.run(lambda: self._scripts.look(keys, args, self._holds))
        except RedisUnavailableError:
            return None

    async def _publish(self, news: Notification) -> object:
        return await self._link.redis.publish(self.keys.channel, news.encode())

    def _news(self) -> tuple[str, str]:
        """Channel and message that tell the replicas to look."""
        return self.keys.channel, Notification(self.keys.account, self.identity).encode()


def _entry(fields: list[bytes | None], body: bytes | None, listed: bytes | None) -> Entry | None:
    """An entry as it stands in Redis; what somebody else wrote there counts as none."""
    _, _, request_time, life = (whole(each, LATEST_TIME) for each in fields)
    if body is None or listed is None or not request_time or not life or len(body) > MAX_BODY:
        return None
    try:
        return Entry(body, request_time, life, msgspec.json.decode(listed, type=dict[str, str]))
    except (msgspec.MsgspecError, ValueError):
        return None


def _failed(fields: list[bytes | None], left: int) -> Failed | None:
    """A failed refresh as it stands in Redis; what no replica can have written counts as none."""
    count, told = (fields + 2 * [None])[:2]
    number = whole(count, MOST_FAILURES)
    if not number or told is None or not 0 < left <= MAX_BACKOFF + FAILURE_MEMORY:
        return None
    try:
        return Failed(number, _error(msgspec.json.decode(told, type=_Failure)), left - FAILURE_MEMORY)
    except (msgspec.MsgspecError, ValueError):
        return None


def _error(told: _Failure) -> ExchangeError:
    """The error again, in words of ours; a problem type of a newer release counts as an unavailable exchange."""
    kind = ERRORS.get(told.problem, ExchangeUnavailableError)
    answered = told.answered if told.answered is not None and 100 <= told.answered <= 599 else None
    code = told.code if told.code is not None and abs(told.code) < 10**6 else None
    return kind(f"{kind.title[0].lower()}{kind.title[1:]}, as another replica found", answered=answered, code=code)
