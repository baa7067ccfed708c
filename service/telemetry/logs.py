"""Logs: one JSON line per event, or a readable form on a terminal, through a bounded queue."""

# A line's way:  any thread -> root logger -> `LogQueue.emit` ──┐
#                the event loop -> `log_request` (encodes) ─────┴─► `_lines` -> the writer thread: render, mask, write
#
# - The event loop never waits for a log. A full queue drops the line and counts it, and so does a stream that fails.
# - Records cross the queue unrendered; only the writer's thread renders them, so rendering costs the loop nothing.
# - A request's line is a struct with fixed fields. Its encoding takes a microsecond, a record and its rendering thirty.
#   It also waits for company: waking the writer for each line would cost more than the line. An event doesn't wait, and
#   takes along the lines before it. So all lines are written in the order in which they were logged.
# - Masking is the last step and works on the finished text, so it doesn't matter which code wrote the line.
# - There is no other way out: Python's warnings, and faults of threads and finalisers, become lines too
#   (`stray_output_logged`), because stderr is not masked. A handler that fails counts a drop; it prints no traceback.
# - Two writers may share stdout, this log and the audit log. Both hold `WHOLE_LINES` for each write.
# - At the end the listener writes on as long as the stream accepts lines. After `STALL_S` seconds without progress it
#   gives up, and the rest counts as dropped.

import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

import msgspec
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from service.settings import Secret

_FIRST = ("time", "level", "logger", "event")
"""Members at the start of a line; the others follow in the order of the call."""

REQUESTS = "coinm.request"
"""The logger of requests."""
STALL_S = 0.25
"""Seconds without progress after which the end of logging gives up on a blocked stream."""
QUEUE_LINES = 10_000
"""Some 3 MB of lines: a burst of some seconds while the reader of our output stalls."""
BATCH_S = 0.05
"""Seconds that a request's line waits for others. At 20,000 lines a second the queue then fills to a tenth."""
BATCH_LINES = 100
"""Lines of one write: some 30 KB, half of what a pipe holds."""

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
    global _queue  # noqa: PLW0603 - one log for the process, as Python's own
    queue = LogQueue(stream, redactor or Redactor(), on_drop)
    root = logging.getLogger()
    root.handlers = [queue]
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
    _queue = queue
    try:
        yield
    finally:
        root.handlers, _queue = [], None  # first, so that the queue only shrinks from here on
        queue.close()
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

    def lines(self, texts: Sequence[str]) -> str:
        """Texts as lines, each masked by itself."""
        lines = "\n".join([*texts, ""])
        marks, _ = self._masking
        # One search through all of them: with hundreds of accounts, a search through each takes longer than its write.
        return "".join(f"{self(text)}\n" for text in texts) if any(mark in lines for mark in marks) else lines


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,  # here, where the exception is known; as plain text without local variables
]


class RequestLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. The fields are in the line's order, and those that are `None` aren't in it."""

    time: datetime
    level: str
    logger: str
    event: str
    method: str
    route: str
    status: int
    duration_ms: float
    account: str | None = None
    age_ms: int | None = None
    client: str | None = None
    problem: str | None = None
    refresh: str | None = None
    refusal: str | None = None
    request_id: str | None = None
    result: str | None = None
    service_account: str | None = None


def log_request(level: int, line: RequestLine) -> None:
    """Log a request, if this level is logged."""
    if not _requests.isEnabledFor(level):
        return
    if _queue is not None and not _queue.console:
        _queue.put(_encoder.encode(line))
    else:
        fields = {name: value for name, value in msgspec.structs.asdict(line).items() if value is not None}
        structlog.get_logger(REQUESTS).log(level, **{name: fields[name] for name in fields if name not in _STAMPED})


class LogQueue(logging.Handler):
    """The lines on their way to a stream, and the thread that writes them."""

    def __init__(self, stream: TextIO, redactor: "Redactor", on_drop: Callable[[], None]) -> None:
        super().__init__()
        self.console = stream.isatty()
        renderer: list[Processor] = [structlog.dev.ConsoleRenderer()] if self.console else [_json]
        processors = [ProcessorFormatter.remove_processors_meta, *renderer]
        self.setFormatter(ProcessorFormatter(processors=processors, foreign_pre_chain=_SHARED))
        self._stream = stream
        self._redactor = redactor
        self._on_drop = on_drop
        self._lines = deque[logging.LogRecord | bytes | threading.Event]()
        """An event is a mark: the writer sets it once all before it is written."""
        self._in_hand = 0
        """Lines that the writer has taken, and neither written nor lost."""
        self._writes = 0
        """Done, or failed: progress, as `flush` sees it."""
        self._waiting, self._urgent = threading.Event(), threading.Event()
        """Whether lines wait for the writer, and whether it must not let them wait for more."""
        self._closed = False
        self._writer = threading.Thread(target=self._run, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue an event. It stays unrendered: its reader is a thread of this process."""
        self.put(record)
        self._urgent.set()

    def put(self, line: logging.LogRecord | bytes) -> None:
        """Queue a line; bytes are a finished one, which waits for others."""
        if len(self._lines) >= QUEUE_LINES:
            self._on_drop()
            return
        self._lines.append(line)
        if not self._waiting.is_set():  # setting it costs ten times as much
            self._waiting.set()

    def flush(self) -> None:
        """Wait until all that is queued is written, as long as the stream accepts lines."""
        mark, writes = threading.Event(), -1
        self._lines.append(mark)
        self._wake()
        while self._writer.is_alive() and not mark.wait(STALL_S) and self._writes != writes:
            writes = self._writes

    def close(self) -> None:
        """Write all that is queued, as long as the stream accepts lines; the rest is lost."""
        if not self._closed:
            self.flush()
            lost = self._in_hand + sum(not isinstance(line, threading.Event) for line in self._lines)
            for _ in range(lost):
                self._on_drop()
            self._closed = True
            self._wake()
            if not lost:
                self._writer.join()
        super().close()

    def _wake(self) -> None:
        self._urgent.set()
        self._waiting.set()

    def _run(self) -> None:
        """The writer thread."""
        while not self._closed:
            self._waiting.wait()
            self._urgent.wait(BATCH_S)
            self._waiting.clear()  # before the lines are taken: one that comes later sets it again
            self._urgent.clear()
            while self._lines and not self._closed:
                self._write_batch()

    def _write_batch(self) -> None:
        texts, marks = list[str](), list[threading.Event]()
        for _ in range(min(BATCH_LINES, len(self._lines))):
            line = self._lines.popleft()
            if isinstance(line, threading.Event):
                marks.append(line)
                continue
            self._in_hand += 1
            try:
                texts.append(line.decode() if isinstance(line, bytes) else self.format(line))
            except Exception:  # noqa: BLE001 - a value that can't be rendered
                self._lose(1)
        if texts:
            try:
                with WHOLE_LINES:
                    self._stream.write(self._redactor.lines(texts))
                    self._stream.flush()
            except Exception:  # noqa: BLE001 - a full disk, a closed pipe
                self._lose(len(texts))
            self._in_hand = 0
            self._writes += 1
        for mark in marks:
            mark.set()

    def _lose(self, lines: int) -> None:
        self._in_hand -= lines
        for _ in range(lines):
            self._on_drop()


_encoder = msgspec.json.Encoder()
_requests = logging.getLogger(REQUESTS)
_queue: LogQueue | None = None
_STAMPED = frozenset({"time", "level", "logger"})
"""What structlog adds by itself."""


def _json(_logger: object, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in _FIRST if name in event}
    # `repr` for what JSON can't hold: a log line must not fail on a value.
    return msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
