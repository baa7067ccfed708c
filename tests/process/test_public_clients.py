"""Public clients, as they are published: at the gateway they get what the exchange gives them, and call nobody else.

Which calls each makes is in `public_clients.py`.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from simulator.exchange import Exchange
from simulator.faults import Fault
from tests.process.conftest import GatewayProcess, gateway_process, tables
from tests.process.public_clients import (
    CODES,
    JAVASCRIPT,
    LIMITED,
    MISSING,
    PYTHON,
    REFUSED,
    UNAUTHENTICATED,
    UNKNOWN,
    Caller,
    PublicClient,
    direct,
    failed,
    of_bitcoin_and_ether,
    python,
    python_binance,
    whole,
)
from tests.support import TOKENS

IN_PYTHON = pytest.mark.parametrize("client", PYTHON, ids=str)
IN_JAVASCRIPT = pytest.mark.parametrize("client", JAVASCRIPT, ids=str)


def caller(gateway: GatewayProcess, key: str = TOKENS["risk"], account: str = "main") -> Caller:
    return Caller(f"{gateway.url}/binance/{account}", key)


# What they read, and from whom


@IN_PYTHON
async def test_a_python_client_reads_what_the_exchange_gives_it_as_far_as_its_token_goes_and_calls_nobody_else(
    kept_up: GatewayProcess, still: Exchange, exchange_url: str, clients: Path, client: PublicClient
) -> None:
    await compare(client, clients, kept_up, exchange_url)


@IN_JAVASCRIPT
async def test_a_javascript_client_reads_what_the_exchange_gives_it_as_far_as_its_token_goes_and_calls_nobody_else(
    kept_up: GatewayProcess,
    still: Exchange,
    exchange_url: str,
    *,
    node: str,
    javascript: Path,
    client: PublicClient,
) -> None:
    await compare(client, javascript, kept_up, exchange_url)


async def compare(client: PublicClient, folder: Path, gateway: GatewayProcess, exchange_url: str) -> None:
    callers = [caller(gateway), caller(gateway, TOKENS["treasury"]), direct(exchange_url)]
    calls = [*client.listing, *client.reads, *client.refused, *client.elsewhere]
    full, restricted, reference = await client.run(folder, callers, calls)

    for call, found, part, expected in zip(calls, full.results, restricted.results, reference.results, strict=True):
        if call in client.elsewhere:
            assert failed(found), call
        elif call in client.refused:
            expect(client, found, REFUSED)
            assert (found["raised"], found["code"]) == (expected["raised"], expected["code"]), call
        else:
            assert not failed(expected), (call, expected)
            assert whole(found) == whole(expected), call
            assert whole(part) == (whole(expected) if call in client.listing else of_bitcoin_and_ether(expected)), call
            assert call in client.listing or re.search("BTC|ETH", str(part)), call

    host = urlsplit(gateway.url).netloc
    for told in (full, restricted):
        assert told.called == {host}
        assert told.told == (set() if "awaited" in client.name else {host})
        assert {urlsplit(url).netloc for url in told.urls.values()} <= {host}
    assert reference.called == {urlsplit(exchange_url).netloc}


# What would send a token to the exchange

NOBODY = Caller("http://127.0.0.1:9/binance/main", TOKENS["risk"])


@IN_PYTHON
async def test_a_python_client_that_is_told_less_calls_the_exchange(clients: Path, client: PublicClient) -> None:
    await call_the_exchange(client, clients)


@IN_JAVASCRIPT
async def test_a_javascript_client_that_is_told_less_calls_the_exchange(
    node: str, javascript: Path, client: PublicClient
) -> None:
    await call_the_exchange(client, javascript)


async def call_the_exchange(client: PublicClient, folder: Path) -> None:
    (told,) = await client.run(folder, [NOBODY], client.listing[:1], careless=True)

    assert client.careless in {where.partition(":")[0] for where in told.called}


async def test_with_one_url_alone_python_binance_calls_the_exchange_for_other_apis(clients: Path) -> None:
    client = python_binance("python-binance, one URL")
    (told,) = await client.run(clients, [NOBODY], client.elsewhere)

    assert {"api.binance.com", "fapi.binance.com", "papi.binance.com"} <= {
        where.partition(":")[0] for where in told.called
    }


async def test_with_the_gateways_entries_ccxt_has_nowhere_else_to_send_a_token(clients: Path) -> None:
    base = "http://gateway/binance/main/dapi"
    table = {"dapiPublic": f"{base}/v1", "dapiPrivate": f"{base}/v1", "dapiPrivateV2": f"{base}/v2"}
    told = await python("ccxt_urls.py", clients, {"key": "TOKEN", "api": table, "part": {}})

    assert len(told["sent"]) > 50
    assert {url[: len(base) + 2] for url, _ in told["sent"]} == {f"{base}/v"}
    assert told["unsent"] > 500
    assert told["sandbox"] == {}


async def test_with_one_entry_alone_ccxt_would_send_the_token_to_the_exchange(clients: Path) -> None:
    part = {"dapiPrivate": "http://gateway/binance/main/dapi/v1"}
    told = await python("ccxt_urls.py", clients, {"key": "TOKEN", "api": None, "part": part})

    hosts = {urlsplit(url).hostname for url, headers in told["sent"] if headers.get("X-MBX-APIKEY") == "TOKEN"}
    assert {"gateway", "api.binance.com", "dapi.binance.com", "fapi.binance.com"} <= hosts
    currencies = [headers for url, headers in told["sent"] if "//api.binance.com/sapi/v1/capital/config/getall" in url]
    assert [headers["X-MBX-APIKEY"] for headers in currencies] == ["TOKEN"]
    assert told["asks_for_currencies"]  # which `load_markets` does, before all else


# What they raise

SLOW_DOWN = {"RateLimitExceeded", "DDoSProtection", "PermissionDenied", "RateLimitBanError", "TooManyRequestsError"}
"""What would have a program slow down, or give up, for the gateway's own trouble."""


def expect(client: PublicClient, found: Any, number: int) -> None:
    """An error is the documented one, and has its code where the client hands that on."""
    assert client.raises[number] in found["raised"], (client, found)
    assert found["code"] in {None, *CODES[number]}, (client, found)


async def test_python_clients_raise_their_own_errors(
    kept_up: GatewayProcess, exchange: Exchange, clients: Path
) -> None:
    exchange.faults.add(Fault("418", seconds=3600))
    for client in PYTHON:
        await raise_its_own_errors(client, clients, kept_up)


async def test_javascript_clients_raise_their_own_errors(
    kept_up: GatewayProcess, exchange: Exchange, node: str, javascript: Path
) -> None:
    exchange.faults.add(Fault("418", seconds=3600))
    for client in JAVASCRIPT:
        await raise_its_own_errors(client, javascript, kept_up)


async def raise_its_own_errors(client: PublicClient, folder: Path, gateway: GatewayProcess) -> None:
    wrong = [
        caller(gateway, "wrong"),
        caller(gateway, "not one"),
        caller(gateway, account="nope"),
        caller(gateway, TOKENS["nobody"]),
    ]
    hurried = caller(gateway)._replace(headers={"Cache-Control": "max-age=soon"})
    calls = [client.reads[0], client.elsewhere[0]]
    *denied, hasty, good = await client.run(folder, [*wrong, hurried, caller(gateway)], calls)

    for told in denied:
        expect(client, told.results[0], UNAUTHENTICATED)
    expect(client, hasty.results[0], REFUSED)
    unknown, missing = good.results
    expect(client, unknown, UNKNOWN)
    assert SLOW_DOWN.isdisjoint(unknown["raised"])
    expect(client, missing, MISSING)


async def test_python_clients_take_the_teams_own_limit_for_one(limited: GatewayProcess, clients: Path) -> None:
    await take_the_limit_for_one([client for client in PYTHON if "awaited" not in client.name], clients, limited)


async def test_javascript_clients_take_the_teams_own_limit_for_one(
    limited: GatewayProcess, node: str, javascript: Path
) -> None:
    await take_the_limit_for_one(JAVASCRIPT, javascript, limited)


async def take_the_limit_for_one(published: list[PublicClient], folder: Path, gateway: GatewayProcess) -> None:
    for client in published:
        (told,) = await client.run(folder, [caller(gateway)], client.reads[:1] * 2)
        expect(client, told.results[1], LIMITED)


@pytest.fixture
async def limited(tmp_path: Path, redis_port: int, exchange_url: str) -> AsyncIterator[GatewayProcess]:
    """A gateway at which the client may ask once in ten seconds."""
    settings = tables(redis_port, exchange_url)
    settings["clients"] = {"risk": {"requests_per_second": 1}}
    settings["exchange"] |= {"expected_replicas": 10}
    async with gateway_process(tmp_path, settings, measured=False) as process:
        yield process
