"""Where ccxt would send each of its calls, and with which headers, as JSON on stdout; nothing is sent.

Standard input: {"key", "api": the table of base URLs to use, null for its own, "part": entries to replace in its own}.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

METHODS = {"get", "post", "put", "delete", "patch"}


def endpoints(tree: dict[str, Any], api: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Every (api, method, path) that it has an implicit method for."""
    for name, below in tree.items():
        if name in METHODS:
            yield from ((api, name.upper(), path) for path in below)
        else:
            yield from endpoints(below, (*api, name))


def main(said: dict[str, Any]) -> None:
    ccxt: Any = importlib.import_module("ccxt")
    exchange = ccxt.binancecoinm({"apiKey": said["key"], "secret": "unused"})
    exchange.urls["api"] = said["api"] or exchange.urls["api"] | said["part"]
    exchange.urls["test"] = exchange.urls["demo"] = {}
    sent, unsent = [], 0
    for api, method, path in endpoints(exchange.describe()["api"]):
        try:
            signed = exchange.sign(path, list(api), method, {})
        except ccxt.NotSupported:
            unsent += 1
            continue
        sent.append([signed["url"], signed["headers"] or {}])
    exchange.set_sandbox_mode(True)
    told = {"sandbox": exchange.urls["api"], "asks_for_currencies": exchange.options["fetchCurrencies"]}
    json.dump({"sent": sent, "unsent": unsent} | told, sys.stdout)


main(json.load(sys.stdin))
