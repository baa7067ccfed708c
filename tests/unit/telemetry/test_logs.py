import io
import json
import logging
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from service.settings import Secret
from service.telemetry.logs import (
    QUEUE_LINES,
    STALL_S,
    LogQueue,
    Redactor,
    RequestLine,
    log_request,
    logging_to,
    stray_output_logged,
)

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----"


def logged(write: Callable[[Any], None], *secrets: str) -> str:
    """What the log shows of what is written to it."""
    stream = io.StringIO()
    with logging_to(stream, redactor=Redactor(map(Secret, secrets))):
        write(structlog.get_logger("coinm.test"))
    return stream.getvalue()


def test_an_event_is_one_json_line() -> None:
    text = logged(lambda log: log.warning("redis_away", kind="timeout\nx", port=6379, odd=object))
    line = json.loads(text)
    assert text.count("\n") == 1
    assert (line["event"], line["level"], line["logger"], line["port"]) == ("redis_away", "warning", "coinm.test", 6379)
    assert line["time"].endswith("Z")


def test_lines_of_other_libraries_have_the_same_form() -> None:
    line = json.loads(logged(lambda _: logging.getLogger("granian").warning("listening on %s", "port 1")))
    assert (line["event"], line["level"], line["logger"]) == ("listening on port 1", "warning", "granian")


def test_bound_context_is_in_the_line() -> None:
    def write(log: Any) -> None:
        with structlog.contextvars.bound_contextvars(request_id="r1"):
            log.info("request")

    assert json.loads(logged(write))["request_id"] == "r1"


@pytest.mark.parametrize(
    "secret", ["plain-canary", "ключ-canary", "regex.*(canary[", 'quoted"canary', r"back\slash-canary", "tab\tcanary"]
)
def test_a_known_secret_is_masked_wherever_it_stands(secret: str) -> None:
    def write(log: Any) -> None:
        text = f"with {secret} in it"
        log.info(text, key=secret, nested={"list": [secret]})
        log.error("failed", exc_info=ValueError(secret))
        logging.getLogger("other").warning("failed %s", secret, exc_info=ValueError(secret))

    text = logged(write, secret)
    assert "canary" not in text
    assert [json.loads(line)["event"] for line in text.splitlines()] == ["with … in it", "failed", "failed …"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("GET /dapi/v1/account?timestamp=1&signature=canary&x=1 failed", "timestamp=1&signature=…&x=1 failed"),
        ("signature=ca%2Fnary%3D", "signature=…"),
        ("Bearer cgw_0123456789canary", "Bearer …"),
        ("Bearer eyJhbGciOi-canary.eyJpc3Mi_canary.canary-_x1 sent", "Bearer … sent"),
        ("Bearer eyJhbGciOicanary.eyJpc3Micanary. sent", "Bearer … sent"),
        (f"key {PEM.replace('MII', 'canary')} read", "read"),
        ("-----BEGIN RSA PRIVATE KEY-----\ncanary cut off", "…"),
    ],
)
def test_what_has_a_secrets_form_is_masked_though_nobody_knows_it(text: str, kept: str) -> None:
    masked = Redactor([])(text)
    assert "canary" not in masked
    assert kept in masked


def test_each_line_of_a_private_key_is_masked_by_itself() -> None:
    shown = Redactor([Secret(PEM)])("parsing MIIEvQIBADANBgkq and hkiG9w0BAQEFAASC")
    assert shown == "parsing … and …"


def test_the_longest_of_overlapping_secrets_is_masked_whole() -> None:
    assert Redactor([Secret("secret"), Secret("secret-canary")])("x secret-canary x secret x") == "x … x … x"


def test_words_too_short_to_hide_leave_the_log_readable() -> None:
    assert Redactor([Secret("main")])("account main") == "account main"


def test_what_holds_no_secret_is_left_alone() -> None:
    text = "signature checks took 5 ms for cgw_x; assets BTC, ETH"
    assert Redactor([Secret("another-secret")])(text) == text


@pytest.mark.parametrize("name", ["httpx", "httpcore"])
def test_http_libraries_are_heard_from_warning_on(name: str) -> None:
    def write(_: Any) -> None:
        logging.getLogger(name).info("GET https://host/?signature=x")
        logging.getLogger(f"{name}.connection").info("too")
        logging.getLogger(name).warning("heard")

    assert [json.loads(line)["event"] for line in logged(write).splitlines()] == ["heard"]


def test_an_exception_being_handled_has_its_traceback_in_the_line() -> None:
    def write(log: Any) -> None:
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")

    assert "ValueError: why" in json.loads(logged(write))["exception"]


class Stalled(io.StringIO):
    """A reader of our output that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.released, self.drained = (threading.Event() for _ in range(3))

    def write(self, text: str) -> int:
        if self.reached.is_set():
            self.drained.set()
        self.reached.set()
        assert self.released.wait(30)
        return super().write(text)

    def fill(self, extra: int) -> None:
        """As many lines as the queue holds, and some more, while the first is being read."""
        log = logging.getLogger("coinm.test")
        log.info("first")
        assert self.reached.wait(30)
        for _ in range(QUEUE_LINES + extra):
            log.info("line")


def test_a_full_queue_drops_lines_and_counts_them_and_never_waits() -> None:
    stream, dropped = Stalled(), list[int]()
    with logging_to(stream, on_drop=lambda: dropped.append(1)):
        stream.fill(extra=7)
        assert len(dropped) == 7
        stream.released.set()
        assert stream.drained.wait(30)
    assert stream.getvalue().count("\n") == 1 + QUEUE_LINES


def test_ending_with_a_full_queue_loses_nothing_of_it() -> None:
    stream = Stalled()
    with logging_to(stream):
        stream.fill(extra=0)
        threading.Timer(0.05, stream.released.set).start()  # the reader comes back while logging ends
    assert stream.getvalue().count("\n") == 1 + QUEUE_LINES


def line(request_id: str, **known: Any) -> RequestLine:
    """A request's line."""
    now = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    fixed = (now, "info", "coinm.request", "request", "GET", "/v1/x", 200, 0.125)
    return RequestLine(*fixed, request_id=request_id, **known)


def test_a_request_is_a_line_of_what_is_known_of_it() -> None:
    text = logged(lambda _: log_request(logging.INFO, line("r1", client="risk", age_ms=0)))
    assert text == (
        '{"time":"2026-01-02T03:04:05.678901Z","level":"info","logger":"coinm.request","event":"request","method":"GET",'
        '"route":"/v1/x","status":200,"duration_ms":0.125,"age_ms":0,"client":"risk","request_id":"r1"}\n'
    )


def test_a_request_below_the_level_leaves_no_line() -> None:
    assert logged(lambda _: log_request(logging.DEBUG, line("r1"))) == ""


def test_requests_and_events_are_written_in_the_order_in_which_they_were_logged() -> None:
    def write(log: Any) -> None:
        for number in range(300):
            log_request(logging.INFO, line(str(number)))
            if number % 7 == 0:
                log.info("after", number=number)

    lines = [json.loads(each) for each in logged(write).splitlines()]
    seen = [each.get("request_id", each.get("number")) for each in lines]
    expected = [[str(number), number] if number % 7 == 0 else [str(number)] for number in range(300)]
    assert seen == [each for pair in expected for each in pair]


def test_a_request_is_masked_too_and_by_itself() -> None:
    def write(_: Any) -> None:
        log_request(logging.INFO, line("-----BEGIN RSA PRIVATE KEY-----canary"))
        log_request(logging.INFO, line("hunter2-canary"))
        log_request(logging.INFO, line("harmless"))

    text = logged(write, "hunter2-canary")
    assert "canary" not in text
    assert text.count("\n") == 3
    assert json.loads(text.splitlines()[2])["request_id"] == "harmless"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_request_reads_like_an_event() -> None:
    stream = Terminal()
    with logging_to(stream):
        log_request(logging.INFO, line("r1", client="risk"))
    assert "request_id" in stream.getvalue()
    assert "risk" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_a_request_that_finds_the_queue_full_is_counted_as_dropped() -> None:
    stream, dropped = Stalled(), list[int]()
    with logging_to(stream, on_drop=lambda: dropped.append(1)):
        stream.fill(extra=0)
        log_request(logging.INFO, line("r1"))
        assert len(dropped) == 1
        stream.released.set()
    assert "r1" not in stream.getvalue()


def test_flushing_waits_for_the_lines_of_requests() -> None:
    stream = io.StringIO()
    queue = LogQueue(stream, Redactor(), lambda: None)
    queue.put(b"one")
    queue.flush()
    assert stream.getvalue() == "one\n"
    queue.close()
    queue.flush()  # after its end there is nothing to wait for


def test_afterwards_logging_is_as_it_was() -> None:
    logged(lambda log: log.info("x"))
    assert logging.getLogger().handlers == []
    assert not structlog.is_configured()


def test_a_secret_that_is_learnt_later_is_masked_and_earlier_ones_still_are() -> None:
    redactor = Redactor([Secret("first-canary")])
    redactor.learn([Secret("second-canary")])
    assert redactor("first-canary second-canary") == "… …"


class Broken(io.StringIO):
    """Takes no line while it is broken."""

    broken = True

    def write(self, text: str) -> int:
        if self.broken:
            raise BrokenPipeError
        return super().write(text)


def test_a_stream_that_takes_no_line_costs_it_and_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    stream, dropped = Broken(), list[int]()
    log = logging.getLogger("coinm.test")
    with logging_to(stream, on_drop=lambda: dropped.append(1)):
        log.info("one")
        log.info("a value that can't be put in: %d", "x")
        while len(dropped) < 2:
            time.sleep(0.001)
        stream.broken = False
        log.info("two")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["two"]
    assert capfd.readouterr() == ("", "")


def test_a_stream_that_nobody_reads_does_not_hold_up_the_end_and_its_lines_are_counted() -> None:
    stream, dropped = Stalled(), list[int]()
    with logging_to(stream, on_drop=lambda: dropped.append(1)):
        stream.fill(extra=0)
        began = time.monotonic()
    assert time.monotonic() - began < 10 * STALL_S
    assert len(dropped) == 1 + QUEUE_LINES
    stream.released.set()


def test_what_python_prints_by_itself_is_logged_and_masked(capfd: pytest.CaptureFixture[str]) -> None:
    class Fails:
        def __del__(self) -> None:
            raise ValueError("in a finaliser hunter2hunter2")

    def fail() -> None:
        raise ValueError("in a thread hunter2hunter2")

    stream = io.StringIO()
    with logging_to(stream, redactor=Redactor([Secret("hunter2hunter2")])), stray_output_logged():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        Fails()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("of a library hunter2hunter2", stacklevel=1)
    text = stream.getvalue()
    assert all(words in text for words in ("thread_fault", "unraisable_fault", "of a library"))
    assert "hunter2" not in text
    assert capfd.readouterr() == ("", "")
