"""Binance's own client reads the simulated account over a real socket."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from binance_common.configuration import ConfigurationRestAPI
from binance_common.errors import RateLimitBanError, UnauthorizedError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from simulator.exchange import Exchange
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from tests import binance_sdk
from tests.binance_sdk import Client

Sdk = Callable[..., Client]


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()  # the client signs with the real time


@pytest.fixture
def sdk(url: str) -> Iterator[Sdk]:
    with binance_sdk.clients() as make:

        def configured(*, api_secret: str | None = None, private_key: str | None = None) -> Client:
            configuration = ConfigurationRestAPI(DEMO_API_KEY, api_secret, url, timeout=5000, retries=0)
            configuration.private_key = private_key
            return make(configuration)

        yield configured


async def read(api: Client) -> Any:
    return await asyncio.to_thread(lambda: api.account_information().data())


@pytest.mark.parametrize("hedge", [False, True])
async def test_it_reads_the_account_with_an_hmac_secret(exchange: Exchange, sdk: Sdk, *, hedge: bool) -> None:
    exchange.book().set_mode(hedge=hedge)
    data = await read(sdk(api_secret=DEMO_SECRET_KEY))

    assert len(data.positions) == (90 if hedge else 30)
    assert (data.assets[0].asset, data.assets[0].wallet_balance) == ("BTC", "1.25417362")
    assert data.positions[0].position_amt == ("0" if hedge else "120")


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
async def test_it_reads_the_account_with_a_private_key(exchange: Exchange, sdk: Sdk, kind: str) -> None:
    generated = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = generated if kind == "rsa" else Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    exchange.add_public_key(
        DEMO_API_KEY, private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    data = await read(sdk(private_key=pem.decode()))

    assert exchange.keys[DEMO_API_KEY].kind == kind
    assert len(data.positions) == 30


async def test_it_reads_time_and_contracts(sdk: Sdk) -> None:
    api = sdk(api_secret=DEMO_SECRET_KEY)
    time = await asyncio.to_thread(lambda: api.check_server_time().data())
    contracts = await asyncio.to_thread(lambda: api.exchange_information().data())

    assert time.server_time is not None
    assert contracts.symbols is not None
    assert len(contracts.symbols) == 30
    assert contracts.symbols[0].contract_size == 100


async def test_it_sees_a_wrong_secret_a_revoked_key_and_a_ban_as_its_own_errors(exchange: Exchange, sdk: Sdk) -> None:
    exchange.revoke(DEMO_API_KEY)
    with pytest.raises(UnauthorizedError, match="Invalid API-key, IP, or permissions for action"):
        await read(sdk(api_secret=DEMO_SECRET_KEY))
    exchange.limits.ban("127.0.0.1", exchange.now_ms() + 60_000, exchange.now_ms())
    with pytest.raises(RateLimitBanError, match="banned until"):
        await read(sdk(api_secret=DEMO_SECRET_KEY))
