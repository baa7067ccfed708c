"""Logs: one JSON line an event, or a readable form on a terminal, through a bounded queue.

The event loop never waits for a log: a full queue drops the line and counts it. Lines are rendered in the queue's
own thread, and what could be a secret is masked there, in the finished text, whoever wrote it.
"""

import logging
import logging.handlers
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor

from service.settings import Secret

_FIRST = ("time", "level", "logger", "event")
"""What a line begins with; the rest follows as the writer ordered it."""

QUEUE_LINES = 10_000
"""Some 3 MB of lines: seconds of a burst while the reader of our output stalls."""

_QUIET = ("httpx", "httpcore")
"""They log whole URLs at INFO, signatures included."""

_MASK = "…"
# A signature in a query, a bearer token of ours, a JWT, a key block: masked whether or not we know the value.
_GIVEAWAYS = (
    r"(?<=signature=)[^&\s\"'\\]+|cgw_[0-9A-Za-z]{8,}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)"
)
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
    handler = _WholeLines(stream)
    handler.setFormatter(_Redacting(stream.isatty(), redactor or Redactor()))
    lines: queue.Queue[Any] = queue.Queue(QUEUE_LINES)
    listener = _Listener(lines, handler)
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


def _gather_less() -> None:
    """Don't find out for each line which thread, process and source line it is from: none of ours says so.

    A seventh of what a logged hit costs ("Optimization" in Python's Logging HOWTO).
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - it is the documented way


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
        return self._pattern.sub(_MASK, text)


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,  # here, where the exception is; plain text, so never with locals
]


class _Listener(logging.handlers.QueueListener):
    def enqueue_sentinel(self) -> None:
        """Wait for room: the end must come through even a full queue, after all that is in it."""
        cast("queue.Queue[Any]", self.queue).put(None)


class _WholeLines(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        with WHOLE_LINES:
            super().emit(record)


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
