"""What an answer of the exchange means. Pure: status, headers and body in, an error or nothing out."""

# `error_in` reads an answer as a ladder; the first rung that matches decides:
#     limits      418, 429, or code -1003: they mean the same whatever else the answer says
#     challenge   a firewall's page, under any status: it is none of the exchange's answers
#     code        the exchange's own codes. They come before statuses: codes are universal, and Binance publishes no map
#                 from one to the other
#     status      whatever is left; only 200 is a success
# Bodies may be HTML (from its CDN), or JSON without `code` (maintenance); none of their text is passed on.
#
# Every byte here may be hostile. Regular expressions are linear in their input, the input is bounded, and a time that
# the answer names is capped at `MAX_COOLDOWN`.

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from service.fleet.budget import MAX_COOLDOWN
from service.fleet.errors import (
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
"""Statuses after which a read may be retried at once, beside 408; no other 4xx, and 418 and 429 least of all."""

MAX_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read: the exchange's are below 1 KB, its CDN's pages a few KB."""

_REJECTED = frozenset({-2014, -2015, -1022, -1002})
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
"""Characters of `Retry-After` that are read: one value has at most 33, and a repeated field joins several."""
# The three forms of RFC 9110 §5.6.7: IMF-fixdate, RFC 850, asctime.
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2,8},? (?:\d\d[ -][A-Z][a-z]{2}[ -]\d{2,4} \d\d:\d\d:\d\d GMT"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})"
)


class MalformedAnswerError(ValueError):
    """A success that is not of the documented shape. The message names the fault, never the content."""


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Members(msgspec.Struct, frozen=True):
    """What a body says of an error; its other members are skipped, since most answers are none."""

    code: object = None
    maintenance: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="239999", default=msgspec.UNSET)
    assets: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def used_weight(answer: Answer) -> int | None:
    """The address's weight this minute; `None` without a figure (`-1` is none)."""
    figures: list[int] = []
    for name, value in answer.headers.items():
        # `X-MBX-USED-WEIGHT-1M` today; other spellings of the minute have been seen.
        interval = _USED_WEIGHT.fullmatch(name)
        if interval is None or not (value.isascii() and value.isdigit() and len(value) < 10):
            continue
        # Weight used in a shorter interval was used in the minute too, so the largest figure counts.
        if int(interval[1] or 1) * {"s": 1, "m": 60}[interval[2] or "m"] <= 60:
            figures.append(int(value))
    return max(figures, default=None)


def binds(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer forbids further calls for a while by its status and headers alone."""
    return status != 200 and (status in BINDING or "retry-after" in headers or _is_challenge(headers))


def error_in(answer: Answer, now: int) -> ExchangeError | None:
    """The error that an answer stands for, or `None` for a success; `now` is epoch ms on the exchange's clock.

    `retry_at` is set where the answer names a future time, at most `MAX_COOLDOWN` from now.
    """
    members = _Members()
    # An error's body is small: a larger one has no code to read, and neither has one that is no JSON object.
    if len(answer.body) <= MAX_ERROR_BODY:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            members = msgspec.json.decode(answer.body.decode(), type=_Members)  # msgspec takes invalid UTF-8
    named = _retry_after(answer, now)
    error = _by_limit(answer, members)
    if error is None and _is_challenge(answer.headers):
        detail = f"the exchange blocks our address (firewall's challenge, {answer.status})"
        error = ExchangeBlockedError(detail, answered=answer.status)
    error = error or _by_code(answer, members) or _by_status(answer, named)
    if error is None:
        return None
    # The body and the header may each name a time: the later one is the safe one.
    times = [time for time in (error.failure.retry_at, named) if time is not None]
    if times:
        error.failure = error.failure.until(min(max(times), now + MAX_COOLDOWN))
    if named is not None:
        error.transient = False  # the exchange has said when; a retry before that would be too early
    return error


def _by_limit(answer: Answer, members: _Members) -> ExchangeError | None:
    """429 and 418, whatever the body says; -1003 under any status."""
    throttled = members.code == -1003
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


def _is_challenge(headers: Mapping[str, str]) -> bool:
    return any(
        name in headers and (not values or headers[name].strip().lower() in values)
        for name, values in CHALLENGES.items()
    )


def _by_code(answer: Answer, members: _Members) -> ExchangeError | None:
    code = members.code
    if members.maintenance is not msgspec.UNSET or code == -1016:
        return ExchangeUnavailableError("the exchange is under maintenance", answered=answer.status)
    # A body with `assets` is an account, even with a `code` in it.
    if not isinstance(code, int) or members.assets is not msgspec.UNSET:
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
    """By the status alone; `named`: the future time that `Retry-After` names."""
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


def _retry_after(answer: Answer, now: int) -> int | None:
    """The latest future time that `Retry-After` names, epoch ms; `None` where it names none.

    Seconds or a date (RFC 9110 §10.2.3). A repeated field has several values; malformed and past ones are ignored.
    """
    text = answer.headers.get("retry-after", "")[:MAX_RETRY_AFTER]
    times: list[int] = []
    # Dates first, because they contain the comma that separates values.
    for date in _HTTP_DATE.findall(text):
        with contextlib.suppress(ValueError, OverflowError):  # the calendar has no such date
            times.append(int(parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp() * 1000))
    for word in _HTTP_DATE.sub(",", text).split(","):
        seconds = word.strip()
        if seconds.isascii() and seconds.isdigit():
            # Ten digits are 31 years or more: they mean the longest cooldown.
            times.append(now + (int(seconds) * 1000 if len(seconds) < 10 else MAX_COOLDOWN))
    return max((time for time in times if time > now), default=None)
