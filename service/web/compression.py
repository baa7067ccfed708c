"""Bodies in gzip, for callers that accept it: each body is compressed once, never for each request.

RFC 9110 §8.4 (Content-Encoding), §12.5.3 (Accept-Encoding), §8.8.3 (another encoding needs another strong entity tag).
"""

import asyncio
import re
import zlib
from functools import lru_cache

UNCOMPRESSED = 1024
"""Bytes up to which a body is sent as it is: it fits one packet anyhow."""
LARGE_BODY = 32 * 1024
"""Bytes from which a body is compressed in a thread: it would hold up the event loop for a millisecond."""
_LEVEL, _FORMAT = 5, 31
"""zlib's; 31 is gzip, without a time in it: equal bodies give equal bytes."""
_KEPT = 8
"""Bodies without a view: exchangeInfo, and the lists of accounts as a handful of clients see them."""

_WEIGHT = re.compile(r"[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.IGNORECASE)


def accepts_gzip(lines: list[str]) -> bool:
    """Whether the lines of `Accept-Encoding` prefer gzip to none; a malformed weight counts as 0."""
    weights: dict[str, float] = {}
    for each in ",".join(lines).split(","):
        coding, weighed, weight = each.partition(";")
        match = _WEIGHT.fullmatch(weight)
        weights[coding.strip(" \t").lower()] = (float(match[1]) if match else 0) if weighed else 1
    gzip = weights.get("gzip", weights.get("*", 0))
    return gzip > 0 and gzip >= weights.get("identity", 0)


def is_compressible(body: bytes) -> bool:
    """Whether a body is compressed for those who accept it, so that its answers vary by `Accept-Encoding`."""
    return len(body) > UNCOMPRESSED


def compressed_etag(etag: str) -> str:
    """The entity tag of a body in gzip."""
    return f'{etag[:-1]}-gzip"'


def compress(body: bytes) -> bytes:
    """The body in gzip."""
    return zlib.compress(body, _LEVEL, _FORMAT)


async def encoded(body: bytes, accept_encoding: list[str]) -> tuple[bytes, dict[str, str]]:
    """A body without a view, as it is sent, and the header that says how."""
    if not is_compressible(body) or not accepts_gzip(accept_encoding):
        return body, {}
    return await asyncio.to_thread(_compressed, body), {"content-encoding": "gzip"}


@lru_cache(_KEPT)
def _compressed(body: bytes) -> bytes:
    return compress(body)
