"""An exchange whose clock stands at NOW, a client in process, the same on a real socket, and a signer."""

import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from simulator.control import controllable
from simulator.exchange import Exchange
from simulator.server import serving
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from simulator.transport import AppTransport

NOW = 1_795_000_020_000  # 2026-11-18, at the start of a minute
KEY = {"X-MBX-APIKEY": DEMO_API_KEY}


@pytest.fixture
def exchange() -> Exchange:
    return Exchange(clock=lambda: NOW / 1000)


@pytest.fixture
async def client(exchange: Exchange) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=AppTransport(controllable(exchange)), base_url="http://exchange", headers=KEY
    ) as client:
        yield client


@pytest.fixture
async def url(exchange: Exchange) -> AsyncIterator[str]:
    async with serving(controllable(exchange)) as url:
        yield url


@pytest.fixture
async def remote(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers=KEY, trust_env=False) as client:
        yield client


@pytest.fixture
def signed() -> Callable[..., str]:
    """The account's path with a signed query; by default one that is accepted at NOW."""

    def sign(query: str = f"timestamp={NOW}", secret: str = DEMO_SECRET_KEY) -> str:
        signature = hmac.digest(secret.encode(), query.encode(), hashlib.sha256).hex()
        return f"/dapi/v1/account?{query}&signature={signature}"

    return sign


@pytest.fixture
def account(client: httpx.AsyncClient, exchange: Exchange, signed: Callable[..., str]) -> Callable[[], Any]:
    """Ask for the account at the exchange's present time; gives the parsed body."""

    async def ask() -> Any:
        answer = await client.get(signed(f"timestamp={exchange.now_ms()}"))
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask
