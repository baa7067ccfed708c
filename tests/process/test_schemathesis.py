"""Requests that schemathesis generates from the committed document, good and bad, to a running gateway.

Every check of its: statuses, media types, headers and bodies as documented; bad values refused and good ones taken;
no access without a token, by either way to send it; no method but the documented. With an exchange that is well, that
fails now and then, and that has banned us.
"""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator.exchange import DOCUMENTS, Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from tests.app.contract import DOCUMENT
from tests.process.conftest import GatewayProcess, gateway_process, tables
from tests.support import TOKENS, unmeasured

ROOT = Path(__file__).parents[2]

PHASES = ("examples", "coverage", "fuzzing", "stateful")

FAULTS = {"503-unavailable": 3, "not-json": 1, "404-path": 1, "408": 3, "301": 1, "451": 1, "500": 3}
"""Faults that end as they began, without a hold, and how many calls of one refresh meet them."""

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "60"))
"""Of an operation, where the exchange is well; more look further."""
OF_A_FAILING_EXCHANGE = 24
"""Examples of an operation: what a request may say is tried out where the exchange is well."""

SEED = os.environ.get("SCHEMATHESIS_SEED", "1")
"""The same requests in every run, so that a red one can be repeated; others look further."""


@pytest.fixture
async def gateway(tmp_path: Path, redis_port: int, exchange_url: str) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(tmp_path, tables(redis_port, exchange_url), measured=False) as process:
        yield process


@pytest.fixture
async def impatient(tmp_path: Path, redis_port: int, exchange_url: str) -> AsyncIterator[GatewayProcess]:
    """A gateway whose snapshots soon are too old, so that callers see what the exchange does."""
    windows = {"fresh_for": "100ms", "stale_while_revalidate": "0s", "stale_if_error": "200ms"}
    settings = tables(redis_port, exchange_url, **windows)
    settings["exchange"] |= {"weight_limit": 1_000_000}
    async with gateway_process(tmp_path, settings, measured=False) as process:
        yield process


async def fail_now_and_then(exchange: Exchange) -> None:
    """One fault after the other on every document, each until a refresh has failed by it; good answers in between."""
    for name, calls in itertools.cycle(FAULTS.items()):
        before = exchange.calls.count(ACCOUNT_PATH)
        exchange.faults.set([Fault(name, path=path, count=calls) for path in DOCUMENTS])
        await exchange.calls.wait_for(ACCOUNT_PATH, before + calls + 1)


@asynccontextmanager
async def under_way(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


async def run(folder: Path, gateway: GatewayProcess, examples: int) -> int:
    """Let it generate so many examples an operation; how many cases that were. Any finding fails the test."""
    report = folder / "report.json"
    schemathesis = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", "openapi/schemathesis.toml"]
    process = await asyncio.create_subprocess_exec(
        *[*schemathesis, "run", "openapi/openapi.yaml", "--url", gateway.url, "--no-color"],
        *["--seed", SEED, "--max-examples", str(examples), "--generation-database", "none"],
        *["--report", "json", "--report-json-path", str(report)],
        cwd=ROOT,
        env=unmeasured()
        | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.process.cache_control", "TOKEN": TOKENS["risk"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    found = json.loads(report.read_text())
    assert found["operations"]["tested"] == found["operations"]["total"] == len(DOCUMENT["paths"])
    assert {name: phase["status"] for name, phase in found["phases"].items()} == dict.fromkeys(PHASES, "success")
    return int(found["test_cases"]["generated"])


async def answered(gateway: GatewayProcess) -> Counter[int]:
    """How many answers of each status the gateway counts."""
    async with httpx.AsyncClient() as scraper:
        metrics = (await scraper.get(gateway.metrics_url)).text
    counted: Counter[int] = Counter()
    for status, number in re.findall(r'^coinm_requests_total{.*status="(\d+)"} ([\d.]+)$', metrics, re.MULTILINE):
        counted[int(status)] += int(float(number))
    return counted


@pytest.mark.timeout(900)  # it generates for minutes where cores are busy
async def test_thousands_of_requests_to_a_gateway_whose_exchange_is_well(
    tmp_path: Path, gateway: GatewayProcess, exchange: Exchange
) -> None:
    cases = await run(tmp_path, gateway, EXAMPLES)

    assert cases >= 5 * EXAMPLES
    told = await answered(gateway)
    # freshness-unmet, by the demand, the 503 in Binance's form; nothing else, for the exchange is well
    assert {status for status in told if status >= 500} <= {503, 504}
    assert {call.status for call in exchange.calls.kept()} <= {200, None}  # one may be under way
    assert told[200] > EXAMPLES


@pytest.mark.timeout(900)
async def test_requests_while_the_exchange_fails_now_and_then(
    tmp_path: Path, impatient: GatewayProcess, exchange: Exchange
) -> None:
    async with under_way(fail_now_and_then(exchange)) as outages:
        cases = await run(tmp_path, impatient, OF_A_FAILING_EXCHANGE)
        assert not outages.done()

    assert cases >= 500
    assert {call.status for call in exchange.calls.kept()} >= {200, 404, 503}  # the first of them, and health between


@pytest.mark.timeout(900)
async def test_requests_to_a_gateway_that_is_banned(
    tmp_path: Path, gateway: GatewayProcess, exchange: Exchange
) -> None:
    exchange.faults.set([Fault("418", path=path, seconds=3600) for path in DOCUMENTS])

    cases = await run(tmp_path, gateway, 12)

    assert cases >= 400
    assert (await answered(gateway))[503] > 100
    assert sum(exchange.calls.count(path) for path in DOCUMENTS) == 1
