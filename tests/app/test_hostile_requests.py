"""A whole request costs no more than its length, wherever in it the hostile text stands."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from tests.app.harness import ACCOUNT, ASSETS, DROP_INS, RISK, Replica, Stage
from tests.support import TOKENS

SHORT, LONG = 1_000, 8_000
STEEPEST = 3 * LONG / SHORT
UNNOTICED = 0.020
"""Seconds of CPU that are too few to tell; the square of the longer one in nanoseconds would be 0.064."""

UNITS = [
    *' \t,;="\\%.&/-_:{[<',
    "a1, ",
    'W/"a',
    "%41",
    "%e5%b8%81",
    "//",
    "a=",
    "eyJ.",
    '\\"',
    "/v1/accounts",
    "..",
    "&asset=",
]
ENDS = ["", ",b", '"', "!"]
FIELDS = ("cache-control", "pragma", "if-none-match", "authorization", "x-request-id", "accept", "user-agent", "host")


def requests(text: str) -> dict[str, tuple[str, str, dict[str, str]]]:
    """Path, query and headers with the text in each place there is."""
    bearer = {"host": "a", "authorization": f"Bearer {TOKENS['risk']}"}
    found = {field: (f"{ASSETS}/BTC", "", bearer | {field: text}) for field in FIELDS}
    found["bearer token"] = (f"{ASSETS}/BTC", "", bearer | {"authorization": f"Bearer {text}"})
    found["key"] = ("/binance/main/dapi/v1/account", "", {"host": "a", "x-mbx-apikey": text})
    found |= {
        f"path {path}": (path + text, "", bearer)
        for path in ("/", f"{ASSETS}/", f"{RISK}/", "/binance/", "/docs/", "//v1//")
    }
    found |= {f"query {path}": (path, text, bearer) for path in (ACCOUNT, "/v1/status", "/binance/main/dapi/v1/ping")}
    found["filter"] = (ACCOUNT, f"asset={text}", bearer)
    key = {"host": "a", "x-mbx-apikey": TOKENS["risk"]}
    found |= {f"query {DROP_INS[2]}": (DROP_INS[2], text, key), "pair": (DROP_INS[2], f"pair={text}", key)}
    found["symbol"] = (DROP_INS[3], f"symbol={text}", key)
    return found


async def seconds(gateway: Replica, path: str, query: str, headers: dict[str, str]) -> float:
    """Of CPU."""
    scope: Any = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": query.encode(), "scheme": "http", "server": ("a", 80), "root_path": ""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    answers: list[Any] = []

    received = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return next(received, None) or await asyncio.get_running_loop().create_future()  # the caller stays

    async def send(message: Any) -> None:
        answers.append(message)

    began = time.process_time()
    await gateway.app(scope, receive, send)
    took = time.process_time() - began
    answer = httpx.Response(answers[0]["status"], headers=answers[0]["headers"])
    assert answer.status_code < 500, (path[:40], query[:40], answer.status_code)
    return took


@pytest.mark.parametrize("place", requests(""))
async def test_a_hostile_request_costs_its_length(stage: Stage, place: str) -> None:
    gateway = await stage.warm()
    for unit, end in ((unit, end) for unit in UNITS for end in ENDS):
        for last in (False, False, True):  # whatever else the process did in between
            texts = (unit * (length // len(unit)) + end for length in (SHORT, LONG))
            short, long = [await seconds(gateway, *requests(text)[place]) for text in texts]
            if long <= max(UNNOTICED, STEEPEST * short):
                break
            assert not last, (place, unit, end, short, long)
