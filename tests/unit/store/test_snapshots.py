"""The Lua scripts by what they promise, on an embedded Redis; a real one runs them in the process tests."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from msgspec.structs import replace

from service.exchange.budget import MAX_HOLD, NO_HOLD, Hold
from service.settings import Redis, Settings
from service.store.connection import AwayError, Link
from service.store.entries import Entry
from service.store.snapshots import AccountStore, Keys, Scripts, keys_of
from service.telemetry.metrics import Metrics
from tests.support import FakeClock

KEYS = Keys(snapshot="s", credential="c", address_hold="a", credential_hold="h")
ENTRY = Entry(b'{"a":"\xc3\xa9"}', 1_790_000_000_000, 3, 61_000, {"ODD": "BTC"})
BAN = Hold(0, 5_000, "exchange-banned")


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


def replica(redis: Any, clock: FakeClock, fingerprint: str = "first") -> AccountStore:
    return AccountStore(Link(redis, clock, Metrics()), Scripts(redis), KEYS, fingerprint)


async def held(store: AccountStore) -> tuple[Hold, Hold]:
    look = await store.look(0)
    assert look is not None
    return look.address, look.credential


async def shared(store: AccountStore, known: int = 0) -> Entry | None:
    look = await store.look(known)
    assert look is not None
    return look.entry


async def test_what_is_kept_is_found_byte_for_byte_with_the_life_it_has_left(store: AccountStore) -> None:
    assert await store.keep(ENTRY, 60_000) is True
    look = await store.look(ENTRY.asked_at - 1)
    assert look is not None
    assert look.entry == ENTRY
    assert 59_000 < look.remaining <= 60_000


async def test_who_has_it_already_is_spared_the_body(store: AccountStore) -> None:
    await store.keep(ENTRY, 60_000)
    assert await shared(store, ENTRY.asked_at) is None
    assert await shared(store, ENTRY.asked_at + 1) is None


async def test_an_empty_redis_holds_nothing(store: AccountStore) -> None:
    assert await shared(store) is None
    assert await held(store) == (NO_HOLD, NO_HOLD)


@pytest.mark.parametrize(
    ("later", "generation", "kept"),
    [
        (1, 3, True),
        (0, 3, True),  # a repeat
        (-1, 3, False),  # asked for earlier
        (1, 2, False),  # by an older credential
        (1, 4, True),
        (-1, 4, False),
    ],
)
async def test_a_newer_snapshot_stands(store: AccountStore, later: int, generation: int, *, kept: bool) -> None:
    await store.keep(ENTRY, 60_000)
    other = replace(ENTRY, body=b"other", asked_at=ENTRY.asked_at + later, generation=generation)
    assert await store.keep(other, 60_000) is kept
    assert await shared(store) == (other if kept else ENTRY)


async def test_what_claims_to_be_later_than_a_snapshot_can_live_does_not_stand_for_ever(store: AccountStore) -> None:
    await store.keep(replace(ENTRY, asked_at=ENTRY.asked_at + ENTRY.life + 1), 60_000)
    assert await store.keep(ENTRY, 60_000) is True
    assert await shared(store) == ENTRY
    await store.keep(replace(ENTRY, asked_at=ENTRY.asked_at + ENTRY.life), 60_000)
    assert await store.keep(ENTRY, 60_000) is False


async def test_a_snapshot_without_life_left_is_gone(store: AccountStore) -> None:
    await store.keep(ENTRY, 0)
    assert await shared(store) is None


@pytest.mark.parametrize(
    "foreign",
    [
        {"format": "2"},
        {"format": ""},
        {"asked_at": "canary"},
        {"generation": "x"},
        {"life": "1.5"},
        {"margin_assets": "[]"},
        {"margin_assets": b"\xff"},
        {"margin_assets": '{"ODD":1}'},
    ],
)
async def test_what_somebody_else_wrote_counts_as_no_snapshot(
    store: AccountStore, redis: Any, foreign: dict[str, Any]
) -> None:
    await store.keep(ENTRY, 60_000)
    await redis.hset("s", mapping=foreign)
    assert await shared(store) is None


@pytest.mark.parametrize("foreign", [{"asked_at": "canary", "generation": "1"}, {"asked_at": "1"}, {"generation": "x"}])
async def test_a_snapshot_replaces_what_somebody_else_wrote(
    store: AccountStore, redis: Any, foreign: dict[str, Any]
) -> None:
    await redis.hset("s", mapping=foreign)
    assert await store.keep(ENTRY, 60_000) is True
    assert await shared(store) == ENTRY


async def test_a_hold_only_grows(store: AccountStore) -> None:
    for until in (5_000, 4_000, 6_000, 1):
        await store.hold_address(Hold(0, until, f"until-{until}"))
    assert await held(store) == (Hold(0, 6_000, "until-6000"), NO_HOLD)


async def test_address_and_credential_are_held_apart(store: AccountStore) -> None:
    latch = Hold(0, 9_000, "exchange-rejected-credentials")
    await store.hold_credential(latch)
    assert await held(store) == (NO_HOLD, latch)


async def test_a_hold_is_remembered_far_longer_than_it_can_last(store: AccountStore, redis: Any) -> None:
    await store.hold_address(BAN)
    assert await redis.pttl("a") > 9 * MAX_HOLD


async def test_a_resume_says_what_it_forgot_and_voids_older_holds(store: AccountStore) -> None:
    await store.hold_address(BAN)
    assert await store.resume() == {"address": BAN, "credential": NO_HOLD}
    assert await held(store) == (Hold(1), Hold(1))
    await store.hold_address(replace(BAN, until=10**13))  # a replica that hasn't heard of it
    assert await held(store) == (Hold(1), Hold(1))


async def test_a_refusal_after_a_resume_holds(store: AccountStore) -> None:
    await store.resume()
    await store.hold_address(replace(BAN, epoch=1))
    assert await held(store) == (replace(BAN, epoch=1), Hold(1))


async def test_an_epoch_that_redis_lost_is_taught_anew(store: AccountStore) -> None:
    await store.hold_address(Hold(4, 5_000, "exchange-banned"))
    await store.hold_address(Hold(3, 9_000, "exchange-banned"))
    assert (await held(store))[0] == Hold(4, 5_000, "exchange-banned")


@pytest.mark.parametrize("foreign", [{"epoch": "x"}, {"until": "canary"}, {"problem": b"\xff", "until": "1.5"}])
async def test_what_somebody_else_wrote_is_no_hold_and_does_not_stop_one(
    store: AccountStore, redis: Any, foreign: dict[str, Any]
) -> None:
    await redis.hset("a", mapping=foreign)
    assert (await held(store))[0].until == 0
    await store.hold_address(BAN)
    assert (await held(store))[0] == BAN
    assert (await store.resume())["address"] == BAN


async def test_a_new_credential_begins_a_new_generation(store: AccountStore, redis: Any, clock: FakeClock) -> None:
    rotated = replica(redis, clock, "second")
    assert [await store.prove(), await store.prove(), await rotated.prove(), await rotated.prove()] == [1, 1, 2, 2]


async def test_a_proof_without_its_generation_begins_one(store: AccountStore, redis: Any) -> None:
    await redis.hset("c", mapping={"fingerprint": "first"})
    assert await store.prove() == 1


async def test_while_redis_is_away_nothing_raises_but_a_resume(store: AccountStore, server: FakeServer) -> None:
    server.connected = False
    assert (await store.look(0), await store.keep(ENTRY, 1_000), await store.prove()) == (None, None, None)
    await store.hold_address(BAN)
    with pytest.raises(AwayError):
        await store.resume()


def test_keys_tell_environments_exchanges_accounts_and_credentials_apart() -> None:
    settings = Settings(environment="staging", redis=Redis(key_prefix="p"), accounts={})
    assert keys_of(settings, "main", "ba7816bf") == Keys(
        snapshot="p:staging:dapi.binance.com:main:snapshot",
        credential="p:staging:dapi.binance.com:main:credential",
        address_hold="p:egress:dapi.binance.com:default:hold",
        credential_hold="p:staging:dapi.binance.com:main:hold:ba7816bf",
    )
