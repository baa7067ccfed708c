"""A real balancer before replicas that come and go: haproxy, which learns of a drain only after the fact."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.process.conftest import GatewayProcess
from tests.support import free_port, until

STARTUP = 10.0
"""Seconds for it, or for a replica in it, to be up."""
NOTICE_MS = 200
"""Between two looks at a replica's readiness. In a cluster, what ends a pod tells the balancers at the same time."""
SLOTS = 6
"""Replicas that may be there at once, those included that have ended."""

# Nothing hides a failure: no retry, no second replica. Connections are kept on both sides, and shared by callers.
CONFIGURATION = """
global
    stats socket {socket} level admin
defaults
    mode http
    retries 0
    http-reuse always
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend callers
    bind 127.0.0.1:{port}
    default_backend gateway
backend gateway
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
    server-template replica {slots} 127.0.0.1:1 check inter {notice}ms fall 1 rise 1 disabled
"""


class Balancer:
    """One haproxy, started by `async with`.

    Args:
        program: its path.
        folder: its own, with a short path: it holds a Unix socket.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self._program = program
        self._socket = folder / "haproxy.sock"
        self._configuration = folder / "haproxy.cfg"
        self._process: asyncio.subprocess.Process | None = None
        self._slots: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        text = CONFIGURATION.format(socket=self._socket, port=self.port, slots=SLOTS, notice=NOTICE_MS)
        self._configuration.write_text(text)
        command = (self._program, "-db", "-f", str(self._configuration))
        self._process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        await until(self._answers, STARTUP, "haproxy answers")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def add(self, replicas: Iterable[GatewayProcess]) -> None:
        """Send callers to these too, once they are ready; return when it does."""
        for replica in replicas:
            slot = f"gateway/replica{len(self._slots) + 1}"
            self._slots[replica.url] = slot
            await self._tell(f"set server {slot} addr 127.0.0.1 port {urlsplit(replica.url).port}")
            await self._tell(f"set server {slot} state ready")
            await until(partial(self._is_up, slot), STARTUP, f"{slot} is up")

    async def _is_up(self, slot: str) -> bool:
        """By its operational state (2: running), in the fifth column after the names."""
        backend, _, name = slot.partition("/")
        rows = [line.split() for line in (await self._tell(f"show servers state {backend}")).splitlines()]
        return any(row[3] == name and row[5] == "2" for row in rows if len(row) > 5)

    async def _answers(self) -> bool:
        try:
            return bool(await self._tell("show info"))
        except OSError:
            return False

    async def _tell(self, command: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        writer.write(f"{command}\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        return answer
