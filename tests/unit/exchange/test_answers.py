import json

import pytest

from service.exchange.answers import Answer, error_in, used_weight
from service.exchange.errors import ERRORS, ExchangeBannedError

NOW = 1_790_000_000_000
BAN_TEXT = "Way too many requests; IP(1.2.3.4) banned until {}. Please use the websocket for live updates."
HTML = b"<html><head><title>403 Forbidden</title></head><body>canary</body></html>"


def said(code: int, message: str = "canary") -> bytes:
    return json.dumps({"code": code, "msg": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (429, said(-1003), "exchange-rate-limited"),
        (429, said(-1015), "exchange-rate-limited"),
        (429, HTML, "exchange-rate-limited"),
        (429, b"", "exchange-rate-limited"),
        (400, said(-1003), "exchange-rate-limited"),
        (200, said(-1003), "exchange-rate-limited"),
        (418, said(-1003, BAN_TEXT), "exchange-banned"),
        (418, HTML, "exchange-banned"),
        (418, b"", "exchange-banned"),
        (418, said(-2015), "exchange-banned"),
        (429, said(-1003, BAN_TEXT.format(NOW)), "exchange-banned"),
        (403, said(-1003, BAN_TEXT.format(NOW)), "exchange-banned"),
        (500, b"", "exchange-unavailable"),
        (502, HTML, "exchange-unavailable"),
        (503, said(-1001), "exchange-unavailable"),
        (503, said(-1008), "exchange-unavailable"),
        (599, b"", "exchange-unavailable"),
        (400, said(-1016), "exchange-unavailable"),
        (200, said(-1016), "exchange-unavailable"),
        (200, b'{"239999":"canary"}', "exchange-unavailable"),
        (503, b'{"239999":{"x":"canary"}}', "exchange-unavailable"),
        (408, said(-1007), "exchange-timeout"),
        (408, b"", "exchange-timeout"),
        (401, said(-2014), "exchange-rejected-credentials"),
        (401, said(-2015), "exchange-rejected-credentials"),
        (400, said(-1022), "exchange-rejected-credentials"),
        (401, said(-1002), "exchange-rejected-credentials"),
        (200, said(-2015), "exchange-rejected-credentials"),
        (400, said(-1021), "exchange-clock-skew"),
        (403, HTML, "exchange-blocked"),
        (403, b"", "exchange-blocked"),
        (451, said(0), "exchange-blocked"),
        (404, said(-5000), "exchange-endpoint-gone"),
        (400, said(-5000), "exchange-endpoint-gone"),
        (404, HTML, "exchange-endpoint-gone"),
        (301, b"", "exchange-refused"),
        (304, b"", "exchange-refused"),
        (400, said(-1102), "exchange-refused"),
        (400, said(-9999), "exchange-refused"),
        (401, b"", "exchange-refused"),
        (400, b'{"code":"-2015"}', "exchange-refused"),  # a code is a number
        (400, b'[{"code":-2015}]', "exchange-refused"),
        (400, b'{"code":-2015,"msg":"\xff"}', "exchange-refused"),
        (400, b"[" * 60_000, "exchange-refused"),
        (400, said(-2015, "x" * 65_536), "exchange-refused"),  # no error of the exchange is as long
        (201, b"{}", "exchange-answer-invalid"),
        (204, b"", "exchange-answer-invalid"),
    ],
)
def test_an_answers_status_and_body_tell_what_went_wrong(status: int, body: bytes, problem: str) -> None:
    error = error_in(Answer(status, {}, body), NOW)
    assert error is not None
    assert (error.problem, error.answered) == (problem, status)
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
        ("no time at all", {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ("no time at all", {"retry-after": "-5"}, None),
        ("no time at all", {"retry-after": "9999999999"}, None),
    ],
)
def test_a_ban_ends_when_its_text_says_else_by_retry_after(
    text: str, headers: dict[str, str], until: int | None
) -> None:
    error = error_in(Answer(418, headers, said(-1003, text)), NOW)
    assert isinstance(error, ExchangeBannedError)
    assert error.retry_at == until


def test_a_ban_dated_in_html_is_read_too() -> None:
    error = error_in(Answer(418, {}, b"<p>banned until 1790000123456</p>"), NOW)
    assert error is not None
    assert error.retry_at == 1_790_000_123_456


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
    assert len(ERRORS) == 11
