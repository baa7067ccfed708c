"""Processes that are measured, on a core of their own; everything else is on the other."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx
import msgspec

SERVER_CORE, LOAD_CORE = 0, 1
STARTUP_S = 20.0
"""For a process to answer."""
POLL_S = 0.01
"""Between two looks whether it does: well below what a start takes."""
_SCRIPT = Path(__file__).parent / "load.lua"


class Load(msgspec.Struct, frozen=True):
    """One run of wrk; latencies in microseconds."""

    requests: int
    microseconds: int
    failed: int
    p50: float
    p99: float
    p999: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests * 1e6 / self.microseconds


class Process:
    """A program, pinned to a core; started by `async with`, ended with the block. Its stdout is `/dev/null`."""

    def __init__(self, *command: str, core: int = SERVER_CORE, check: str = "") -> None:
        self._command = ("taskset", "--cpu-list", str(core), *command)
        self._check = check
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=subprocess.DEVNULL)
        try:
            async with asyncio.timeout(STARTUP_S):
                await self._until_it_answers()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    @property
    def cpu(self) -> float:
        """Seconds of user and system time so far, its children's included."""
        return sum(_cpu(pid) for pid in self._pids())

    @property
    def resident(self) -> int:
        """Bytes."""
        return sum(_resident(pid) for pid in self._pids())

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{' '.join(self._command)} was not started")
        return self._process

    def _pids(self) -> list[int]:
        own = self._running.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return [own, *map(int, children)]

    async def _until_it_answers(self) -> None:
        process = self._running
        async with httpx.AsyncClient(trust_env=False) as client:
            while self._check:
                if process.returncode is not None:
                    raise RuntimeError(f"{' '.join(self._command)} ended with {process.returncode}")
                try:
                    await client.get(self._check)
                except httpx.TransportError:
                    await asyncio.sleep(POLL_S)
                else:
                    return


def python(module: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *map(str, arguments))


class Request(msgspec.Struct, frozen=True):
    """What callers request, again and again."""

    url: str
    headers: Sequence[str] = ()
    paths: Sequence[str] = ()
    """Requested in turn, instead of the URL's."""


async def load(request: Request, seconds: float, connections: int, pause_ms: int = 0) -> Load:
    """Request on so many connections; with a pause between two requests of each.

    Raises:
        RuntimeError: wrk failed, or a request did.
    """
    headers = [part for header in request.headers for part in ("--header", header)]
    process = await asyncio.create_subprocess_exec(
        *("taskset", "--cpu-list", str(LOAD_CORE), "wrk", "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{seconds:.0f}s", "--script", str(_SCRIPT), *headers, request.url),
        *("--", str(pause_ms), *request.paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    lines = output.decode().splitlines()
    if process.returncode or not lines:
        raise RuntimeError(f"wrk: {output.decode()}")
    result = msgspec.json.decode(lines[-1], type=Load)
    if result.failed:
        raise RuntimeError(f"{request.url}: {result.failed} requests failed")
    return result


def _cpu(pid: int) -> float:
    # The clock that clock_getcpuclockid(3) names, which Python lacks. In nanoseconds: /proc has hundredths of seconds,
    # and a second of few refreshes is some of these.
    return time.clock_gettime(~pid << 3 | 2)


def _resident(pid: int) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024
