"""The guide for Binance's own clients, done as it says before the demo."""

import os
import re
import sys
from pathlib import Path

from tests.guides import blocks
from tests.process.conftest import Environment, run

GUIDE = "docs/clients.md"


async def printed(folder: Path, environment: Environment, name: str) -> str:
    """What one of its programs prints."""
    (program,) = blocks(GUIDE, "python", f'"""{name}: ')
    (folder / name).write_text(program)
    status, output, errors = await run(sys.executable, name, environment=environment, folder=folder)
    assert (status, errors) == (0, "")
    return output


async def test_the_curl_commands_answer_as_it_says(tmp_path: Path, environment: Environment, curl: str) -> None:
    assert curl
    (commands,) = blocks(GUIDE, "sh", "X-MBX-APIKEY")
    status, output, errors = await run("bash", "-euc", commands, environment=environment, folder=tmp_path)

    assert (status, errors) == (0, "")
    assert output.startswith("HTTP/1.1 200 OK")
    assert "gateway-snapshot-age: " in output
    assert re.search(r'"positionSide":"BOTH".*\{"serverTime":\d{13}\}$', output)


async def test_the_sdks_program_prints_what_is_open(tmp_path: Path, environment: Environment) -> None:
    output = await printed(tmp_path, {**environment, "ACCOUNT": "hedged"}, "sdk.py")

    assert re.match(r"\d+ ms old\n", output)
    assert re.search(r"^BTCUSD_PERP LONG 120$", output, re.MULTILINE)


async def test_the_ccxt_programs_print_balances_and_what_is_open(
    tmp_path: Path, environment: Environment, clients: Path
) -> None:
    own = {**environment, "PYTHONPATH": os.fspath(clients)}
    awaited = await printed(tmp_path, own, "balances_async.py")
    output = await printed(tmp_path, own, "balances.py")

    assert re.match(r"\{'BTC': 1\.\d+", awaited)
    assert re.match(r"\{'BTC': 1\.\d+", output)
    assert re.search(r"^BTC/USD:BTC long 120\.0$", output, re.MULTILINE)
    assert re.search(r"^\d+ ms old$", output, re.MULTILINE)
