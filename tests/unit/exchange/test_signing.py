import base64
import traceback
from pathlib import Path
from urllib.parse import parse_qs, unquote_to_bytes

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from service.exchange.signing import Credential, Ed25519Signer, HmacSigner, RsaSigner, read_credential
from service.settings import Account, Secret
from service.settings_file import SettingsError

COIN_M_DOCS = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
SPOT_DOCS = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"

MIXED_BODY = "quantity=1&price=9000&recvWindow=5000&timestamp= 1591702613943"

RSA = generate_private_key(65537, 2048)
ED25519 = Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())


def pem(
    key: RSAPrivateKey | Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def read(folder: Path, *, api_key: bytes = b"apikey\n", secret_key: bytes = b"secret\n") -> Credential:
    account = Account(api_key_file=folder / "api_key", secret_key_file=folder / "secret_key")
    account.api_key_file.write_bytes(api_key)
    account.secret_key_file.write_bytes(secret_key)
    return read_credential("main", account)


@pytest.mark.parametrize(
    ("secret", "payload", "signature"),
    [
        (COIN_M_DOCS, "timestamp=1591702613943", "84901bbeed96ffa9adf9995c40fcadcb0a9ddad37c2605ce82491f2c771077a6"),
        (
            COIN_M_DOCS,
            "recvWindow=5000&timestamp=1591702613943",
            "5581570ecf76b9b74c6f1a66ef6520c2959a75c32641affb2634d655d6e64db8",
        ),
        (  # UM docs, example 1
            COIN_M_DOCS,
            "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC&recvWindow=5000&timestamp=1591702613943",
            "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9",
        ),
        (  # COIN-M docs, example 3: verifies only with the stray space
            COIN_M_DOCS,
            "symbol=BTCUSD_200925&side=BUY&type=LIMIT&timeInForce=GTC" + MIXED_BODY,
            "f3129e7c72c7727037891ad8a86b76a7dc514ba125a536775c8ba403b2d1b222",
        ),
        (  # Spot docs
            SPOT_DOCS,
            "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559",
            "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71",
        ),
    ],
)
def test_hmac_signs_as_the_exchanges_documents_do(secret: str, payload: str, signature: str) -> None:
    assert HmacSigner(Secret(secret)).sign(payload.encode()) == signature.encode()


def test_the_account_query_is_what_is_signed_with_the_signature_last() -> None:
    credential = Credential(Secret("apikey"), Secret(COIN_M_DOCS), HmacSigner(Secret(COIN_M_DOCS)))
    assert credential.signed_query(1591702613943, 5000) == (
        b"recvWindow=5000&timestamp=1591702613943"
        b"&signature=5581570ecf76b9b74c6f1a66ef6520c2959a75c32641affb2634d655d6e64db8"
    )


def test_an_rsa_signature_verifies_once_the_query_is_decoded(tmp_path: Path) -> None:
    credential = read(tmp_path, secret_key=pem(RSA))
    payload, _, signature = credential.signed_query(1591702613943, 5000).partition(b"&signature=")
    raw = base64.b64decode(unquote_to_bytes(signature), validate=True)
    RSA.public_key().verify(raw, payload, padding.PKCS1v15(), hashes.SHA256())
    assert isinstance(credential.signer, RsaSigner)


def test_an_ed25519_signature_verifies_once_the_query_is_decoded(tmp_path: Path) -> None:
    credential = read(tmp_path, secret_key=pem(ED25519))
    payload, _, signature = credential.signed_query(1591702613943, 5000).partition(b"&signature=")
    ED25519.public_key().verify(base64.b64decode(unquote_to_bytes(signature), validate=True), payload)
    assert isinstance(credential.signer, Ed25519Signer)


def test_base_64_in_a_query_is_encoded_so_that_forms_read_it_back() -> None:
    for number in range(64):  # some of these hold each of + / =
        signature = Ed25519Signer(ED25519).sign(b"%d" % number)
        assert set(b"+/=").isdisjoint(signature)
        (read_back,) = parse_qs(f"signature={signature.decode()}")["signature"]
        ED25519.public_key().verify(base64.b64decode(read_back, validate=True), b"%d" % number)


def test_a_pkcs_1_key_is_taken_too(tmp_path: Path) -> None:
    assert isinstance(read(tmp_path, secret_key=pem(RSA, PrivateFormat.TraditionalOpenSSL)).signer, RsaSigner)


def test_whatever_is_no_pem_is_an_hmac_secret(tmp_path: Path) -> None:
    signed = read(tmp_path, secret_key=f"{COIN_M_DOCS}\n".encode()).signed_query(1591702613943, 5000)
    assert signed.endswith(b"5581570ecf76b9b74c6f1a66ef6520c2959a75c32641affb2634d655d6e64db8")


@pytest.mark.parametrize(
    ("secret_key", "expected"),
    [
        (b"", "expected a secret, found nothing"),
        (b" \n\n", "expected a secret, found nothing"),
        (b"\xffcanary", "expected UTF-8 text"),
        (b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n", "expected a PEM private key"),
        (pem(RSA)[:200], "expected a PEM private key"),
        (pem(RSA, encryption=BestAvailableEncryption(b"canary")), "expected a PEM private key without a pass phrase"),
        (
            RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "expected a PEM private key",
        ),
        (pem(EC), "expected an RSA or Ed25519 private key"),
        (b"canary of two words", "expected one word of printable ASCII or a PEM"),
    ],
)
def test_a_bad_secret_key_file_is_named_and_never_shown(tmp_path: Path, secret_key: bytes, expected: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read(tmp_path, secret_key=secret_key)
    assert str(refusal.value) == f"accounts.main.secret_key_file: {expected}"
    assert "canary" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize("api_key", ["canary\n\n", "can\nary", "can ary", "canary\t", "canarÿ", "\ufeff\ufeffcanary"])
def test_an_api_key_that_no_header_holds_is_refused_without_showing_it(tmp_path: Path, api_key: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read(tmp_path, api_key=api_key.encode())
    assert str(refusal.value) == "accounts.main.api_key_file: expected one word of printable ASCII"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    account = Account(api_key_file=tmp_path / "nowhere", secret_key_file=tmp_path / "secret_key")
    with pytest.raises(SettingsError, match=r"^accounts\.main\.api_key_file: cannot be read: No such file"):
        read_credential("main", account)


def test_a_mended_secret_is_another_credential_under_the_same_key(tmp_path: Path) -> None:
    wrong, mended = read(tmp_path, secret_key=b"wrong"), read(tmp_path, secret_key=b"mended")
    assert wrong.fingerprint == mended.fingerprint
    assert wrong.identity != mended.identity
    assert read(tmp_path, secret_key=b"mended\n").identity == mended.identity


def test_a_credential_is_known_by_eight_digits_of_its_keys_hash(tmp_path: Path) -> None:
    credential = read(tmp_path, api_key=b"abc\n")
    assert credential.fingerprint == "ba7816bf"  # SHA-256's own test vector
    assert repr(credential) == "<Credential ba7816bf>"
