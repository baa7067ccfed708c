import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.exchange.responses import Answer, binds, error_in, used_weight
from service.fleet.budget import MAX_COOLDOWN, Cooldown, cooldown_after
from service.fleet.errors import ERRORS, ExchangeBannedError, Failure

NOW = 1_790_000_000_000
BAN_TEXT = "Way too many requests; IP(1.2.3.4) banned until {}. Please use the websocket for live updates."
HTML = b"<html><head><title>403 Forbidden</title></head><body>canary</body></html>"


def said(code: int, message: str = "canary") -> bytes:
    return json.dumps({"code": code, "msg": message}).encode()


BANNED = said(-1003, BAN_TEXT.format(NOW))
MAINTENANCE = b'{"239999":{"x":"canary"}}'
ODD = [
    b'{"code":"-2015"}',
    b'[{"code":-2015}]',
    b'{"code":-2015,"msg":"\xff"}',
    b"[" * 60_000,
    said(-2015, "x" * 65_536),
]
"""Bodies that hold no code by the exchange's form: not a number, no object, no UTF-8, too deep, too long."""

MEANINGS = {
    "exchange-rate-limited": [(429, said(-1003)), (429, said(-1015)), (429, HTML), (429, b""), (400, said(-1003))],
    "exchange-banned": [(418, BANNED), (418, HTML), (418, b""), (418, said(-2015)), (429, BANNED), (403, BANNED)],
    "exchange-unavailable": [
        *((500, b""), (502, HTML), (503, said(-1001)), (503, said(-1008)), (599, b"")),
        *((400, said(-1016)), (200, said(-1016)), (200, MAINTENANCE), (503, MAINTENANCE)),
    ],
    "exchange-timeout": [(408, said(-1007)), (408, b"")],
    "exchange-rejected-credentials": [
        *((401, said(-2014)), (401, said(-2015)), (400, said(-1022)), (401, said(-1002)), (200, said(-2015))),
    ],
    "exchange-clock-skew": [(400, said(-1021))],
    "exchange-blocked": [(403, HTML), (403, b""), (451, said(0))],
    "exchange-endpoint-gone": [(404, said(-5000)), (400, said(-5000)), (404, HTML)],
    "exchange-refused": [
        (300, b""),
        (301, b""),
        (304, b""),
        (400, said(-1102)),
        (401, b""),
        *((400, body) for body in ODD),
    ],
    "exchange-answer-invalid": [(201, b"{}"), (204, b"")],
}


@pytest.mark.parametrize(
    ("status", "body", "problem"), [(*answer, problem) for problem, answers in MEANINGS.items() for answer in answers]
)
def test_an_answers_status_and_body_tell_what_went_wrong(status: int, body: bytes, problem: str) -> None:
    error = error_in(Answer(status, {}, body), NOW)
    assert error is not None
    assert (error.problem, error.failure.answered) == (problem, status)
    assert "canary" not in f"{error} {error.detail}"


@pytest.mark.parametrize(
    "body",
    [
        b'{"assets":[],"positions":[]}',
        b'{"assets":[],"positions":[],"code":-2015}',  # a member of that name, one day
        b"{}",
        b"<html>",
        b"",
    ],
)
def test_a_200_without_a_known_code_is_left_to_who_reads_it(body: bytes) -> None:
    assert error_in(Answer(200, {}, body), NOW) is None


@pytest.mark.parametrize(
    ("text", "headers", "until"),
    [
        (BAN_TEXT.format(1_790_000_123_456), {}, 1_790_000_123_456),
        (BAN_TEXT.format(1_790_000_123_456), {"retry-after": "5"}, 1_790_000_123_456),
        ("Way too much request weight used; IP banned until 1790000123456", {}, 1_790_000_123_456),
        (BAN_TEXT.format(17_900_001_234_567), {}, None),  # 14 digits are no time
        (BAN_TEXT.format(179_000_012_345), {}, None),
        ("no time at all", {}, None),
        ("no time at all", {"retry-after": "720"}, NOW + 720_000),
        (BAN_TEXT.format(1_790_000_123_456), {"retry-after": "720"}, NOW + 720_000),
        (BAN_TEXT.format(1_799_999_999_999), {}, NOW + MAX_COOLDOWN),
    ],
)
def test_a_ban_ends_at_the_later_of_its_text_and_retry_after(
    text: str, headers: dict[str, str], until: int | None
) -> None:
    error = error_in(Answer(418, headers, said(-1003, text)), NOW)
    assert isinstance(error, ExchangeBannedError)
    assert error.failure.retry_at == until


HOUR_LATER = "Mon, 21 Sep 2026 15:13:20 GMT"
RETRY_AFTER = {
    "3600": 3_600_000,
    " 3600 ": 3_600_000,
    HOUR_LATER: 3_600_000,
    "Monday, 21-Sep-26 15:13:20 GMT": 3_600_000,
    "Mon Sep 21 15:13:20 2026": 3_600_000,
    "5, 120": 120_000,  # the field twice
    f"5, {HOUR_LATER}, soon": 3_600_000,
    f"{HOUR_LATER}, 7200": 7_200_000,
    "soon, 60": 60_000,
    "259200": MAX_COOLDOWN,
    "259201": MAX_COOLDOWN,
    "9" * 5_000: MAX_COOLDOWN,
    "Fri, 31 Dec 9999 23:59:59 GMT": MAX_COOLDOWN,
}
NO_RETRY_AFTER = [
    *("", "0", "-5", "1.5", "1e3", "soon", "²", "5s", "0x10"),
    *("Mon, 21 Sep 2026 14:13:20 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "Mon, 99 Sep 2026 15:13:20 GMT"),
    *("Mon, 21 Sep 2026 15:13:20 +0000", "2026-09-21T15:13:20Z"),
]


@pytest.mark.parametrize("value", RETRY_AFTER, ids=lambda value: value[:40])
@pytest.mark.parametrize("status", [202, 302, 403, 404, 418, 429, 451, 500, 502, 503, 599])
def test_a_time_to_come_in_retry_after_holds_for_so_long_at_the_least(status: int, value: str) -> None:
    answer = Answer(status, {"retry-after": value}, b"")
    error = error_in(answer, NOW)
    assert error is not None
    assert error.failure.retry_at == NOW + RETRY_AFTER[value]
    assert not error.transient
    hold = cooldown_after(error, NOW)
    assert hold is not None
    assert NOW + RETRY_AFTER[value] <= hold.until <= NOW + MAX_COOLDOWN
    assert binds(answer.status, answer.headers)


@pytest.mark.parametrize("value", NO_RETRY_AFTER)
def test_what_is_no_time_to_come_in_retry_after_changes_nothing(value: str) -> None:
    error = error_in(Answer(503, {"retry-after": value}, b""), NOW)
    assert error is not None
    assert (error.problem, error.failure.retry_at, error.transient) == ("exchange-unavailable", None, True)
    assert cooldown_after(error, NOW) is None


def test_a_503_that_says_until_when_limits_our_rate_until_then_and_no_longer() -> None:
    error = error_in(Answer(503, {"retry-after": "5"}, said(-1008)), NOW)
    assert error is not None
    hold = cooldown_after(error, NOW)
    assert hold is not None
    assert (error.problem, hold.until) == ("exchange-rate-limited", NOW + 5_000)


CHALLENGES = [
    (202, {"x-amzn-waf-action": "challenge"}),
    (405, {"x-amzn-waf-action": "captcha"}),
    (200, {"x-amzn-waf-action": "something new"}),
    (503, {"x-amzn-waf-action": "challenge"}),
    (403, {"cf-mitigated": "challenge"}),
    (200, {"cf-mitigated": "Challenge"}),
]


@pytest.mark.parametrize(("status", "headers"), CHALLENGES)
@pytest.mark.parametrize("body", [b"", HTML, said(-2015), b'{"assets":[],"positions":[]}'])
def test_a_firewalls_challenge_blocks_whatever_its_status_and_body(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    error = error_in(Answer(status, headers, body), NOW)
    assert error is not None
    hold = cooldown_after(error, NOW)
    assert hold is not None
    assert (error.problem, error.transient, hold.until) == ("exchange-blocked", False, NOW + 300_000)


def test_a_region_is_blocked_without_a_not_before_unless_the_answer_names_one() -> None:
    plain, dated = error_in(Answer(451, {}, b""), NOW), error_in(Answer(451, {"retry-after": "60"}, b""), NOW)
    assert plain is not None
    assert dated is not None
    assert (cooldown_after(plain, NOW), cooldown_after(dated, NOW)) == (
        None,
        Cooldown(0, NOW + 60_000, problem="exchange-blocked"),
    )


headers = st.dictionaries(
    st.sampled_from(["retry-after", "x-amzn-waf-action", "cf-mitigated", "date", "content-type", "x-other"]),
    st.one_of(
        st.text(max_size=40),
        st.integers(-10, 10**12).map(str),
        st.sampled_from([*RETRY_AFTER, *NO_RETRY_AFTER]),
        st.datetimes(datetime(1990, 1, 1), datetime(2099, 1, 1)).map(  # noqa: DTZ001 - hypothesis wants naive bounds
            lambda date: format_datetime(date.replace(tzinfo=UTC), usegmt=True)
        ),
    ),
)
bodies = st.one_of(
    st.binary(max_size=200),
    st.integers(-3000, 10).map(said),
    st.integers(0, 10**14).map(lambda time: said(-1003, BAN_TEXT.format(time))),
    st.sampled_from([HTML, MAINTENANCE, b"", b"\x00", b"\xef\xbb\xbf{}", *ODD]),
)


@given(st.integers(200, 599), headers, bodies)
@example(302, {"retry-after": "60"}, b"")
@example(206, {}, b'{"assets":[],"positions":[]}')
def test_every_answer_has_one_meaning_and_no_hold_beyond_the_longest(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    error = error_in(Answer(status, headers, body), NOW)
    if error is None:
        assert status == 200
        return
    assert (error.failure.answered, ERRORS[error.problem]) == (status, type(error))
    hold = cooldown_after(error, NOW)
    if hold is not None:
        assert NOW - 1 < hold.until <= NOW + MAX_COOLDOWN
        assert not error.transient
    if error.failure.retry_at is not None:
        assert error.failure.retry_at <= NOW + MAX_COOLDOWN


@given(st.integers(201, 599), st.integers(1, 10**7), bodies, st.sampled_from(["seconds", "date"]))
def test_every_refusal_that_names_a_time_holds_until_then(status: int, seconds: int, body: bytes, form: str) -> None:
    date = datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(seconds=seconds)
    value = str(seconds) if form == "seconds" else format_datetime(date, usegmt=True)
    error = error_in(Answer(status, {"retry-after": value}, body), NOW)
    assert error is not None
    hold = cooldown_after(error, NOW)
    assert hold is not None
    assert min(NOW + seconds * 1000, NOW + MAX_COOLDOWN) <= hold.until <= NOW + MAX_COOLDOWN


def test_an_error_raised_again_from_its_failure_says_the_same_and_holds_no_traceback() -> None:
    error = error_in(Answer(401, {}, said(-2015)), NOW)
    assert error is not None
    with pytest.raises(type(error)):
        raise error
    again = error.failure.until(NOW + 5).error()
    assert (type(again), str(again), again.detail) == (type(error), str(error), error.detail)
    assert again.failure == Failure("exchange-rejected-credentials", error.detail, 401, -2015, NOW + 5)
    assert (error.__traceback__ is None, again.__traceback__) == (False, None)


def test_an_error_as_long_as_any_may_be_is_still_read() -> None:
    error = error_in(Answer(400, {}, said(-2015).ljust(65_536)), NOW)
    assert error is not None
    assert (error.problem, error.failure.code) == ("exchange-rejected-credentials", -2015)


@pytest.mark.parametrize(("status", "reason"), [(403, "firewall"), (451, "region")])
def test_an_operator_is_told_what_blocks_the_address(status: int, reason: str) -> None:
    assert reason in str(error_in(Answer(status, {}, b""), NOW))


def test_a_ban_dated_in_html_is_read_too() -> None:
    error = error_in(Answer(418, {}, b"<p>banned until 1790000123456</p>"), NOW)
    assert error is not None
    assert error.failure.retry_at == 1_790_000_123_456


@pytest.mark.parametrize(
    ("status", "body", "again"),
    [
        (500, b"", True),
        (502, HTML, True),
        (503, said(-1001), True),
        (504, b"", True),
        (408, b"", True),
        (501, b"", False),
        (503, b'{"239999":""}', False),  # maintenance lasts
        (429, b"", False),
        (418, b"", False),
        (403, b"", False),
        (400, said(-1021), False),  # the client measures anew and tries once, by itself
    ],
)
def test_only_what_may_pass_at_once_is_tried_again(status: int, body: bytes, *, again: bool) -> None:
    error = error_in(Answer(status, {}, body), NOW)
    assert error is not None
    assert error.transient is again


@pytest.mark.parametrize(
    ("value", "weight"),
    [("0", 0), ("2400", 2400), ("-1", None), ("", None), ("5, 6", None), ("1e3", None), ("²", None), ("9" * 10, None)],
)
def test_the_used_weight_is_a_plain_figure_or_none(value: str, weight: int | None) -> None:
    assert used_weight(Answer(200, {"x-mbx-used-weight-1m": value}, b"")) == weight
    assert used_weight(Answer(200, {}, b"")) is None


@pytest.mark.parametrize(
    ("headers", "weight"),
    [
        ({"x-mbx-used-weight": "7"}, 7),
        ({"x-mbx-used-weight-60s": "7"}, 7),
        ({"x-mbx-used-weight-10s": "7"}, 7),  # used in these seconds, so used in the minute
        ({"x-mbx-used-weight-10s": "7", "x-mbx-used-weight-1m": "40"}, 40),
        ({"x-mbx-used-weight-1m": "-1", "x-mbx-used-weight": "9"}, 9),
        ({"x-mbx-used-weight-5m": "900"}, None),
        ({"x-mbx-used-weight-1h": "900"}, None),
        ({"x-mbx-order-count-1m": "900"}, None),
    ],
)
def test_the_used_weight_is_known_by_any_spelling_of_a_minute_or_less(
    headers: dict[str, str], weight: int | None
) -> None:
    assert used_weight(Answer(200, headers, b"")) == weight


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        ("exchange-rate-limited", 503),
        ("exchange-banned", 503),
        ("weight-budget-spent", 503),
        ("exchange-unavailable", 503),
        ("exchange-timeout", 504),
        ("exchange-rejected-credentials", 502),
        ("exchange-clock-skew", 502),
        ("exchange-blocked", 502),
        ("exchange-endpoint-gone", 502),
        ("exchange-refused", 502),
        ("exchange-answer-invalid", 502),
    ],
)
def test_each_error_has_the_status_of_the_contract(problem: str, status: int) -> None:
    assert ERRORS[problem].status == status
    assert len(ERRORS) == 12  # the contract's eleven, and a bug of ours met while asking
