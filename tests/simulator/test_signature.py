import base64
from collections.abc import Callable
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from simulator.asgi import Reply
from simulator.exchange import Exchange
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY, ApiKey, parse, timestamp_refusal, verifies
from simulator.transport import SimulatorTransport
from tests.simulator.conftest import NOW

DOCS_SECRET = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
SPOT_SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
LIMIT_ORDER = "side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC&recvWindow=5000&timestamp=1591702613943"


@pytest.mark.parametrize(
    ("secret", "payload", "signature"),
    [
        (
            DOCS_SECRET,
            "timestamp=1591702613943",
            "84901bbeed96ffa9adf9995c40fcadcb0a9ddad37c2605ce82491f2c771077a6",
        ),
        (
            DOCS_SECRET,
            "recvWindow=5000&timestamp=1591702613943",
            "5581570ecf76b9b74c6f1a66ef6520c2959a75c32641affb2634d655d6e64db8",
        ),
        (
            DOCS_SECRET,
            f"symbol=BTCUSDT&{LIMIT_ORDER}",
            "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9",
        ),
        (  # the docs' own stray space, and no "&" between query and body
            DOCS_SECRET,
            (
                "symbol=BTCUSD_200925&side=BUY&type=LIMIT&timeInForce=GTC"
                "quantity=1&price=9000&recvWindow=5000&timestamp= 1591702613943"
            ),
            "f3129e7c72c7727037891ad8a86b76a7dc514ba125a536775c8ba403b2d1b222",
        ),
        (
            DOCS_SECRET,
            f"symbol=BTCUSD_200925&{LIMIT_ORDER}",
            "04c8b9fbd55285a38fd6a3fc40ba3a7d114f22564dab61611bf24f2d2efb890f",
        ),
        (
            SPOT_SECRET,
            "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559",
            "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71",
        ),
    ],
)
def test_published_signatures_verify_in_either_case(secret: str, payload: str, signature: str) -> None:
    key = ApiKey("name", "main", secret=secret)

    assert verifies(key, payload.encode(), signature.encode())
    assert verifies(key, payload.encode(), signature.upper().encode())
    assert not verifies(key, payload.encode() + b" ", signature.encode())


def test_the_misprinted_signature_of_the_docs_does_not_verify() -> None:
    key = ApiKey("name", "main", secret=DOCS_SECRET)
    printed = b"21fd819734bf0e5c68740eed892909414d693635c5f7fffab1313925ae13556a"

    assert not verifies(key, f"symbol=BTCUSD_200925&{LIMIT_ORDER}".encode(), printed)


def test_what_was_signed_is_the_query_as_sent_up_to_the_signature() -> None:
    query = parse(b"b=%41+x&a=1&signature=ff")

    assert query.payload == b"b=%41+x&a=1"


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
async def test_a_private_key_signs_and_only_url_encoded(
    exchange: Exchange, client: httpx.AsyncClient, kind: str
) -> None:
    payload = f"timestamp={NOW}".encode()
    if kind == "rsa":
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        raw, public = rsa_key.sign(payload, padding.PKCS1v15(), SHA256()), rsa_key.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    else:
        ed_key = Ed25519PrivateKey.generate()
        raw = ed_key.sign(payload)
        pem = ed_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    exchange.add_public_key(DEMO_API_KEY, pem)
    signature = quote(base64.b64encode(raw), safe="")

    good = await client.get(f"/dapi/v1/account?timestamp={NOW}&signature={signature}")
    moved = await client.get(f"/dapi/v1/account?timestamp={NOW - 1}&signature={signature}")
    garbled = await client.get(f"/dapi/v1/account?timestamp={NOW}&signature=not-base64")
    plus = verifies(exchange.keys[DEMO_API_KEY], payload, base64.b64encode(raw).replace(b"/", b"+") + b"+")

    assert exchange.keys[DEMO_API_KEY].kind == kind
    assert [good.status_code, moved.json()["code"], garbled.json()["code"]] == [200, -1022, -1022]
    assert not plus


def test_only_rsa_and_ed25519_public_keys_are_taken(exchange: Exchange) -> None:
    with pytest.raises(ValueError, match="must be a public key in PEM"):
        exchange.add_public_key(DEMO_API_KEY, b"nonsense")
    with pytest.raises(ValueError, match="64 letters and digits"):
        exchange.add_secret_key("short", "secret")


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (NOW + 999, None),
        (NOW + 1000, "Timestamp for this request was 1000ms ahead of the server's time."),
        (NOW - 5000, None),
        (NOW - 5001, "Timestamp for this request is outside of the recvWindow."),
    ],
)
def test_the_timestamp_is_refused_exactly_beyond_its_edges(timestamp: int, text: str | None) -> None:
    refusal = timestamp_refusal(timestamp, 5000, NOW)

    assert (refusal is None) is (text is None)
    if isinstance(refusal, Reply) and text is not None:
        assert text.encode() in refusal.body
        assert refusal.status == 400


@pytest.mark.parametrize(
    ("query", "status", "code", "text"),
    [
        ("", 400, -1102, "Mandatory parameter 'timestamp' was not sent, was empty/null, or malformed."),
        ("timestamp=&signature=ff", 400, -1102, "Mandatory parameter 'timestamp' was not sent"),
        (f"timestamp={NOW}", 400, -1102, "Mandatory parameter 'signature' was not sent, was empty/null, or malformed."),
        ("timestamp=1e9&signature=ff", 400, -1100, "Illegal characters found in parameter 'timestamp'"),
        (f"timestamp={NOW}&timestamp={NOW}&signature=ff", 400, -1101, "Duplicate values for a parameter detected."),
        (f"timestamp={NOW}&recvWindow=60001&signature=ff", 400, -1131, "'recvWindow' must be less than 60000."),
        (f"timestamp={NOW - 60001}&recvWindow=60000&signature=ff", 400, -1021, "outside of the recvWindow"),
        (f"timestamp={NOW}&signature=ff", 400, -1022, "Signature for this request is not valid."),
    ],
)
async def test_a_wrong_query_is_refused_with_the_documented_text(
    client: httpx.AsyncClient, query: str, status: int, code: int, text: str
) -> None:
    answer = await client.get(f"/dapi/v1/account?{query}")

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert text in answer.json()["msg"]


async def test_a_signature_that_is_not_the_last_parameter_does_not_count(
    client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    answer = await client.get(signed() + "&recvWindow=5000")

    assert answer.json()["code"] == -1022


async def test_a_signed_but_unknown_parameter_is_refused(client: httpx.AsyncClient, signed: Callable[..., str]) -> None:
    answer = await client.get(signed(f"timestamp={NOW}&asset=BTC"))

    assert answer.json() == {
        "code": -1104,
        "msg": "Not all sent parameters were read; read '2' parameter(s) but was sent '3'.",
    }


async def test_keys_are_checked_for_form_first_and_for_permission_after_the_time(
    exchange: Exchange, client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    async with httpx.AsyncClient(transport=SimulatorTransport(exchange), base_url="http://exchange") as keyless:
        missing = await keyless.get(signed())
    garbled = await client.get(signed(), headers={"X-MBX-APIKEY": "garbled"})
    late = await client.get(signed("timestamp=1"), headers={"X-MBX-APIKEY": "u" * 64})
    unknown = await client.get(signed(), headers={"X-MBX-APIKEY": "u" * 64})
    exchange.revoke(DEMO_API_KEY)
    revoked = await client.get(signed())

    assert [answer.json()["code"] for answer in (missing, garbled, late, unknown, revoked)] == [
        -2014,
        -2014,
        -1021,
        -2015,
        -2015,
    ]
    assert revoked.status_code == 401
    assert revoked.json()["msg"].endswith("for action, request ip: 127.0.0.1")


async def test_the_documented_body_of_an_old_timestamp_has_79_bytes(
    client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    answer = await client.get(signed("timestamp=1"))

    assert answer.headers["content-length"] == "79"


async def test_each_key_reads_its_own_account(
    exchange: Exchange, client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    other = "otherKey".ljust(64, "0")
    exchange.add_book("other")
    exchange.set_balance("LTC", "3.5", account="other")
    exchange.add_secret_key(other, "another secret", account="other")

    theirs = await client.get(signed(secret="another secret"), headers={"X-MBX-APIKEY": other})
    ours = await client.get(signed(secret=DEMO_SECRET_KEY))

    wallets = [{row["asset"]: row["walletBalance"] for row in answer.json()["assets"]} for answer in (theirs, ours)]
    assert [(it["LTC"], it["BTC"]) for it in wallets] == [("3.50000000", "0.00000000"), ("0.00000000", "1.25417362")]
