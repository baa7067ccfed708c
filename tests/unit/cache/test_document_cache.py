"""The cache's own bounds, against neighbours that misbehave; the rest is tested through the app."""

import asyncio
from collections.abc import Mapping

import msgspec
import pytest

from service.account.documents import ACCOUNT, DOCUMENTS, Document
from service.account.parsing import parse
from service.account.snapshot import Snapshot
from service.cache.account_state import AccountState
from service.cache.document_cache import MAX_REFRESHES, DocumentCache
from service.cache.policy import NO_DIRECTIVES, FreshnessUnmetError, RequestDirectives
from service.cache.ports import ActiveCredential
from service.cache.refresher import GRACE_S, Refresher
from service.cache.wait_budget import WaitBudget
from service.exchange.clock import ExchangeClock, Offset
from service.fleet.budget import NO_COOLDOWN, Barrier, Cooldown
from service.fleet.errors import ExchangeTimeoutError
from service.fleet.ledger import Cooldowns
from service.fleet.shared_state import Cleared, Entry, Failed, LeaseRequest, Lineage, LinkKind, SharedState, StoreResult
from service.telemetry.metrics import Metrics
from tests.support import FakeClock, freshness

WINDOWS = freshness(fresh_for=1_000, stale_while_revalidate=0, stale_if_error=60_000, min_refresh_interval=1_000)
BODY = b'{"assets":[],"positions":[]}'


class Exchange:
    """One account; each answer takes `seconds` of the fake clock, or for ever."""

    fingerprint = "00000000"
    identity = "only"
    margin_assets: Mapping[str, str] | None = None
    credential_cooldown: Cooldown = NO_COOLDOWN

    def __init__(self, clock: FakeClock) -> None:
        self.clock = ExchangeClock(clock)
        self.asked = 0
        self.hangs = False
        self.lag = 0
        self.backdated = 0
        self._clock = clock

    async def fetch(self, document: Document, *, forced: bool) -> Snapshot:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        asked = self._clock.monotonic() - self.backdated
        self._clock.advance(self.lag)
        return parse(ACCOUNT, BODY, self.clock.now(), asked, {})

    def barrier(self, document: Document, *, forced: bool) -> Barrier | None:
        return None

    async def reconcile(self, cooldowns: Cooldowns) -> None: ...

    async def close(self) -> None: ...

    def degrade(self, *, degraded: bool) -> None: ...


class NoRedis:
    """A shared store that is always away."""

    followed = "only"

    async def read_state(self, known_request_time: int, budget: WaitBudget | None = None) -> SharedState | None:
        return None

    async def try_acquire(
        self, known_request_time: int, wanted: LeaseRequest, budget: WaitBudget | None = None
    ) -> SharedState | None:
        return None

    async def renew(self, token: str, *, in_time: bool) -> bool | None:
        return None

    async def release(self, token: str, budget: WaitBudget | None = None) -> None: ...

    async def store_fenced(self, entry: Entry, remaining_ms: int, token: str, replaced: str = "") -> StoreResult | None:
        return None

    async def record_failure(self, failed: Failed, token: str) -> None: ...

    async def acquire_once(self, life_ms: int) -> bool | None:
        return None

    async def record_rotation(self, replaced: str, link: LinkKind = "permanent") -> None: ...

    async def clear(self) -> Cleared:
        return Cleared(0, lease=False, credentials=0)

    def request_refresh(self, max_age_ms: int) -> None: ...


class LeaseForAll(NoRedis):
    """A shared store that gives everybody the lease, once the test lets it answer."""

    def __init__(self, entry: Entry | None = None) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()
        self.kept, self.released = 0, 0
        self._entry = entry

    async def try_acquire(
        self, known_request_time: int, wanted: LeaseRequest, budget: WaitBudget | None = None
    ) -> SharedState | None:
        self.asked.set()
        await self.answer.wait()
        return SharedState(self._entry, WINDOWS.hard_cap, Cooldowns(), None, Lineage(), "acquired")

    async def store_fenced(self, entry: Entry, remaining_ms: int, token: str, replaced: str = "") -> StoreResult | None:
        self.kept += 1
        return "kept"

    async def release(self, token: str, budget: WaitBudget | None = None) -> None:
        self.released += 1


class LeaseTaken(NoRedis):
    """A shared store whose lease somebody else has."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.age = 0
        self.looks = 0

    async def try_acquire(
        self, known_request_time: int, wanted: LeaseRequest, budget: WaitBudget | None = None
    ) -> SharedState | None:
        self.looks += 1
        entry = self.entry if self.entry.request_time > known_request_time else None
        return SharedState(entry, self.entry.life_ms - self.age, Cooldowns(), None, Lineage(), "held")


class Successor(Exchange):
    """The account by the credential that replaces the first one."""

    identity = "next"


def credential(exchange: Exchange, shared: NoRedis) -> ActiveCredential:
    return ActiveCredential(exchange, dict.fromkeys(DOCUMENTS, shared))


@pytest.fixture
def exchange(clock: FakeClock) -> Exchange:
    return Exchange(clock)


@pytest.fixture
def account(exchange: Exchange) -> AccountState:
    return AccountState("main", credential(exchange, NoRedis()))


@pytest.fixture
def cache(account: AccountState) -> DocumentCache:
    timeout_s = 0.5 - GRACE_S  # a waiter's own deadline: 500 ms
    return DocumentCache(account.documents[ACCOUNT], WINDOWS, timeout_s, Metrics())


async def test_a_waiter_gives_up_at_its_own_deadline(cache: DocumentCache, exchange: Exchange) -> None:
    exchange.hangs = True

    with pytest.raises(ExchangeTimeoutError):
        await cache.get(NO_DIRECTIVES)
    await cache.close()

    assert exchange.asked == 1


async def test_a_waiter_at_its_deadline_takes_what_is_stale(
    cache: DocumentCache, exchange: Exchange, clock: FakeClock
) -> None:
    await cache.get(NO_DIRECTIVES)
    clock.advance(30_000)
    exchange.hangs = True
    served = await cache.get(NO_DIRECTIVES)
    await cache.close()

    assert (served.result, served.age) == ("stale-if-error", 30_000)


async def test_a_waiter_at_its_deadline_is_not_given_what_it_does_not_accept(
    cache: DocumentCache, exchange: Exchange, clock: FakeClock
) -> None:
    await cache.get(NO_DIRECTIVES)
    clock.advance(30_000)
    exchange.hangs = True

    with pytest.raises(ExchangeTimeoutError):
        await cache.get(RequestDirectives(max_age=10_000))
    await cache.close()


async def test_an_exchange_slower_than_the_demand_is_asked_once_for_it(
    cache: DocumentCache, exchange: Exchange
) -> None:
    exchange.lag = 2_000

    with pytest.raises(FreshnessUnmetError):
        await cache.get(RequestDirectives(max_age=1_000))

    assert exchange.asked == 1


async def test_a_read_never_waits_for_more_than_a_few_refreshes(cache: DocumentCache, exchange: Exchange) -> None:
    """Whatever goes wrong with what they bring: here it claims to be asked for before the caller came."""
    exchange.backdated = 5_000

    with pytest.raises(FreshnessUnmetError):
        await cache.get(RequestDirectives(max_age=1_000))

    assert exchange.asked == MAX_REFRESHES


async def test_what_is_at_hand_is_judged_anew_by_age_demand_snapshot_and_windows(
    cache: DocumentCache, clock: FakeClock
) -> None:
    assert cache.from_memory(NO_DIRECTIVES) is None
    first = await cache.get(NO_DIRECTIVES)
    assert cache.from_memory(NO_DIRECTIVES) is cache.from_memory(NO_DIRECTIVES)
    clock.advance(300)
    later = cache.from_memory(NO_DIRECTIVES)
    assert later is not None
    assert (later.snapshot, later.age, later.ttl) == (first.snapshot, 300, 700)
    assert cache.from_memory(RequestDirectives(max_age=299)) is None

    cache.reconfigure(msgspec.structs.replace(WINDOWS, fresh_for=300))
    assert cache.from_memory(NO_DIRECTIVES) is None
    cache.reconfigure(WINDOWS)
    assert cache.from_memory(NO_DIRECTIVES) == later
    clock.advance(700)
    assert cache.from_memory(NO_DIRECTIVES) is None

    await cache.get(NO_DIRECTIVES)
    renewed = cache.from_memory(NO_DIRECTIVES)
    assert renewed is not None
    assert (renewed.snapshot is first.snapshot, renewed.age) == (False, 0)


async def test_a_look_with_a_credential_that_is_replaced_meanwhile_is_not_taken_over(
    exchange: Exchange, clock: FakeClock
) -> None:
    shared = LeaseForAll(Entry(BODY, clock.epoch(), WINDOWS.hard_cap, {}))
    account = AccountState("main", credential(exchange, shared))
    cache = DocumentCache(account.documents[ACCOUNT], WINDOWS, 2, Metrics())
    reading = asyncio.create_task(cache.get(NO_DIRECTIVES))
    await shared.asked.wait()
    successor = Successor(clock)
    account.activate(credential(successor, NoRedis()))
    shared.answer.set()
    served = await reading
    await cache.close()

    assert (served.snapshot, cache.state.snapshot_identity) == (cache.state.snapshot, "next")
    assert (exchange.asked, successor.asked, shared.released) == (0, 1, 1)


async def test_what_one_credential_asked_for_is_not_shared_as_the_next_ones(
    cache: DocumentCache, account: AccountState, clock: FakeClock
) -> None:
    served = await cache.get(NO_DIRECTIVES)
    successor, shared = Successor(clock), LeaseForAll()
    successor.clock.offset = Offset(0, 0, None)
    shared.answer.set()
    account.activate(credential(successor, shared))
    refresher = Refresher(cache.state, WINDOWS, 2, Metrics())

    assert await refresher.refresh(WINDOWS.fresh_for, forced=False, bounded=False) == "adopted"
    assert cache.state.snapshot is served.snapshot
    assert (successor.asked, shared.kept, shared.released) == (0, 0, 1)


async def test_what_a_waiter_found_shared_at_first_is_not_taken_for_what_it_waits_for(
    exchange: Exchange, clock: FakeClock
) -> None:
    shared = LeaseTaken(Entry(BODY, clock.epoch() - 20_000, WINDOWS.hard_cap, {}))
    shared.age = 20_000
    memory = AccountState("main", credential(exchange, shared)).documents[ACCOUNT]
    refresher = Refresher(memory, WINDOWS, 2, Metrics())
    refreshing = asyncio.create_task(refresher.refresh(WINDOWS.fresh_for, forced=False, bounded=False))
    for _ in range(20):  # turns of the loop, of which a look takes a few
        await asyncio.sleep(0)
        refresher.on_notification()
    assert shared.looks > 2
    assert (refreshing.done(), memory.age) == (False, 20_000)
    shared.entry, shared.age = Entry(BODY, clock.epoch() - 3_500, WINDOWS.hard_cap, {}), 3_500
    refresher.on_notification()

    assert await refreshing == "joined"
    assert (memory.age, exchange.asked) == (3_500, 0)


async def test_brackets_of_a_credential_that_is_followed_no_more_are_fresh_no_longer_than_the_account_object(
    exchange: Exchange, clock: FakeClock
) -> None:
    """They may be another exchange account's: a replica is led to a wrong key's, and back."""
    shared, (*_, brackets) = NoRedis(), DOCUMENTS
    shared.followed = "next"
    state = AccountState("main", credential(exchange, shared)).documents[brackets]
    cache = DocumentCache(state, WINDOWS, 2, Metrics())
    entry = Entry(b'[{"symbol":"BTCUSD_PERP"}]', clock.epoch(), 3_660_000, {"BTCUSD_PERP": "BTC"})
    state.adopt_shared(SharedState(entry, 3_660_000, Cooldowns(), None, Lineage(), "not-tried"), entry)
    clock.advance(2_000)
    assert cache.from_memory(NO_DIRECTIVES) is not None
    shared.followed = "only"
    clock.advance(1)
    assert cache.from_memory(NO_DIRECTIVES) is None
