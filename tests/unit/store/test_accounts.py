"""An account's Lua scripts by what they promise, on an embedded Redis; `lease_model` runs them against a model."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from msgspec.structs import replace

from service.exchange.budget import NO_HOLD
from service.exchange.errors import ExchangeTimeoutError, ExchangeUnavailableError
from service.exchange.ports import Holds
from service.settings import Redis, Settings
from service.store.accounts import CREDENTIAL_MEMORY, FAILURE_MEMORY, LEASE, AccountStore
from service.store.connection import Link
from service.store.entries import Entry, Failed, Kept, News, Try, Wish
from service.store.scripts import AccountKeys, Scripts, account_keys, egress_keys
from service.telemetry.metrics import Metrics
from tests.support import FakeClock

KEYS = AccountKeys(
    snapshot="s",
    credential="c",
    failures="f",
    lease="l",
    address_hold="a",
    credential_hold="h",
    proof="r",
    channel="news",
)
ENTRY = Entry(b'{"a":"\xc3\xa9"}', 1_790_000_000_000, 3, 61_000, {"ODD": "BTC"})
ASK = Try("mine", 0, 0)
"""A try that no snapshot is young enough for."""


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def redis(server: FakeServer) -> AsyncIterator[Any]:
    async with FakeAsyncRedis(server=server) as redis:
        yield redis


@pytest.fixture
def store(redis: Any, clock: FakeClock) -> AccountStore:
    return replica(redis, clock)


def replica(redis: Any, clock: FakeClock, identity: str = "first") -> AccountStore:
    return AccountStore(Link(redis, clock, Metrics()), Scripts(redis), KEYS, identity)


async def share(store: AccountStore, entry: Entry, remaining: int = 60_000) -> str:
    """Take the lease, and keep; what became of it."""
    return (await prove(store, entry, remaining)).verdict


async def prove(store: AccountStore, entry: Entry, remaining: int = 60_000) -> Kept:
    """The same, with the generation that the credential has."""
    await store.take(0, Try("sharing", 0, 0))
    kept = await store.keep(entry, remaining, "sharing")
    assert kept is not None
    return kept


async def shared(store: AccountStore, known: int = 0) -> Entry | None:
    look = await store.look(known)
    assert look is not None
    return look.entry


async def lease(store: AccountStore, wanted: Try = ASK, known: int = 0) -> str:
    look = await store.take(known, wanted)
    assert look is not None
    return look.lease


# The lease.


async def test_one_gets_the_lease_and_the_others_do_not_until_it_is_given_back(store: AccountStore) -> None:
    assert [await lease(store, Try(name, 0, 0)) for name in ("a", "b", "c")] == ["taken", "busy", "busy"]
    await store.release("a")
    assert [await lease(store, Try(name, 0, 0)) for name in ("b", "c")] == ["taken", "busy"]


async def test_a_repeated_try_of_the_same_replica_is_no_rival(store: AccountStore) -> None:
    assert [await lease(store), await lease(store)] == ["taken", "taken"]


async def test_a_lease_lasts_two_seconds_and_a_renewal_two_more(store: AccountStore, redis: Any) -> None:
    await lease(store)
    assert LEASE - 500 < await redis.pttl("l") <= LEASE == 2_000
    await redis.pexpire("l", 100)
    assert await store.renew("mine", in_time=True) is True
    assert LEASE - 500 < await redis.pttl("l") <= LEASE


async def test_nobody_renews_or_gives_back_a_lease_that_is_not_its_own(store: AccountStore, redis: Any) -> None:
    await lease(store)
    assert await store.renew("other", in_time=True) is False
    await store.release("other")
    assert await redis.get("l") == b"mine"
    await redis.delete("l")
    assert await store.renew("mine", in_time=False) is False
    assert await redis.get("l") is None


async def test_a_lease_that_redis_has_lost_before_it_could_expire_is_given_back_by_its_renewal(
    store: AccountStore, redis: Any
) -> None:
    await lease(store)
    await redis.flushall()
    assert await store.renew("mine", in_time=True) is True
    assert LEASE - 500 < await redis.pttl("l") <= LEASE
    assert await lease(store, Try("other", 0, 0)) == "busy"


async def test_a_look_alone_takes_no_lease(store: AccountStore, redis: Any) -> None:
    look = await store.look(0)
    assert look is not None
    assert (look.lease, await redis.get("l")) == ("not-tried", None)


async def test_a_snapshot_that_is_young_enough_spares_the_lease(store: AccountStore, redis: Any) -> None:
    await share(store, ENTRY, ENTRY.life - 1_000)
    assert await lease(store, Try("mine", 30_000, 0)) == "needless"
    assert await redis.get("l") is None
    assert await lease(store, Try("mine", 900, 0)) == "taken"


async def test_a_snapshot_that_the_caller_has_already_spares_nothing(store: AccountStore) -> None:
    await share(store, ENTRY)
    assert await lease(store, Try("mine", 60_000, 0), known=ENTRY.asked_at) == "taken"


async def test_a_snapshot_of_another_format_spares_nothing(store: AccountStore, redis: Any) -> None:
    await share(store, ENTRY)
    await redis.hset("s", "format", "2")
    assert await lease(store, Try("mine", 60_000, 0)) == "taken"


async def test_an_older_credential_gets_no_lease_once_a_newer_one_is_accepted(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    rotated = replica(redis, clock, "second")
    old = (await prove(store, replace(ENTRY, generation=0))).generation
    assert await lease(store, Try("a", 0, old)) == "taken"
    await store.release("a")
    new = (await prove(rotated, replace(ENTRY, generation=0))).generation
    assert (old, new) == (1, 2)
    assert await lease(store, Try("a", 0, old)) == "superseded"
    assert await lease(rotated, Try("b", 0, new)) == "taken"


async def test_a_replica_that_does_not_know_its_generation_may_try(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    await prove(store, ENTRY)
    assert await lease(replica(redis, clock, "second"), Try("new", 0, 0)) == "taken"


@pytest.mark.parametrize("ending", ["keep", "fail", "release"])
async def test_every_end_of_a_refresh_gives_the_lease_back_and_tells_who_waits(
    store: AccountStore, redis: Any, ending: str
) -> None:
    async with redis.pubsub() as heard:
        await heard.subscribe("news")
        await lease(store)
        match ending:
            case "keep":
                await store.keep(ENTRY, 60_000, "mine")
            case "fail":
                await store.fail(Failed(1, ExchangeTimeoutError("x"), 1_000), "mine")
            case _:
                await store.release("mine")
        messages = [await heard.get_message(timeout=1) for _ in range(2)]
    assert [message["data"] for message in messages if message] == [1, b"s"]
    assert await redis.get("l") is None


# The fenced store.


async def test_what_is_kept_is_found_byte_for_byte_with_the_life_it_has_left(store: AccountStore) -> None:
    assert await share(store, ENTRY) == "kept"
    look = await store.look(ENTRY.asked_at - 1)
    assert look is not None
    assert look.entry == ENTRY
    assert 59_000 < look.remaining <= 60_000


async def test_who_has_it_already_is_spared_the_body(store: AccountStore) -> None:
    await share(store, ENTRY)
    assert await shared(store, ENTRY.asked_at) is None
    assert await shared(store, ENTRY.asked_at + 1) is None


async def test_an_empty_redis_holds_nothing(store: AccountStore) -> None:
    look = await store.look(0)
    assert look is not None
    assert (look.entry, look.failed, look.holds) == (None, None, Holds(NO_HOLD, NO_HOLD, None))


@pytest.mark.parametrize(
    ("later", "generation", "verdict"),
    [
        (1, 3, "kept"),
        (0, 3, "kept"),  # a repeat
        (-1, 3, "older"),
        (1, 2, "kept"),  # of the same credential, whose replica has just started
        (1, 4, "kept"),
        (-1, 4, "older"),
    ],
)
async def test_a_newer_snapshot_stands(store: AccountStore, later: int, generation: int, verdict: str) -> None:
    await share(store, ENTRY)
    other = replace(ENTRY, body=b"other", asked_at=ENTRY.asked_at + later, generation=generation)
    assert await share(store, other) == verdict
    standing = replace(other, generation=max(generation, 3)) if verdict == "kept" else ENTRY
    assert await shared(store) == standing


async def test_a_refused_snapshot_gives_the_lease_back_too(store: AccountStore) -> None:
    await share(store, ENTRY)
    assert await share(store, replace(ENTRY, asked_at=1)) == "kept"  # by more than a life: nobody's
    await share(store, ENTRY)
    assert await share(store, replace(ENTRY, asked_at=ENTRY.asked_at - 1)) == "older"
    assert await lease(store) == "taken"


async def test_without_the_lease_nothing_is_kept(store: AccountStore) -> None:
    assert await store.keep(ENTRY, 60_000, "mine") == Kept("lost", 3)
    await lease(store, Try("other", 0, 0))
    assert await store.keep(ENTRY, 60_000, "mine") == Kept("lost", 3)
    assert await shared(store) is None
    assert await lease(store, Try("third", 0, 0)) == "busy"


async def test_what_claims_to_be_later_than_a_snapshot_can_live_does_not_stand_for_ever(store: AccountStore) -> None:
    await share(store, replace(ENTRY, asked_at=ENTRY.asked_at + ENTRY.life + 1))
    assert await share(store, ENTRY) == "kept"
    assert await shared(store) == ENTRY
    await share(store, replace(ENTRY, asked_at=ENTRY.asked_at + ENTRY.life))
    assert await share(store, ENTRY) == "older"


async def test_a_snapshot_without_life_left_is_gone(store: AccountStore) -> None:
    await share(store, ENTRY, 0)
    assert await shared(store) is None


FOREIGN: list[dict[str, Any]] = [
    {"format": "2"},
    {"format": ""},
    {"asked_at": "canary"},
    {"generation": "x"},
    {"life": "1.5"},
    {"margin_assets": "[]"},
    {"margin_assets": b"\xff"},
    {"margin_assets": '{"ODD":1}'},
]


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_what_somebody_else_wrote_counts_as_no_snapshot(
    store: AccountStore, redis: Any, foreign: dict[str, Any]
) -> None:
    await share(store, ENTRY)
    await redis.hset("s", mapping=foreign)
    assert await shared(store) is None


@pytest.mark.parametrize("foreign", [{"asked_at": "canary", "generation": "1"}, {"asked_at": "1"}, {"generation": "x"}])
async def test_a_snapshot_replaces_what_somebody_else_wrote(
    store: AccountStore, redis: Any, foreign: dict[str, Any]
) -> None:
    await redis.hset("s", mapping=foreign)
    assert await share(store, ENTRY) == "kept"
    assert await shared(store) == ENTRY


# Failures.

OUTAGE = ExchangeUnavailableError("the exchange answered 503", answered=503, code=-1000)


async def failed(store: AccountStore) -> Failed | None:
    look = await store.look(0)
    assert look is not None
    return look.failed


async def test_a_failure_is_the_same_error_for_every_replica_with_the_pause_that_is_left(store: AccountStore) -> None:
    await lease(store)
    await store.fail(Failed(3, OUTAGE, 4_000), "mine")
    found = await failed(store)
    assert found is not None
    assert (type(found.error), found.error.detail) == (ExchangeUnavailableError, "the exchange answered 503")
    assert (found.count, found.error.answered, found.error.code) == (3, 503, -1000)
    assert 3_000 < found.pause <= 4_000


async def test_a_failure_is_counted_on_after_its_pause_and_ended_by_a_success(store: AccountStore, redis: Any) -> None:
    await lease(store)
    await store.fail(Failed(3, OUTAGE, 4_000), "mine")
    await redis.pexpire("f", FAILURE_MEMORY - 60_000)
    found = await failed(store)
    assert found is not None
    assert found.pause <= -60_000
    await share(store, ENTRY)
    assert await failed(store) is None


async def test_a_failure_leaves_the_snapshot_alone(store: AccountStore) -> None:
    await share(store, ENTRY)
    await lease(store)
    await store.fail(Failed(1, OUTAGE, 1_000), "mine")
    assert await shared(store) == ENTRY


async def test_a_failure_of_who_has_lost_the_lease_is_nobodys_business(store: AccountStore) -> None:
    await lease(store, Try("other", 0, 0))
    await store.fail(Failed(1, OUTAGE, 1_000), "mine")
    assert await failed(store) is None
    assert await lease(store) == "busy"


async def test_a_failure_of_a_newer_release_counts_as_the_exchange_being_unavailable(
    store: AccountStore, redis: Any
) -> None:
    await redis.hset("f", mapping={"count": 1, "error": '{"problem":"invented-later","detail":"x"}'})
    await redis.pexpire("f", FAILURE_MEMORY)
    found = await failed(store)
    assert found is not None
    assert found.error.problem == "exchange-unavailable"


@pytest.mark.parametrize("foreign", [{"count": "x"}, {"error": "x"}, {"error": b"\xff"}, {"error": '{"problem":1}'}])
async def test_garbage_counts_as_no_failure(store: AccountStore, redis: Any, foreign: dict[str, Any]) -> None:
    await lease(store)
    await store.fail(Failed(1, OUTAGE, 1_000), "mine")
    await redis.hset("f", mapping=foreign)
    assert await failed(store) is None


async def test_a_failure_without_an_end_is_none(store: AccountStore, redis: Any) -> None:
    await redis.hset("f", mapping={"count": 1, "error": '{"problem":"exchange-timeout","detail":"x"}'})
    assert await failed(store) is None


# The credential's generation.


@pytest.mark.parametrize(
    "proof",
    [
        ("first", 0, Kept("kept", 3)),  # started anew
        ("first", 3, Kept("kept", 3)),
        ("first", 5, Kept("kept", 5)),  # Redis lost some
        ("second", 0, Kept("kept", 4)),  # a rotation
        ("second", 5, Kept("kept", 5)),
        ("second", 2, Kept("superseded", 2)),
    ],
)
async def test_a_credential_that_is_new_begins_a_generation_and_an_older_one_is_refused(
    store: AccountStore, redis: Any, clock: FakeClock, proof: tuple[str, int, Kept]
) -> None:
    identity, own, expected = proof
    await prove(store, ENTRY)
    assert await prove(replica(redis, clock, identity), replace(ENTRY, generation=own)) == expected


async def test_an_older_credential_is_known_again_when_its_replica_is_started_anew(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    await prove(store, replace(ENTRY, generation=0))
    await prove(replica(redis, clock, "second"), replace(ENTRY, generation=0))
    restarted = replica(redis, clock, "first")
    assert await lease(restarted) == "superseded"
    await lease(replica(redis, clock, "second"), Try("sharing", 0, 2))
    assert await restarted.keep(replace(ENTRY, generation=0), 60_000, "sharing") == Kept("superseded", 1)


@pytest.mark.parametrize(
    ("own", "expected"), [(0, Kept("kept", 4)), (2, Kept("superseded", 2)), (3, Kept("kept", 3)), (4, Kept("kept", 4))]
)
async def test_without_its_record_the_snapshots_generation_counts(
    store: AccountStore, redis: Any, own: int, expected: Kept
) -> None:
    await prove(store, ENTRY)
    await redis.delete("c")
    assert await prove(store, replace(ENTRY, generation=own)) == expected


async def test_generations_go_on_after_redis_forgot_everything(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    await prove(store, ENTRY)
    await redis.flushall()
    assert (await prove(replica(redis, clock), replace(ENTRY, generation=0))).generation == 1  # started just then
    assert await prove(store, ENTRY) == Kept("kept", 3)
    look = await replica(redis, clock).look(0)
    assert look is not None
    assert look.generation == 3


async def test_a_look_tells_the_generation_of_the_credential_in_use_to_who_has_it(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    await prove(store, ENTRY)
    looks = [await replica(redis, clock, identity).look(0) for identity in ("first", "second")]
    assert [look.generation for look in looks if look] == [3, 0]


async def test_a_credential_that_nobody_has_used_for_a_snapshots_life_is_forgotten(
    store: AccountStore, redis: Any
) -> None:
    long = 2 * CREDENTIAL_MEMORY
    await prove(store, replace(ENTRY, life=long))
    assert long - 1_000 < await redis.pttl("c") <= long
    await prove(store, replace(ENTRY, life=1))
    assert CREDENTIAL_MEMORY - 1_000 < await redis.pttl("c") <= CREDENTIAL_MEMORY


async def test_a_credential_that_replaces_another_supersedes_it(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    await prove(store, ENTRY)
    second = replica(redis, clock, "second")
    assert await second.prove("first", 0) == 4
    old, new = await store.take(0, ASK), await second.take(0, ASK)
    assert old is not None
    assert new is not None
    assert (old.lease, old.generation, old.newest) == ("superseded", 3, 4)
    assert (new.lease, new.generation, new.newest) == ("taken", 4, 4)


async def test_what_is_replaced_knows_itself_superseded_also_where_nobody_had_used_it_for_long(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    assert await replica(redis, clock, "second").prove("first", 0) == 2
    look = await store.take(0, ASK)
    assert look is not None
    assert (look.lease, look.generation) == ("superseded", 1)
    assert CREDENTIAL_MEMORY - 1_000 < await redis.pttl("c") <= CREDENTIAL_MEMORY


async def test_to_prove_the_newest_credential_again_changes_nothing_and_an_older_one_becomes_the_newest(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    second = replica(redis, clock, "second")
    assert [await second.prove("first", 0), await second.prove("first", 0), await store.prove("second", 0)] == [2, 2, 3]
    look = await second.look(0)
    assert look is not None
    assert (look.generation, look.newest) == (2, 3)


async def test_one_replica_tries_a_credential_out_and_every_credential_has_its_own_turn(
    store: AccountStore, redis: Any, clock: FakeClock
) -> None:
    assert [await store.claim(1_000), await replica(redis, clock).claim(1_000)] == [True, False]
    assert 0 < await redis.pttl("r") <= 1_000


@pytest.mark.parametrize(
    ("message", "news"),
    [
        ("s", News("s")),
        ("s 250 0", News("s", Wish(250, forced=False))),
        ("s 0 1", News("s", Wish(0, forced=True))),
        ("s -1 1", News("s -1 1")),
        ("s 1 2 3", News("s 1 2 3")),
        (f"s {'9' * 12} 1", News(f"s {'9' * 12} 1")),
        ("", News("")),
    ],
)
def test_an_announcement_is_a_change_or_a_wish_and_anything_else_names_nobody(message: str, news: News) -> None:
    assert News.decode(message) == news
    assert News.decode(news.encode()) == news


async def test_a_wish_is_heard_by_who_listens(store: AccountStore, redis: Any) -> None:
    async with redis.pubsub() as subscription:
        await subscription.subscribe("news")
        await subscription.get_message(timeout=1)
        store.wish(Wish(250, forced=True))
        message = await subscription.get_message(timeout=1)
    assert News.decode(message["data"].decode()) == News("s", Wish(250, forced=True))


async def test_while_redis_is_away_nothing_raises(store: AccountStore, server: FakeServer) -> None:
    server.connected = False
    assert (await store.look(0), await store.take(0, ASK), await store.renew("mine", in_time=True)) == (None,) * 3
    assert await store.keep(ENTRY, 1_000, "mine") is None
    await store.release("mine")
    await store.fail(Failed(1, OUTAGE, 1_000), "mine")
    assert (await store.claim(1_000), await store.prove("other", 0)) == (None, None)
    store.wish(Wish(1_000, forced=False))


def test_keys_tell_environments_exchanges_accounts_and_credentials_apart() -> None:
    settings = Settings(environment="staging", redis=Redis(key_prefix="p"), accounts={})
    keys = account_keys(settings, "main", "ba7816bf")
    assert keys == AccountKeys(
        snapshot="p:staging:dapi.binance.com:main:snapshot",
        credential="p:staging:dapi.binance.com:main:credential",
        failures="p:staging:dapi.binance.com:main:failures",
        lease="p:staging:dapi.binance.com:main:lease",
        address_hold="p:egress:dapi.binance.com:default:hold",
        credential_hold="p:staging:dapi.binance.com:main:hold:ba7816bf",
        proof="p:staging:dapi.binance.com:main:proof:ba7816bf",
        channel="p:staging:dapi.binance.com:news",
    )
    egress = egress_keys(settings)
    assert (egress.hold, egress.credential_hold("main", "ba7816bf")) == (keys.address_hold, keys.credential_hold)
    assert egress.ledger == "p:egress:dapi.binance.com:default:ledger"
