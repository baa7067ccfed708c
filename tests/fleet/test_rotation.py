"""Secrets are swapped under a running fleet with callers, and nobody is told anything but numbers."""

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec

from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from tests.fleet.fleets import Crowd, fleet
from tests.fleet.mounted import MountedVolume
from tests.process.conftest import GatewayProcess, tables
from tests.support import until

NEW_KEY, NEW_SECRET = "anotherApiKey".ljust(64, "1"), "anotherSecretKey".ljust(64, "1")
WRONG_KEY = "wrongApiKey".ljust(64, "2")
OLD, NEW, WRONG = (hashlib.sha256(key.encode()).hexdigest()[:8] for key in (DEMO_API_KEY, NEW_KEY, WRONG_KEY))
"""Fingerprints."""
NOTICED = 10.0
"""Seconds for a change of files to be noticed and acted upon; some 0.2 s where the machine has time."""


def pair(api_key: str, secret_key: str = DEMO_SECRET_KEY) -> dict[str, str]:
    return {"api_key": api_key, "secret_key": secret_key}


def mounted(replica: GatewayProcess) -> MountedVolume:
    return MountedVolume(replica.config.parent / "secrets", pair(DEMO_API_KEY))


async def metrics(replica: GatewayProcess, name: str) -> dict[str, float]:
    """A counter's values by its labels."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(replica.metrics_url)).text
    return {labels: float(value) for labels, value in re.findall(rf"^coinm_{name}({{.*}})? (.*)$", text, re.MULTILINE)}


async def proofs(replicas: list[GatewayProcess]) -> dict[str, int]:
    """What became of new credentials, in all replicas together."""
    found: dict[str, int] = {}
    for replica in replicas:
        for labels, count in (await metrics(replica, "credential_proofs_total")).items():
            outcome = re.findall(r'outcome="(\w+)"', labels)[0]
            found[outcome] = found.get(outcome, 0) + int(count)
    return found


async def until_in_use(crowd: Crowd, credential: str) -> None:
    async def everywhere() -> bool:
        return {(await caller.account())["credential"] for caller in crowd.callers} == {credential}

    await until(everywhere, NOTICED, f"every replica uses {credential}")


async def until_refused(replicas: list[GatewayProcess]) -> None:
    async def everywhere() -> bool:
        return all([(await metrics(each, "settings_refused"))[""] == 1 for each in replicas])

    await until(everywhere, NOTICED, "every replica refuses the files")


async def until_proofs(replicas: list[GatewayProcess], expected: dict[str, int]) -> None:
    async def counted() -> bool:
        return await proofs(replicas) == expected

    await until(counted, NOTICED, f"proofs are {expected}")


def events(text: str, name: str) -> list[dict[str, Any]]:
    """A replica's log lines of one kind."""
    return [line for line in map(msgspec.json.decode, text.splitlines()) if line["event"] == name]


def keys(exchange: Exchange) -> list[str | None]:
    """Whose account calls there were."""
    return [call.api_key for call in exchange.calls.kept() if call.path == ACCOUNT_PATH]


async def test_a_secret_is_swapped_under_load_by_one_replica_after_the_other(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    exchange.add_secret_key(NEW_KEY, NEW_SECRET)
    async with fleet(tmp_path, 3, tables(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        secrets = [mounted(replica) for replica in replicas]
        await crowd.warm()
        async with crowd.asking(3, pause=0.02) as answers:
            secrets[0].publish(pair(NEW_KEY, NEW_SECRET))
            await until_proofs(replicas, {"accepted": 1})
            proven = len(keys(exchange))
            await asyncio.sleep(3)  # of callers, some of replicas that have not seen the new Secret
            for secret in secrets[1:]:
                secret.publish(pair(NEW_KEY, NEW_SECRET))
            await until_in_use(crowd, NEW)
            await asyncio.sleep(1)
        counted = await proofs(replicas)
        logs = [(await replica.stop())[1] for replica in replicas]

    assert {answer.status for answer in answers} == {200}
    assert counted == {"accepted": 1, "adopted": 2}
    assert set(keys(exchange)[proven:]) == {NEW_KEY}
    for text in logs:
        [line] = events(text, "credential_replaced")
        assert (line["credential"], line["replaced"]) == (NEW, OLD)
        assert not {DEMO_API_KEY, DEMO_SECRET_KEY, NEW_KEY, NEW_SECRET} & set(re.split(r"[^A-Za-z0-9]", text))


async def test_wrong_keys_and_half_written_files_are_survived_under_load_until_the_right_pair_comes(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    async with fleet(tmp_path, 3, tables(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        secrets = [mounted(replica) for replica in replicas]
        await crowd.warm()
        async with crowd.asking(3, pause=0.02) as answers:
            for secret in secrets:
                secret.publish(pair(WRONG_KEY))
            await until_proofs(replicas, {"rejected": 1})
            for secret in secrets:
                secret.publish(pair(""))
            await until_refused(replicas)
            exchange.add_secret_key(NEW_KEY, NEW_SECRET)
            exchange.revoke(DEMO_API_KEY)
            await exchange.calls.wait_for(ACCOUNT_PATH, exchange.calls.count(ACCOUNT_PATH) + 1)
            for secret in secrets:
                secret.publish(pair(NEW_KEY, NEW_SECRET))
            await until_in_use(crowd, NEW)
            await crowd.until_all_are_fresh()
        logs = [(await replica.stop())[1] for replica in replicas]

    assert {answer.status for answer in answers} == {200}
    asked = keys(exchange)
    assert asked.count(WRONG_KEY) == 1
    first = asked.index(NEW_KEY)
    assert set(asked[first:]) == {NEW_KEY}
    [rejected] = [line for text in logs for line in events(text, "credential_not_accepted")]
    assert (rejected["credential"], rejected["in_use"]) == (WRONG, OLD)
    for text in logs:
        [refused] = events(text, "settings_refused")
        assert refused["error"].endswith("api_key_file: expected a secret, found nothing")


async def test_plain_files_are_written_piece_by_piece_and_nobody_notices(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    exchange.add_secret_key(NEW_KEY, NEW_SECRET)
    async with fleet(tmp_path, 1, tables(redis_port, exchange_url)) as replicas, Crowd(replicas) as crowd:
        secrets = replicas[0].config.parent / "secrets"
        await crowd.warm()
        async with crowd.asking(3, pause=0.02) as answers:
            (secrets / "api_key").write_text("")
            await until_refused(replicas)
            (secrets / "api_key").write_text(NEW_KEY[:40])
            await until_proofs(replicas, {"rejected": 1})
            (secrets / "api_key").write_text(NEW_KEY)
            await until_proofs(replicas, {"rejected": 2})
            (secrets / "secret_key").write_text(NEW_SECRET)
            await until_in_use(crowd, NEW)
            # A refresh that began with the old pair may make one more call after the proof.
            await until(lambda: keys(exchange)[-1] == NEW_KEY, 5, "no refresh with the new pair")
            await crowd.until_all_are_fresh()

    assert {answer.status for answer in answers} == {200}


async def test_sighup_reads_the_files_at_once_and_ends_nothing(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    async with fleet(tmp_path, 1, tables(redis_port, exchange_url)) as [replica], Crowd([replica]) as crowd:
        before = await metrics(replica, "reloads_total")
        replica.config.write_text(replica.config.read_text().replace('assets = ["BTC", "ETH"]', 'assets = ["BTC"]'))
        assert replica.process is not None
        replica.process.send_signal(1)

        async def applied() -> bool:
            return (await metrics(replica, "reloads_total")) == {'{outcome="applied"}': 1.0}

        await until(applied, NOTICED, "the change is applied")
        [answer] = await crowd.rush(1).answers()
        assert (before, answer.status) == ({}, 200)
        status, _ = await replica.stop()
    assert status == 0
