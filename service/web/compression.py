"""Bodies in gzip, for callers that accept it: each body is compressed once, never for each request.

RFC 9110 §8.4 (Content-Encoding), §12.5.3 (Accept-Encoding), §8.8.3 (another encoding needs another strong entity tag).
"""

import asyncio
import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TypeVar

T = TypeVar("T")

UNCOMPRESSED = 1024
"""Bytes up to which a body is sent as it is: it fits one packet anyhow."""
LARGE_BODY = 64 * 1024
"""Bytes from which a body is compressed in a thread: it takes half a millisecond, and one of 3,000 rows seven."""
_LEVEL, _FORMAT = 5, 31
"""zlib's. An account shrinks to a fifteenth and less; level 9 takes two to three times as long for 5 % more. 31 is
gzip, without a time in it: equal bodies give equal bytes."""
COMPRESSING_S = 1.0
"""Seconds that a read waits for its body in gzip, behind those of others; after that it gets the plain one."""
MAX_SPELLINGS = 64
"""Of `Accept-Encoding` that are remembered: a client uses one."""
_KEPT = 16
"""Bodies without a view: exchangeInfo, and the list of accounts as each of a dozen teams sees it."""

_thread = ThreadPoolExecutor(1, "gzip")
"""One of its own: look-ups of names that hang may occupy all of the event loop's. It starts with the first work."""
_WEIGHT = re.compile(r"[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.IGNORECASE)


@lru_cache(MAX_SPELLINGS)
def accepts_gzip(accept_encoding: str) -> bool:
    """Whether `Accept-Encoding`, of a bounded length, prefers gzip to none; a malformed weight counts as 0."""
    weights: dict[str, float] = {}
    for each in accept_encoding.split(","):
        coding, weighed, weight = each.partition(";")
        match = _WEIGHT.fullmatch(weight)
        weights[coding.strip(" \t").lower()] = (float(match[1]) if match else 0) if weighed else 1
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0)))  # an old name for it (RFC 9110 §8.4.1.3)
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


async def encoded(body: bytes, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
    """A body without a view, as it is sent, and the header that says how."""
    if not is_compressible(body) or not accepts_gzip(accept_encoding):
        return body, {}
    return await in_thread(partial(_compressed, body)), {"content-encoding": "gzip"}


async def in_thread(work: Callable[[], T]) -> T:
    """Do work of this module in its thread, one piece after the other."""
    return await asyncio.get_running_loop().run_in_executor(_thread, work)


@lru_cache(_KEPT)
def _compressed(body: bytes) -> bytes:
    return compress(body)
