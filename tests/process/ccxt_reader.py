"""ccxt as a desk would run it, in a process and with a library folder of its own; what it says, as JSON on stdout.

Standard input: {"base", "key", "secret", "calls": [[method, arguments], …], "asynchronous"}. Each call becomes its
result, or {"raised": the names of its error's classes, most specific first}.
"""

import asyncio
import importlib
import inspect
import json
import sys
from typing import Any


async def main(said: dict[str, Any]) -> None:
    ccxt: Any = importlib.import_module("ccxt.async_support" if said["asynchronous"] else "ccxt")
    options = {"fetchCurrencies": False, "leverageBrackets": {}}
    exchange = ccxt.binancecoinm({"apiKey": said["key"], "secret": said["secret"], "options": options})
    base = f"{said['base']}/dapi/v1"
    exchange.urls["api"] = {"dapiPublic": base, "dapiPrivate": base}
    exchange.urls["test"] = exchange.urls["demo"] = {}
    results: list[Any] = []
    try:
        for method, arguments in said["calls"]:
            try:
                found = getattr(exchange, method)(**arguments)
                results.append(await found if inspect.isawaitable(found) else found)
            except ccxt.BaseError as exc:
                results.append({"raised": [kind.__name__ for kind in type(exc).__mro__]})
    finally:
        closed = exchange.close() if said["asynchronous"] else None
        if closed is not None:
            await closed
    json.dump(results, sys.stdout)


asyncio.run(main(json.load(sys.stdin)))
