"""The audit log of a real process: no read without its line, to the end."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service.telemetry.audit import Line
from simulator.exchange import Exchange
from tests.process.conftest import (
    STARTUP,
    GatewayProcess,
    Tables,
    closed,
    figure,
    gateway_process,
    keep_asking,
    run_command,
    tables,
)
from tests.support import BTC, bearer, until, write_settings


def audited(redis_port: int, exchange_url: str, **audit: object) -> Tables:
    return tables(redis_port, exchange_url) | {"audit": {"when_full": "refuse", **audit}}


async def load(gateway: GatewayProcess, count: int) -> Counter[int]:
    """20 keep-alive callers, each of whom asks until it is told to go; SIGTERM after `count` answers."""
    seen: Counter[int] = Counter()
    callers = [asyncio.create_task(keep_asking(gateway.url + BTC, seen)) for _ in range(20)]
    await until(lambda: seen.total() >= count, STARTUP, f"{count} answers")
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*callers)
    return seen


async def test_sigterm_under_load_loses_no_line(tmp_path: Path, redis_port: int, exchange_url: str) -> None:
    async with gateway_process(tmp_path, audited(redis_port, exchange_url, file="audit.jsonl")) as gateway:
        seen = await load(gateway, 100)
        status, _ = await gateway.ended()
    lines = [msgspec.json.decode(line, type=Line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]

    assert (status, set(seen)) == (0, {200})
    assert len(lines) == seen.total()
    assert len({line.request_id for line in lines}) == seen.total()


async def test_a_read_that_outlasts_the_drain_has_its_line(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    exchange.hold()
    async with gateway_process(tmp_path, audited(redis_port, exchange_url, file="audit.jsonl")) as gateway:
        async with httpx.AsyncClient(headers=bearer(), timeout=30) as caller:
            asked = asyncio.create_task(caller.get(gateway.url + BTC))
            await exchange.wait_held()
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.send_signal(signal.SIGTERM)  # ends the drain at once
            await closed(gateway.url)
            exchange.release()
            answer = await asked
        await gateway.ended()
    line = msgspec.json.decode((tmp_path / "audit.jsonl").read_text(), type=Line)

    assert (answer.status_code, line.status) == (200, 200)
    assert line.request_id == answer.headers["x-request-id"]


async def test_on_stdout_lines_stand_whole_among_the_logs(tmp_path: Path, redis_port: int, exchange_url: str) -> None:
    async with gateway_process(tmp_path, audited(redis_port, exchange_url)) as gateway:
        seen = await load(gateway, 200)
        _, output = await gateway.ended()
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]

    assert sum(line.get("stream") == "audit" for line in lines) == seen.total()
    assert sum(line.get("event") == "request" for line in lines) == seen.total()


async def test_a_caller_who_hangs_up_has_its_line(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    exchange.hold()
    audit = tmp_path / "audit.jsonl"
    async with gateway_process(tmp_path, audited(redis_port, exchange_url, file="audit.jsonl")) as gateway:
        async with httpx.AsyncClient(headers=bearer()) as caller:
            with pytest.raises(httpx.ReadTimeout):
                await caller.get(gateway.url + BTC, timeout=0.5)
        # Not before: an answer that comes as the caller hangs up may still be sent.
        await until(lambda: audit.read_text() != "", 5, "the line of a caller who has gone")
        exchange.release()
        await gateway.stop()
    line = msgspec.json.decode(audit.read_text(), type=Line)

    assert (line.client, line.status, line.snapshot) == ("risk", None, None)


async def test_a_file_that_cannot_be_written_ends_it_at_once(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    config = write_settings(tmp_path, **audited(redis_port, exchange_url, file="none/audit.jsonl"))

    served = await run_command("serve", "--config", str(config))
    status, output, _ = await run_command("check", "--config", str(config))

    assert served == (2, "", f"coinm-gateway: {config}: audit.file: cannot be created in its folder\n")
    assert status == 1
    assert "fail  audit                    audit.file cannot be created in its folder" in output
    assert f"{tmp_path}/none" not in output


async def test_check_says_where_lines_go_and_creates_nothing(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    config = write_settings(tmp_path, **audited(redis_port, exchange_url, file="audit.jsonl"))

    _, output, _ = await run_command("check", "--config", str(config))

    assert "ok    audit                    audit.file, queue 10000, when full refuse" in output
    assert f"{tmp_path}/audit.jsonl" not in output
    assert not (tmp_path / "audit.jsonl").exists()


async def test_a_full_disk_refuses_reads_until_there_is_room_again(
    tmp_path: Path, redis_port: int, exchange_url: str, unshare: str
) -> None:
    """On a disk of 64 KiB that only the gateway has, which another file fills."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=64k none {disk} && exec "$@"'
    settings = audited(redis_port, exchange_url, file=f"{disk}/audit.jsonl")
    through = [unshare, "--mount", "sh", "-c", mount, "sh"]
    async with gateway_process(tmp_path, settings, through=through) as gateway:
        assert gateway.process is not None
        filler = Path(f"/proc/{gateway.process.pid}/root{disk}/filler")
        fill(filler)
        async with httpx.AsyncClient(headers=bearer()) as caller:
            refusal = await status_of(caller, gateway.url + BTC, 503)
            failing = await figure(gateway, "coinm_audit_failing")
            filler.unlink()  # noqa: ASYNC240 - a file in memory
            await status_of(caller, gateway.url + BTC, 200)
            mended = await figure(gateway, "coinm_audit_failing")
        status, log = await gateway.stop()

    assert refusal.json()["type"] == "urn:coinm-gateway:problem:audit-unavailable"
    assert refusal.headers["retry-after"] == "1"
    assert (failing, mended, status) == (1, 0, 0)
    assert log.count('"event":"audit_unwritable"') == log.count('"event":"audit_written_again"') == 1


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with pytest.raises(OSError, match="No space"):
        path.write_bytes(b"x" * 128 * 1024)


async def status_of(caller: httpx.AsyncClient, url: str, status: int) -> httpx.Response:
    """The first answer with a status."""
    async with asyncio.timeout(10):
        while (answer := await caller.get(url)).status_code != status:
            await asyncio.sleep(0.02)
    return answer
