"""The lease and the fenced store, beside the simplest thing that could be right; for hypothesis to set against them."""

import asyncio
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.asyncio import Redis

from service.exchange.errors import ExchangeTimeoutError
from service.store.accounts import AccountStore
from service.store.connection import Link
from service.store.entries import Entry, Failed, Look, Try
from service.store.scripts import AccountKeys, Scripts
from service.telemetry.metrics import Metrics
from tests.support import FakeClock

KEYS = AccountKeys(
    snapshot="s", credential="c", failures="f", lease="l", address_hold="a", credential_hold="h", proof="r", channel="n"
)
LIFE = 10_000_000
"""Ms; far longer than a test, so that age plays no part but where it is asked for."""
SOON = 1_000_000
REPLICAS = st.sampled_from(["first", "second", "third"])
TIMES = st.integers(1, 9)
GENERATIONS = st.integers(0, 3)
IDENTITIES = st.sampled_from(["one", "other"])


class Kept(msgspec.Struct, frozen=True):
    """What the snapshot is remembered by."""

    asked_at: int
    generation: int
    body: bytes


class LeaseMachine(RuleBasedStateMachine):
    """Replicas that take, renew, lose and give back the lease, and store what they have; any order, any time."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = self.connect()
        self.stores = {name: self.store_of(name) for name in ("one", "other")}
        self.store = self.stores["one"]
        self.do(self.redis.flushdb())
        self.holder: str | None = None
        self.kept: Kept | None = None
        self.failed: int | None = None
        self.newest = 0
        self.generations: dict[str, int] = {}
        self.stored = 0

    def store_of(self, identity: str) -> AccountStore:
        return AccountStore(Link(self.redis, FakeClock(), Metrics()), Scripts(self.redis), KEYS, identity)

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

    @rule(replica=REPLICAS, known=TIMES, acceptable=st.sampled_from([0, LIFE]), identity=IDENTITIES, own=GENERATIONS)
    def take(self, replica: str, known: int, acceptable: int, identity: str, own: int) -> None:
        look: Look = self.do(self.stores[identity].take(known, Try(replica, acceptable, own)))
        newer = self.kept is not None and self.kept.asked_at > known
        if newer and acceptable:
            expected = "needless"
        elif 0 < max(own, self.generations.get(identity, 0)) < self.newest:
            expected = "superseded"
        elif self.holder in (None, replica):
            expected, self.holder = "taken", replica
        else:
            expected = "busy"
        assert look.lease == expected
        assert (look.entry is not None) == newer
        assert look.generation == max(own, self.generations.get(identity, 0))

    @rule(replica=REPLICAS, in_time=st.booleans())
    def renew(self, replica: str, *, in_time: bool) -> None:
        if self.holder is None and in_time:
            self.holder = replica
        assert self.do(self.store.renew(replica, in_time=in_time)) == (replica == self.holder)

    @rule(replica=REPLICAS)
    def release(self, replica: str) -> None:
        self.do(self.store.release(replica))
        self.holder = None if replica == self.holder else self.holder

    @rule()
    def expire(self) -> None:
        self.do(self.redis.delete(KEYS.lease))
        self.holder = None

    @rule()
    def forget_the_credential(self) -> None:
        self.do(self.redis.delete(KEYS.credential))
        self.newest, self.generations = 0, {}

    @rule(replica=REPLICAS, asked_at=TIMES, identity=IDENTITIES, own=GENERATIONS)
    def keep(self, replica: str, asked_at: int, identity: str, own: int) -> None:
        self.stored += 1
        body = b"%d" % self.stored
        kept = self.do(self.stores[identity].keep(Entry(body, asked_at, own, LIFE, {}), SOON, replica))
        if replica != self.holder:
            assert kept.verdict == "lost"
            return
        self.holder = None
        generation = self.accepted(identity, own)
        if generation is None:
            assert kept.verdict == "superseded"
        elif self.kept and self.kept.asked_at > asked_at:
            assert kept.verdict == "older"
        else:
            assert (kept.verdict, kept.generation) == ("kept", generation)
            self.kept, self.failed = Kept(asked_at, generation, body), None
            self.newest = self.generations[identity] = generation

    @rule(identity=IDENTITIES, replaced=IDENTITIES, known=GENERATIONS)
    def prove(self, identity: str, replaced: str, known: int) -> None:
        generation = self.do(self.stores[identity].prove(replaced, known))
        self.failed = None
        newest = max(self.newest, self.kept.generation if self.kept else 0, known, 1)
        own = self.generations.get(identity, 0)
        if own < newest:
            self.generations.setdefault(replaced, newest)
            own = self.newest = self.generations[identity] = newest + 1
        assert generation == own

    def accepted(self, identity: str, own: int) -> int | None:
        """The generation of a credential that was just accepted; `None`: a newer one is in use."""
        newest = max(self.newest, self.kept.generation if self.kept else 0)
        number = max(own, self.generations.get(identity, 0)) or newest + 1
        return None if number < newest else number

    @rule(replica=REPLICAS, count=st.integers(1, 9))
    def fail(self, replica: str, count: int) -> None:
        self.do(self.store.fail(Failed(count, ExchangeTimeoutError("x"), 1_000), replica))
        if replica == self.holder:
            self.holder, self.failed = None, count

    @invariant()
    def what_is_shared_is_what_the_model_says(self) -> None:
        look: Look = self.do(self.store.look(0))
        found = look.entry and Kept(look.entry.asked_at, look.entry.generation, look.entry.body)
        assert found == self.kept
        assert (look.failed and look.failed.count) == self.failed

    @invariant()
    def the_lease_is_with_whom_the_model_says(self) -> None:
        holder: bytes | None = self.do(self.redis.get(KEYS.lease))
        assert (holder and holder.decode()) == self.holder
