"""The gateway's own bearer tokens: `cgw_`, 256 random bits and a checksum, so that secret scanners find them.

The form follows what GitHub describes for its tokens: a prefix that nothing else has, an alphabet that one
double-click selects, and a CRC-32 that distinguishes a token from a string of the same form.
"""

import hashlib
import secrets
import zlib

PREFIX = "cgw_"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_BITS = 256
_RANDOM_LENGTH = 43  # ceil(256 / log2(62))
_CHECKSUM_LENGTH = 6  # ceil(32 / log2(62))


def generate() -> str:
    """A new token: 53 characters."""
    body = PREFIX + _base62(secrets.randbits(_RANDOM_BITS), _RANDOM_LENGTH)
    return body + _checksum(body)


def well_formed(token: str) -> bool:
    """Whether it is a token of ours by its form and checksum; not whether a client holds it."""
    body, checksum = token[:-_CHECKSUM_LENGTH], token[-_CHECKSUM_LENGTH:]
    whole = len(token) == len(PREFIX) + _RANDOM_LENGTH + _CHECKSUM_LENGTH
    return whole and token.isascii() and body.startswith(PREFIX) and checksum == _checksum(body)


def digest(token: bytes) -> str:
    """What the gateway keeps of a token: SHA-256, hex. Tokens have 256 random bits, so no salt is needed."""
    return hashlib.sha256(token).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
