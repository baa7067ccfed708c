"""Public clients, each in a process of its own: what they can read through the gateway, and whom they called for it."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from simulator.book import ASSETS
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from tests.support import unmeasured

HERE = Path(__file__).parent

Json = Any
Calls = list[tuple[str, Json]]


class Caller(NamedTuple):
    base: str
    key: str
    secret: str = "unused"
    headers: Mapping[str, str] = {}


class Told(msgspec.Struct):
    """What a process says of one caller of its; `python_reader.py` says what each part is."""

    results: list[Json]
    called: set[str]
    told: set[str]
    urls: dict[str, str]


class PublicClient(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    listing: Calls
    """Calls that take no token."""
    reads: Calls
    """Calls for the account's documents, which are cut to a grant; the first asks for the account alone."""
    elsewhere: Calls
    """Calls for what the gateway hasn't, and for other APIs with hosts of their own; the first comes to it."""
    refused: Calls
    """Calls whose parameters Binance would refuse."""
    raises: Sequence[str]
    """Its errors for: no access, wrong parameters, what isn't there, what can't be known now, too many requests."""
    careless: str
    """Whom it calls if it is told less than the guide says; `python_reader.py` and `reader.mjs` say how much less."""
    javascript: bool = False
    own_folder: bool = True
    """Whether it is in `.venv/clients`, and not in the environment."""

    def __str__(self) -> str:
        return f"{self.name}{', JavaScript' if self.javascript else ''}"

    async def run(self, folder: Path, callers: Sequence[Caller], calls: Calls, *, careless: bool = False) -> list[Told]:
        """What each caller read with these calls, one after the other. *folder*: where the client is installed."""
        said = {
            "client": self.name,
            "careless": careless,
            "callers": [caller._asdict() for caller in callers],
            "calls": calls,
        }
        if self.javascript:
            found = await piped(["node", str(folder.parent / "reader.mjs")], said)
        else:
            found = await python("python_reader.py", folder if self.own_folder else None, said)
        return msgspec.convert(found, list[Told])


async def python(script: str, clients: Path | None, said: Json) -> Json:
    """What a script beside this one makes of *said*, with the clients' folder of libraries or the environment's."""
    own = {"PYTHONPATH": str(clients)} if clients else {}
    return await piped([sys.executable, str(HERE / script)], said, own)


async def piped(command: Sequence[str], said: Json, own: Mapping[str, str] | None = None) -> Json:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=unmeasured() | dict(own or {}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(json.dumps(said).encode())
    assert process.returncode == 0
    return json.loads(output)


def direct(exchange_url: str) -> Caller:
    """Who asks the exchange itself."""
    return Caller(exchange_url, DEMO_API_KEY, DEMO_SECRET_KEY)


def failed(found: Json) -> bool:
    return isinstance(found, dict) and "raised" in found


def whole(found: Json) -> Json:
    """Without the time, which no two answers have in common."""
    return "a time" if isinstance(found, int) else without(found, {"serverTime", "server_time"})


def of_bitcoin_and_ether(found: Json) -> Json:
    """What a token for these two may see of it, whether a client makes lists of rows or members by coin or symbol."""
    return without(whole(found), {"accountAlias", "account_alias"}, {*ASSETS} - {"BTC", "ETH"})


def without(found: Json, members: AbstractSet[str], coins: AbstractSet[str] = frozenset()) -> Json:
    if isinstance(found, list):
        return [without(each, members, coins) for each in found if _coin_of(each) not in coins]
    if isinstance(found, dict):
        kept = {name: each for name, each in found.items() if name not in members and _coin(name) not in coins}
        return {name: without(each, members, coins) for name, each in kept.items()}
    return found


def _coin_of(row: Json) -> str:
    named = row if isinstance(row, dict) else {}
    return _coin(str(named.get("asset") or named.get("symbol") or ""))


def _coin(name: str) -> str:
    """BTC of BTC, of BTCUSD_PERP, and of BTC/USD:BTC."""
    return name.partition("/")[0].partition("USD_")[0]


CODES = [{-2014, -2015}, {-1104, -1121, -1128}, {-5000}, {-1001}, {-1003}]
UNAUTHENTICATED, REFUSED, MISSING, UNKNOWN, LIMITED = range(5)
"""By these, `CODES` and the clients' `raises` are sorted."""

CCXT_RAISES = ("AuthenticationError", "ExchangeError", "ExchangeError", "OperationFailed", "DDoSProtection")
SDK_RAISES = ("UnauthorizedError", "BadRequestError", "NotFoundError", "ServerError", "TooManyRequestsError")
CONNECTOR_RAISES = ("ClientError", "ClientError", "ClientError", "ServerError", "ClientError")


def ccxt(name: str) -> PublicClient:
    return PublicClient(
        name=name,
        listing=[("load_markets", {}), ("fetch_time", {})],
        reads=[
            ("dapiPrivateGetAccount", {}),
            ("fetch_balance", {}),
            ("fetch_positions", {}),
            ("fetch_positions", {"params": {"method": "account"}}),
            ("fetch_account_positions", {}),
            ("fetch_leverages", {}),
            ("fetch_margin_modes", {}),
            ("fetch_leverage_tiers", {}),
            ("dapiPrivateGetBalance", {}),
            ("dapiPrivateGetPositionRisk", {"params": {"marginAsset": "ETH"}}),
            ("dapiPrivateV2GetLeverageBracket", {"params": {"symbol": "BTCUSD_PERP"}}),
        ],
        elsewhere=[
            ("dapiPrivateGetOpenOrders", {}),
            ("fetch_open_orders", {"symbol": "BTC/USD:BTC"}),
            ("fetch_ticker", {"symbol": "BTC/USD:BTC"}),
            ("sapiGetCapitalConfigGetall", {}),
            ("fapiPrivateV2GetAccount", {}),
        ],
        refused=[
            ("dapiPrivateGetAccount", {"params": {"x": 1}}),
            ("dapiPrivateGetPositionRisk", {"params": {"pair": "BTCUSD", "marginAsset": "BTC"}}),
            ("dapiPrivateGetPositionRisk", {"params": {"pair": "NONE"}}),
        ],
        raises=CCXT_RAISES,
        careless="api.binance.com",
    )


def python_binance(name: str) -> PublicClient:
    return PublicClient(
        name=name,
        listing=[("futures_coin_ping", {}), ("futures_coin_time", {}), ("futures_coin_exchange_info", {})],
        reads=[
            ("futures_coin_account", {}),
            ("futures_coin_account_balance", {}),
            ("futures_coin_position_information", {}),
            ("futures_coin_position_information", {"pair": "BTCUSD"}),
            ("futures_coin_position_information", {"marginAsset": "ETH"}),
            ("futures_coin_leverage_bracket", {}),
            ("futures_coin_leverage_bracket", {"symbol": "BTCUSD_PERP"}),
        ],
        elsewhere=[
            ("futures_coin_get_position_mode", {}),
            ("ping", {}),
            ("get_account", {}),
            ("get_all_coins_info", {}),
            ("futures_account", {}),
            ("futures_exchange_info", {}),
            ("papi_get_balance", {}),
        ],
        refused=[
            ("futures_coin_account", {"x": 1}),
            ("futures_coin_position_information", {"pair": "BTCUSD", "marginAsset": "BTC"}),
            ("futures_coin_leverage_bracket", {"symbol": "NONE"}),
        ],
        raises=["BinanceAPIException"] * 5,
        careless="api.binance.com",
    )


PYTHON = [
    ccxt("ccxt"),
    ccxt("ccxt, awaited"),
    python_binance("python-binance"),
    python_binance("python-binance, awaited"),
    PublicClient(
        name="binance-futures-connector",
        listing=[("ping", {}), ("time", {}), ("exchange_info", {})],
        reads=[
            ("account", {}),
            ("balance", {}),
            ("get_position_risk", {}),
            ("get_position_risk", {"pair": "BTCUSD"}),
            ("get_position_risk", {"marginAsset": "ETH"}),
            ("leverage_brackets", {}),
        ],
        elsewhere=[("leverage_brackets", {"symbol": "BTCUSD_PERP"}), ("get_position_mode", {})],
        refused=[
            ("account", {"x": 1}),
            ("get_position_risk", {"pair": "BTCUSD", "marginAsset": "BTC"}),
            ("get_position_risk", {"pair": "NONE"}),
        ],
        raises=CONNECTOR_RAISES,
        careless="dapi.binance.com",
    ),
    PublicClient(
        name="Binance's SDK",
        listing=[("test_connectivity", {}), ("check_server_time", {}), ("exchange_information", {})],
        reads=[
            ("account_information", {}),
            ("futures_account_balance", {}),
            ("position_information", {}),
            ("position_information", {"pair": "BTCUSD"}),
            ("position_information", {"margin_asset": "ETH"}),
            ("notional_bracket_for_symbol", {}),
            ("notional_bracket_for_symbol", {"symbol": "BTCUSD_PERP"}),
        ],
        refused=[
            ("position_information", {"pair": "BTCUSD", "margin_asset": "BTC"}),
            ("notional_bracket_for_symbol", {"symbol": "NONE"}),
        ],
        elsewhere=[("notional_bracket_for_pair", {}), ("get_current_position_mode", {})],
        raises=SDK_RAISES,
        careless="dapi.binance.com",
        own_folder=False,
    ),
]
JAVASCRIPT = [
    PublicClient(
        name="ccxt",
        listing=[("loadMarkets", []), ("fetchTime", [])],
        reads=[
            ("dapiPrivateGetAccount", []),
            ("fetchBalance", []),
            ("fetchPositions", []),
            ("fetchPositions", [None, {"method": "account"}]),
            ("fetchAccountPositions", []),
            ("fetchLeverages", []),
            ("fetchMarginModes", []),
            ("fetchLeverageTiers", []),
            ("dapiPrivateGetBalance", []),
            ("dapiPrivateGetPositionRisk", [{"marginAsset": "ETH"}]),
            ("dapiPrivateV2GetLeverageBracket", [{"symbol": "BTCUSD_PERP"}]),
        ],
        elsewhere=[
            ("dapiPrivateGetOpenOrders", []),
            ("fetchOpenOrders", ["BTC/USD:BTC"]),
            ("fetchTicker", ["BTC/USD:BTC"]),
            ("sapiGetCapitalConfigGetall", []),
            ("fapiPrivateV2GetAccount", []),
        ],
        refused=[
            ("dapiPrivateGetAccount", [{"x": 1}]),
            ("dapiPrivateGetPositionRisk", [{"pair": "BTCUSD", "marginAsset": "BTC"}]),
            ("dapiPrivateGetPositionRisk", [{"pair": "NONE"}]),
        ],
        raises=CCXT_RAISES,
        careless="api.binance.com",
        javascript=True,
    ),
    PublicClient(
        name="Binance's SDK",
        listing=[("testConnectivity", []), ("checkServerTime", []), ("exchangeInformation", [])],
        reads=[
            ("accountInformation", []),
            ("futuresAccountBalance", []),
            ("positionInformation", []),
            ("positionInformation", [{"pair": "BTCUSD"}]),
            ("positionInformation", [{"marginAsset": "ETH"}]),
            ("notionalBracketForSymbol", []),
            ("notionalBracketForSymbol", [{"symbol": "BTCUSD_PERP"}]),
        ],
        refused=[
            ("positionInformation", [{"pair": "BTCUSD", "marginAsset": "BTC"}]),
            ("notionalBracketForSymbol", [{"symbol": "NONE"}]),
        ],
        elsewhere=[("notionalBracketForPair", []), ("getCurrentPositionMode", [])],
        raises=[f"_{name}" for name in SDK_RAISES],  # the classes' own names; they are exported without the line
        careless="dapi.binance.com",
        javascript=True,
    ),
    PublicClient(
        name="binance",
        listing=[("testConnectivity", []), ("getServerTime", []), ("getExchangeInfo", [])],
        reads=[
            ("getAccountInformation", []),
            ("getBalance", []),
            ("getPositions", []),
            ("getPositions", [{"pair": "BTCUSD"}]),
            ("getPositions", [{"marginAsset": "ETH"}]),
            ("getNotionalAndLeverageBrackets", []),
            ("getNotionalAndLeverageBrackets", [{"symbol": "BTCUSD_PERP"}]),
        ],
        elsewhere=[("getCurrentPositionMode", []), ("getOpenInterestStatistics", [{"pair": "BTCUSD"}])],
        refused=[
            ("getPositions", [{"x": 1}]),
            ("getPositions", [{"pair": "BTCUSD", "marginAsset": "BTC"}]),
            ("getNotionalAndLeverageBrackets", [{"symbol": "NONE"}]),
        ],
        raises=["Object"] * 5,
        careless="dapi.binance.com",
        javascript=True,
    ),
]
