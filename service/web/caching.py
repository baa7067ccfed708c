"""Request `Cache-Control` → RequestDirectives; a served snapshot → the headers that say how fresh it is.

RFC 9111 (directives, Age), RFC 9211 (Cache-Status), RFC 9110 §13 (If-None-Match).
"""

# Directives we know must be well-formed and unambiguous, else 400: a misread `max-age` would serve data older than the
# caller accepts. Directives we don't know are ignored, as RFC 9111 §5.2.3 wants. `max-age=0` means `no-cache`, and
# `Pragma` counts only without `Cache-Control` (RFC 7234 §5.4).
#
# `Cache-Status` (RFC 9211) says how the cache met the read:
#   hit; ttl=N                              fresh, or past `fresh_for` and as recent as this read can have
#   hit; ttl=N; detail=R                    older than `fresh_for`, served for reason R (such as `swr`)
#   fwd=miss; stored                        memory had nothing; the refresh that this read started brought it
#   fwd=R; fwd-status=200; stored           memory had a snapshot, not good enough for reason R (`stale`, `request`)
#   fwd=R; collapsed                        a refresh that another read had started brought it
#   fwd=stale[; fwd-status=S]; ttl=N; detail=stale-if-error      the refresh failed, with status S if there was one
#
# Two sets of headers: those of a snapshot never change and are encoded once; those of its age change with each read.

import re
from collections.abc import Mapping

from litestar.datastructures import Headers

from service.account.snapshot import Snapshot
from service.cache.policy import NO_DIRECTIVES, RefreshReason, RequestDirectives
from service.cache.ports import Served
from service.clock import timestamp
from service.web.problems import InvalidParameterError

CACHE_NAME = "coinm-gateway"
RESPONSE_CACHE_CONTROL = "private, no-cache"
"""Store it, but revalidate it before each use, which the entity tag makes cheap. Shared caches must not store it."""

MAX_DIRECTIVES = 1024
"""Characters of `Cache-Control`, and of `Pragma`: more than all existing directives together."""
MAX_TAGS = 8192
"""Characters of `If-None-Match`: a hundred of our entity tags."""
MAX_CODINGS = 512
"""Characters of `Accept-Encoding`; browsers send 30."""
LIMITS: Mapping[str, int] = {
    "Accept-Encoding": MAX_CODINGS,
    "Cache-Control": MAX_DIRECTIVES,
    "If-None-Match": MAX_TAGS,
    "Pragma": MAX_DIRECTIVES,
}
"""Characters that a request header may have, all of its lines together."""

UNBOUNDED = 2**31 * 1000
"""Ms. RFC 9111 §1.2.2: a number too large counts as 2^31 seconds; so does `max-stale` without one."""

_KNOWN = frozenset({"max-age", "min-fresh", "max-stale", "no-cache", "only-if-cached"})
# Every part is possessive (`++`, `*+`, `?+`): the match never backtracks, so time is linear in the caller's text. Empty
# list elements are allowed (RFC 9110 §5.6.1).
_DIRECTIVE = re.compile(
    r"""[ \t,]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+"""
    r"""(?:=[ \t]*+("(?:[^"\\]|\\.)*+"|[^\s,"]++)[ \t]*+)?+(?=,|\Z)""",
    re.DOTALL,
)
_SECONDS = re.compile(r'[0-9]+|"[0-9]+"')
_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')

_FORWARDED: Mapping[RefreshReason, str] = {
    "absent": "miss",
    "expired": "stale",
    "too-old": "request",
    "revalidate": "request",
}


def header_lines(headers: Headers, name: str) -> list[str]:
    """The lines of a request header of `LIMITS`.

    Raises:
        InvalidParameterError: together they are longer than its limit.
    """
    return bounded(name, headers.getall(name.lower(), []))


def bounded(name: str, lines: list[str]) -> list[str]:
    """Return the lines of a header unchanged.

    Raises:
        InvalidParameterError: together they are longer than the header's limit.
    """
    limit = LIMITS[name]
    if len(",".join(lines)) > limit:
        raise InvalidParameterError(f"header {name}: at most {limit} characters")
    return lines


def request_directives(cache_control: list[str], pragma: list[str]) -> RequestDirectives:
    """The freshness that a request requires, in ms; unknown directives are ignored.

    Raises:
        InvalidParameterError: a directive is malformed, or given twice with different values.
    """
    if not cache_control:
        directives = [directive.strip() for directive in ",".join(pragma).lower().split(",")]
        return RequestDirectives(no_cache=True) if "no-cache" in directives else NO_DIRECTIVES
    found = _directives(",".join(cache_control))
    max_age = _milliseconds(found, "max-age")
    max_stale = UNBOUNDED if found.get("max-stale") == "" else _milliseconds(found, "max-stale")
    return RequestDirectives(
        max_age=None if max_age == 0 else max_age,
        min_fresh=_milliseconds(found, "min-fresh"),
        max_stale=max_stale,
        no_cache=_flag(found, "no-cache") or max_age == 0,
        only_if_cached=_flag(found, "only-if-cached"),
    )


def snapshot_headers(snapshot: Snapshot, etag: str, environment: str) -> dict[str, str]:
    """Headers fixed for the snapshot's life; also sent with 304."""
    return {
        "cache-control": RESPONSE_CACHE_CONTROL,
        "etag": etag,
        "gateway-environment": environment,
        "gateway-snapshot-time": timestamp(snapshot.request_time),
        "vary": "Authorization",
    }


def age_headers(served: Served) -> dict[str, str]:
    """Headers that change with age: `Age` in whole seconds (RFC 9111 §5.1), `Gateway-Snapshot-Age` in ms."""
    return {
        "age": str(served.age // 1000),
        "cache-status": cache_status(served),
        "gateway-snapshot-age": str(served.age),
    }


def cache_status(served: Served) -> str:
    """The value of `Cache-Status`, RFC 9211."""
    ttl = f"ttl={served.ttl // 1000}"  # whole seconds, rounded down: what is stale by 1 ms shows -1
    forwarded = _FORWARDED[served.refresh] if served.refresh else "miss"
    match served.result:
        case "fresh" | "recent":
            parameters = ["hit", ttl]
        case "stored" if forwarded == "miss":
            parameters = ["fwd=miss", "stored"]
        case "stored":
            parameters = [f"fwd={forwarded}", "fwd-status=200", "stored"]
        case "collapsed":
            parameters = [f"fwd={forwarded}", "collapsed"]
        case "stale-if-error":
            status = [f"fwd-status={served.answered}"] if served.answered else []
            parameters = ["fwd=stale", *status, ttl, "detail=stale-if-error"]
        case reason:
            parameters = ["hit", ttl, f"detail={reason}"]
    return "; ".join([CACHE_NAME, *parameters])


def matching_tag(if_none_match: list[str], *etags: str) -> str | None:
    """The first of a body's entity tags that the caller has, compared weakly (RFC 9110 §13.1.2), or `None`."""
    value = ",".join(if_none_match)
    if value.strip() == "*":
        return etags[0]
    known = _ENTITY_TAG.findall(value)
    return next((etag for etag in etags if etag in known), None)


def _directives(value: str) -> dict[str, str]:
    """Lower-case names to values as they were sent; "" for a directive without a value."""
    found: dict[str, str] = {}
    value, position = value.strip(" \t,"), 0  # a separator at the end would match no directive
    while position < len(value):
        match = _DIRECTIVE.match(value, position)
        if match is None:
            raise InvalidParameterError("header Cache-Control: malformed")
        name, argument = match[1].lower(), match[2] or ""
        if found.setdefault(name, argument) != argument and name in _KNOWN:
            raise InvalidParameterError(f"header Cache-Control: {name} is given twice")
        position = match.end()
    return found


def _milliseconds(found: Mapping[str, str], name: str) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if not _SECONDS.fullmatch(value):
        raise InvalidParameterError(f"header Cache-Control: {name} expects whole seconds")
    digits = value.strip('"').lstrip("0") or "0"
    # The length decides first: `int` of thousands of digits is slow, and raises above 4300.
    return UNBOUNDED if len(digits) > len(str(UNBOUNDED)) else min(int(digits) * 1000, UNBOUNDED)


def _flag(found: Mapping[str, str], name: str) -> bool:
    if found.get(name, ""):
        raise InvalidParameterError(f"header Cache-Control: {name} takes no value")
    return name in found
