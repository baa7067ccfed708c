"""A signal is never lost, whenever it comes: while it starts, and as PID 1 of a container too."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from service.ending import SIGNALS
from tests.process.conftest import STARTUP, GatewayProcess, Tables
from tests.support import free_port, write_settings

MOMENTS = [0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5]
"""Seconds from the first instruction of ours to the signal: importing, building, listening, serving."""
SOON = 4.0
"""Seconds to the end: the drain is 100 ms, and nothing is under way."""
Launch = Callable[..., GatewayProcess]


@pytest.fixture
async def prepared(tmp_path: Path) -> AsyncIterator[Launch]:
    """A gateway that is not started yet; killed after the test."""
    made: list[GatewayProcess] = []

    def make(*through: str) -> GatewayProcess:
        settings: Tables = {"server": {"port": free_port(), "metrics_port": free_port(), "drain": "100ms"}}
        made.append(GatewayProcess(write_settings(tmp_path, **settings), settings, through=through))
        return made[-1]

    yield make
    for each in made:
        await each.kill()


def blocked(pid: int) -> bool:
    """Whether a process queues its signals, which is its first instruction."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigBlk:")).split()[1], 16)
    return all(mask >> (number - 1) & 1 for number in SIGNALS)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def begun(pid: int) -> None:
    async with asyncio.timeout(STARTUP):
        while not blocked(pid):
            await asyncio.sleep(0.001)


async def child_of(pid: int) -> int:
    """The one process that another starts."""
    async with asyncio.timeout(STARTUP):
        while not children(pid):
            await asyncio.sleep(0.001)
    return children(pid)[0]


async def ended_by(process: GatewayProcess, send: Callable[[], None]) -> tuple[int | None, float]:
    """The exit status after a signal, and the seconds it took."""
    began = time.monotonic()
    send()
    status, _ = await process.ended()
    return status, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_signal_at_any_moment_of_the_start_ends_it_with_0(
    prepared: Launch, moment: float, number: signal.Signals
) -> None:
    gateway = prepared()
    process = await gateway.launch()
    await begun(process.pid)
    process.send_signal(signal.SIGHUP)  # which must not end it
    await asyncio.sleep(moment)
    assert process.returncode is None
    status, seconds = await ended_by(gateway, lambda: process.send_signal(number))

    assert (status, gateway.errors) == (0, b"")
    assert seconds < SOON


@pytest.mark.parametrize("moment", MOMENTS[::2])
async def test_a_signal_at_any_moment_of_the_start_ends_pid_1_with_0_too(
    prepared: Launch, unshare: str, moment: float
) -> None:
    """Where the kernel drops every signal that nothing waits for."""
    gateway = prepared(unshare, "--pid", "--fork", "--kill-child")
    outer = await gateway.launch()
    first = await child_of(outer.pid)
    await begun(first)
    os.kill(first, signal.SIGHUP)
    await asyncio.sleep(moment)
    status, seconds = await ended_by(gateway, lambda: os.kill(first, signal.SIGTERM))

    assert (status, gateway.errors) == (0, b"")
    assert seconds < SOON
