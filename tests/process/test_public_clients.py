"""Binance's SDK and ccxt, as they are published: at the gateway they get what they get from the exchange itself."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from binance_common.configuration import ConfigurationRestAPI
from binance_common.errors import (
    BadRequestError,
    NotFoundError,
    RateLimitBanError,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
)

from simulator.exchange import MAIN, Exchange
from simulator.faults import Fault
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from simulator.statement import statement
from tests import binance_sdk
from tests.binance_sdk import Client
from tests.process.conftest import STARTUP, GatewayProcess, gateway_process, tables
from tests.support import TOKENS, unmeasured

HERE = Path(__file__).parent

Json = Any
Sdk = Callable[..., Client]

READS: list[tuple[str, Json]] = [
    ("load_markets", {}),
    ("fetch_balance", {}),
    ("fetch_positions", {"params": {"method": "account"}}),
    ("fetch_account_positions", {}),
    ("fetch_leverages", {}),
    ("fetch_margin_modes", {}),
    ("dapiPrivateGetAccount", {}),
]
"""Everything of ccxt's that four paths are enough for."""
BALANCE: list[tuple[str, Json]] = [("fetch_balance", {})]
MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@pytest.fixture
async def still(exchange: Exchange) -> Exchange:
    """An exchange whose account no longer moves with the market, so that two reads can be compared."""
    exchange.book().raw = statement(exchange.book(MAIN), exchange.market, exchange.now_ms())
    return exchange


@pytest.fixture
async def kept_up(gateway: GatewayProcess, exchange: Exchange) -> GatewayProcess:
    """A gateway that has read the contracts, which it does by itself."""
    async with asyncio.timeout(STARTUP), httpx.AsyncClient(base_url=gateway.url) as client:
        while (await client.get("/binance/main/dapi/v1/exchangeInfo")).status_code != 200:
            await asyncio.sleep(0.02)
    return gateway


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    with binance_sdk.clients() as make:

        def configured(base: str, key: str, secret: str = "unused", **headers: str | list[str]) -> Client:
            return make(ConfigurationRestAPI(key, secret, base, timeout=10_000, retries=0, custom_headers=headers))

        yield configured


def root(gateway: GatewayProcess, account: str = "main") -> str:
    return f"{gateway.url}/binance/{account}"


async def ask(call: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(lambda: call().data())


async def piped(script: str, clients: Path, said: Json) -> Json:
    """What a script with the clients' own folder of libraries makes of this."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, str(HERE / script)],
        env=unmeasured() | {"PYTHONPATH": str(clients)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(said).encode())
    assert process.returncode == 0
    return json.loads(output)


class Ccxt:
    """ccxt in a process of its own."""

    def __init__(self, clients: Path, *, asynchronous: bool) -> None:
        self._clients = clients
        self._asynchronous = asynchronous

    async def read(self, base: str, key: str, calls: list[tuple[str, Json]], secret: str = "unused") -> list[Json]:
        said = {"base": base, "key": key, "secret": secret, "calls": calls, "asynchronous": self._asynchronous}
        return list(await piped("ccxt_reader.py", self._clients, said))

    async def raised(self, base: str, key: str, call: tuple[str, Json] = BALANCE[0]) -> set[str]:
        """The classes of the error that a call ends in, once the contracts are read."""
        _, found = await self.read(base, key, [("load_markets", {}), call])
        return set(found["raised"])


# Binance's SDK


async def test_the_sdk_reads_what_it_reads_from_the_exchange(
    kept_up: GatewayProcess, still: Exchange, exchange_url: str, sdk: Sdk
) -> None:
    direct, through = sdk(exchange_url, DEMO_API_KEY, DEMO_SECRET_KEY), sdk(root(kept_up), TOKENS["risk"])

    assert await ask(through.account_information) == await ask(direct.account_information)
    mine, theirs = await ask(through.exchange_information), await ask(direct.exchange_information)
    assert mine.symbols == theirs.symbols
    assert abs((await ask(through.check_server_time)).server_time - still.now_ms()) < 1_000
    assert await ask(through.test_connectivity) == await ask(direct.test_connectivity)


async def test_the_sdk_reads_only_what_its_token_may_see_and_how_old_it_is(kept_up: GatewayProcess, sdk: Sdk) -> None:
    api = sdk(root(kept_up), TOKENS["treasury"])
    answer = await asyncio.to_thread(api.account_information)

    assert {asset.asset for asset in answer.data().assets or ()} == {"BTC", "ETH"}
    assert {str(position.symbol)[:3] for position in answer.data().positions or ()} == {"BTC", "ETH"}
    assert int(answer.headers["gateway-snapshot-age"]) < 60_000


async def test_the_sdk_raises_its_own_errors(kept_up: GatewayProcess, sdk: Sdk) -> None:
    api = sdk(root(kept_up), TOKENS["risk"])

    for key, account in [("wrong", "main"), ("not one", "main"), (TOKENS["risk"], "nope"), (TOKENS["nobody"], "main")]:
        with pytest.raises(UnauthorizedError):
            await ask(sdk(root(kept_up, account), key).account_information)
    for call in (api.position_information, api.futures_account_balance, api.notional_bracket_for_symbol):
        with pytest.raises(NotFoundError):
            await ask(call)
    with pytest.raises(NotFoundError):
        await ask(lambda: api.new_order("BTCUSD_PERP", "BUY", "MARKET", quantity=1))  # type: ignore[arg-type]  # as is written
    with pytest.raises(BadRequestError, match="header Cache-Control"):
        await ask(sdk(root(kept_up), TOKENS["risk"], **{"Cache-Control": "max-age=soon"}).account_information)


async def test_the_sdk_takes_a_ban_of_the_gateway_for_an_outage_and_not_for_its_own(
    kept_up: GatewayProcess, exchange: Exchange, sdk: Sdk
) -> None:
    exchange.faults.add(Fault("418", seconds=3600))

    with pytest.raises(ServerError) as raised:
        await ask(sdk(root(kept_up), TOKENS["risk"]).account_information)
    assert not isinstance(raised.value, RateLimitBanError | TooManyRequestsError)


async def test_the_sdk_takes_the_teams_own_limit_for_one(tmp_path: Path, limited: GatewayProcess, sdk: Sdk) -> None:
    api = sdk(root(limited), TOKENS["risk"])
    await ask(api.account_information)

    with pytest.raises(TooManyRequestsError):
        await ask(api.account_information)


@pytest.fixture
async def limited(tmp_path: Path, redis_port: int, exchange_url: str) -> AsyncIterator[GatewayProcess]:
    """A gateway at which the client may ask once in ten seconds."""
    settings = tables(redis_port, exchange_url)
    settings["clients"] = {"risk": {"requests_per_second": 1}}
    settings["exchange"] |= {"expected_replicas": 10}
    async with gateway_process(tmp_path, settings, measured=False) as process:
        yield process


# ccxt


@MODES
async def test_ccxt_reads_what_it_reads_from_the_exchange(
    kept_up: GatewayProcess, still: Exchange, exchange_url: str, clients: Path, *, asynchronous: bool
) -> None:
    ccxt = Ccxt(clients, asynchronous=asynchronous)
    through = await ccxt.read(root(kept_up), TOKENS["risk"], READS)
    direct = await ccxt.read(exchange_url, DEMO_API_KEY, READS, DEMO_SECRET_KEY)

    assert through == direct
    assert not [each for each in through if "raised" in each]
    markets, balance, positions, *_ = through
    assert len(markets) == 30
    assert balance["total"]["BTC"] > 1
    assert [each["contracts"] for each in positions if each["symbol"] == "BTC/USD:BTC"] == [120]


@MODES
async def test_ccxt_reads_only_what_its_token_may_see(
    kept_up: GatewayProcess, clients: Path, *, asynchronous: bool
) -> None:
    ccxt = Ccxt(clients, asynchronous=asynchronous)
    balance, positions, time = await ccxt.read(
        root(kept_up), TOKENS["treasury"], [*BALANCE, ("fetch_account_positions", {}), ("fetch_time", {})]
    )

    assert {asset["asset"] for asset in balance["info"]["assets"]} == {"BTC", "ETH"}
    assert {position["symbol"][:3] for position in positions} == {"BTC", "ETH"}
    assert time > 1_700_000_000_000


@MODES
async def test_ccxt_raises_its_own_errors(kept_up: GatewayProcess, clients: Path, *, asynchronous: bool) -> None:
    ccxt, key = Ccxt(clients, asynchronous=asynchronous), TOKENS["risk"]

    for wrong, account in [("wrong", "main"), ("not one", "main"), (key, "nope"), (TOKENS["nobody"], "main")]:
        assert "AuthenticationError" in await ccxt.raised(root(kept_up, account), wrong)
    for call in [("fetch_positions", {}), ("fetch_ticker", {"symbol": "BTC/USD:BTC"})]:
        assert (await ccxt.raised(root(kept_up), key, call)) & {"ExchangeError", "NotSupported"} == {"ExchangeError"}
    order = {"symbol": "BTC/USD:BTC", "type": "market", "side": "buy", "amount": 1}
    assert "ExchangeError" in await ccxt.raised(root(kept_up), key, ("create_order", order))


@MODES
async def test_ccxt_takes_a_ban_of_the_gateway_for_an_outage_and_not_for_its_own(
    kept_up: GatewayProcess, exchange: Exchange, clients: Path, *, asynchronous: bool
) -> None:
    exchange.faults.add(Fault("418", seconds=3600))
    raised = await Ccxt(clients, asynchronous=asynchronous).raised(root(kept_up), TOKENS["risk"])

    assert "OperationFailed" in raised
    assert raised.isdisjoint({"RateLimitExceeded", "DDoSProtection", "PermissionDenied", "AuthenticationError"})


async def test_ccxt_takes_the_teams_own_limit_for_one(limited: GatewayProcess, clients: Path) -> None:
    ccxt = Ccxt(clients, asynchronous=False)
    calls: list[tuple[str, Json]] = [("dapiPrivateGetAccount", {})] * 2
    first, second = await ccxt.read(root(limited), TOKENS["risk"], calls)

    assert "positions" in first
    assert "DDoSProtection" in second["raised"]


async def test_with_the_gateways_two_entries_ccxt_has_nowhere_else_to_send_a_token(clients: Path) -> None:
    base = "http://gateway/binance/main/dapi/v1"
    table = {"dapiPublic": base, "dapiPrivate": base}
    told = await piped("ccxt_urls.py", clients, {"key": "TOKEN", "api": table, "part": {}})

    assert len(told["sent"]) > 50
    assert {url[: len(base) + 1] for url, _ in told["sent"]} == {f"{base}/"}
    assert told["unsent"] > 500
    assert told["sandbox"] == {}


async def test_with_one_entry_alone_ccxt_would_send_the_token_to_the_exchange(clients: Path) -> None:
    part = {"dapiPrivate": "http://gateway/binance/main/dapi/v1"}
    told = await piped("ccxt_urls.py", clients, {"key": "TOKEN", "api": None, "part": part})

    hosts = {urlsplit(url).hostname for url, headers in told["sent"] if headers.get("X-MBX-APIKEY") == "TOKEN"}
    assert {"gateway", "api.binance.com", "dapi.binance.com", "fapi.binance.com"} <= hosts
    currencies = [headers for url, headers in told["sent"] if "//api.binance.com/sapi/v1/capital/config/getall" in url]
    assert [headers["X-MBX-APIKEY"] for headers in currencies] == ["TOKEN"]
    assert told["asks_for_currencies"]  # which `load_markets` does, before all else
