"""Logs: one JSON line an event, or a readable form on a terminal, through a bounded queue.

The event loop never waits for a log: a full queue drops the line and counts it, and so does a stream that takes none.
Lines are rendered in the queue's own thread, and what could be a secret is masked there, in the finished text, whoever
wrote it. In a gateway nothing goes another way: Python's warnings, and faults of threads and finalisers, become lines
too, because stderr is not masked.
"""

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
"""What a line begins with; the rest follows as the writer ordered it."""

STALL = 0.25
"""Seconds without a line taken after which the end of logging gives up on a stream that nobody reads."""
QUEUE_LINES = 10_000
"""Some 3 MB of lines: seconds of a burst while the reader of our output stalls."""

_QUIET = ("httpx", "httpcore", "watchfiles", "websockets")
"""At INFO they log whole URLs, signatures and keys included, or every change in a folder they watch, our log's too."""

MASK = "…"
# A signature in a query, a bearer token of ours, a JWT, a key block: masked whether or not we know the value.
_GIVEAWAYS = (
    r"(?<=signature=)[^&\s\"'\\]+|cgw_[0-9A-Za-z]{8,}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)"
)
_TOKEN, _JWT = "cgw_", "eyJ"
API_KEY_LENGTH = 64
"""Letters and digits of an exchange's API key, and of its secret; a digest in hex looks alike."""
_SHORTEST_SECRET = 6
"""Characters; masking shorter values would garble the log without hiding them."""

WHOLE_LINES = threading.Lock()
"""Held for each write to the log's stream, by whoever else writes lines to it too."""


@contextmanager
def logging_to(
    stream: TextIO,
    *,
    level: int = logging.INFO,
    redactor: "Redactor | None" = None,
    on_drop: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Send all logs of the process to a stream until the block ends; flushes what is queued."""
    handler = _WholeLines(stream, on_drop)
    handler.setFormatter(_Redacting(stream.isatty(), redactor or Redactor()))
    lines: queue.Queue[Any] = queue.Queue(QUEUE_LINES)
    listener = _Listener(lines, handler, on_drop)
    root = logging.getLogger()
    root.handlers = [_BoundedQueueHandler(lines, on_drop)]
    root.setLevel(level)
    _gather_less()
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
        root.handlers = []
        listener.stop()
        structlog.reset_defaults()


@contextmanager
def stray_output_logged() -> Iterator[None]:
    """Log what Python would print on stderr by itself, unmasked."""
    log = logging.getLogger("python")

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
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


def _gather_less() -> None:
    """Don't find out for each line which thread, process and source line it is from: none of ours says so.

    A seventh of what a logged hit costs ("Optimization" in Python's Logging HOWTO).
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - it is the documented way


def looks_secret(word: str) -> bool:
    """Whether a caller's word has the form of a token, a key or a JWT, or holds one, so that a log would mask it.

    By the form alone: an answer that depended on the secrets that we know would confirm a good guess.
    """
    return _TOKEN in word or _JWT in word or (len(word) == API_KEY_LENGTH and word.isascii() and word.isalnum())


class Redactor:
    """Masks the secrets it knows, and anything with a secret's form, in a text."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._known: set[str] = set()
        self._pattern = re.compile(_GIVEAWAYS, re.DOTALL)
        self.learn(secrets)

    def learn(self, secrets: Iterable[Secret]) -> None:
        """Know these too; what was secret once stays so."""
        texts = {part for secret in secrets for part in (secret.reveal(), *secret.reveal().splitlines())}
        self._known |= texts | {msgspec.json.encode(text).decode()[1:-1] for text in texts}  # as a JSON line has it
        known = sorted((text for text in self._known if len(text) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, known), _GIVEAWAYS]), re.DOTALL)

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text)


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,  # here, where the exception is; plain text, so never with locals
]


class _WholeLines(logging.StreamHandler[TextIO]):
    """Never prints that it failed, as its base does with the record and a traceback: it counts."""

    def __init__(self, stream: TextIO, on_drop: Callable[[], None]) -> None:
        super().__init__(stream)
        self._on_drop = on_drop
        self.tried = 0
        """Lines that were written or lost."""

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
        """Write all that is queued, for as long as the stream takes any of it."""
        thread, tried, ended = self._thread, -1, False
        while thread is not None and thread.is_alive() and tried != self._handler.tried:
            tried = self._handler.tried
            with contextlib.suppress(queue.Full):
                if not ended:
                    self._lines.put(None, timeout=STALL)  # after all that is in it
                    ended = True
            thread.join(STALL)
        if thread is not None and thread.is_alive():
            for _ in range(self._lines.qsize() + 1):  # with the line that is being written
                self._on_drop()
        self._thread = None


class _BoundedQueueHandler(logging.handlers.QueueHandler):
    def __init__(self, lines: "queue.Queue[Any]", on_drop: Callable[[], None]) -> None:
        super().__init__(lines)
        self._on_drop = on_drop

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Unrendered: the reader is a thread of this process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._on_drop()


class _Redacting(ProcessorFormatter):
    def __init__(self, console: bool, redact: Callable[[str], str]) -> None:  # noqa: FBT001 - two values of one kind
        renderer: list[Processor] = [structlog.dev.ConsoleRenderer()] if console else [_json]
        super().__init__(processors=[ProcessorFormatter.remove_processors_meta, *renderer], foreign_pre_chain=_SHARED)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def _json(_logger: object, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in _FIRST if name in event}
    return msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
