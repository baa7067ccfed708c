"""Logs: one JSON line per event, or a readable form on a terminal, through a bounded queue."""

# A line's way:  any thread -> root logger -> `_BoundedQueueHandler` -> queue -> `_Listener`'s thread
#                -> `_Redacting` renders and masks -> `_WholeLines` writes
#
# - The event loop never waits for a log. A full queue drops the line and counts it, and so does a stream that fails.
# - Records cross the queue unrendered; only the listener's thread renders them, so rendering costs the loop nothing.
# - Masking is the last step and works on the finished text, so it doesn't matter which code wrote the line.
# - There is no other way out: Python's warnings, and faults of threads and finalisers, become lines too
#   (`stray_output_logged`), because stderr is not masked. A handler that fails counts a drop; it prints no traceback.
# - Two writers may share stdout, this log and the audit log. Both hold `WHOLE_LINES` for each write.
# - At the end the listener writes on as long as the stream accepts lines. After `STALL_S` seconds without progress it
#   gives up, and the rest counts as dropped.

import contextlib
import logging
import logging.handlers
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import msgspec
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from service.settings import Secret

_FIRST = ("time", "level", "logger", "event")
"""Members at the start of a line; the others follow in the order of the call."""

STALL_S = 0.25
"""Seconds without progress after which the end of logging gives up on a blocked stream."""
QUEUE_LINES = 10_000
"""Some 3 MB of lines: a burst of some seconds while the reader of our output stalls."""

_QUIET = ("httpx", "httpcore", "watchfiles", "websockets")
"""At INFO they log whole URLs with signatures and keys, or each change in a folder they watch, even of our own log."""

MASK = "…"
# A signature in a query, one of our bearer tokens, a JWT, a key block: masked whether or not the value is known.
_GIVEAWAYS = (
    r"(?<=signature=)[^&\s\"'\\]+|cgw_[0-9A-Za-z]{8,}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)"
)
_TOKEN, _JWT = "cgw_", "eyJ"
_MARKS = ("signature=", _TOKEN, _JWT, "-----BEGIN ")
"""One of these stands in every text that a pattern of `_GIVEAWAYS` matches."""
API_KEY_LENGTH = 64
"""Letters and digits of the exchange's API keys, and of their secrets; a SHA-256 digest in hex has the same form."""
_MIN_SECRET = 6
"""Characters. Masking shorter values would garble the log without hiding them."""

WHOLE_LINES = threading.Lock()
"""Held for each write to the log's stream, by this log and by the audit log."""


@contextmanager
def logging_to(
    stream: TextIO,
    *,
    level: int = logging.INFO,
    redactor: "Redactor | None" = None,
    on_drop: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Send all logs of the process to a stream until the block ends, then flush the queue."""
    handler = _WholeLines(stream, on_drop)
    handler.setFormatter(_Redacting(stream.isatty(), redactor or Redactor()))
    lines: queue.Queue[Any] = queue.Queue(QUEUE_LINES)
    listener = _Listener(lines, handler, on_drop)
    root = logging.getLogger()
    root.handlers = [_BoundedQueueHandler(lines, on_drop)]
    root.setLevel(level)
    # A seventh of what a logged hit costs is finding thread, process and source line, which our lines don't show
    # ("Optimization" in Python's Logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - it is the documented way
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    listener.start()
    try:
        yield
    finally:
        root.handlers = []  # first, so that the queue only shrinks from here on
        listener.stop()
        structlog.reset_defaults()


@contextmanager
def stray_output_logged() -> Iterator[None]:
    """Log what Python itself would print on stderr, unmasked: warnings, and faults of threads and finalisers."""
    log = logging.getLogger("python")

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:  # the end of a thread, not a fault; Python ignores it too
            fault = args.exc_value or args.exc_type()
            log.error("thread_fault", exc_info=(args.exc_type, fault, args.exc_traceback))

    def in_finaliser(args: "sys.UnraisableHookArgs") -> None:
        fault = args.exc_value or args.exc_type()
        log.error("unraisable_fault", exc_info=(args.exc_type, fault, args.exc_traceback))

    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = in_thread, in_finaliser
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = hooks


def looks_secret(word: str) -> bool:
    """Whether a caller's text has the form of a token, a key or a JWT, or contains one, so that a log would mask it.

    Only the form counts: an answer that depended on the known secrets would confirm a correct guess.
    """
    return _TOKEN in word or _JWT in word or (len(word) == API_KEY_LENGTH and word.isascii() and word.isalnum())


class Redactor:
    """Masks known secrets in a text, and anything with the form of a secret."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._known: set[str] = set()
        self.learn(secrets)

    def learn(self, secrets: Iterable[Secret]) -> None:
        """Mask these too. Secrets are never unlearned: what was secret once stays secret."""
        # A secret of several lines may be logged line by line, and a JSON line holds its escaped form.
        texts = {part for secret in secrets for part in (secret.reveal(), *secret.reveal().splitlines())}
        self._known |= texts | {msgspec.json.encode(text).decode()[1:-1] for text in texts}
        # Longest first: a regular expression takes the first alternative, and a secret may be another's beginning.
        known = sorted((text for text in self._known if len(text) >= _MIN_SECRET), key=len, reverse=True)
        pattern = re.compile("|".join([*map(re.escape, known), _GIVEAWAYS]), re.DOTALL)
        self._masking = (*_MARKS, *known), pattern  # both at once: another thread masks

    def __call__(self, text: str) -> str:
        # Nearly every line has nothing to mask. A search for each mark finds that out in a tenth of the pattern's time.
        marks, pattern = self._masking
        return pattern.sub(MASK, text) if any(mark in text for mark in marks) else text


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,  # here, where the exception is known; as plain text without local variables
]


class _WholeLines(logging.StreamHandler[TextIO]):
    """Counts a line that can't be written; its base class would print the record and a traceback on stderr."""

    def __init__(self, stream: TextIO, on_drop: Callable[[], None]) -> None:
        super().__init__(stream)
        self._on_drop = on_drop
        self.tried = 0
        """Lines written or lost: progress, as `_Listener.stop` sees it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + self.terminator
            with WHOLE_LINES:
                self.stream.write(line)
                self.stream.flush()
        except Exception:  # noqa: BLE001 - a full disk, a closed pipe, a value that can't be rendered
            self._on_drop()
        self.tried += 1


class _Listener(logging.handlers.QueueListener):
    def __init__(self, lines: "queue.Queue[Any]", handler: _WholeLines, on_drop: Callable[[], None]) -> None:
        super().__init__(lines, handler)
        self._lines = lines
        self._handler = handler
        self._on_drop = on_drop

    def stop(self) -> None:
        """Write all that is queued, as long as the stream accepts lines."""
        thread, tried, ended = self._thread, -1, False
        while thread is not None and thread.is_alive() and tried != self._handler.tried:
            tried = self._handler.tried
            with contextlib.suppress(queue.Full):
                if not ended:
                    self._lines.put(None, timeout=STALL_S)  # the end marker, behind all lines
                    ended = True
            thread.join(STALL_S)
        if thread is not None and thread.is_alive():
            for _ in range(self._lines.qsize() + 1):  # 1: the line that is being written
                self._on_drop()
        self._thread = None


class _BoundedQueueHandler(logging.handlers.QueueHandler):
    def __init__(self, lines: "queue.Queue[Any]", on_drop: Callable[[], None]) -> None:
        super().__init__(lines)
        self._on_drop = on_drop

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the record unrendered: its reader is a thread of this process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._on_drop()


class _Redacting(ProcessorFormatter):
    def __init__(self, console: bool, redact: Callable[[str], str]) -> None:  # noqa: FBT001 - the value of `isatty`
        renderer: list[Processor] = [structlog.dev.ConsoleRenderer()] if console else [_json]
        super().__init__(processors=[ProcessorFormatter.remove_processors_meta, *renderer], foreign_pre_chain=_SHARED)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def _json(_logger: object, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in _FIRST if name in event}
    # `repr` for what JSON can't hold: a log line must not fail on a value.
    return msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
