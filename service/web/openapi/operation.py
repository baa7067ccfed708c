"""What a handler declares for the OpenAPI document, in its `opt` beside its route.

The walk in `document.py` finds the rest: the path and the names in it, and the docstring, whose first line is the
summary and whose rest is the description. By `READS` it knows which operations read an account: these take the
headers of freshness, and can answer with a 304.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from service.web.parameters import Filter

Json: TypeAlias = dict[str, Any]

OPERATION = "operation"
"""The key in a handler's `opt` whose value is its `Operation`."""

EVERYWHERE = ("Cache-Control", "X-Request-Id")
LIMITED = (*EVERYWHERE, "RateLimit-Policy", "RateLimit")
"""Of every answer to a client that is known: it may have a limit."""
SNAPSHOT = (
    *LIMITED,
    *("Age", "Gateway-Snapshot-Age", "Gateway-Snapshot-Time", "Gateway-Environment", "Cache-Status", "ETag", "Vary"),
    "Content-Encoding",
)
"""Of every answer cut from a snapshot."""

CALLER = ("InvalidParameter", "Unauthenticated", "TooManyRequests", "InternalError")
"""Of every operation that needs a client."""
READING = (*CALLER, "Forbidden", "ExchangeRefuses", "ExchangeUnavailable", "NotInTime")
"""Of every read of an account, beside its 404."""
BINANCE_PUBLIC = ("BinanceInvalidParameter", "BinanceNotFound", "BinanceUnavailable")
BINANCE = (*BINANCE_PUBLIC, "BinanceUnauthenticated", "BinanceTooManyRequests")


class Operation(msgspec.Struct, frozen=True):
    """What the document can't find in a handler's route and docstring."""

    answer: str
    """What a 200 is."""
    body: Any
    """The schema of its body: a type of ours, or `ref` or `array_of` a schema in `document.yaml`."""
    refusals: tuple[str, ...] = ()
    """Names of responses in `document.yaml`."""
    headers: tuple[str, ...] = LIMITED
    """Of the answers that are no refusals: names of headers in `document.yaml`."""
    filters: Mapping[str, Filter] = {}
    parameters: Mapping[str, Json] = {}
    """What else it takes, by name; a name of the path replaces what the document would say of it."""
    security: tuple[str, ...] = ("token",)
    """Which credentials it takes: names in `document.yaml`; none: it needs none."""
    also: Mapping[int, str] = {}
    """Other statuses with the same body, and what they are."""


def ref(name: str, part: str = "schemas") -> Json:
    """A reference to a component of the document."""
    return {"$ref": f"#/components/{part}/{name}"}


def array_of(name: str) -> Json:
    return {"type": "array", "items": ref(name)}
