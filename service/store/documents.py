"""What the replicas share about one document of an account: its lease, its snapshot, and its failed refreshes.

The lease elects the one replica that requests a refresh from the exchange for the whole fleet; the fenced store keeps
what that replica shares. Each script is atomic; anything can happen between two of them.
"""

# Why no interleaving can share a wrong snapshot:
# - *Two replicas need a refresh at once.* One acquires the lease. The other waits for its notification, polls, and
#   adopts the snapshot, or acquires the lease itself when that is free.
# - *The holder dies.* Nothing renews the lease, so it expires within `LEASE_MS`; a waiting replica acquires it.
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

from functools import partial

import msgspec

from service.account.parsing import MAX_BODY
from service.cache.wait_budget import WaitBudget
from service.exchange.clock import ExchangeClock
from service.fleet.budget import MAX_BACKOFF
from service.fleet.errors import ERRORS, ExchangeUnavailableError, Failure
from service.fleet.lineage import MEMORY, lineage_of, uses_of
from service.fleet.shared_state import (
    LEASE_MS,
    Cleared,
    Entry,
    Failed,
    LeaseRequest,
    LinkKind,
    Notification,
    RefreshRequest,
    SharedState,
    StoreResult,
)
from service.store.cooldowns import cooldowns_of
from service.store.guard import RedisGuard
from service.store.keys import DocumentKeys, EgressKeys
from service.store.scripts import Args
from service.store.values import whole

FORMAT = 2
"""Version of the snapshot's hash; an entry of another version counts as none."""
FAILURE_MEMORY_MS = 60 * 60 * 1000
"""After its pause a failure still counts as one in a row for so long: far longer than any pause, but not for ever."""
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


class DocumentStore:
    """`cache.ports.SharedStore`, in Redis: one document, as one credential sees it. Only `clear` raises."""

    def __init__(
        self, guard: RedisGuard, keys: DocumentKeys, egress: EgressKeys, clock: ExchangeClock, identity: str
    ) -> None:
        self.keys = keys
        self.identity = identity
        self.followed = identity
        """The credential whose snapshot is read: the one in use that replaced this one, or else this one."""
        self._guard = guard
        self._scripts = guard.scripts
        self._lease = keys.lease(identity)
        self._change = (keys.channel, Notification(keys.account, identity, document=keys.document.name).encode())
        """Channel and message which notify the replicas that what is shared of the document has changed."""
        self._cooldown_keys = [egress.address_cooldown, egress.credential_cooldown(identity)]
        self._clock = clock

    async def read_state(self, known_request_time: int, budget: WaitBudget | None = None) -> SharedState | None:
        """Read what is shared, and the snapshot only if it was requested later. `None`: Redis is unavailable."""
        return await self.try_acquire(known_request_time, _NO_LEASE, budget)

    async def try_acquire(
        self, known_request_time: int, wanted: LeaseRequest, budget: WaitBudget | None = None
    ) -> SharedState | None:
        """Read the same, and acquire the lease unless a shared snapshot is young enough or another replica holds it."""
        again = False
        while True:
            own, identity, followed = self.keys, self.identity, self.followed
            keys = [own.snapshot(followed), own.failures(followed), self._lease, own.credentials]
            args: Args = [FORMAT, known_request_time, wanted.token, LEASE_MS, wanted.max_age_ms, identity, followed]
            args += [self._clock.now(), MEMORY, MAX_BODY + MAX_MARGIN_ASSETS_BYTES, MAX_BACKOFF + FAILURE_MEMORY_MS]
            script = partial(self._scripts.try_acquire, keys, args, self._cooldown_keys)
            found = await self._guard.call(script, budget)
            if found is None:
                return None
            (last, uses, entry, remaining_ms, body, margin_assets, failed, failed_left_ms, lease), cooldowns = found
            newest = last.decode()
            if newest == followed or again:
                break
            # A credential has just replaced another, which is rare: read again, from the snapshot of the new one. If it
            # is replaced too in between, this answer has no entry, and the next call follows.
            self.followed, again = newest, True
        return SharedState(
            _entry(entry, body, margin_assets) if newest == followed else None,
            remaining_ms,
            cooldowns_of(cooldowns, self._clock),
            _failed(failed, failed_left_ms) if newest == followed else None,
            lineage_of(uses_of(uses), self.identity, newest, self._clock.now()),
            lease.decode(),
        )

    async def renew(self, token: str, *, in_time: bool) -> bool | None:
        """Extend the lease; `False`: another replica has it or it expired, `None`: Redis is unavailable.

        Args:
            token: the holder's.
            in_time: the lease can't have expired since its last renewal; if it is gone, Redis has lost it.
        """
        args: Args = [token, LEASE_MS, int(in_time)]
        renewed = await self._guard.call(partial(self._scripts.renew, [self._lease], args))
        return None if renewed is None else bool(renewed)

    async def release(self, token: str, budget: WaitBudget | None = None) -> None:
        """Release the lease, unless another replica holds it by now."""
        args: Args = [token, *self._change]
        await self._guard.post_and_wait(partial(self._scripts.release, [self._lease], args), budget)

    async def store_fenced(self, entry: Entry, remaining_ms: int, token: str, replaced: str = "") -> StoreResult | None:
        """Share a snapshot for `remaining_ms`, and release the lease. `None`: Redis is unavailable.

        It has a budget of its own: what the refresh has already waited must not keep the fleet from its snapshot.
        `replaced`: the identity that this process used before this one, by an accepted rotation.
        """
        own = self.keys
        keys = [own.snapshot(self.identity), self._lease, own.failures(self.identity), own.credentials]
        margin_assets = msgspec.json.encode(dict(entry.margin_assets))
        args: Args = [FORMAT, entry.request_time, entry.life_ms, margin_assets, entry.body, remaining_ms, token]
        args += [*self._change, self.identity, replaced, self._clock.now(), MEMORY]
        result = await self._guard.call(partial(self._scripts.store_fenced, keys, args))
        return None if result is None else result.decode()

    async def record_failure(self, failed: Failed, token: str) -> None:
        """Share a failed refresh, and release the lease. Refused without the lease: its new holder decides."""
        failure, keys = failed.failure, [self.keys.failures(self.identity), self._lease]
        stored = msgspec.json.encode(_StoredFailure(failure.problem, failure.answered, failure.code))
        count, pause_ms = min(failed.count, MAX_FAILURES), min(max(0, failed.pause_ms), MAX_BACKOFF)
        # The key outlives the pause by FAILURE_MEMORY_MS, so that its remaining life gives what is left of the pause.
        args: Args = [count, stored, pause_ms + FAILURE_MEMORY_MS, token, *self._change]
        await self._guard.post_and_wait(partial(self._scripts.record_failure, keys, args))

    async def acquire_once(self, life_ms: int) -> bool | None:
        """Acquire the sole right to try the credential out, for that long. `None`: Redis is unavailable."""
        return await self._guard.acquire_once(self.keys.proof(self.identity), life_ms)

    async def record_rotation(self, replaced: str, link: LinkKind = "permanent") -> None:
        """Share that the exchange accepts the credential from a replica that used another one until now."""
        own, identity = self.keys, self.identity
        keys = [own.credentials, own.failures(identity), own.proof(identity)]
        args: Args = [identity, replaced, self._clock.now(), MEMORY, own.channel]
        args += [*(Notification(own.account, each).encode() for each in (identity, replaced)), link]
        _ = await self._guard.call(partial(self._scripts.record_rotation, keys, args))

    def request_refresh(self, max_age_ms: int) -> None:
        """Request a refresh from the replicas with the credential that replaced this one."""
        refresh, document = RefreshRequest(self.identity, max_age_ms), self.keys.document.name
        request = Notification(self.keys.account, self.followed, refresh, document)
        _ = self._guard.post(partial(self._guard.redis.publish, self.keys.channel, request.encode()))

    async def clear(self) -> Cleared:
        """Forget what keeps the document from a refresh, and the account's credentials; return what that was.

        Raises:
            RedisUnavailableError: Redis can't be reached: nothing was forgotten.
        """
        own, identity = self.keys, self.identity
        keys = [own.failures(identity), self._lease, own.proof(identity), own.credentials]
        args: Args = [LEASE_MS, identity, self._clock.now(), MEMORY]
        failures, lease, others = await self._guard.run(partial(self._scripts.clear, keys, args))
        return Cleared(failures, bool(lease), others)


def _entry(fields: list[bytes | None], body: bytes | None, margin_assets: bytes | None) -> Entry | None:
    """Decode an entry; one that no replica can have written counts as none."""
    # The script has compared the format and the identity, which come first.
    _, _, request_time, life_ms = (whole(each, LATEST_TIME_MS) for each in fields)
    if body is None or margin_assets is None or not request_time or not life_ms or len(body) > MAX_BODY:
        return None
    try:
        return Entry(body, request_time, life_ms, msgspec.json.decode(margin_assets, type=dict[str, str]))
    except (msgspec.MsgspecError, ValueError):
        return None


def _failed(fields: list[bytes | None], left_ms: int) -> Failed | None:
    """Decode a failed refresh; one that no replica can have written counts as none."""
    raw_count, raw_failure = (fields + 2 * [None])[:2]
    count = whole(raw_count, MAX_FAILURES)
    if not count or raw_failure is None or not 0 < left_ms <= MAX_BACKOFF + FAILURE_MEMORY_MS:
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
    return Failed(count, Failure(kind.problem, text, answered, code), left_ms - FAILURE_MEMORY_MS)
