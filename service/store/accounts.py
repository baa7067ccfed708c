"""What the replicas share about one account: its lease, its snapshot, and its failed refreshes.

The lease elects the one replica that requests a refresh from the exchange for the whole fleet; the fenced store keeps
what that replica shares. Each script is atomic; anything can happen between two of them.
"""

# Why no interleaving can share a wrong snapshot:
# - *Two replicas need a refresh at once.* One acquires the lease. The other waits for its notification, polls, and
#   adopts the snapshot, or acquires the lease itself when that is free.
# - *The holder dies.* Nothing renews the lease, so it expires within `LEASE`; a waiting replica acquires it.
# - *The holder stalls for longer than the lease.* Another replica acquires it with its own token. The old holder's next
#   `renew` is `False`; its store (`lost`) and its failure are refused, for both compare the token in Redis.
# - *Redis loses the lease* (restart, failover). `renew` sets it again, but only if by the holder's own clock it can't
#   have expired, and no other replica has acquired it meanwhile.
# - *The answer to a try is lost.* The script may have acquired the lease all the same. The caller goes on without Redis
#   but keeps its token, so that its store, failure or release is accepted if the lease is its own.
# - *An earlier request is stored after a later one.* The fence compares request times: `older`, and the snapshot stays.
#   A stored time that is ahead by more than a snapshot's life was not written by a replica, and is overwritten.
# - *The credential is replaced between request and store.* `superseded`: nothing is stored under the old identity.
# Every outcome but `lost` releases the lease and publishes in the same script, so that waiters never see the one
# without the other.
#
# Invariant: an identity's keys are written only by replicas that hold that credential (`fleet.lineage`). What no
# replica can have written counts as none, for that key alone; no text from Redis reaches a caller.

import contextlib
from typing import Any

import msgspec

from service.account.parsing import MAX_BODY
from service.cache.wait_budget import WaitBudget
from service.exchange.clock import ExchangeClock
from service.fleet.budget import MAX_BACKOFF
from service.fleet.errors import ERRORS, ExchangeUnavailableError
from service.fleet.lineage import MEMORY, lineage_of, uses_of
from service.fleet.shared_state import (
    LEASE,
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
from service.store.cooldowns import cooldowns_of
from service.store.guard import RedisGuard, RedisUnavailableError
from service.store.scripts import AccountKeys, Args, EgressKeys, ScriptResult, Scripts, acquire_once
from service.store.values import whole

FORMAT = 2
"""Version of the snapshot's hash; an entry of another version counts as none."""
FAILURE_MEMORY = 60 * 60 * 1000
"""Ms after its pause for which a failure still counts as one in a row: far longer than any pause, but not for ever."""
MAX_FAILURES = 1_000_000
"""In a row; far more than one each 30 s, the longest pause, can make in an hour."""
LATEST_TIME_MS = 10**14
"""Bound of a request time (since the epoch) and of a life; the scripts have the same."""
MAX_MARGIN_ASSETS_BYTES = 1024 * 1024
"""Allowed beside the body: some 30 bytes for each of the exchange's contracts."""

_NO_LEASE = LeaseRequest("", 0)


class _StoredFailure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of the exchange's tree, as stored in Redis. Its text is left out: what is read back reaches callers."""

    problem: str
    answered: int | None = None
    code: int | None = None


class AccountStore:
    """One account's shared state, as one credential sees it. If Redis is unavailable, only `clear` raises."""

    def __init__(  # noqa: PLR0913, PLR0917 - what one account's state is made of
        self,
        guard: RedisGuard,
        scripts: Scripts,
        keys: AccountKeys,
        egress: EgressKeys,
        clock: ExchangeClock,
        identity: str,
    ) -> None:
        self.keys = keys
        self.identity = identity
        self.followed = identity
        """The credential whose snapshot is read: the one in use that replaced this one, or else this one."""
        self._guard = guard
        self._scripts = scripts
        self._cooldown_keys = [egress.hold, egress.credential_cooldown(identity)]
        self._clock = clock

    async def read_state(self, known: int) -> SharedState | None:
        """Read what is shared, and the snapshot only if its request time is after `known`. `None`: unavailable."""
        return await self.try_acquire(known, _NO_LEASE)

    async def try_acquire(self, known: int, wanted: LeaseRequest) -> SharedState | None:
        """Read the same, and acquire the lease unless a shared snapshot is young enough or another replica holds it."""
        found = await self._read(known, wanted)
        if found is not None and found[0][0].decode() != self.followed:
            # A credential has just replaced another, which is rare: read again, from the snapshot of the new one. If it
            # is replaced too in between, this answer has no entry, and the next call follows.
            self.followed = found[0][0].decode()
            found = await self._read(known, wanted)
        if found is None:
            return None
        (newest, uses, entry, remaining, body, margin_assets, failed, failed_left, lease), cooldowns = found
        followed = newest.decode() == self.followed
        return SharedState(
            _entry(entry, body, margin_assets) if followed else None,
            remaining,
            cooldowns_of(cooldowns, self._clock),
            _failed(failed, failed_left) if followed else None,
            lineage_of(uses_of(uses), self.identity, newest.decode(), self._clock.now()),
            lease.decode(),
        )

    async def renew(self, token: str, *, in_time: bool) -> bool | None:
        """Extend the lease; `False`: another replica has it or it expired, `None`: Redis is unavailable.

        Args:
            token: the holder's.
            in_time: the lease can't have expired since its last renewal; if it is gone, Redis has lost it.
        """
        args: Args = [token, LEASE, int(in_time)]
        keys = [self.keys.lease(self.identity)]
        with contextlib.suppress(RedisUnavailableError):
            return bool(await self._guard.run(lambda: self._scripts.renew(keys=keys, args=args), WaitBudget()))
        return None

    async def release(self, token: str) -> None:
        """Release the lease, unless another replica holds it by now."""
        args: Args = [token, *self._change()]
        keys = [self.keys.lease(self.identity)]
        await self._guard.post_and_wait(lambda: self._scripts.release(keys=keys, args=args))

    async def store_fenced(self, entry: Entry, remaining: int, token: str, replaced: str = "") -> StoreResult | None:
        """Share a snapshot for `remaining` ms, and release the lease. `None`: Redis is unavailable.

        `replaced`: the identity that this process used before this one, by an accepted rotation.
        """
        own = self.keys
        margin_assets = msgspec.json.encode(dict(entry.margin_assets))
        args: Args = [FORMAT, entry.request_time, entry.life, margin_assets, entry.body, remaining, token]
        args += [*self._change(), self.identity, replaced, self._clock.now(), MEMORY]
        keys = [own.snapshot(self.identity), own.lease(self.identity), own.failures(self.identity), own.credentials]
        with contextlib.suppress(RedisUnavailableError):
            # A budget of its own: what the refresh has already waited must not keep the fleet from its snapshot.
            store = self._scripts.store_fenced
            outcome: Any = await self._guard.run(lambda: store(keys=keys, args=args), WaitBudget())
            result: StoreResult = outcome.decode()
            return result
        return None

    async def record_failure(self, failed: Failed, token: str) -> None:
        """Share a failed refresh, and release the lease. Refused without the lease: its new holder decides."""
        error, keys = failed.error, [self.keys.failures(self.identity), self.keys.lease(self.identity)]
        stored = msgspec.json.encode(_StoredFailure(error.problem, error.answered, error.code))
        count, pause_ms = min(failed.count, MAX_FAILURES), min(max(0, failed.pause), MAX_BACKOFF)
        # The key outlives the pause by FAILURE_MEMORY, so that its remaining life gives what is left of the pause.
        args: Args = [count, stored, pause_ms + FAILURE_MEMORY, token, *self._change()]
        await self._guard.post_and_wait(lambda: self._scripts.record_failure(keys=keys, args=args))

    async def claim(self, milliseconds: int) -> bool | None:
        """Acquire the sole right to try the credential out, for that long. `None`: Redis is unavailable."""
        key = self.keys.proof(self.identity)
        return await acquire_once(self._guard, self._scripts, key, milliseconds, WaitBudget())

    async def link(self, replaced: str, bond: Bond = "lasting") -> None:
        """Share that the exchange accepts the credential from a replica that used another one until now."""
        own, identity = self.keys, self.identity
        args: Args = [identity, replaced, self._clock.now(), MEMORY, own.channel]
        args += [Notification(own.account, each).encode() for each in (identity, replaced)]
        args.append(bond)
        keys = [own.credentials, own.failures(identity), own.proof(identity)]
        with contextlib.suppress(RedisUnavailableError):
            await self._guard.run(lambda: self._scripts.link(keys=keys, args=args), WaitBudget())

    def request_refresh(self, max_age_ms: int) -> None:
        """Request a refresh from the replicas with the credential that replaced this one."""
        request = Notification(self.keys.account, self.followed, RefreshRequest(self.identity, max_age_ms))
        _ = self._guard.post(lambda: self._guard.redis.publish(self.keys.channel, request.encode()))

    async def clear(self) -> Cleared:
        """Forget what keeps the account from a refresh; return what that was.

        Raises:
            RedisUnavailableError: Redis can't be reached: nothing was forgotten.
        """
        own, identity = self.keys, self.identity
        keys = [own.failures(identity), own.lease(identity), own.proof(identity), own.credentials]
        args: Args = [LEASE, identity, self._clock.now(), MEMORY]
        failures, lease, others = await self._guard.run(lambda: self._scripts.clear(keys=keys, args=args))
        return Cleared(failures, bool(lease), others)

    async def _read(self, known: int, wanted: LeaseRequest) -> tuple[ScriptResult, ScriptResult] | None:
        own, followed = self.keys, self.followed
        keys = [own.snapshot(followed), own.failures(followed), own.lease(self.identity), own.credentials]
        args: Args = [FORMAT, known, wanted.token, LEASE, wanted.max_age_ms, self.identity, followed]
        args += [self._clock.now(), MEMORY, MAX_BODY + MAX_MARGIN_ASSETS_BYTES, MAX_BACKOFF + FAILURE_MEMORY]
        try:
            return await self._guard.run(lambda: self._scripts.read_state(keys, args, self._cooldown_keys))
        except RedisUnavailableError:
            return None

    def _change(self) -> tuple[str, str]:
        """Channel and message which notify the replicas that the account's state has changed."""
        return self.keys.channel, Notification(self.keys.account, self.identity).encode()


def _entry(fields: list[bytes | None], body: bytes | None, margin_assets: bytes | None) -> Entry | None:
    """Decode an entry; one that no replica can have written counts as none."""
    # The script has compared the format and the identity, which come first.
    _, _, request_time, life = (whole(each, LATEST_TIME_MS) for each in fields)
    if body is None or margin_assets is None or not request_time or not life or len(body) > MAX_BODY:
        return None
    try:
        return Entry(body, request_time, life, msgspec.json.decode(margin_assets, type=dict[str, str]))
    except (msgspec.MsgspecError, ValueError):
        return None


def _failed(fields: list[bytes | None], left_ms: int) -> Failed | None:
    """Decode a failed refresh; one that no replica can have written counts as none."""
    raw_count, raw_failure = (fields + 2 * [None])[:2]
    count = whole(raw_count, MAX_FAILURES)
    if not count or raw_failure is None or not 0 < left_ms <= MAX_BACKOFF + FAILURE_MEMORY:
        return None
    try:
        stored = msgspec.json.decode(raw_failure, type=_StoredFailure)
    except (msgspec.MsgspecError, ValueError):
        return None
    # The text is ours. A problem type of a newer release counts as an unavailable exchange.
    kind = ERRORS.get(stored.problem, ExchangeUnavailableError)
    answered = stored.answered if stored.answered is not None and 100 <= stored.answered <= 599 else None
    code = stored.code if stored.code is not None and abs(stored.code) < 10**6 else None
    text = f"{kind.title[0].lower()}{kind.title[1:]}, as another replica found"
    return Failed(count, kind(text, answered=answered, code=code), left_ms - FAILURE_MEMORY)
