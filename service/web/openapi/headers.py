"""Response headers: what the gateway has to say of a body, in the document's words."""

from collections.abc import Iterable, Mapping

from service.web.openapi.schemas import Json

_CACHE_STATUS = """\
How the answer came about (RFC 9211). `hit`: nobody had to ask the exchange. `fwd=…`: it was asked now. `ttl`: seconds
left of the account's `fresh_for`; negative: past it. `detail` says why it is served nevertheless (none: it is what you
asked for; `swr`: just past it, and a refresh is under way in the background unless you sent `only-if-cached`;
`max-stale`: you allowed it; `slow`: the exchange takes long to answer, and a refresh is under way;
`stale-if-error`: the exchange was asked and failed; `backoff`, `not-before`, `weight-budget`: it can't be asked)."""

_HEADERS: Mapping[str, tuple[str, Json, object]] = {
    "Age": (
        "Whole seconds since the exchange was asked (RFC 9111).",
        {"type": "integer", "format": "int32", "minimum": 0, "maximum": 2**31 - 1},
        1,
    ),
    "Gateway-Snapshot-Age": (
        "Milliseconds since the exchange was asked.",
        {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**53 - 1},
        1240,
    ),
    "Gateway-Snapshot-Time": (
        "When the exchange was asked (RFC 3339, UTC).",
        {"type": "string", "format": "date-time"},
        "2026-01-02T03:04:05.678Z",
    ),
    "Gateway-Environment": (
        "Which environment the data is of: never take testnet for live.",
        {"type": "string"},
        "production",
    ),
    "Gateway-Position-Mode": (
        "The account's position mode; left out where the account has no positions.",
        {"type": "string", "enum": ["one-way", "hedge"]},
        "hedge",
    ),
    "Cache-Status": (
        _CACHE_STATUS,
        {"type": "string", "pattern": "^coinm-gateway; "},
        "coinm-gateway; hit; ttl=1",
    ),
    "Cache-Control": (
        "Data: store it, but ask again (`private, no-cache`). Else `no-store`.",
        {"type": "string", "enum": ["private, no-cache", "no-store"]},
        "private, no-cache",
    ),
    "ETag": (
        "Names this body: the same on every replica, unchanged as long as the data is. Send it as `If-None-Match`.",
        {"type": "string", "pattern": '^"[0-9a-f]+"$'},
        '"9f86d081884c7d65"',
    ),
    "Vary": ("Answers differ by caller.", {"type": "string", "const": "Authorization"}, "Authorization"),
    "X-Request-Id": (
        "Yours, if it is harmless, or a new one. Finds the request in the gateway's log.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "3f1c0b7e9d2a4c55",
    ),
    "Retry-After": (
        "Whole seconds to wait; sent where there is a time to name.",
        {"type": "integer", "format": "int32", "minimum": 1, "maximum": 2**31 - 1},
        7,
    ),
    "RateLimit-Policy": (
        "Your client's limit on this replica: `q` requests in `w` seconds, or all at once. Left out if there is none.",
        {"type": "string", "pattern": '^"requests";q=[0-9]+;w=[0-9]+$', "maxLength": 64},
        '"requests";q=66;w=1',
    ),
    "RateLimit": (
        "What is left of it: `r` requests pass now, and one more in `t` seconds.",
        {"type": "string", "pattern": '^"requests";r=[0-9]+;t=[0-9]+$', "maxLength": 64},
        '"requests";r=65;t=1',
    ),
    "WWW-Authenticate": (
        "How to say who is calling.",
        {"type": "string", "pattern": "^Bearer "},
        'Bearer realm="coinm-gateway"',
    ),
}
EVERYWHERE = ("Cache-Control", "X-Request-Id")
LIMITS = ("RateLimit-Policy", "RateLimit")
"""Of every answer to a client that is known and has a limit."""
LIMITED = (*EVERYWHERE, *LIMITS)
_OF_DATA = (
    *LIMITED,
    "Age",
    "Gateway-Snapshot-Age",
    "Gateway-Snapshot-Time",
    "Gateway-Environment",
    "Cache-Status",
    "ETag",
    "Vary",
)
_NOT_ALWAYS = frozenset({"Gateway-Position-Mode", "Retry-After", *LIMITS})


def headers() -> Json:
    """Every response header, by name."""
    return {
        name: {"description": words, "required": name not in _NOT_ALWAYS, "schema": schema, "example": example}
        for name, (words, schema, example) in _HEADERS.items()
    }


def data_headers(*, positions: bool) -> tuple[str, ...]:
    """Of every answer cut from a snapshot; the position mode where the answer's shape has positions."""
    return (*_OF_DATA, "Gateway-Position-Mode") if positions else _OF_DATA


def references(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
