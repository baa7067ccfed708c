"""The guide for Binance's own clients, done as it says before the demo."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.web.binance_errors import FORMS, OURS, SERVED
from tests.guides import ROOT, blocks
from tests.process.conftest import Environment, run
from tests.process.public_clients import CODES, JAVASCRIPT, PYTHON, PublicClient

GUIDE = "docs/clients.md"

PARTS = {
    "Binance's SDK, in Python": "Binance's SDK",
    "Binance's SDK, in JavaScript": "Binance's SDK, JavaScript",
    "ccxt, in Python": "ccxt",
    "python-binance": "python-binance",
    "binance-futures-connector": "binance-futures-connector",
    "binance, in JavaScript": "binance, JavaScript",
}
"""Whose methods a part of it lists."""
COINS = r"BTC\W+1\.\d+"


async def printed(folder: Path, environment: Environment, name: str) -> str:
    """What one of its programs prints."""
    language, begin, program = ("js", "// ", "node") if name.endswith(".mjs") else ("python", '"""', sys.executable)
    (text,) = blocks(GUIDE, language, f"{begin}{name}: ")
    (folder / name).write_text(text)
    status, output, errors = await run(program, name, environment=environment, folder=folder)
    assert (status, errors) == (0, "")
    return output


@pytest.fixture
def hedged(environment: Environment) -> Environment:
    return {**environment, "ACCOUNT": "hedged"}


@pytest.fixture
def own(hedged: Environment, clients: Path) -> Environment:
    """For the clients in a folder of their own."""
    return {**hedged, "PYTHONPATH": os.fspath(clients)}


@pytest.fixture
def installed(tmp_path: Path, javascript: Path) -> Path:
    """A folder that JavaScript clients are installed in."""
    (tmp_path / "node_modules").symlink_to(javascript)
    return tmp_path


async def test_the_curl_commands_answer_as_it_says(tmp_path: Path, environment: Environment, curl: str) -> None:
    assert curl
    (commands,) = blocks(GUIDE, "sh", "X-MBX-APIKEY")
    status, output, errors = await run("bash", "-euc", commands, environment=environment, folder=tmp_path)

    assert (status, errors) == (0, "")
    assert output.startswith("HTTP/1.1 200 OK")
    assert "gateway-snapshot-age: " in output
    assert re.search(r'"positionSide":"BOTH".*"markPrice":"\d.*\{"serverTime":\d{13}\}$', output)


async def test_the_sdks_program_prints_what_is_open(tmp_path: Path, hedged: Environment) -> None:
    output = await printed(tmp_path, hedged, "sdk.py")

    assert re.match(r"\d+ ms old\n", output)
    assert re.search(r"^BTCUSD_PERP LONG 120$", output, re.MULTILINE)


async def test_the_programs_of_clients_in_a_folder_of_their_own_print_balances_and_what_is_open(
    tmp_path: Path, own: Environment
) -> None:
    awaited = await printed(tmp_path, own, "balances_async.py")
    of_ccxt = await printed(tmp_path, own, "balances.py")
    of_python_binance = await printed(tmp_path, own, "positions.py")
    of_the_connector = await printed(tmp_path, own, "connector.py")

    for coins in (awaited, of_ccxt, of_python_binance):
        assert re.search(COINS, coins)
    assert re.search(r"^BTC/USD:BTC long 120\.0$", of_ccxt, re.MULTILINE)
    for rows in (of_python_binance, of_the_connector):
        assert re.search(r"^BTCUSD_PERP LONG 120$", rows, re.MULTILINE)
    for aged in (of_ccxt, of_python_binance, of_the_connector):
        assert re.search(r"^\d+ ms old$", aged, re.MULTILINE)


async def test_the_javascript_programs_print_balances_and_what_is_open(
    installed: Path, hedged: Environment, node: str
) -> None:
    of_the_sdk = await printed(installed, hedged, "sdk.mjs")
    of_ccxt = await printed(installed, hedged, "balances.mjs")
    of_binance = await printed(installed, hedged, "coinm.mjs")

    for coins in (of_ccxt, of_binance):
        assert re.search(COINS, coins)
    assert re.search(r"^BTC/USD:BTC long 120$", of_ccxt, re.MULTILINE)
    for rows in (of_the_sdk, of_binance):
        assert re.search(r"^BTCUSD_PERP LONG 120$", rows, re.MULTILINE)
    for aged in (of_the_sdk, of_ccxt):
        assert re.search(r"^\d+ ms old$", aged, re.MULTILINE)


def methods(title: str) -> Iterator[tuple[str, bool]]:
    """Each method that a part lists, and whether it says that it works."""
    part = (ROOT / GUIDE).read_text("utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    for names, works in re.findall(r"^\| (`[^|]+) \| (yes|no) \|", part, re.MULTILINE):
        for each in re.findall(r"(?:^|, )`([^`]+)`", names):
            yield each, works == "yes"


@pytest.mark.parametrize("title", PARTS)
def test_every_method_that_it_lists_is_tried(title: str) -> None:
    client = named(PARTS[title])
    working = {name for name, works in methods(title) if works}
    failing = {name for name, works in methods(title) if not works}

    assert {name.removesuffix("()") for name in working} == tried(client)
    assert {name.partition("(")[0] for name in failing} <= {name for name, _ in client.elsewhere}


def test_ccxt_has_the_same_methods_in_javascript() -> None:
    in_camel_case = {re.sub("_([a-z])", lambda found: found[1].upper(), name) for name in tried(named("ccxt"))}

    assert tried(named("ccxt, JavaScript")) == in_camel_case


def named(name: str) -> PublicClient:
    (client,) = [each for each in (*PYTHON, *JAVASCRIPT) if str(each) == name]
    return client


def tried(client: PublicClient) -> set[str]:
    return {name for name, _ in (*client.listing, *client.reads)}


def test_its_paths_and_codes_are_the_gateways() -> None:
    text = (ROOT / GUIDE).read_text("utf-8")

    assert set(re.findall(r"^\| `(/dapi/[^`]+)` \|", text, re.MULTILINE)) == {*SERVED}
    told = {(int(status), int(code)) for code, status in re.findall(r"^\| (-\d+) \| (\d+) \|", text, re.MULTILINE)}
    assert told == {(form.status, form.code) for form in (*FORMS.values(), OURS)}


def test_its_errors_are_what_the_clients_raise() -> None:
    text = (ROOT / GUIDE).read_text("utf-8")
    rows = re.findall(r"^\| (-\d+) \| .* \| `(\w+)` \| `(\w+)` \|$", text, re.MULTILINE)

    assert {int(code) for code, *_ in rows} == set().union(*CODES)
    for code, of_the_sdk, of_ccxt in rows:
        number = next(number for number, codes in enumerate(CODES) if int(code) in codes)
        assert of_the_sdk == named("Binance's SDK").raises[number]
        assert of_ccxt == named("ccxt").raises[number]
