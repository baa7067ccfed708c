"""API keys, and the checks of a signed request in the order the exchange is believed to make them.

Key present and well formed, then `timestamp` and `signature` present, then the time, then the key
known and allowed, then the signature ("COIN-M docs, general info"; the order is common experience,
not documented). Nothing here looks at a clock: the time is an argument.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from urllib.parse import unquote_to_bytes

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from simulator.asgi import Reply, Request, error
from simulator.wallet import Restrictions

# 64 characters like real ones, and no one's.
DEMO_API_KEY = "demoApiKey".ljust(64, "0")
DEMO_SECRET_KEY = "demoSecretKey".ljust(64, "0")

API_KEY_FORMAT = re.compile(r"[A-Za-z0-9]{64}")
INTEGER = re.compile(rb"[0-9]{1,20}")  # the range -1100 itself names

DEFAULT_RECV_WINDOW_MS = 5000
MAX_RECV_WINDOW_MS = 60_000  # the official schema's maximum
AHEAD_LIMIT_MS = 1000  # accepted only if timestamp < server time + this
SIGNED_PARAMETERS = (b"timestamp", b"recvWindow", b"signature")


class ApiKey(msgspec.Struct, frozen=True):
    """A key of *account*; exactly one of `secret` (HMAC) and `public_key` (RSA or Ed25519) is set."""

    name: str
    account: str
    secret: str | None = None
    public_key: RSAPublicKey | Ed25519PublicKey | None = None
    allowed: bool = True  # False: revoked, or the address is not on its list
    restrictions: Restrictions = Restrictions()

    @property
    def kind(self) -> str:
        if self.public_key is None:
            return "hmac"
        return "rsa" if isinstance(self.public_key, RSAPublicKey) else "ed25519"


def check_key_name(name: str) -> str:
    """*name* itself; ValueError if the exchange would call it garbled."""
    if not API_KEY_FORMAT.fullmatch(name):
        raise ValueError("must be 64 letters and digits")
    return name


def read_public_key(pem: bytes) -> RSAPublicKey | Ed25519PublicKey:
    """The key in *pem*; ValueError if it is neither RSA nor Ed25519."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValueError("must be a public key in PEM") from exc
    if not isinstance(key, RSAPublicKey | Ed25519PublicKey):
        raise ValueError("must be an RSA or an Ed25519 public key")  # noqa: TRY004 - the content is wrong, not a type
    return key


def verifies(key: ApiKey, payload: bytes, signature: bytes) -> bool:
    """Whether *signature*, still as it stood in the query, signs *payload* with *key*."""
    # As a form is read: a bare "+" is a space, so base64 that was not URL-encoded fails.
    decoded = unquote_to_bytes(signature.replace(b"+", b" "))
    if key.public_key is None:
        expected = hmac.digest((key.secret or "").encode(), payload, hashlib.sha256).hex().encode()
        return hmac.compare_digest(expected, decoded.lower())
    try:
        raw = base64.b64decode(decoded, validate=True)
        if isinstance(key.public_key, RSAPublicKey):
            key.public_key.verify(raw, payload, PKCS1v15(), SHA256())
        else:
            key.public_key.verify(raw, payload)
    except (InvalidSignature, binascii.Error):
        return False
    return True


class SignedQuery(msgspec.Struct, frozen=True):
    """A raw query taken apart: `payload` is what was signed, everything before `&signature=` as sent."""

    payload: bytes
    parameters: tuple[tuple[bytes, bytes], ...]

    @property
    def values(self) -> dict[bytes, bytes]:
        return dict(self.parameters)


def parse(query: bytes) -> SignedQuery:
    pairs = (part.partition(b"=") for part in query.split(b"&") if part)
    payload = b"" if query.startswith(b"signature=") else query.partition(b"&signature=")[0]
    return SignedQuery(payload, tuple((unquote_to_bytes(name), value) for name, _, value in pairs))


def authenticate(
    request: Request, keys: Mapping[str, ApiKey], now_ms: int, read: Collection[bytes] = ()
) -> ApiKey | Reply:
    """The key that signed *request*, or the exchange's refusal; *read*: the parameters of the endpoint itself."""
    query = parse(request.query)
    refusal = _refuse_key_format(request.api_key) or _refuse_parameters(query) or _refuse_time(query, now_ms)
    if refusal is not None:
        return refusal
    key = keys.get(request.api_key or "")
    if key is None or not key.allowed:
        return not_permitted(request.client)
    last_name, signature = query.parameters[-1]
    # Behind the signature nothing is signed; letting it pass would forgive a client's mistake.
    if last_name != b"signature" or not verifies(key, query.payload, signature):
        return INVALID_SIGNATURE
    return _refuse_unread(query, read) or key


INVALID_SIGNATURE = error(400, -1022, "Signature for this request is not valid.")
KEY_FORMAT_INVALID = error(401, -2014, "API-key format invalid.")
AHEAD = error(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")
BEHIND = error(400, -1021, "Timestamp for this request is outside of the recvWindow.")


def not_permitted(address: str) -> Reply:
    return error(401, -2015, f"Invalid API-key, IP, or permissions for action, request ip: {address}")


def timestamp_refusal(timestamp_ms: int, recv_window_ms: int, now_ms: int) -> Reply | None:
    """None iff timestamp < now + 1000 and now - timestamp <= recvWindow."""
    if timestamp_ms >= now_ms + AHEAD_LIMIT_MS:
        return AHEAD
    return BEHIND if now_ms - timestamp_ms > recv_window_ms else None


def _refuse_key_format(api_key: str | None) -> Reply | None:
    well_formed = api_key is not None and API_KEY_FORMAT.fullmatch(api_key)
    return None if well_formed else KEY_FORMAT_INVALID


def _refuse_parameters(query: SignedQuery) -> Reply | None:
    names = [name for name, _ in query.parameters]
    if len(set(names)) < len(names):
        return error(400, -1101, "Duplicate values for a parameter detected.")
    for name in (b"timestamp", b"signature"):
        if not query.values.get(name):
            text = f"Mandatory parameter '{name.decode()}' was not sent, was empty/null, or malformed."
            return error(400, -1102, text)
    for name in (b"timestamp", b"recvWindow"):
        if not INTEGER.fullmatch(query.values.get(name, b"0")):
            text = f"Illegal characters found in parameter '{name.decode()}'; legal range is '^[0-9]{{1,20}}$'."
            return error(400, -1100, text)
    return None


def _refuse_time(query: SignedQuery, now_ms: int) -> Reply | None:
    recv_window_ms = int(query.values.get(b"recvWindow", b"%d" % DEFAULT_RECV_WINDOW_MS))
    if recv_window_ms > MAX_RECV_WINDOW_MS:
        return error(400, -1131, f"'recvWindow' must be less than {MAX_RECV_WINDOW_MS}.")
    return timestamp_refusal(int(query.values[b"timestamp"]), recv_window_ms, now_ms)


def _refuse_unread(query: SignedQuery, own: Collection[bytes]) -> Reply | None:
    sent = len(query.parameters)
    read = sum(name in SIGNED_PARAMETERS or name in own for name, _ in query.parameters)
    if read == sent:
        return None
    text = f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{sent}'."
    return error(400, -1104, text)
