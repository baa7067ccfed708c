"""The lease and the fenced store, beside the simplest thing that could be right; for hypothesis to set against them."""

import asyncio
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.asyncio import Redis

from service.exchange.clock import ExchangeClock
from service.fleet.errors import ExchangeTimeoutError
from service.fleet.lineage import MEMORY
from service.fleet.shared_state import Entry, Failed, LeaseRequest, LinkKind, SharedState
from service.store.documents import DocumentStore
from service.store.guard import RedisGuard
from service.store.keys import DocumentKeys, EgressKeys
from service.telemetry.metrics import Metrics
from tests.support import FakeClock

KEYS, EGRESS = DocumentKeys("main", "a", "n"), EgressKeys("e")
ONE, OTHER, THIRD = IDENTITIES = ("1" * 16, "2" * 16, "3" * 16)
LIFE = 10_000_000
"""Ms; far longer than a test, so that age plays no part but where it is asked for."""
SOON = 1_000_000
REPLICAS = st.sampled_from(["first", "second", "third"])
TIMES = st.integers(1, 9)
CREDENTIALS = st.sampled_from(IDENTITIES)


class Kept(msgspec.Struct, frozen=True):
    """What a snapshot is remembered by."""

    request_time: int
    body: bytes


class LeaseMachine(RuleBasedStateMachine):
    """Replicas of three credentials that take, renew, lose and give back leases, store, and replace one another."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = self.connect()
        self.clock = FakeClock()
        self.stores = {identity: self.store_of(identity) for identity in IDENTITIES}
        self.do(self.redis.flushdb())
        self.holders: dict[str, str] = {}
        self.kept: dict[str, Kept] = {}
        self.failed: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.successors: dict[str, str] = {}
        self.stored = 0

    def store_of(self, identity: str) -> DocumentStore:
        guard = RedisGuard(self.redis, self.clock, Metrics())
        return DocumentStore(guard, KEYS, EGRESS, ExchangeClock(self.clock), identity)

    def connect(self) -> Redis:
        """A client of the Redis to be tried; with the loop running."""
        raise NotImplementedError

    def do(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self.runner.run(wait())

    def teardown(self) -> None:
        self.do(self.redis.aclose())
        self.runner.close()

    # What the model says of credentials.

    def chain(self, identity: str) -> list[str]:
        """What replaced a credential, in order; it ends, or the model itself would be wrong."""
        found: list[str] = []
        while identity in self.successors:
            identity = self.successors[identity]
            assert identity not in found
            found.append(identity)
        return found

    def live(self, identity: str) -> bool:
        return identity in self.used and self.clock.epoch() - self.used[identity] <= MEMORY

    def newest(self, identity: str) -> str:
        return ([identity] + [each for each in self.chain(identity) if self.live(each)])[-1]

    def use(self, identity: str) -> None:
        """It was accepted: what is of no use any more is forgotten."""
        self.used[identity] = self.clock.epoch()
        useless = [each for each in self.successors if self.newest(each) == each]
        for each in useless:
            del self.successors[each]

    @rule(replica=REPLICAS, known=TIMES, max_age_ms=st.sampled_from([0, LIFE]), identity=CREDENTIALS)
    def take(self, replica: str, known: int, max_age_ms: int, identity: str) -> None:
        look: SharedState = self.do(self.stores[identity].try_acquire(known, LeaseRequest(replica, max_age_ms)))
        newest = self.newest(identity)
        kept = self.kept.get(newest)
        newer = kept is not None and kept.request_time > known
        if newer and max_age_ms:
            expected = "not-needed"
        elif newest != identity:
            expected = "superseded"
        elif self.holders.get(identity) in (None, replica):
            expected, self.holders[identity] = "acquired", replica
        else:
            expected = "held"
        assert look.lease == expected
        assert (look.entry is not None) == newer
        assert look.lineage.superseded == (newest != identity)
        assert {each for each in look.lineage.replaced if self.newest(each) == identity} == {
            each for each in IDENTITIES if each != identity and self.newest(each) == identity
        }

    @rule(replica=REPLICAS, identity=CREDENTIALS, in_time=st.booleans())
    def renew(self, replica: str, identity: str, *, in_time: bool) -> None:
        if identity not in self.holders and in_time:
            self.holders[identity] = replica
        held = self.do(self.stores[identity].renew(replica, in_time=in_time))
        assert held == (replica == self.holders.get(identity))

    @rule(replica=REPLICAS, identity=CREDENTIALS)
    def release(self, replica: str, identity: str) -> None:
        self.do(self.stores[identity].release(replica))
        if self.holders.get(identity) == replica:
            del self.holders[identity]

    @rule(identity=CREDENTIALS)
    def expire(self, identity: str) -> None:
        self.do(self.redis.delete(KEYS.lease(identity)))
        self.holders.pop(identity, None)

    @rule()
    def forget_the_credentials(self) -> None:
        self.do(self.redis.delete(KEYS.credentials))
        self.used, self.successors = {}, {}

    @rule(minutes=st.sampled_from([1, 3]))
    def pass_time(self, minutes: int) -> None:
        """Time by which credentials are in use or not; Redis' own plays no part."""
        self.clock.advance(minutes * 60_000)

    @rule(replica=REPLICAS, request_time=TIMES, identity=CREDENTIALS, replaced=st.sampled_from(["", *IDENTITIES]))
    def keep(self, replica: str, request_time: int, identity: str, replaced: str) -> None:
        self.stored += 1
        entry = Entry(b"%d" % self.stored, request_time, LIFE, {})
        verdict = self.do(self.stores[identity].store_fenced(entry, SOON, replica, replaced))
        if replica != self.holders.get(identity):
            assert verdict == "lost"
            return
        del self.holders[identity]
        if self.newest(identity) != identity:
            assert verdict == "superseded"
        elif identity in self.kept and self.kept[identity].request_time > request_time:
            assert verdict == "older"
        else:
            assert verdict == "kept"
            self.kept[identity] = Kept(request_time, entry.body)
            self.failed.pop(identity, None)
            self.successors.pop(identity, None)
            if replaced not in ("", identity):
                self.successors.setdefault(replaced, identity)
            self.use(identity)

    @rule(identity=CREDENTIALS, replaced=CREDENTIALS, link=st.sampled_from(["permanent", "none"]))
    def rotate(self, identity: str, replaced: str, link: LinkKind) -> None:
        if identity == replaced:
            return
        self.do(self.stores[identity].record_rotation(replaced, link))
        self.failed.pop(identity, None)
        if replaced in self.chain(identity):
            del self.successors[identity]
        if link != "none":
            self.successors[replaced] = identity
        self.use(identity)

    @rule(replica=REPLICAS, identity=CREDENTIALS, count=st.integers(1, 9))
    def fail(self, replica: str, identity: str, count: int) -> None:
        self.do(self.stores[identity].record_failure(Failed(count, ExchangeTimeoutError("x").failure, 1_000), replica))
        if replica == self.holders.get(identity):
            del self.holders[identity]
            self.failed[identity] = count

    @invariant()
    def what_is_shared_is_what_the_model_says(self) -> None:
        for identity, store in self.stores.items():
            look: SharedState = self.do(store.read_state(0))
            newest = self.newest(identity)
            assert (look.entry and Kept(look.entry.request_time, look.entry.body)) == self.kept.get(newest)
            assert (look.failed and look.failed.count) == self.failed.get(newest)

    @invariant()
    def the_leases_are_with_whom_the_model_says(self) -> None:
        for identity in IDENTITIES:
            holder: bytes | None = self.do(self.redis.get(KEYS.lease(identity)))
            assert (holder and holder.decode()) == self.holders.get(identity)
