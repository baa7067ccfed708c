"""Signed queries: built once, and the bytes that are signed are the bytes that are sent."""

# COIN-M docs, general info: `signature` comes last and covers the query as sent. HMAC-SHA256 is in hex. RSA (PKCS#1
# v1.5 with SHA-256) and Ed25519 are in base64, URL-encoded because `+`, `/` and `=` would break the query.

import base64
import hashlib
import hmac
from typing import Protocol
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from service.settings import Account, Secret
from service.settings_file import SettingsError, read_secret
from service.tls import private_key

_MAX_API_KEY_CHARS = 256  # the exchange's have 64


class Signer(Protocol):
    """One private key."""

    def sign(self, payload: bytes) -> bytes:
        """The signature in the form that the query needs."""
        ...


class HmacSigner:
    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def sign(self, payload: bytes) -> bytes:
        return hmac.new(self._secret.reveal().encode(), payload, hashlib.sha256).hexdigest().encode()


class RsaSigner:
    def __init__(self, key: RSAPrivateKey) -> None:
        self._key = key

    def sign(self, payload: bytes) -> bytes:
        return _in_query(self._key.sign(payload, padding.PKCS1v15(), hashes.SHA256()))


class Ed25519Signer:
    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def sign(self, payload: bytes) -> bytes:
        return _in_query(self._key.sign(payload))


class Credential:
    """An account's API key and the signer that goes with it."""

    __slots__ = ("api_key", "fingerprint", "identity", "signer")

    def __init__(self, api_key: Secret, secret: Secret, signer: Signer) -> None:
        self.api_key = api_key
        self.signer = signer
        self.fingerprint = _digest(api_key)[:8]
        """Names the key for people, in logs and status: 8 hex digits of its SHA-256."""
        self.identity = _digest(api_key, secret)[:16]
        """Names the pair for the gateway, in Redis: with a corrected secret it is another credential."""

    def __repr__(self) -> str:
        return f"<Credential {self.fingerprint}>"

    @property
    def headers(self) -> dict[str, str]:
        """What goes with a signed query."""
        return {"x-mbx-apikey": self.api_key.reveal()}

    def signed_query(self, timestamp: int, recv_window: int) -> bytes:
        """A signed call's query; `timestamp` is ms on the exchange's clock, `recv_window` ms."""
        query = b"recvWindow=%d&timestamp=%d" % (recv_window, timestamp)
        return query + b"&signature=" + self.signer.sign(query)


def read_credential(name: str, account: Account) -> Credential:
    """The credential in an account's files.

    Raises:
        SettingsError: a file is unreadable or empty, or holds no key of a kind the exchange accepts.
    """
    api_key_file, secret_key_file = f"accounts.{name}.api_key_file", f"accounts.{name}.secret_key_file"
    api_key = read_secret(account.api_key_file, api_key_file)
    if len(api_key.reveal()) > _MAX_API_KEY_CHARS:
        raise SettingsError(f"{api_key_file}: expected {_MAX_API_KEY_CHARS} characters at the most")
    secret = read_secret(account.secret_key_file, secret_key_file, pem=True)
    signer: Signer
    if "-----BEGIN" not in secret.reveal():
        signer = HmacSigner(secret)
    else:
        key = private_key(secret.reveal().encode(), secret_key_file)
        if isinstance(key, RSAPrivateKey):
            signer = RsaSigner(key)
        elif isinstance(key, Ed25519PrivateKey):
            signer = Ed25519Signer(key)
        else:
            raise SettingsError(f"{secret_key_file}: expected an RSA or Ed25519 private key")
    try:
        # A trial at start: an RSA key that is too short fails only when it signs.
        signer.sign(b"")
    except ValueError:
        raise SettingsError(f"{secret_key_file}: expected a longer RSA key, of 2048 bits or more") from None
    return Credential(api_key, secret, signer)


def _digest(*secrets: Secret) -> str:
    return hashlib.sha256("\n".join(secret.reveal() for secret in secrets).encode()).hexdigest()


def _in_query(signature: bytes) -> bytes:
    return quote(base64.b64encode(signature), safe="").encode()
