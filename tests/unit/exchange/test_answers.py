import json

import pytest

from service.exchange.answers import Answer, error_in, used_weight
from service.exchange.errors import ERRORS, ExchangeBannedError

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


def test_an_error_told_again_says_the_same_and_holds_no_traceback() -> None:
    error = error_in(Answer(401, {}, said(-2015)), NOW)
    assert error is not None
    with pytest.raises(type(error)):
        raise error
    again = error.again(NOW + 5)
    assert (type(again), again.detail, again.answered, again.code) == (type(error), error.detail, 401, -2015)
    assert (again.retry_at, again.__traceback__) == (NOW + 5, None)
    assert again.again().retry_at == NOW + 5


def test_an_error_as_long_as_any_may_be_is_still_read() -> None:
    error = error_in(Answer(400, {}, said(-2015).ljust(65_536)), NOW)
    assert error is not None
    assert (error.problem, error.code) == ("exchange-rejected-credentials", -2015)


@pytest.mark.parametrize(("status", "reason"), [(403, "firewall"), (451, "region")])
def test_an_operator_is_told_what_blocks_the_address(status: int, reason: str) -> None:
    assert reason in str(error_in(Answer(status, {}, b""), NOW))


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
