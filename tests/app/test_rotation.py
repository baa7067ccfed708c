"""A credential is replaced: by replicas that are started with another, and by files that change."""

import asyncio
import hashlib
import io
import re
from typing import cast

import pytest

from simulator.faults import Fault
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from tests.app.harness import (
    BTC,
    NEW_IDENTITY,
    NEW_KEY,
    Replica,
    Stage,
    cache_status,
    decided,
    fresh,
    keys,
    logged,
    settle,
    told,
)
from tests.support import IDENTITY

OLD, NEW = (hashlib.sha256(key.encode()).hexdigest()[:8] for key in (DEMO_API_KEY, NEW_KEY))
"""Fingerprints."""

# Replicas that have a credential which another has replaced.


async def rotated(stage: Stage, key: str = NEW_KEY) -> Replica:
    """A replica whose files were changed while it ran, to a pair that the exchange accepts."""
    replica, files = await stage.start_watched()
    stage.change_key(key)
    await files.check_now()
    await decided()
    return replica


async def test_replicas_of_one_credential_are_never_superseded_by_each_other(stage: Stage) -> None:
    """One of them has only ever adopted; then the key is rotated, and Redis loses everything."""
    leads, adopts = await stage.start_fleet(2)
    await leads.get()
    await settle()
    new = await rotated(stage)
    await stage.advance(5_000)
    assert fresh([await new.get()])
    await stage.advance(5_000)
    asked = stage.account_calls
    assert fresh([await adopts.get()])  # it knows by what its credential was replaced, and asked who has that
    assert (stage.account_calls, stage.account_keys[-1]) == (asked + 1, NEW_KEY)
    async with stage.redis() as redis:
        await redis.flushall()
    started = await stage.start()
    for each in (started, new, started, new):
        calls = stage.account_calls
        await stage.advance(5_000)
        await each.get()
        await settle()
        assert fresh([await started.get(), await new.get()])
        assert stage.account_calls == calls + 1


async def test_a_credential_that_its_replicas_took_with_them_bars_nobody_for_ever(stage: Stage) -> None:
    old, new = await stage.warm(), await rotated(stage)
    await stage.advance(10_000)
    await new.get()
    await stage.end(new)  # it is taken back
    await stage.advance(30_000)
    read = asyncio.create_task(old.get(cache_control="no-cache"))
    await stage.advance(2_100)
    assert (await read).status_code == 502
    await stage.advance(90_000)
    assert fresh([await old.get()])


async def test_a_replica_with_an_older_credential_serves_what_newer_ones_fetch_and_asks_nothing(stage: Stage) -> None:
    old, new = await stage.warm(), await rotated(stage)
    await stage.advance(10_000)
    await new.get()
    await settle()
    assert fresh([await old.get()])
    for number, headers in enumerate([{}, {"cache_control": "no-cache"}, {"cache_control": "max-age=5"}], 4):
        await stage.advance(10_000)  # nobody asks the one with the newer credential
        assert fresh([await old.get(BTC, **headers)])
        assert stage.account_calls == number
    assert stage.account_keys[1:] == [NEW_KEY] * 5


# Files that change under running replicas.


async def in_use(replica: Replica) -> str:
    return str((await replica.status())["accounts"][0]["credential"])


def steps(log_text: io.StringIO, event: str) -> list[tuple[str | None, ...]]:
    """Each such line's credentials and outcome."""
    names = ("credential", "in_use", "replaced", "outcome", "problem")
    return [tuple(line[name] for name in names if name in line) for line in logged(log_text, event)]


async def test_a_new_credential_is_proven_by_one_call_and_then_in_use(stage: Stage, log_text: io.StringIO) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await decided()
    assert stage.account_keys == [DEMO_API_KEY, NEW_KEY]
    assert await in_use(gateway) == NEW
    await stage.advance(5_000)
    assert fresh([await gateway.get()])
    assert stage.account_keys[2:] == [NEW_KEY]
    assert steps(log_text, "credential_replaced") == [(NEW, OLD, "accepted")]
    assert proofs(gateway) == {"accepted": 1}


async def test_replicas_that_see_the_secret_at_once_prove_it_by_one_call(stage: Stage) -> None:
    watched = [await stage.start_watched() for _ in range(4)]
    await watched[0][0].get()
    await settle()
    stage.change_key(NEW_KEY)
    await asyncio.gather(*(reloader.check_now() for _, reloader in watched))
    await decided()
    assert [await in_use(replica) for replica, _ in watched] == [NEW] * 4
    assert stage.account_keys == [DEMO_API_KEY, NEW_KEY]


async def test_replicas_that_see_it_90_s_apart_neither_flap_nor_double_the_calls(stage: Stage) -> None:
    (early, sees_early), (late, sees_late) = await stage.start_watched(), await stage.start_watched()
    await early.get()
    await settle()
    stage.change_key(NEW_KEY)
    await sees_early.check_now()
    await decided()
    for _ in range(9):
        await stage.advance(10_000)
        calls = stage.account_calls
        assert fresh([await late.get(), await early.get()])
        assert stage.account_calls == calls + 1
    await sees_late.check_now()
    await decided()
    assert (await in_use(late), proofs(late)) == (NEW, {"adopted": 1})
    await stage.advance(10_000)
    assert fresh([await late.get()])
    assert stage.account_keys == [DEMO_API_KEY, *[NEW_KEY] * 11]


async def test_a_wrong_key_leaves_the_old_pair_in_use_and_is_tried_once_by_the_fleet(
    stage: Stage, log_text: io.StringIO
) -> None:
    watched = [await stage.start_watched() for _ in range(3)]
    await watched[0][0].get()
    stage.change_key(NEW_KEY, known=False)
    for _, reloader in watched:
        await reloader.check_now()
    await decided()
    for _ in range(20):
        await stage.advance(10_000)
        assert fresh([await replica.get() for replica, _ in watched])
        await decided()
    assert [key for key in stage.account_keys if key != DEMO_API_KEY] == [NEW_KEY]
    assert steps(log_text, "credential_not_accepted") == [(NEW, OLD, "exchange-rejected-credentials")]
    assert 'coinm_credential_pending{account="main"} 1.0' in watched[0][0].metrics()


async def test_a_rejected_credential_is_tried_again_slowly_and_taken_once_it_works(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    stage.change_key(NEW_KEY, known=False)
    await reloader.check_now()
    await decided()
    stage.exchange.add_secret_key(NEW_KEY, DEMO_SECRET_KEY)
    await stage.advance(600_000)
    await gateway.get()  # announced, and so a reason to look
    await decided()
    assert await in_use(gateway) == NEW
    assert 'coinm_credential_pending{account="main"} 0.0' in gateway.metrics()


async def test_a_key_that_is_revoked_before_the_new_one_comes_fails_no_read_that_the_snapshot_meets(
    stage: Stage,
) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.exchange.revoke(DEMO_API_KEY)
    await stage.advance(10_000)
    assert cache_status(await gateway.get()).startswith("fwd=stale; fwd-status=401; ttl=-9")
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await decided()
    assert fresh([await gateway.get()])
    assert stage.account_keys == [DEMO_API_KEY, DEMO_API_KEY, NEW_KEY]


async def test_a_replica_with_a_revoked_key_is_served_by_who_has_the_new_one(stage: Stage) -> None:
    (early, sees_early), (late, _) = await stage.start_watched(), await stage.start_watched()
    await late.get()
    stage.exchange.revoke(DEMO_API_KEY)
    await stage.advance(10_000)
    await late.get()
    stage.change_key(NEW_KEY)
    await sees_early.check_now()
    await decided()
    for _ in range(3):
        await stage.advance(20_000)
        assert fresh([await late.get()])
    assert await in_use(early) == NEW


async def test_half_of_a_new_pair_is_not_taken_for_one(stage: Stage, log_text: io.StringIO) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.exchange.add_secret_key(NEW_KEY, "anotherSecret".ljust(64, "1"))
    stage.change_key(NEW_KEY, known=False)
    await reloader.check_now()
    await decided()
    assert await in_use(gateway) == OLD
    (stage.folder / "secrets" / "secret_key").write_text("anotherSecret".ljust(64, "1"))
    await reloader.check_now()
    await decided()
    assert await in_use(gateway) == NEW
    assert [outcome[-1] for outcome in steps(log_text, "credential_not_accepted")] == ["exchange-rejected-credentials"]


@pytest.mark.parametrize("content", ["", "\n", "two words", "\u00e4"])
async def test_a_file_that_is_half_written_changes_nothing(stage: Stage, log_text: io.StringIO, content: str) -> None:
    gateway, reloader = await stage.start_watched()
    (stage.folder / "secrets" / "api_key").write_text(content)
    await reloader.check_now()
    await decided()
    assert (await gateway.get()).status_code == 200
    assert await in_use(gateway) == OLD
    assert "settings_refused" in log_text.getvalue()


async def test_a_change_that_is_taken_back_before_it_is_proven_is_forgotten(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.exchange.hold()
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await stage.exchange.wait_held()
    stage.change_key(DEMO_API_KEY)
    await reloader.check_now()
    stage.exchange.release()
    await decided()
    assert await in_use(gateway) == OLD
    await stage.advance(5_000)
    assert fresh([await gateway.get()])
    assert stage.account_keys[-1] == DEMO_API_KEY


async def test_a_change_that_is_taken_back_after_it_was_in_use_is_proven_anew(stage: Stage) -> None:
    (one, sees_one), (other, sees_other) = await stage.start_watched(), await stage.start_watched()
    await one.get()
    for key in (NEW_KEY, DEMO_API_KEY):
        stage.change_key(key)
        await sees_one.check_now()
        await decided()
        await sees_other.check_now()
        await decided()
    assert [await in_use(each) for each in (one, other)] == [OLD, OLD]
    assert stage.account_keys == [DEMO_API_KEY, NEW_KEY, DEMO_API_KEY]


async def test_a_read_under_way_with_the_old_key_is_answered_and_does_not_land_over_the_new(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    stage.exchange.hold()
    read = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await stage.exchange.wait_held(2)
    stage.exchange.release()
    assert (await read).status_code == 200
    await decided()
    assert await in_use(gateway) == NEW
    async with stage.redis() as redis:
        use = cast("bytes", await redis.hget("coinm:{account:testing:127.0.0.1:1:main}:credentials", IDENTITY))
        stored = [name for name in await keys(redis) if b":snapshot:" in name]
    assert use.endswith(f":{NEW_IDENTITY}".encode())
    assert stored == []  # the old one's late answer is nobody's


async def test_during_a_ban_nothing_is_proven_and_afterwards_it_is(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.fail(Fault("418", seconds=60, count=1))
    await stage.advance(5_000)
    await gateway.get()
    calls = stage.exchange.calls.count()
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await decided()
    assert stage.exchange.calls.count() == calls
    await stage.advance(61_000)
    await gateway.get()  # sends the probe
    await decided()
    assert await in_use(gateway) == NEW


async def test_an_exchange_that_is_down_leaves_the_proof_for_later(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.fail("maintenance")
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await decided()
    assert proofs(gateway) == {"failed": 1}
    assert await in_use(gateway) == OLD
    stage.fail()
    await stage.advance(10_000)
    await gateway.get()
    await decided()
    assert await in_use(gateway) == NEW


async def test_without_redis_a_replica_proves_it_by_itself(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.redis_server.connected = False
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await decided()
    assert await in_use(gateway) == NEW
    stage.redis_server.connected = True
    await stage.advance(5_000)
    assert fresh([await gateway.get()])
    assert stage.account_keys == [DEMO_API_KEY, NEW_KEY, NEW_KEY]


async def test_a_wish_that_nobody_can_grant_comes_to_an_end(stage: Stage) -> None:
    """Two replicas with an older credential must not keep each other asking."""
    olds = [await stage.start() for _ in range(2)]
    await olds[0].get()
    new = await rotated(stage)
    await stage.advance(10_000)
    await new.get()
    await stage.end(new)
    await stage.advance(10_000)
    reads = [asyncio.create_task(each.get(cache_control="no-cache")) for each in olds]
    await stage.advance(2_100)
    assert [told(await read)[1] for read in reads] == ["exchange-rejected-credentials"] * 2
    calls = stage.account_calls
    await decided()
    assert stage.account_calls == calls


async def test_a_generation_goes_on_where_redis_has_forgotten_it(stage: Stage) -> None:
    """Two rotations, a long silence, a third: who signs with the second key must not take itself for newer."""
    third = "thirdApiKey".ljust(64, "3")
    (early, sees_early), (late, sees_late) = await stage.start_watched(), await stage.start_watched()
    for key in (NEW_KEY, DEMO_API_KEY):
        stage.change_key(key)
        await sees_early.check_now()
        await decided()
        await sees_late.check_now()
        await decided()
    await stage.advance(600_000)
    stage.change_key(third)
    await sees_early.check_now()
    await decided()
    asked = len(stage.account_keys)
    for _ in range(3):
        await stage.advance(10_000)
        assert fresh([await late.get(), await early.get()])
    assert set(stage.account_keys[asked:]) == {third}


# Pairs that others use already.

THEIR_KEY, THEIR_SECRET = "theirApiKey".ljust(64, "4"), "theirSecret".ljust(64, "4")


async def beside_strangers(stage: Stage) -> Replica:
    """Another deployment, whose account of the same name is another one; the files hold its pair from now on."""
    stage.exchange.add_book("theirs")
    stage.exchange.set_balance("BTC", "77.7", "theirs")
    stage.exchange.add_secret_key(THEIR_KEY, THEIR_SECRET, "theirs")
    put(stage, THEIR_KEY, THEIR_SECRET)
    theirs = await stage.start()
    await theirs.get()
    return theirs


def put(stage: Stage, key: str, secret: str) -> None:
    for name, text in (("api_key", key), ("secret_key", secret)):
        (stage.folder / "secrets" / name).write_text(text)


async def balance(replica: Replica) -> str:
    return str((await replica.get(BTC)).json()["walletBalance"])


@pytest.mark.parametrize("key", [DEMO_API_KEY, NEW_KEY])
async def test_who_used_a_strangers_pair_for_a_while_leads_the_strangers_nowhere(stage: Stage, key: str) -> None:
    ours = [await stage.start_watched() for _ in range(2)]
    own = await balance(ours[0][0])
    theirs = await beside_strangers(stage)
    stage.exchange.add_secret_key(key, DEMO_SECRET_KEY)
    for pair in ((THEIR_KEY, THEIR_SECRET), (key, DEMO_SECRET_KEY)):
        put(stage, *pair)
        for _, files in ours:
            await files.check_now()
            await decided()
    for _ in range(3):
        await stage.advance(5_000)
        assert [await balance(each) for each, _ in ours] == [own, own]
        assert await balance(theirs) == "77.70000000"
    assert set(stage.account_keys[-3:]) == {key, THEIR_KEY}


async def test_who_is_started_with_the_old_pair_is_not_led_to_strangers_for_as_long_as_they_use_theirs(
    stage: Stage,
) -> None:
    mistaken, files = await stage.start_watched()
    own = await balance(mistaken)
    theirs = await beside_strangers(stage)
    await files.check_now()
    await decided()
    assert await balance(mistaken) == "77.70000000"
    await stage.end(mistaken)
    put(stage, DEMO_API_KEY, DEMO_SECRET_KEY)
    for _ in range(3):
        await stage.advance(50_000)
        await theirs.get()
        await settle()
    assert await balance(await stage.start()) == own


async def test_replicas_share_what_a_new_one_was_started_with_before_they_all_see_the_files(stage: Stage) -> None:
    (early, sees_early), (late, sees_late) = await stage.start_watched(), await stage.start_watched()
    await early.get()
    stage.change_key(NEW_KEY)
    new = await stage.start()
    await new.get()
    await sees_early.check_now()
    await decided()
    calls = stage.account_calls
    for each in (late, early, new):
        assert fresh([await each.get()])
    assert stage.account_calls == calls
    await stage.advance(5_000)
    assert fresh([await late.get()])
    await sees_late.check_now()
    await decided()
    assert await in_use(late) == NEW
    assert (stage.account_calls, stage.account_keys[-1]) == (calls + 1, NEW_KEY)


async def test_a_superseded_replica_gets_what_the_proof_brought(stage: Stage) -> None:
    (early, sees_early), (late, _) = await stage.start_watched(), await stage.start_watched()
    await late.get()
    await stage.advance(10_000)
    stage.change_key(NEW_KEY)
    await sees_early.check_now()
    await decided()
    calls = stage.account_calls
    assert fresh([await late.get()])
    assert stage.account_calls == calls
    assert await in_use(early) == NEW


async def test_a_proof_that_fails_is_not_repeated_by_every_announcement(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    stage.fail("maintenance")
    stage.change_key(NEW_KEY)
    await reloader.check_now()
    await decided()
    for _ in range(30):
        await stage.advance(1_000)
        gateway.gateway.config.caches["main"].on_notification()
        await decided()
    assert 3 <= proofs(gateway)["failed"] <= 5  # 1, 2, 4, 8, 16 s apart, and as long as a claim lasts


def proofs(replica: Replica) -> dict[str, int]:
    """What became of new credentials."""
    found = re.findall(r'coinm_credential_proofs_total{account="main",outcome="(\w+)"} (\d+)', replica.metrics())
    return {outcome: int(count) for outcome, count in found}
