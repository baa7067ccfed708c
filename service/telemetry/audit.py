"""The audit log: who read what, one line a read, in a stream of its own. `docs/audit.md` has it for its readers.

The event loop never waits for it. Lines go through a bounded queue to a thread that renders, masks and writes them;
what the sink doesn't take is kept and tried again until it does. With `when_full = "refuse"` a read begins only once
there is room for its line, and not at all while the sink fails; with `"drop"` a line without room is lost, and counted.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
import structlog

from service.settings import Audit
from service.telemetry.sinks import Sink

log = structlog.get_logger("coinm.audit")

PAUSE = 1.0
"""Seconds before a sink that failed is tried again; a full disk or a missing folder takes people, not milliseconds."""
CLOSING = 1.0
"""Seconds that the end of the process waits for lines to be written; 2 s are all it has after the last read."""
_POLL = 0.01


class Filters(msgspec.Struct, frozen=True):
    """What the rows were narrowed by, as it was asked; null: not by this. A name in the path is one of these."""

    assets: tuple[str, ...] | None = None
    symbols: tuple[str, ...] | None = None
    sides: tuple[str, ...] | None = None
    open: bool | None = None
    nonzero: bool | None = None


class SnapshotRead(msgspec.Struct, frozen=True):
    """The snapshot that was served."""

    time: str
    """When the exchange was asked for it."""
    age_ms: int


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One read, in the order in which the line has it. A change of these fields' meaning is a new version."""

    time: str
    """When the read ended; RFC 3339, milliseconds, UTC, like the snapshot's."""
    stream: Literal["audit"] = "audit"
    version: Literal[1] = 1
    request_id: str
    environment: str
    client: str | None
    account: str | None
    method: str
    route: str
    shape: str | None
    filters: Filters | None
    status: int | None
    problem: str | None
    snapshot: SnapshotRead | None


def has_room(taken: int, settings: Audit, *, failing: bool = False) -> bool:
    """Whether one more line has a place, `taken` of which are; a failing sink's queue has none for a new read."""
    return taken < settings.queue and not failing


class AuditLog:
    """The queue, and the thread that empties it."""

    def __init__(
        self, settings: Audit, sink: Sink, redact: Callable[[str], str], on_drop: Callable[[int], None]
    ) -> None:
        self.settings = settings
        self._sink = sink
        self._redact = redact
        self._on_drop = on_drop
        self._lines: list[Line] = []
        self._writing = 0
        """Lines that the writer has taken and the sink has not."""
        self._reserved = 0
        """Reads under way that have a place."""
        self._failing = self._full = self._ended = False
        """`_full`: that there was no room has been logged since the writer last came by."""
        self.lost = False
        """Whether the end of the process has lost lines."""
        self._changed = threading.Condition()
        self._closing = threading.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it lasts, lines are written; at the end, all that wait.

        Raises:
            OSError: the file can't be written.
        """
        self._sink.open()
        writer = threading.Thread(target=self._write, name="audit", daemon=True)
        writer.start()
        try:
            yield
        finally:
            with self._changed:
                self._closing.set()
                self._changed.notify()
            await _ended(writer)
            self._end()

    @property
    def failing(self) -> bool:
        """Whether lines can't be written now: the sink fails, or has not made room since there was none."""
        return self._failing or self._full

    def reserve(self) -> bool:
        """A place for the line of a read that begins; without one it must not be answered."""
        with self._changed:
            reserved = has_room(self._taken, self.settings, failing=self._failing)
            self._reserved += reserved
        if not reserved:
            self._tell_full()
        return reserved

    def put(self, line: Line, *, reserved: bool) -> None:
        """Take a line; one for which no place was reserved may be lost."""
        with self._changed:
            kept = (reserved or has_room(self._taken * self._weight, self.settings)) and not self._ended
            self._reserved -= reserved
            if kept:
                self._lines.append(line)
                self._changed.notify()
        if not kept:
            self._tell_full()
            self._on_drop(1)

    @property
    def _weight(self) -> int:
        """Of a place, for lines without one reserved: where reads need theirs, those may fill half of the queue."""
        return 2 if self.settings.when_full == "refuse" else 1

    @property
    def _taken(self) -> int:
        return len(self._lines) + self._writing + self._reserved

    def _tell_full(self) -> None:
        if not self._full:
            self._full = True
            log.error("audit_no_room", when_full=self.settings.when_full, failing=self._failing)

    def _end(self) -> None:
        """Nothing is written any more; what a stalled reader of our output hasn't taken by now is lost."""
        with self._changed:
            self._ended, lost = True, len(self._lines) + self._writing
        if lost:
            self._lose(lost)
        else:
            self._sink.close()

    def _write(self) -> None:
        """The writer's thread: all that waits, as often as something does."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing.is_set())
                batch, self._lines = self._lines, []
                self._writing = len(batch)
            if not batch:
                return
            self._deliver(b"".join(map(self._rendered, batch)))
            with self._changed:
                self._writing, self._full = 0, False

    def _deliver(self, text: bytes) -> None:
        """See text through; given up only at the end of the process."""
        while text:
            try:
                text = self._sink.write(text)
            except OSError as exc:
                self._note(exc)
                if self._closing.is_set():
                    self._lose(text.count(b"\n"))
                    return
                self._closing.wait(PAUSE)
            else:
                self._note(None)

    def _note(self, fault: OSError | None) -> None:
        """One log line a change."""
        before, self._failing = self._failing, fault is not None
        if fault is not None and not before:
            log.error("audit_unwritable", sink=str(self._sink), error=fault.strerror)
        if fault is None and before:
            log.warning("audit_written_again", sink=str(self._sink))

    def _lose(self, lines: int) -> None:
        self.lost = True
        log.error("audit_lines_lost", lines=lines, sink=str(self._sink))
        self._on_drop(lines)

    def _rendered(self, line: Line) -> bytes:
        return self._redact(msgspec.json.encode(line).decode()).encode() + b"\n"


async def _ended(writer: threading.Thread) -> None:
    """Wait for the writer's end, but not for a sink that takes nothing; without a thread, for they may all hang."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSING):
            while writer.is_alive():  # noqa: ASYNC110 - it is a thread
                await asyncio.sleep(_POLL)
