"""The simulated exchange with an account of any size, in a process of its own: `python -m bench.exchange PORT ROWS`.

`/account` is the account without a signature, for peers that can't sign; `/calls` says how often the account was
requested, signed or not.
"""

import asyncio
import sys
from typing import Any

import msgspec

from simulator.asgi import Receive, Scope, Send
from simulator.exchange import MAIN, Exchange, Settings
from simulator.faults import ACCOUNT_PATH
from simulator.server import serving
from simulator.statement import statement

WEIGHT_LIMIT = 1_000_000
"""A minute: nothing that is measured here ends for lack of weight."""


def statement_of(exchange: Exchange, rows: int) -> bytes:
    """The account with so many position rows, of invented delivery contracts where there are not enough."""
    account: dict[str, Any] = msgspec.json.decode(statement(exchange.book(MAIN), exchange.market, exchange.now_ms()))
    known = account["positions"]
    more = [known[n % len(known)] | {"symbol": f"BTCUSD_{n:06d}"} for n in range(rows - len(known))]
    return msgspec.json.encode(account | {"positions": (known + more)[:rows]})


async def main(port: int, rows: int) -> None:
    exchange = Exchange(Settings(weight_limit=WEIGHT_LIMIT))
    body = exchange.book(MAIN).raw = statement_of(exchange, rows)
    unsigned = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal unsigned
        match scope.get("path"):
            case "/account":
                unsigned += 1
                await _answer(send, body)
            case "/calls":
                await _answer(send, str(exchange.calls.count(ACCOUNT_PATH) + unsigned).encode())
            case _:
                await exchange(scope, receive, send)

    async with serving(app, port=port):
        await asyncio.Event().wait()


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
