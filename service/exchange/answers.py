"""What an answer of the exchange means. Pure: status, headers and body in, an error or nothing out.

Codes come before statuses: they are universal, while Binance publishes no map from one to the other. Bodies may
be HTML (its CDN), or JSON without `code` (maintenance); none of their text is passed on.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from service.exchange.budget import MAX_COOLDOWN
from service.exchange.errors import (
    ExchangeAnswerInvalidError,
    ExchangeBannedError,
    ExchangeBlockedError,
    ExchangeClockSkewError,
    ExchangeEndpointGoneError,
    ExchangeError,
    ExchangeRateLimitedError,
    ExchangeRefusedError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    ExchangeUnavailableError,
)

TRANSIENT = frozenset({500, 502, 503, 504})
"""Statuses after which a read may be tried again at once, beside 408; no other 4xx, and 418 and 429 least of all."""

MAX_ERROR_BODY = 64 * 1024
"""Bytes of an error to look at: the exchange's are below 1 KB, its CDN's pages a few."""

_REJECTED = frozenset({-2014, -2015, -1022, -1002})
_MAINTENANCE_KEY = "239999"
_USED_WEIGHT = re.compile(r"x-mbx-used-weight(?:-(\d{1,4})([sm]))?")
_BANNED_UNTIL = re.compile(rb"banned until (\d{13})(?!\d)")

BINDING = frozenset({403, 418, 429})
"""Statuses after which nothing may be sent for a while, whatever else the answer says."""
CHALLENGES: Mapping[str, frozenset[str]] = {
    "x-amzn-waf-action": frozenset(),
    "cf-mitigated": frozenset({"challenge"}),
}
"""Headers by which a firewall demands a browser, whatever the status, and the values that say so (empty: any value).

AWS WAF answers 202 with a challenge and 405 with a captcha, Cloudflare 403."""
MAX_RETRY_AFTER = 1024
"""Characters of `Retry-After` to look at: a value has at most 33."""
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2,8},? (?:\d\d[ -][A-Z][a-z]{2}[ -]\d{2,4} \d\d:\d\d:\d\d GMT"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})"
)
"""The three forms of RFC 9110 §5.6.7: IMF-fixdate, RFC 850, asctime."""


class MalformedAnswerError(ValueError):
    """A success that is not of the documented shape. The message names the fault, never the content."""


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def used_weight(answer: Answer) -> int | None:
    """The address's weight this minute; `None` without a figure (`-1` is none).

    `X-MBX-USED-WEIGHT-1M` today; other spellings of the minute have been seen. What has been used in a shorter
    interval has been used in the minute too.
    """
    found = ((_USED_WEIGHT.fullmatch(name), value) for name, value in answer.headers.items())
    figures = [_count(value) for match, value in found if match is not None and _within_a_minute(match)]
    return max((figure for figure in figures if figure is not None), default=None)


def _within_a_minute(interval: re.Match[str]) -> bool:
    number, unit = int(interval[1] or 1), (interval[2] or "m")
    return number * {"s": 1, "m": 60}[unit] <= 60


def _count(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def binds(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer forbids further calls for a while by its status and headers alone."""
    return status != 200 and (status in BINDING or "retry-after" in headers or _is_challenge(headers))


def error_in(answer: Answer, now: int) -> ExchangeError | None:
    """The error an answer stands for, or `None` for a success; `now` is epoch ms on the exchange's clock.

    `retry_at` is set where the answer names a time to come, at most `MAX_COOLDOWN` from now.
    """
    members = _members(answer)
    named = _retry_after(answer, now)
    error = (
        _by_limit(answer, members) or _by_challenge(answer) or _by_code(answer, members) or _by_status(answer, named)
    )
    if error is None:
        return None
    times = [time for time in (error.retry_at, named) if time is not None]
    if times:
        error.retry_at = min(max(times), now + MAX_COOLDOWN)
    if named is not None:
        error.transient = False
    return error


def _by_limit(answer: Answer, members: Mapping[str, object]) -> ExchangeError | None:
    """429 and 418 mean what they mean whatever the body says; -1003 says it under any status."""
    throttled = members.get("code") == -1003
    banned = _BANNED_UNTIL.search(answer.body[:MAX_ERROR_BODY])
    code = -1003 if throttled else None
    if answer.status == 418 or (throttled and banned):
        return ExchangeBannedError(
            "the exchange bans our address for too many requests",
            answered=answer.status,
            code=code,
            retry_at=int(banned[1]) if banned else None,
        )
    if answer.status == 429 or throttled:
        return ExchangeRateLimitedError("the exchange asks our address to slow down", answered=answer.status, code=code)
    return None


def _by_challenge(answer: Answer) -> ExchangeError | None:
    """A firewall's page is none of the exchange's answers, whatever it looks like."""
    if not _is_challenge(answer.headers):
        return None
    return ExchangeBlockedError(
        f"the exchange blocks our address (firewall's challenge, {answer.status})", answered=answer.status
    )


def _is_challenge(headers: Mapping[str, str]) -> bool:
    return any(
        name in headers and (not values or headers[name].strip().lower() in values)
        for name, values in CHALLENGES.items()
    )


def _by_code(answer: Answer, members: Mapping[str, object]) -> ExchangeError | None:
    code = members.get("code")
    if _MAINTENANCE_KEY in members or code == -1016:
        return ExchangeUnavailableError("the exchange is under maintenance", answered=answer.status)
    if not isinstance(code, int) or "assets" in members:
        return None
    if code in _REJECTED:
        return ExchangeRejectedCredentialsError(
            f"the exchange rejects our credentials (code {code})", answered=answer.status, code=code
        )
    if code == -1021:
        return ExchangeClockSkewError(
            "our timestamp is outside the exchange's window", answered=answer.status, code=code
        )
    if code == -5000:
        return ExchangeEndpointGoneError("the exchange has no such path any more", answered=answer.status, code=code)
    return None


def _by_status(answer: Answer, named: int | None) -> ExchangeError | None:
    """By the status alone; `named`: the time to come that `Retry-After` names."""
    status = answer.status
    if status == 200:
        return None
    if status == 503 and named is not None:
        return ExchangeRateLimitedError("the exchange asks us to wait", answered=503)
    if status < 300:
        return ExchangeAnswerInvalidError(f"the exchange answered {status} where 200 is due", answered=status)
    if status == 408:
        return ExchangeTimeoutError("the exchange timed out on its own back end", answered=408, transient=True)
    if status >= 500:
        return ExchangeUnavailableError(
            f"the exchange answered {status}", answered=status, transient=status in TRANSIENT
        )
    if status in (403, 451):
        what = "firewall" if status == 403 else "region"
        return ExchangeBlockedError(f"the exchange blocks our address ({what}, {status})", answered=status)
    if status == 404:
        return ExchangeEndpointGoneError("the exchange has no such path any more", answered=404)
    return ExchangeRefusedError(f"the exchange refused the request with {status}", answered=status)


def _members(answer: Answer) -> Mapping[str, object]:
    """The members of an error's body; none where it is too large for one, or no JSON object."""
    if len(answer.body) > MAX_ERROR_BODY:
        return {}
    try:
        return msgspec.json.decode(answer.body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _retry_after(answer: Answer, now: int) -> int | None:
    """The latest time to come that `Retry-After` names, epoch ms; `None` where it names none.

    Seconds or a date (RFC 9110 §10.2.3). Of several values, which a repeated field gives, the latest: what is malformed
    or past among them counts for nothing.
    """
    text = answer.headers.get("retry-after", "")[:MAX_RETRY_AFTER]
    dates = [_epoch(date) for date in _HTTP_DATE.findall(text)]
    words = [word.strip() for word in _HTTP_DATE.sub(",", text).split(",")]
    seconds = [word for word in words if word.isascii() and word.isdigit()]
    # Ten digits are 31 years and more: they mean the longest there is.
    times = [now + (int(word) * 1000 if len(word) < 10 else MAX_COOLDOWN) for word in seconds]
    return max((time for time in (*dates, *times) if time > now), default=None)


def _epoch(date: str) -> int:
    """Epoch ms of an HTTP date; 0 for one that the calendar doesn't have."""
    try:
        return int(parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0
