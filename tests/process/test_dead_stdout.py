"""A stdout that takes no line costs lines, which are counted: it shows nothing elsewhere, and ends nothing."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.process.conftest import STARTUP, GatewayProcess, figure, gateway_process, tables
from tests.support import BTC, bearer, until


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    full = os.open("/dev/full", os.O_WRONLY)
    yield full
    os.close(full)


@contextlib.contextmanager
def broken_pipe() -> Iterator[int]:
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def opened(pid: int) -> list[str]:
    """What a process has as stdout and stderr."""
    return [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (1, 2)]


async def until_lost(gateway: GatewayProcess, count: int) -> None:
    """Wait until so many lines are counted as dropped; a thread writes them."""

    async def lost() -> bool:
        return await figure(gateway, "coinm_log_lines_dropped_total") >= count

    await until(lost, STARTUP, f"{count} lines are dropped")


@pytest.mark.parametrize("dead", [full_disk, broken_pipe])
async def test_lines_are_counted_and_nothing_is_printed(
    tmp_path: Path, redis_port: int, exchange_url: str, dead: Callable[[], AbstractContextManager[int]]
) -> None:
    with dead() as stdout:
        async with gateway_process(tmp_path, tables(redis_port, exchange_url), stdout=stdout) as gateway:
            async with httpx.AsyncClient(headers=bearer()) as caller:
                statuses = [(await caller.get(gateway.url + BTC)).status_code for _ in range(20)]
            await until_lost(gateway, 21)
            status, _ = await gateway.stop()

    assert statuses == [200] * 20
    assert (status, gateway.errors) == (0, b"")


async def test_a_closed_stdout_is_no_sockets(tmp_path: Path, redis_port: int, exchange_url: str) -> None:
    """Its number would else be the first socket's, and the log would go to Redis."""
    through = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    async with gateway_process(tmp_path, tables(redis_port, exchange_url), through=through) as gateway:
        assert gateway.process is not None
        targets = opened(gateway.process.pid)
        async with httpx.AsyncClient(headers=bearer()) as caller:
            answer = await caller.get(gateway.url + BTC)
        await until_lost(gateway, 2)
        status, _ = await gateway.stop()

    assert targets == ["/dev/null", "/dev/null"]
    assert (answer.status_code, status) == (200, 0)
