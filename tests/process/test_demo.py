"""`python -m simulator demo`, as `make demo` starts it: what it prints works as printed."""

import asyncio
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.process.conftest import STARTUP, greeting
from tests.support import free_port


async def test_the_printed_lines_work_as_printed_and_ctrl_c_exits_with_0(
    demo: asyncio.subprocess.Process, curl: str
) -> None:
    async with asyncio.timeout(STARTUP):
        printed = await greeting(demo)
    answers = [await run(line, curl) for line in printed if line.startswith("curl ")]
    demo.send_signal(signal.SIGINT)
    async with asyncio.timeout(STARTUP):
        await demo.communicate()

    accounts, asset, positions, longs, denied, status, drop_in, *_outage = answers
    assert '"account":"hedged"' in accounts
    assert "cache-status: coinm-gateway; fwd=miss; stored" in asset
    assert '"positionSide":"BOTH"' in positions
    assert '"LONG"' in longs
    assert '"SHORT"' not in longs
    assert "HTTP/1.1 403" in denied
    assert '"redis":"ok"' in status
    assert '{"assets":[{"asset":"BTC",' in drop_in
    assert '"positionSide":"LONG"' in drop_in
    assert '"SHORT"' not in drop_in
    assert demo.returncode == 0


async def test_the_outage_it_suggests_shows_what_a_caller_sees_of_one(
    demo: asyncio.subprocess.Process, curl: str
) -> None:
    async with asyncio.timeout(STARTUP):
        printed = await greeting(demo)
    *_before, down, default, fresh, back = [line for line in printed if line.startswith("curl ")]
    await run(default, curl)
    await run(down, curl)
    stale = await until_stale(default, curl)
    refused = await run(fresh, curl)

    assert "HTTP/1.1 200" in stale
    assert "HTTP/1.1 503" in refused
    assert "urn:coinm-gateway:problem:exchange-unavailable" in refused
    assert (await run(back, curl)).strip() == "[]"


async def test_ctrl_c_on_the_terminal_of_make_ends_it_with_status_0(tmp_path: Path) -> None:
    """Not only the demo's own: `make`, in whose terminal it is pressed, reports it too."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"demo:\n\t@exec {sys.executable} -m simulator demo --port {free_port()}\n")
    in_a_terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [sys.executable, "-c", in_a_terminal, "make", "-f", str(makefile), "demo"]
    terminal = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    async with asyncio.timeout(STARTUP):
        await greeting(terminal)
        await terminal.communicate(b"\x03")

    assert terminal.returncode == 0


async def run(line: str, curl: str) -> str:
    """The output of a printed command."""
    arguments = shlex.split(line)
    process = await asyncio.create_subprocess_exec(curl, *arguments[1:], stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def until_stale(line: str, curl: str) -> str:
    """The first answer that says the exchange could not be asked."""
    async with asyncio.timeout(STARTUP):
        while True:
            answer = await run(line, curl)
            if "detail=backoff" in answer or "detail=stale-if-error" in answer:
                return answer
            await asyncio.sleep(0.1)
