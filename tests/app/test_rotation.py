"""A credential is replaced: by replicas that are started with another, and by files that change."""

import asyncio

from tests.app.harness import BTC, Stage, settle
from tests.app.test_fleet import fleet, fresh

NEW_KEY = "anotherApiKey".ljust(64, "1")

# Replicas that are started with another credential.


async def test_replicas_of_one_credential_are_never_superseded_by_each_other(stage: Stage) -> None:
    """One of them has only ever adopted; then the key is rotated, and Redis loses everything."""
    leads, adopts = await fleet(stage, 2)
    await leads.get()
    await settle()
    stage.change_key(NEW_KEY)
    rotated = await stage.start()
    await stage.advance(5_000)
    assert fresh([await rotated.get()])
    await stage.advance(5_000)
    asked = stage.account_calls
    assert fresh([await adopts.get()])  # it knew whose credential it has, and asked who has the newer one
    assert (stage.account_calls, stage.account_keys[-1]) == (asked + 1, NEW_KEY)
    async with stage.redis() as redis:
        await redis.flushall()
    started = await stage.start()
    for each in (started, rotated, started, rotated):
        calls = stage.account_calls
        await stage.advance(5_000)
        await each.get()
        await settle()
        assert fresh([await started.get(), await rotated.get()])
        assert stage.account_calls == calls + 1


async def test_a_credential_that_its_replicas_took_with_them_bars_nobody_for_ever(stage: Stage) -> None:
    old = await stage.warm()
    stage.change_key(NEW_KEY)
    new = await stage.start()
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
    old = await stage.warm()
    stage.change_key(NEW_KEY)
    new = await stage.start()
    await stage.advance(10_000)
    await new.get()
    await settle()
    assert fresh([await old.get()])
    for number, headers in enumerate([{}, {"cache_control": "no-cache"}, {"cache_control": "max-age=5"}], 3):
        await stage.advance(10_000)  # nobody asks the one with the newer credential
        assert fresh([await old.get(BTC, **headers)])
        assert stage.account_calls == number
    assert stage.account_keys[1:] == [NEW_KEY] * 4
