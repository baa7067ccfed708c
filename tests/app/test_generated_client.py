"""A client that a public generator makes of the committed document reads what the gateway serves."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from simulator.exchange import BALANCE_PATH, LEVERAGE_BRACKET_PATH, POSITION_RISK_PATH
from tests.app.contract import FILE
from tests.app.harness import Replica, Stage
from tests.support import TOKENS, unmeasured

GENERATOR = Path(sys.executable).parent / "openapi-python-client"
PACKAGE = "generated_coinm"


@pytest.fixture(scope="module", autouse=True)
def generated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The client's package, importable; the generator itself must have nothing to warn of."""
    folder = tmp_path_factory.mktemp("generated")
    settings = folder / "settings.yaml"
    settings.write_text("post_hooks: []\n")  # not formatted: nobody reads it
    command = [str(GENERATOR), "generate", "--path", str(FILE), "--meta", "none", "--fail-on-warning"]
    subprocess.run(
        [*command, "--config", str(settings), "--output-path", str(folder / PACKAGE)], check=True, env=unmeasured()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def part(name: str) -> Any:
    return importlib.import_module(f"{PACKAGE}.{name}")


@pytest.fixture
def client(gateway: Replica) -> Any:
    """The generated client, which takes its way to the gateway from the test."""
    gateway.caller.headers["authorization"] = f"Bearer {TOKENS['risk']}"
    return part("client").AuthenticatedClient("http://gateway", "").set_async_httpx_client(gateway.caller)


async def test_it_reads_the_account_as_the_exchange_sends_it(stage: Stage, client: Any) -> None:
    account = await part("api.accounts.get_account").asyncio("main", client=client)

    assert account.to_dict() == stage.statement()


async def test_it_reads_a_filtered_list(stage: Stage, client: Any) -> None:
    answer = await part("api.positions.list_positions").asyncio_detailed(
        "main", client=client, asset=["BTC", "ETH"], position_side=[part("models").PositionSide.BOTH], open_=True
    )

    expected = [
        row
        for row in stage.statement()["positions"]
        if row["symbol"][:6] in ("BTCUSD", "ETHUSD") and row["positionAmt"] != "0"
    ]
    assert expected
    assert [row.to_dict() for row in answer.parsed] == expected
    assert answer.headers["gateway-position-mode"] == "one-way"


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("balance.list_balance", BALANCE_PATH),
        ("position_risk.list_position_risk", POSITION_RISK_PATH),
        ("leverage_brackets.list_leverage_brackets", LEVERAGE_BRACKET_PATH),
    ],
)
async def test_it_reads_a_further_document(stage: Stage, client: Any, operation: str, path: str) -> None:
    rows = await part(f"api.{operation}").asyncio("main", client=client)

    assert [row.to_dict() for row in rows] == msgspec.json.decode(stage.raw(path))


async def test_it_reads_a_problem(client: Any) -> None:
    answer = await part("api.assets.get_asset").asyncio_detailed("main", "XYZ", client=client)

    assert answer.status_code == 404
    assert isinstance(answer.parsed, part("models").Problem)
    assert answer.parsed.type_ == "urn:coinm-gateway:problem:unknown-asset"


def test_it_has_a_method_for_every_operation_with_a_name_that_reads_well() -> None:
    tags = {"accounts": 2, "assets": 2, "positions": 3, "operations": 3}
    tags |= {"balance": 2, "position_risk": 3, "leverage_brackets": 2}
    for tag, operations in tags.items():
        folder = Path(str(part(f"api.{tag}").__file__)).parent
        names = {file.stem for file in folder.glob("[a-z]*.py")}
        assert len(names) == operations
        assert all(name.startswith(("get_", "list_")) for name in names)
