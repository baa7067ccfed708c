"""The caller's guide, done as it says before the demo: its commands, its program, its generated client."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.guides import blocks
from tests.process.conftest import STARTUP, Environment, run

GUIDE = "docs/callers.md"


async def commanded(folder: Path, environment: Environment, block: str) -> str:
    """What a block of commands prints; where it compares entity tags, once the market hasn't moved in between."""
    output = ""
    for _ in range(10):
        status, output, errors = await run("bash", "-euc", block, environment=environment, folder=folder)
        assert (status, errors) == (0, ""), block
        if "--etag-compare" not in block or "HTTP/1.1 304" in output:
            break
    return output


@asynccontextmanager
async def running(folder: Path, environment: Environment, program: str) -> AsyncIterator[asyncio.StreamReader]:
    """A program of the guide's that runs until it is killed, and its output."""
    (folder / "program.py").write_text(program)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "program.py", cwd=folder, env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STARTUP):
            yield process.stdout
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("account", ["main", "hedged"])
async def test_the_curl_commands_answer_as_it_says(
    tmp_path: Path, environment: Environment, curl: str, account: str
) -> None:
    assert curl
    variables = {**environment, "ACCOUNT": account}
    answers = [await commanded(tmp_path, variables, block) for block in blocks(GUIDE, "sh", "curl ")]

    granted, coin, positions, documents, fresh, same, refused = answers
    longs, opened = positions.split("HTTP/1.1 200 OK")[1:]
    mode = {"main": "one-way", "hedged": "hedge"}[account]
    assert f'{{"account":"{account}","environment":"demo","assets":null,"positionSides":null}}' in granted
    assert '{"asset":"BTC","walletBalance":"' in coin
    assert longs.count(f"gateway-position-mode: {mode}") == opened.count(f"gateway-position-mode: {mode}") == 1
    assert ('"positionSide":"LONG"' in longs) == (mode == "hedge") == (not longs.endswith("[]"))
    assert '"positionAmt"' in opened
    for member in ('"liquidationPrice":"', '"accountAlias":"', '"maintMarginRatio":'):
        assert documents.count(member) >= 1
    assert "cache-status: coinm-gateway; " in fresh
    assert same.startswith("HTTP/1.1 304 Not Modified")
    assert '"urn:coinm-gateway:problem:invalid-parameter"' in refused


async def test_the_program_prints_positions_after_waiting_out_an_outage(
    tmp_path: Path, told: str, environment: Environment
) -> None:
    (faults,) = set(re.findall(r"http://\S+/_sim/faults", told))
    (program,) = blocks(GUIDE, "python", "watch.py")
    async with httpx.AsyncClient() as operator:
        await operator.post(faults, json={"name": "503-unavailable"})
        async with running(tmp_path, {**environment, "ACCOUNT": "hedged"}, program) as output:
            refused = await output.readline()
            await operator.delete(faults)
            lines = [await output.readline() for _ in range(3)]
            while lines[0].startswith(b"no numbers"):
                lines = [*lines[1:], await output.readline()]

    assert re.fullmatch(rb"no numbers \(503\); again in \d+ s\n", refused)
    assert re.fullmatch(rb"as of \d{4}-\d\d-\d\dT\S+Z:\n", lines[0])
    assert re.fullmatch(rb"  [A-Z0-9]+USD_\w+ (LONG|SHORT|BOTH) -?\d+ contracts\n", lines[1])


async def test_the_program_ends_where_repeating_does_not_help(tmp_path: Path, environment: Environment) -> None:
    (program,) = blocks(GUIDE, "python", "watch.py")
    (tmp_path / "watch.py").write_text(program)

    status, output, errors = await run(
        sys.executable, "watch.py", environment={**environment, "ACCOUNT": "other"}, folder=tmp_path
    )

    assert (status, output) == (1, "")
    assert "403 Forbidden" in errors
    assert environment["TOKEN"] not in errors


async def test_the_generated_client_reads_the_long_side(tmp_path: Path, environment: Environment) -> None:
    (generate,), (program,) = blocks(GUIDE, "sh", "openapi-python-client"), blocks(GUIDE, "python", "longs.py")
    assert (await run("bash", "-euc", generate, environment=environment, folder=tmp_path))[0] == 0
    (tmp_path / "longs.py").write_text(program)

    hedged = await run(sys.executable, "longs.py", environment={**environment, "ACCOUNT": "hedged"}, folder=tmp_path)
    one_way = await run(sys.executable, "longs.py", environment={**environment, "ACCOUNT": "main"}, folder=tmp_path)
    denied = await run(sys.executable, "longs.py", environment={**environment, "ACCOUNT": "other"}, folder=tmp_path)

    assert re.fullmatch(r"\d+ ms old\nBTCUSD_PERP 120 [\d.]+\n", hedged[1])
    assert re.fullmatch(r"\d+ ms old\nBTCUSD_PERP 120 [\d.]+\n", one_way[1])  # BTCUSD_261225 is short there
    assert denied == (1, "", "urn:coinm-gateway:problem:forbidden: this account is not granted to the client\n")
