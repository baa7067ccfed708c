"""Whatever stands in Redis or is announced there: an account costs its calls, answers by itself, and harms no other."""

import asyncio
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.fleet.shared_state import LEASE_MS
from simulator.exchange import DOCUMENTS
from tests.app.conftest import MakeStage
from tests.app.harness import (
    BALANCE,
    BRACKETS,
    BTC,
    PATHS,
    RISK,
    Replica,
    Stage,
    cache_status,
    decided,
    settle,
    told,
)
from tests.hostile import CANARY, hostile_states
from tests.support import IDENTITY

MAIN, EGRESS = "coinm:{account:testing:127.0.0.1:1:main}", "coinm:{egress:127.0.0.1:1:default}"
OTHER = "/v1/accounts/other/assets/BTC"
LISTING = "coinm:testing:127.0.0.1:1:listing"
CHANNEL = "coinm:testing:127.0.0.1:1:news"
STRANGER = "f" * 16

KEYS: dict[str, Callable[[Stage], str]] = {
    "the snapshot": lambda _: f"{MAIN}:snapshot:{IDENTITY}",
    "the lease": lambda _: f"{MAIN}:lease:{IDENTITY}",
    "failures": lambda _: f"{MAIN}:failures:{IDENTITY}",
    "a proof": lambda _: f"{MAIN}:proof:{IDENTITY}",
    "credentials": lambda _: f"{MAIN}:credentials",
    "the address's hold": lambda _: f"{EGRESS}:hold",
    "the credential's hold": lambda _: f"{EGRESS}:hold:{IDENTITY}",
    "the probe": lambda _: f"{EGRESS}:probe",
    "the ledger": lambda stage: f"{EGRESS}:ledger:{stage.exchange.now_ms() // 60_000}",
    "calls under way": lambda stage: f"{EGRESS}:ledger:{stage.exchange.now_ms() // 60_000}:calls",
    "the listing": lambda _: LISTING,
    "the listing's claim": lambda _: f"{LISTING}-claim",
    "the heartbeat": lambda _: "coinm:heartbeat",
}
FURTHER = {
    f"the {kind} of {path.rpartition('/')[2]}": (path, f"{MAIN}:{document}:{kind}:{IDENTITY}")
    for path, document in ((BALANCE, "balance"), (RISK, "position-risk"), (BRACKETS, "leverage-brackets"))
    for kind in ("snapshot", "lease", "failures")
}
"""Keys of the further documents, and the path that reads them."""


def at(key: str) -> Callable[[Stage], str]:
    return lambda _: key


KEYS |= {name: at(key) for name, (_, key) in FURTHER.items()}


async def read(stage: Stage, replica: Replica, path: str) -> tuple[httpx.Response, int]:
    """An answer, and the ms that went by until it came: none, or a lease's life."""
    reading = asyncio.create_task(replica.get(path))
    await decided()  # in turns of the loop, not in time: on busy cores a read that needn't wait takes any time
    waiting = not reading.done()
    if waiting:
        await stage.advance(LEASE_MS + 1)
    return await reading, LEASE_MS + 1 if waiting else 0


async def worked(make_stage: MakeStage, mine: str) -> tuple[Stage, Replica]:
    """Two accounts that have had snapshots, a failure, and refreshes on demand."""
    stage = make_stage(accounts={"main": None, "other": None})
    replica = await stage.start()
    for path in (mine, OTHER):
        assert (await replica.get(path)).status_code == 200
        await stage.advance(1_100)
        assert (await replica.get(path, cache_control="no-cache")).status_code == 200
    return stage, replica


def document_calls(stage: Stage) -> int:
    return sum(stage.exchange.calls.count(path) for path in DOCUMENTS)


@pytest.mark.parametrize("name", KEYS)
async def test_whatever_stands_at_a_key_reads_go_on_and_it_heals(
    make_stage: MakeStage, log_text: io.StringIO, name: str
) -> None:
    path, _ = FURTHER.get(name, (BTC, ""))
    stage, replica = await worked(make_stage, path)
    tried, outdated = 0, 3_605_000 if path == BRACKETS else 5_000
    async with stage.redis() as redis:
        async for state in hostile_states(redis, KEYS[name](stage)):
            tried += 1
            await stage.advance(outdated)
            answer, _ = await read(stage, replica, OTHER)
            mine, waited = await read(stage, replica, path)
            assert (answer.status_code, mine.status_code) == (200, 200), state
            assert int(mine.headers["gateway-snapshot-age"]) <= waited, (state, cache_status(mine))
            assert (await replica.status())["redis"] == "ok", state
            assert "retry-after" not in mine.headers
    calls, started = document_calls(stage), await stage.start()
    assert [(await started.get(each)).status_code for each in (path, OTHER)] == [200, 200]
    assert document_calls(stage) == calls  # both were shared again
    assert tried > 20
    assert "redis_away" not in log_text.getvalue()
    told_of = [log_text.getvalue(), replica.metrics(), *(answer.text for answer in stage.answers)]
    assert [text for text in told_of if CANARY in text] == []


async def test_a_failure_that_somebody_wrote_is_told_in_words_of_ours_and_for_no_longer_than_one_lasts(
    stage: Stage,
) -> None:
    error = f'{{"problem":"exchange-unavailable","detail":"{CANARY}","answered":503,"code":99999999999}}'
    async with stage.redis() as redis:
        await redis.hset(f"{MAIN}:failures:{IDENTITY}", mapping={"count": 3, "error": error})
        await redis.pexpire(f"{MAIN}:failures:{IDENTITY}", 3_600_000 + 30_000)
    answer = await (await stage.start()).get()
    status, problem, retry_after = told(answer)
    assert (status, problem) == (503, "exchange-unavailable")
    assert 28 <= int(retry_after or 0) <= 30
    assert CANARY not in answer.text


@pytest.mark.parametrize("path", [BALANCE, RISK, BRACKETS])
async def test_another_documents_entry_at_a_documents_key_counts_as_none(stage: Stage, path: str) -> None:
    """Such as one that a script moved: whole in itself, and by a replica's hand."""
    replica = await stage.warm()
    async with stage.redis() as redis:
        for field, value in (await redis.hgetall(f"{MAIN}:snapshot:{IDENTITY}")).items():
            await redis.hset(f"{MAIN}:{path.rpartition('/')[2]}:snapshot:{IDENTITY}", field, value)
    answer = await replica.get(path)
    assert (answer.status_code, cache_status(answer)) == (200, "fwd=miss; stored")
    assert answer.content == stage.raw(exchange_path(path))


def exchange_path(path: str) -> str:
    """The exchange's, of the whole document that a path of ours reads."""
    return next(shape.document.path for shape, each in PATHS.items() if each == path)


# Others' entries under the same name.


def other_pair(stage: Stage) -> None:
    """From now on the files hold another exchange account's key."""
    stage.exchange.add_secret_key(STRANGER * 4, "anotherSecret".ljust(64, "1"))
    (stage.folder / "secrets" / "api_key").write_text(STRANGER * 4)
    (stage.folder / "secrets" / "secret_key").write_text("anotherSecret".ljust(64, "1"))


async def test_another_deployments_account_of_the_same_name_is_neither_served_nor_waited_for(
    stage: Stage, log_text: io.StringIO
) -> None:
    one = await stage.warm()
    other_pair(stage)
    other = await stage.start()
    for _ in range(3):
        assert (await other.get()).status_code == 200
        await stage.advance(5_000)
        answers = [await each.get() for each in (other, one)]
        assert [cache_status(answer) for answer in answers] == ["fwd=stale; fwd-status=200; stored"] * 2
    assert set(stage.account_keys[-2:]) == {stage.account_keys[0], STRANGER * 4}
    assert log_text.getvalue().count('"event":"foreign_entry"') == 2  # once each
    for each in (one, other):
        assert 'coinm_foreign_entries_total{account="main"} 0.0' not in each.metrics()


async def test_a_key_that_was_changed_while_the_gateway_was_stopped_starts_with_nothing_of_the_old_accounts(
    stage: Stage,
) -> None:
    await stage.end(await stage.warm())
    other_pair(stage)
    started = await stage.start()
    assert (await started.get(cache_control="only-if-cached")).status_code == 504
    assert cache_status(await started.get()) == "fwd=miss; stored"
    assert stage.account_keys[-1] == STRANGER * 4


async def test_one_account_in_one_deployment_is_nobodys_foreign_entry(stage: Stage, log_text: io.StringIO) -> None:
    replicas = [await stage.start() for _ in range(3)]
    for _ in range(5):
        await stage.advance(5_000)
        for each in replicas:
            await each.get()
    assert "foreign_entry" not in log_text.getvalue()
    assert 'coinm_foreign_entries_total{account="main"} 0.0' in replicas[0].metrics()


# Messages.


async def test_announcements_of_strangers_cost_no_call(stage: Stage) -> None:
    replica = await stage.warm()
    messages: list[Any] = [
        f"{MAIN}:snapshot:{IDENTITY} 0 0",
        f"main {IDENTITY} {STRANGER} 0",
        f"main {STRANGER} {IDENTITY} 0",
        f"main {IDENTITY}",
        b"\xff" * 100,
        f"main {IDENTITY} " + "9" * 10_000,
    ]
    async with stage.redis() as redis:
        for _ in range(65):
            for message in messages:
                await redis.publish(CHANNEL, message)
            await stage.advance(123)
    assert stage.account_calls == 1
    assert (await replica.get(cache_control="only-if-cached")).status_code in {200, 504}


async def test_a_wish_in_a_replaced_replicas_name_costs_no_more_than_a_caller_could(stage: Stage) -> None:
    replica, files = await stage.start_watched()
    await replica.get()
    stage.change_key("anotherApiKey".ljust(64, "1"))
    await files.check_now()
    await settle()
    await stage.advance(5_000)
    assert (await replica.get()).status_code == 200
    await settle()
    calls, began = stage.account_calls, stage.exchange.now_ms()
    identity = replica.gateway.config.caches["main"].source.identity
    async with stage.redis() as redis:
        for _ in range(390):
            await redis.publish(CHANNEL, f"main {identity} {IDENTITY} 0")
            await stage.advance(20)
    passed = (stage.exchange.now_ms() - began) // 1_000
    assert 1 <= stage.account_calls - calls <= passed + 1
    assert replica.gateway.exchange.address.window.forced == 5 * (stage.account_calls - calls)


# Refreshes on demand.


async def test_one_clients_demands_on_two_accounts_leave_room_for_anothers(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": None, "other": None}, freshness={"min_refresh_interval": "100ms"})
    replica = await stage.start()
    for second in range(58):
        for path in (BTC, OTHER):
            await replica.get(path, cache_control="no-cache")
        if second >= 48:
            answer = await replica.get(client="treasury", cache_control="no-cache")
            assert answer.status_code == 200, second
        await stage.advance(1_000)
