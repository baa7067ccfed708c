"""Tokens that nobody issued, made of one that somebody did."""

import base64
import hashlib
import hmac

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from simulator.service_accounts import public_key_pem

FOREIGN_KEY = rsa.generate_private_key(65537, 2048)


def unsigned(token: str, algorithm: str = "none") -> str:
    """The same claims, and `alg: none`."""
    return f"{_part({'alg': algorithm, 'typ': 'JWT'})}.{token.split('.')[1]}."


def signed_by_the_public_key(token: str) -> str:
    """The same claims, signed with what everybody may know, taken for an HMAC secret."""
    content = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{token.split('.')[1]}"
    return f"{content}.{_encoded(hmac.digest(public_key_pem(), content.encode(), hashlib.sha256))}"


def altered(token: str, **claims: object) -> str:
    """Other claims under the same signature."""
    header, payload, signature = token.split(".")
    said = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=="))
    return f"{header}.{_part(said | claims)}.{signature}"


def _part(content: object) -> str:
    return _encoded(msgspec.json.encode(content))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
