"""An account's Lua scripts by what they promise, on an embedded Redis; `lease_model` runs them against a model."""

from typing import Any

import pytest
from fakeredis import FakeServer
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.account.documents import ACCOUNT, DOCUMENTS, Document
from service.exchange.clock import ExchangeClock
from service.fleet.budget import MAX_BACKOFF, NO_COOLDOWN
from service.fleet.errors import ExchangeTimeoutError, ExchangeUnavailableError
from service.fleet.ledger import Cooldowns
from service.fleet.lineage import MEMORY
from service.fleet.shared_state import (
    LEASE_MS,
    LONGEST_NUMBER,
    Cleared,
    Entry,
    Failed,
    LeaseRequest,
    Lineage,
    Notification,
    RefreshRequest,
    StoreResult,
)
from service.settings import Redis, Settings
from service.store.documents import FAILURE_MEMORY_MS, DocumentStore
from service.store.guard import RedisGuard, RedisUnavailableError
from service.store.keys import DocumentKeys, EgressKeys, document_keys, egress_keys
from service.telemetry.metrics import Metrics
from tests.support import START, FakeClock

KEYS, EGRESS = DocumentKeys("main", "a", "news"), EgressKeys("e")
FIRST, SECOND, THIRD = ("1" * 16, "2" * 16, "3" * 16)
"""Credentials' identities."""
SNAPSHOT, LEASE_KEY, FAILURES = KEYS.snapshot(FIRST), KEYS.lease(FIRST), KEYS.failures(FIRST)
ENTRY = Entry(b'{"a":"\xc3\xa9"}', START - 10_000, 61_000, {"ODD": "BTC"})
ASK = LeaseRequest("mine", 0)
"""A try that no snapshot is young enough for."""


@pytest.fixture
def store(redis: Any, clock: FakeClock) -> DocumentStore:
    return replica(redis, clock)


def replica(redis: Any, clock: FakeClock, identity: str = FIRST) -> DocumentStore:
    guard = RedisGuard(redis, clock, Metrics())
    return DocumentStore(guard, KEYS, EGRESS, ExchangeClock(clock), identity)


async def share(store: DocumentStore, entry: Entry, remaining: int = 60_000, replaced: str = "") -> StoreResult | None:
    """Take the lease, and keep; what became of it."""
    await store.try_acquire(0, LeaseRequest("sharing", 0))
    return await store.store_fenced(entry, remaining, "sharing", replaced)


async def lineage(store: DocumentStore) -> Lineage:
    look = await store.read_state(0)
    assert look is not None
    return look.lineage


async def shared(store: DocumentStore, known: int = 0) -> Entry | None:
    look = await store.read_state(known)
    assert look is not None
    return look.entry


async def lease(store: DocumentStore, wanted: LeaseRequest = ASK, known: int = 0) -> str:
    look = await store.try_acquire(known, wanted)
    assert look is not None
    return look.lease


# The lease.


async def test_one_gets_the_lease_and_the_others_do_not_until_it_is_given_back(store: DocumentStore) -> None:
    assert [await lease(store, LeaseRequest(name, 0)) for name in ("a", "b", "c")] == ["acquired", "held", "held"]
    await store.release("a")
    assert [await lease(store, LeaseRequest(name, 0)) for name in ("b", "c")] == ["acquired", "held"]


async def test_a_repeated_try_of_the_same_replica_is_no_rival(store: DocumentStore) -> None:
    assert [await lease(store), await lease(store)] == ["acquired", "acquired"]


async def test_a_lease_lasts_two_seconds_and_a_renewal_two_more(store: DocumentStore, redis: Any) -> None:
    await lease(store)
    assert LEASE_MS - 500 < await redis.pttl(LEASE_KEY) <= LEASE_MS == 2_000
    await redis.pexpire(LEASE_KEY, 100)
    assert await store.renew("mine", in_time=True) is True
    assert LEASE_MS - 500 < await redis.pttl(LEASE_KEY) <= LEASE_MS


async def test_nobody_renews_or_gives_back_a_lease_that_is_not_its_own(store: DocumentStore, redis: Any) -> None:
    await lease(store)
    assert await store.renew("other", in_time=True) is False
    await store.release("other")
    assert await redis.get(LEASE_KEY) == b"mine"
    await redis.delete(LEASE_KEY)
    assert await store.renew("mine", in_time=False) is False
    assert await redis.get(LEASE_KEY) is None


async def test_a_lease_that_redis_has_lost_before_it_could_expire_is_given_back_by_its_renewal(
    store: DocumentStore, redis: Any
) -> None:
    await lease(store)
    await redis.flushall()
    assert await store.renew("mine", in_time=True) is True
    assert LEASE_MS - 500 < await redis.pttl(LEASE_KEY) <= LEASE_MS
    assert await lease(store, LeaseRequest("other", 0)) == "held"


async def test_a_look_alone_takes_no_lease(store: DocumentStore, redis: Any) -> None:
    look = await store.read_state(0)
    assert look is not None
    assert (look.lease, await redis.get(LEASE_KEY)) == ("not-tried", None)


async def test_a_snapshot_that_is_young_enough_spares_the_lease(store: DocumentStore, redis: Any) -> None:
    await share(store, ENTRY, ENTRY.life_ms - 1_000)
    assert await lease(store, LeaseRequest("mine", 30_000)) == "not-needed"
    assert await redis.get(LEASE_KEY) is None
    assert await lease(store, LeaseRequest("mine", 900)) == "acquired"


async def test_a_snapshot_that_the_caller_has_already_spares_nothing(store: DocumentStore) -> None:
    await share(store, ENTRY)
    assert await lease(store, LeaseRequest("mine", 60_000), known=ENTRY.request_time) == "acquired"


async def test_a_snapshot_of_another_format_spares_nothing(store: DocumentStore, redis: Any) -> None:
    await share(store, ENTRY)
    await redis.hset(SNAPSHOT, "format", "1")
    assert await lease(store, LeaseRequest("mine", 60_000)) == "acquired"


@pytest.mark.parametrize("ending", ["keep", "fail", "release"])
async def test_every_end_of_a_refresh_gives_the_lease_back_and_tells_who_waits(
    store: DocumentStore, redis: Any, ending: str
) -> None:
    async with redis.pubsub() as heard:
        await heard.subscribe("news")
        await lease(store)
        match ending:
            case "keep":
                await store.store_fenced(ENTRY, 60_000, "mine")
            case "fail":
                await store.record_failure(Failed(1, ExchangeTimeoutError("x").failure, 1_000), "mine")
            case _:
                await store.release("mine")
        messages = [await heard.get_message(timeout=1) for _ in range(2)]
    assert [message["data"] for message in messages if message] == [1, f"main {FIRST}".encode()]
    assert await redis.get(LEASE_KEY) is None


# The fenced store.


async def test_what_is_kept_is_found_byte_for_byte_with_the_life_it_has_left(store: DocumentStore) -> None:
    assert await share(store, ENTRY) == "kept"
    look = await store.read_state(ENTRY.request_time - 1)
    assert look is not None
    assert look.entry == ENTRY
    assert 59_000 < look.remaining_ms <= 60_000


async def test_who_has_it_already_is_spared_the_body(store: DocumentStore) -> None:
    await share(store, ENTRY)
    assert await shared(store, ENTRY.request_time) is None
    assert await shared(store, ENTRY.request_time + 1) is None


async def test_an_empty_redis_holds_nothing(store: DocumentStore) -> None:
    look = await store.read_state(0)
    assert look is not None
    assert (look.entry, look.failed, look.cooldowns) == (None, None, Cooldowns(NO_COOLDOWN, NO_COOLDOWN, None))


@pytest.mark.parametrize(("later", "verdict"), [(1, "kept"), (0, "kept"), (-1, "older")])
async def test_a_newer_snapshot_stands(store: DocumentStore, later: int, verdict: str) -> None:
    await share(store, ENTRY)
    other = replace(ENTRY, body=b"other", request_time=ENTRY.request_time + later)
    assert await share(store, other) == verdict
    assert await shared(store) == (other if verdict == "kept" else ENTRY)


async def test_a_refused_snapshot_gives_the_lease_back_too(store: DocumentStore) -> None:
    await share(store, ENTRY)
    assert await share(store, replace(ENTRY, request_time=1)) == "kept"  # by more than a life: nobody's
    await share(store, ENTRY)
    assert await share(store, replace(ENTRY, request_time=ENTRY.request_time - 1)) == "older"
    assert await lease(store) == "acquired"


async def test_without_the_lease_nothing_is_kept(store: DocumentStore) -> None:
    assert await store.store_fenced(ENTRY, 60_000, "mine") == "lost"
    await lease(store, LeaseRequest("other", 0))
    assert await store.store_fenced(ENTRY, 60_000, "mine") == "lost"
    assert await shared(store) is None
    assert await lease(store, LeaseRequest("third", 0)) == "held"


async def test_what_claims_to_be_later_than_a_snapshot_can_live_does_not_stand_for_ever(store: DocumentStore) -> None:
    await share(store, replace(ENTRY, request_time=ENTRY.request_time + ENTRY.life_ms + 1))
    assert await share(store, ENTRY) == "kept"
    assert await shared(store) == ENTRY
    await share(store, replace(ENTRY, request_time=ENTRY.request_time + ENTRY.life_ms))
    assert await share(store, ENTRY) == "older"


async def test_a_snapshot_without_life_left_is_gone(store: DocumentStore) -> None:
    await share(store, ENTRY, 0)
    assert await shared(store) is None


FOREIGN: list[dict[str, Any]] = [
    {"format": "1"},
    {"format": ""},
    {"asked_at": "canary"},
    {"identity": SECOND},
    {"life": "1.5"},
    {"margin_assets": "[]"},
    {"margin_assets": b"\xff"},
    {"margin_assets": '{"ODD":1}'},
]


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_what_somebody_else_wrote_counts_as_no_snapshot(
    store: DocumentStore, redis: Any, foreign: dict[str, Any]
) -> None:
    await share(store, ENTRY)
    await redis.hset(SNAPSHOT, mapping=foreign)
    assert await shared(store) is None


@pytest.mark.parametrize("foreign", [{"asked_at": "canary"}, {"asked_at": "1"}, {"asked_at": "9" * 5_000}])
async def test_a_snapshot_replaces_what_somebody_else_wrote(
    store: DocumentStore, redis: Any, foreign: dict[str, Any]
) -> None:
    await redis.hset(SNAPSHOT, mapping=foreign)
    assert await share(store, ENTRY) == "kept"
    assert await shared(store) == ENTRY


# Failures.

OUTAGE = ExchangeUnavailableError("the exchange answered 503", answered=503, code=-1000)


async def failed(store: DocumentStore) -> Failed | None:
    look = await store.read_state(0)
    assert look is not None
    return look.failed


async def test_a_failure_is_the_same_error_for_every_replica_with_the_pause_that_is_left(store: DocumentStore) -> None:
    await lease(store)
    await store.record_failure(Failed(3, OUTAGE.failure, 4_000), "mine")
    found = await failed(store)
    assert found is not None
    assert type(found.failure.error()) is ExchangeUnavailableError
    assert found.failure.detail == "the exchange is unavailable, as another replica found"
    assert (found.count, found.failure.answered, found.failure.code) == (3, 503, -1000)
    assert 3_000 < found.pause_ms <= 4_000


async def test_a_failure_is_counted_on_after_its_pause_and_ended_by_a_success(store: DocumentStore, redis: Any) -> None:
    await lease(store)
    await store.record_failure(Failed(3, OUTAGE.failure, 4_000), "mine")
    await redis.pexpire(FAILURES, FAILURE_MEMORY_MS - 60_000)
    found = await failed(store)
    assert found is not None
    assert found.pause_ms <= -60_000
    await share(store, ENTRY)
    assert await failed(store) is None


async def test_a_failure_leaves_the_snapshot_alone(store: DocumentStore) -> None:
    await share(store, ENTRY)
    await lease(store)
    await store.record_failure(Failed(1, OUTAGE.failure, 1_000), "mine")
    assert await shared(store) == ENTRY


async def test_a_failure_of_who_has_lost_the_lease_is_nobodys_business(store: DocumentStore) -> None:
    await lease(store, LeaseRequest("other", 0))
    await store.record_failure(Failed(1, OUTAGE.failure, 1_000), "mine")
    assert await failed(store) is None
    assert await lease(store) == "held"


async def test_a_failure_of_a_newer_release_counts_as_the_exchange_being_unavailable(
    store: DocumentStore, redis: Any
) -> None:
    await redis.hset(FAILURES, mapping={"count": 1, "error": '{"problem":"invented-later","detail":"canary"}'})
    await redis.pexpire(FAILURES, FAILURE_MEMORY_MS)
    found = await failed(store)
    assert found is not None
    assert found.failure.problem == "exchange-unavailable"
    assert "canary" not in found.failure.detail


@pytest.mark.parametrize(
    "foreign", [{"count": "x"}, {"count": "9" * 15}, {"error": "x"}, {"error": b"\xff"}, {"error": '{"problem":1}'}]
)
async def test_garbage_counts_as_no_failure(store: DocumentStore, redis: Any, foreign: dict[str, Any]) -> None:
    await lease(store)
    await store.record_failure(Failed(1, OUTAGE.failure, 1_000), "mine")
    await redis.hset(FAILURES, mapping=foreign)
    assert await failed(store) is None


@pytest.mark.parametrize("life", [None, FAILURE_MEMORY_MS + MAX_BACKOFF + 1_000, 10**12])
async def test_a_failure_without_an_end_or_with_a_pause_that_no_replica_makes_is_none_and_gone(
    store: DocumentStore, redis: Any, life: int | None
) -> None:
    await redis.hset(FAILURES, mapping={"count": 1, "error": '{"problem":"exchange-timeout"}'})
    if life:
        await redis.pexpire(FAILURES, life)
    assert await failed(store) is None
    assert not await redis.exists(FAILURES)


# Which credential has replaced which.


async def test_what_stands_under_another_identity_is_neither_read_nor_in_the_way(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    other = replica(redis, clock, SECOND)
    assert [await lease(store), await lease(other)] == ["acquired", "acquired"]
    assert await store.store_fenced(ENTRY, 60_000, "mine") == "kept"
    assert await shared(other) is None
    assert (
        await other.store_fenced(replace(ENTRY, request_time=ENTRY.request_time - 1, body=b"{}"), 60_000, "mine")
        == "kept"
    )
    assert [await shared(store), (await lineage(store)).foreign] == [ENTRY, 1]


async def test_a_credential_that_replaced_another_is_followed_by_who_has_that(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    new = replica(redis, clock, SECOND)
    await new.record_rotation(FIRST)
    await share(new, ENTRY)
    assert (await lease(store), await shared(store), await lease(new)) == ("superseded", ENTRY, "acquired")
    assert [await lineage(store), await lineage(new)] == [
        Lineage(superseded=True),
        Lineage(replaced=frozenset({FIRST}), in_use=True),
    ]
    assert await store.store_fenced(ENTRY, 60_000, "mine") == "lost"


async def test_a_replaced_credentials_late_snapshot_is_refused(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    await lease(store)
    await replica(redis, clock, SECOND).record_rotation(FIRST)
    assert await store.store_fenced(ENTRY, 60_000, "mine") == "superseded"
    assert await redis.get(LEASE_KEY) is None


async def test_a_chain_is_followed_to_the_last_that_is_in_use(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    await replica(redis, clock, SECOND).record_rotation(FIRST)
    third = replica(redis, clock, THIRD)
    await third.record_rotation(SECOND)
    await share(third, ENTRY)
    assert await shared(store) == ENTRY
    assert (await lineage(third)).replaced == {FIRST, SECOND}


async def test_a_rotation_back_to_an_earlier_credential_makes_that_the_one_to_follow(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    second, third = replica(redis, clock, SECOND), replica(redis, clock, THIRD)
    await second.record_rotation(FIRST)
    await third.record_rotation(SECOND)
    await store.record_rotation(THIRD)
    assert [(await lineage(each)).superseded for each in (store, second, third)] == [False, True, True]
    assert [store.followed, second.followed, third.followed] == [FIRST, FIRST, FIRST]


async def test_a_slow_replicas_proof_of_what_is_replaced_already_replaces_nothing(redis: Any, clock: FakeClock) -> None:
    second, third = replica(redis, clock, SECOND), replica(redis, clock, THIRD)
    await third.record_rotation(SECOND)
    await second.record_rotation(FIRST)
    assert [(await lineage(each)).superseded for each in (second, third)] == [True, False]


async def test_a_credential_that_nobody_has_used_for_long_is_followed_no_more(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    await replica(redis, clock, SECOND).record_rotation(FIRST)
    clock.advance(MEMORY)
    assert await lease(store) == "superseded"
    clock.advance(1)
    assert await lease(store) == "acquired"
    assert (await lineage(store)).foreign == 0


async def test_a_link_that_redis_lost_is_told_again_by_who_has_used_both(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    new = replica(redis, clock, SECOND)
    await new.record_rotation(FIRST)
    await redis.flushall()
    assert await lease(store) == "acquired"
    assert await share(new, ENTRY, replaced=FIRST) == "kept"
    assert (await lineage(store)).superseded


async def test_a_credential_that_is_only_stored_with_links_nothing(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    await share(store, ENTRY)
    await share(replica(redis, clock, SECOND), ENTRY)
    assert await lineage(store) == Lineage(foreign=1, in_use=True)


async def test_a_passing_link_is_followed_for_a_while_whoever_uses_what_it_leads_to(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    shared = replica(redis, clock, SECOND)
    await shared.record_rotation(FIRST, "temporary")
    assert (await lease(store), (await lineage(shared)).temporary_link) == ("superseded", True)
    clock.advance(MEMORY)
    await share(shared, ENTRY)
    assert (await lease(store), (await lineage(shared)).temporary_link) == ("acquired", False)


async def test_who_goes_back_leads_nobody_along(store: DocumentStore, redis: Any, clock: FakeClock) -> None:
    shared = replica(redis, clock, SECOND)
    await shared.record_rotation(FIRST, "temporary")
    await store.record_rotation(SECOND, "none")
    assert [await lease(store), await lease(shared)] == ["acquired", "acquired"]


async def test_any_number_of_credentials_leaves_a_bounded_number_behind(redis: Any, clock: FakeClock) -> None:
    for number in range(40):
        await share(replica(redis, clock, f"{number:016x}"), ENTRY)
    assert await redis.hlen(KEYS.credentials) == 16
    await redis.hset(KEYS.credentials, mapping={f"junk-{number}": 1 for number in range(1_000)})
    assert await lineage(replica(redis, clock)) == Lineage()


@pytest.mark.parametrize(
    ("identity", "use"),
    [
        (SECOND, f"{START}:{'3' * 15}"),
        (SECOND, f"{'9' * 15}"),
        (SECOND, f"-{START}"),
        (SECOND, "1e12"),
        (SECOND, "9" * 5_000),
        (SECOND, b"\xff"),
        (b"\xff" * 16, START),
        ("Z" * 16, START),
        (FIRST, f"{START}:{FIRST}"),
    ],
)
async def test_what_somebody_else_wrote_of_credentials_counts_as_none(
    store: DocumentStore, redis: Any, identity: Any, use: Any
) -> None:
    await redis.hset(KEYS.credentials, identity, use)
    found = await lineage(store)
    assert (found.superseded, await lease(store)) == (False, "acquired")
    assert found.foreign <= 1


async def test_one_replica_tries_a_credential_out_and_every_credential_has_its_own_turn(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    assert [await store.acquire_once(1_000), await replica(redis, clock).acquire_once(1_000)] == [True, False]
    assert await replica(redis, clock, SECOND).acquire_once(1_000) is True
    assert 0 < await redis.pttl(KEYS.proof(FIRST)) <= 1_000


@pytest.mark.parametrize("life", [None, 1_000_000])
async def test_a_claim_that_no_replica_made_bars_nobody(store: DocumentStore, redis: Any, life: int | None) -> None:
    await redis.set(KEYS.proof(FIRST), "x", px=life)
    assert [await store.acquire_once(1_000), await store.acquire_once(1_000)] == [True, False]


async def test_a_lease_without_an_end_ends_within_a_leases_life(store: DocumentStore, redis: Any) -> None:
    await redis.set(LEASE_KEY, "nobody's")
    assert await lease(store) == "held"
    assert 0 < await redis.pttl(LEASE_KEY) <= LEASE_MS
    await redis.set(LEASE_KEY, "nobody's", px=10**9)
    assert await lease(store) == "held"
    assert 0 < await redis.pttl(LEASE_KEY) <= LEASE_MS


async def test_an_operator_clears_what_stands_in_the_way_and_is_told_what_it_was(
    store: DocumentStore, redis: Any, clock: FakeClock
) -> None:
    await share(store, ENTRY)
    await lease(store)
    await store.record_failure(Failed(3, OUTAGE.failure, 4_000), "mine")
    await redis.set(LEASE_KEY, "stuck")
    await replica(redis, clock, SECOND).record_rotation(FIRST)
    assert await store.clear() == Cleared(3, lease=True, credentials=1)
    assert await store.clear() == Cleared(0, lease=False, credentials=0)
    assert (await failed(store), await lease(store), await shared(store)) == (None, "acquired", ENTRY)


async def test_a_lease_that_is_at_work_is_not_cleared(store: DocumentStore) -> None:
    await lease(store)
    assert not (await store.clear()).lease
    assert await lease(store, LeaseRequest("other", 0)) == "held"


@pytest.mark.parametrize("kind", ["set", "sadd", "rpush", "zadd", "xadd", "hset"])
@pytest.mark.parametrize("key", [SNAPSHOT, LEASE_KEY, FAILURES, KEYS.credentials, EGRESS.address_cooldown])
async def test_a_key_of_another_type_counts_as_none_and_redis_is_still_well(
    store: DocumentStore, redis: Any, key: str, kind: str
) -> None:
    values: dict[str, Any] = {"zadd": ({"canary": 1},), "xadd": ({"a": "canary"},), "hset": ("a", "canary")}
    await getattr(redis, kind)(key, *values.get(kind, ("canary",)))
    look = await store.read_state(0)
    assert look is not None
    assert (look.entry, look.failed, look.cooldowns) == (None, None, Cooldowns())
    assert await lease(store) in ("acquired", "held")  # a string is a lease of somebody's, for its life
    await redis.delete(LEASE_KEY)
    assert await share(store, ENTRY) == "kept"
    assert await shared(store) == ENTRY


@pytest.mark.parametrize(
    ("message", "news"),
    [
        (f"main {FIRST}", Notification("main", FIRST)),
        (f"main {FIRST} {SECOND} 250", Notification("main", FIRST, RefreshRequest(SECOND, 250))),
        (f"main {FIRST} {SECOND} -1", None),
        (f"main {FIRST} {SECOND} {'9' * 13}", None),
        (f"main {FIRST} {SECOND}", None),
        ("main", None),
        ("", None),
        (f"main {FIRST}\n", None),
        (f"{'a' * 64} {FIRST}" + " " * 10**6, None),
        ("coinm:testing:host:main:snapshot 0 0", None),
    ],
)
def test_an_announcement_is_a_change_or_a_wish_and_anything_else_is_nothing(
    message: str, news: Notification | None
) -> None:
    assert Notification.decode(message.encode()) == news
    if news is not None:
        assert Notification.decode(news.encode().encode()) == news


@given(st.binary(max_size=200))
def test_no_announcement_is_misread_whatever_it_is(message: bytes) -> None:
    news = Notification.decode(message)
    assert news is None or news.encode().encode() == message


def test_the_longest_announcement_is_within_its_bound() -> None:
    longest = Notification("a" * 63, FIRST, RefreshRequest(SECOND, 10**LONGEST_NUMBER - 1))
    assert Notification.decode(longest.encode().encode()) == longest


async def test_a_wish_is_heard_by_who_listens(store: DocumentStore, redis: Any) -> None:
    async with redis.pubsub() as subscription:
        await subscription.subscribe("news")
        await subscription.get_message(timeout=1)
        store.request_refresh(250)
        message = await subscription.get_message(timeout=1)
    assert Notification.decode(message["data"]) == Notification("main", FIRST, RefreshRequest(FIRST, 250))


async def test_while_redis_is_away_nothing_raises(store: DocumentStore, server: FakeServer) -> None:
    server.connected = False
    assert (await store.read_state(0), await store.try_acquire(0, ASK), await store.renew("mine", in_time=True)) == (
        None,
    ) * 3
    assert await store.store_fenced(ENTRY, 1_000, "mine") is None
    await store.release("mine")
    await store.record_failure(Failed(1, OUTAGE.failure, 1_000), "mine")
    assert await store.acquire_once(1_000) is None
    await store.record_rotation(SECOND)
    store.request_refresh(1_000)
    with pytest.raises(RedisUnavailableError):
        await store.clear()


def test_keys_tell_environments_exchanges_accounts_and_credentials_apart() -> None:
    settings = Settings(environment="staging", redis=Redis(key_prefix="p"), accounts={})
    keys, egress = document_keys(settings, "main"), egress_keys(settings)
    own = "p:{account:staging:dapi.binance.com:main}"
    assert (keys.credentials, keys.channel) == (f"{own}:credentials", "p:staging:dapi.binance.com:news")
    assert [keys.snapshot("ba78"), keys.failures("ba78"), keys.lease("ba78"), keys.proof("ba78")] == [
        f"{own}:{kind}:ba78" for kind in ("snapshot", "failures", "lease", "proof")
    ]
    address = "p:{egress:dapi.binance.com:default}"
    assert [egress.address_cooldown, egress.credential_cooldown("ba78"), egress.probe] == [
        f"{address}:{kind}" for kind in ("hold", "hold:ba78", "probe")
    ]
    assert egress.minute(7) == [f"{address}:ledger:7", f"{address}:ledger:7:calls"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_have_keys_of_their_own_and_the_account_those_of_every_release(document: Document) -> None:
    keys = document_keys(Settings(environment="staging", redis=Redis(key_prefix="p"), accounts={}), "main", document)
    own = "p:{account:staging:dapi.binance.com:main}"
    place = own if document is ACCOUNT else f"{own}:{document.name}"
    assert [keys.snapshot("ba78"), keys.failures("ba78"), keys.lease("ba78")] == [
        f"{place}:{kind}:ba78" for kind in ("snapshot", "failures", "lease")
    ]
    assert (keys.credentials, keys.proof("ba78")) == (f"{own}:credentials", f"{own}:proof:ba78")
    assert keys.channel == "p:staging:dapi.binance.com:news"


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each is not ACCOUNT])
async def test_what_is_shared_of_one_document_touches_no_other(
    store: DocumentStore, redis: Any, clock: FakeClock, document: Document
) -> None:
    guard = RedisGuard(redis, clock, Metrics())
    other = DocumentStore(guard, replace(KEYS, document=document), EGRESS, ExchangeClock(clock), FIRST)
    assert [await lease(each) for each in (store, other)] == ["acquired", "acquired"]
    await other.record_failure(Failed(3, OUTAGE.failure, 4_000), "mine")
    assert (await failed(store), await lease(store, LeaseRequest("rival", 0))) == (None, "held")
    assert await store.store_fenced(ENTRY, 60_000, "mine") == "kept"
    found = await failed(other)
    assert found is not None
    assert (found.count, await shared(other)) == (3, None)
    assert await lease(other) == "acquired"
    assert await share(store, replace(ENTRY, request_time=ENTRY.request_time + 1)) == "kept"
    assert await other.store_fenced(ENTRY, 60_000, "mine") == "kept"  # older than what there is of the account
    assert await store.clear() == Cleared(0, lease=False, credentials=0)
    assert await shared(other) == ENTRY


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each is not ACCOUNT])
async def test_every_end_of_a_refresh_and_every_wish_names_its_document(
    redis: Any, clock: FakeClock, document: Document
) -> None:
    guard = RedisGuard(redis, clock, Metrics())
    store = DocumentStore(guard, replace(KEYS, document=document), EGRESS, ExchangeClock(clock), FIRST)
    async with redis.pubsub() as heard:
        await heard.subscribe("news")
        await heard.get_message(timeout=1)
        await share(store, ENTRY)
        await lease(store)
        await store.record_failure(Failed(1, OUTAGE.failure, 1_000), "mine")
        await lease(store)
        await store.release("mine")
        store.request_refresh(250)
        messages = [await heard.get_message(timeout=1) for _ in range(4)]
    change = Notification("main", FIRST, document=document.name)
    wish = Notification("main", FIRST, RefreshRequest(FIRST, 250), document.name)
    assert [Notification.decode(message["data"]) for message in messages] == [change, change, change, wish]
