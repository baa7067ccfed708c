"""A public Python client as a desk would run it, in a process of its own: what it reads and whom it calls.

Standard input: {"client", "careless", "callers": [{"base", "key", "secret", "headers"}, …], "calls": [[method, named
arguments], …]}. `careless`: told less than the guide says, as whoever doesn't read it would.

For each caller: `results`, of which an error is {"raised": its classes, most specific first, "code", "said"}; `called`,
every host and port that the process looked up or connected to, by the interpreter's own audit events; `told`, those of
them that the token was sent to (libraries on http.client alone show that); `urls`, the client's own table of base URLs.
No host but this machine is ever reached: the attempt is noted, and fails as without a network.
"""

import asyncio
import functools
import importlib
import inspect
import json
import socket
import sys
from typing import Any

NEAR = {"127.0.0.1", "localhost"}


class Watch:
    """Whom the process calls, since it was last asked."""

    def __init__(self) -> None:
        self.key = b""
        self.called: set[str] = set()
        self.told: set[str] = set()

    def begin(self, key: str) -> None:
        self.key = key.encode()
        self.called, self.told = set(), set()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "http.client.send":
            connection, data = arguments
            if self.key in bytes(data):
                self.told.add(f"{connection.host}:{connection.port}")
            return
        if event == "socket.getaddrinfo":
            host, port = arguments[:2]
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            host, port = arguments[1][:2]
        else:
            return
        name = host.decode() if isinstance(host, bytes) else str(host)
        self.called.add(f"{name}:{port}")
        if name not in NEAR:
            raise socket.gaierror(socket.EAI_NONAME, f"{name} is not to be called")


def ccxt(caller: dict[str, Any], *, careless: bool, asynchronous: bool = False) -> Any:
    library: Any = importlib.import_module("ccxt.async_support" if asynchronous else "ccxt")
    options = {} if careless else {"fetchCurrencies": False}
    own = {"enableRateLimit": False, "options": options}  # it would pause between calls
    exchange = library.binancecoinm({"apiKey": caller["key"], "secret": caller["secret"], **own})
    base = f"{caller['base']}/dapi"
    table = {"dapiPublic": f"{base}/v1", "dapiPrivate": f"{base}/v1", "dapiPrivateV2": f"{base}/v2"}
    if careless:
        exchange.urls["api"].update(table)
    else:
        exchange.urls["api"] = table
        exchange.urls["test"] = exchange.urls["demo"] = {}
    exchange.headers = caller["headers"]
    return exchange


async def python_binance(
    caller: dict[str, Any], *, careless: bool, asynchronous: bool = False, one_url: bool = False
) -> Any:
    basic: Any = importlib.import_module("binance.base_client").BaseClient
    for name in dir(basic):
        if name.endswith("_URL") and not (careless or one_url):
            setattr(basic, name, f"{caller['base']}/{name}")
    basic.FUTURES_COIN_URL = f"{caller['base']}/dapi"
    key, secret = caller["key"], caller["secret"]
    if asynchronous:
        kind: Any = importlib.import_module("binance.async_client").AsyncClient
        client = await kind.create(key, secret) if careless else kind(key, secret)
    else:
        kind = importlib.import_module("binance.client").Client
        client = kind(key, secret) if careless else kind(key, secret, ping=False)
    client.session.headers.update(caller["headers"])
    return client


def connector(caller: dict[str, Any], *, careless: bool) -> Any:
    library: Any = importlib.import_module("binance.cm_futures")
    told = {} if careless else {"base_url": caller["base"]}
    client = library.CMFutures(caller["key"], caller["secret"], **told)
    client.session.headers.update(caller["headers"])
    return client


def sdk(caller: dict[str, Any], *, careless: bool) -> Any:
    common: Any = importlib.import_module("binance_common.configuration")
    package = "binance_sdk_derivatives_trading_coin_futures"
    told = {"api_key": caller["key"], "api_secret": caller["secret"], "custom_headers": caller["headers"]}
    if careless:
        library: Any = importlib.import_module(f"{package}.{package.removeprefix('binance_sdk_')}")
        return library.DerivativesTradingCoinFutures(common.ConfigurationRestAPI(**told, retries=0)).rest_api
    library = importlib.import_module(f"{package}.rest_api")
    configuration = common.ConfigurationRestAPI(**told, base_path=caller["base"], timeout=10_000, retries=0)
    return library.DerivativesTradingCoinFuturesRestAPI(configuration)


MAKERS: dict[str, Any] = {
    "ccxt": ccxt,
    "ccxt, awaited": functools.partial(ccxt, asynchronous=True),
    "python-binance": python_binance,
    "python-binance, awaited": functools.partial(python_binance, asynchronous=True),
    "python-binance, one URL": functools.partial(python_binance, one_url=True),
    "binance-futures-connector": connector,
    "Binance's SDK": sdk,
}


async def settled(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def refused(exc: Exception) -> dict[str, Any]:
    code = getattr(exc, "error_code", None) or getattr(exc, "code", None)
    return {"raised": [kind.__name__ for kind in type(exc).__mro__], "code": code, "said": str(exc)}


async def read(client: Any, calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    results: list[Any] = []
    for method, arguments in calls:
        try:
            found = await settled(getattr(client, method)(**arguments))
            results.append(found.data() if hasattr(found, "data") else found)
        except Exception as exc:  # noqa: BLE001  # whatever a library raises is what it does
            results.append(refused(exc))
    for name in ("close", "close_connection"):
        if hasattr(client, name):
            await settled(getattr(client, name)())
    return results


async def main(said: dict[str, Any]) -> None:
    watch = Watch()
    sys.addaudithook(watch)
    told: list[Any] = []
    for caller in said["callers"]:
        watch.begin(caller["key"])
        results, urls = [], {}
        try:
            client = await settled(MAKERS[said["client"]](caller, careless=said["careless"]))
            urls = {name: getattr(client, name) for name in dir(client) if name.endswith("_URL")}
            results = await read(client, said["calls"])
        except OSError as exc:  # of a constructor that calls somebody
            results = [refused(exc)]
        told.append({"results": results, "called": sorted(watch.called), "told": sorted(watch.told), "urls": urls})
    json.dump(told, sys.stdout, default=lambda model: model.to_dict())


asyncio.run(main(json.load(sys.stdin)))
