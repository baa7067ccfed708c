"""A public Python client as a desk would run it, in a process of its own: what it reads and whom it calls.

Standard input: {"client", "careless", "callers": [{"base", "key", "secret"}, …], "calls": [[method, arguments], …]}.
`careless`: told less than the guide says, as whoever doesn't read it would.

For each caller: `results`, of which an error is {"raised": its classes, most specific first, "code", "said"}; `called`,
every host and port that the process looked up or connected to, by the interpreter's own audit events; `told`, those of
them that the token was sent to (libraries on http.client alone show that); `urls`, the client's own table of base URLs.
No host but this machine is ever reached: the attempt is noted, and fails as without a network.
"""

import asyncio
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


def ccxt(base: str, key: str, secret: str, *, careless: bool, asynchronous: bool = False) -> Any:
    library: Any = importlib.import_module("ccxt.async_support" if asynchronous else "ccxt")
    options = {} if careless else {"fetchCurrencies": False}
    exchange = library.binancecoinm({"apiKey": key, "secret": secret, "options": options})
    table = {"dapiPublic": f"{base}/dapi/v1", "dapiPrivate": f"{base}/dapi/v1", "dapiPrivateV2": f"{base}/dapi/v2"}
    if careless:
        exchange.urls["api"].update(table)
    else:
        exchange.urls["api"] = table
        exchange.urls["test"] = exchange.urls["demo"] = {}
    return exchange


def python_binance(base: str, key: str, secret: str, *, careless: bool, asynchronous: bool = False) -> Any:
    basic: Any = importlib.import_module("binance.base_client").BaseClient
    library: Any = importlib.import_module("binance.async_client" if asynchronous else "binance.client")
    for name in ["FUTURES_COIN_URL"] if careless else [name for name in dir(basic) if name.endswith("_URL")]:
        setattr(basic, name, f"{base}/dapi")
    if asynchronous:
        return library.AsyncClient.create(key, secret) if careless else library.AsyncClient(key, secret)
    return library.Client(key, secret) if careless else library.Client(key, secret, ping=False)


def connector(base: str, key: str, secret: str, *, careless: bool) -> Any:
    library: Any = importlib.import_module("binance.cm_futures")
    return library.CMFutures(key, secret) if careless else library.CMFutures(key, secret, base_url=base)


def sdk(base: str, key: str, secret: str, *, careless: bool) -> Any:
    common: Any = importlib.import_module("binance_common.configuration")
    library: Any = importlib.import_module("binance_sdk_derivatives_trading_coin_futures")
    kind = library.derivatives_trading_coin_futures.DerivativesTradingCoinFutures
    told = {} if careless else {"base_path": base}
    configuration = common.ConfigurationRestAPI(api_key=key, api_secret=secret, timeout=10_000, retries=0, **told)
    return kind(config_rest_api=configuration).rest_api


MAKERS: dict[str, Any] = {
    "ccxt": ccxt,
    "ccxt, awaited": lambda *said, careless: ccxt(*said, careless=careless, asynchronous=True),
    "python-binance": python_binance,
    "python-binance, awaited": lambda *said, careless: python_binance(*said, careless=careless, asynchronous=True),
    "binance-futures-connector": connector,
    "Binance's SDK": sdk,
}


async def settled(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def refused(exc: Exception) -> dict[str, Any]:
    code = getattr(exc, "error_code", None) or getattr(exc, "code", None)
    return {"raised": [kind.__name__ for kind in type(exc).__mro__], "code": code, "said": str(exc)}


async def read(caller: dict[str, str], said: dict[str, Any]) -> list[Any]:
    results: list[Any] = []
    try:
        made = MAKERS[said["client"]](caller["base"], caller["key"], caller["secret"], careless=said["careless"])
        client = await settled(made)
    except Exception as exc:  # noqa: BLE001  # whatever a library raises is what it does
        return [refused(exc)]
    caller["urls"] = {name: getattr(client, name) for name in dir(client) if name.endswith("_URL")}  # type: ignore[assignment]
    for method, arguments in said["calls"]:
        try:
            found = await settled(getattr(client, method)(**arguments))
            results.append(found.data() if hasattr(found, "data") else found)
        except Exception as exc:  # noqa: BLE001
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
        results = await read(caller, said)
        told.append({"results": results, "called": sorted(watch.called), "told": sorted(watch.told)})
        told[-1]["urls"] = caller.get("urls", {})
    json.dump(told, sys.stdout, default=lambda model: model.to_dict())


asyncio.run(main(json.load(sys.stdin)))
