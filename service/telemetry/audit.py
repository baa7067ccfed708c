"""The audit log: which client read what, one line per read, in a stream of its own. `docs/audit.md` describes it.

The event loop never waits for it. Lines go through a bounded queue to a thread that renders, masks and writes them.
What the sink doesn't accept is kept and retried. With `when_full = "refuse"` a read starts only if there is room for
its line, and not at all while the sink fails. With `"drop"` a line without room is lost, and counted.
"""

# A line's way:  reserve() -> put() -> `_lines` -> a batch of the writer thread (`_writing`) -> the sink
#
# - Room: reserved + queued + being written < `queue`. A reservation counts from the start of its read, so the line of
#   an admitted read always has room. Under "refuse", lines without a reservation (refused reads) may fill only half of
#   the queue, so that a flood of them can't stop the reads.
# - `_changed` guards `_lines`, `_writing`, `_reserved` and `_ended`. `_failing` and `_full` are single flags read
#   without it: a stale value refuses or admits one read more, or logs one line more.
# - The writer clears `_writing` only after the sink took the batch, so a hanging sink fills the queue and is noticed.
# - The end: `_closing` makes the writer drain the queue and fail at the first error. After `CLOSING` seconds `_ended`
#   is set, and what is left counts as lost. The sink is closed only if nothing is left: otherwise the writer may still
#   be in it.

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
"""Seconds until a failed sink is retried. A full disk or a missing folder takes an operator, not milliseconds."""
CLOSING = 1.0
"""Seconds that the end of the process waits for the writer, of the 2 s that it has after the last read."""
_POLL_S = 0.01


class Filters(msgspec.Struct, frozen=True):
    """The filters of the read as requested, a name in the path included; null: not filtered by this."""

    assets: tuple[str, ...] | None = None
    symbols: tuple[str, ...] | None = None
    pairs: tuple[str, ...] | None = None
    sides: tuple[str, ...] | None = None
    open: bool | None = None
    nonzero: bool | None = None


class SnapshotRead(msgspec.Struct, frozen=True):
    """The snapshot that was served."""

    time: str
    """When it was requested from the exchange."""
    age_ms: int


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One read; the fields are in the line's order. If the meaning of a field changes, `version` must too."""

    time: str
    """When the read ended; RFC 3339, milliseconds, UTC, like the snapshot's time."""
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
    """Whether one more line fits beside `taken` others. While the sink fails, there is no room for a new read."""
    return taken < settings.queue and not failing


class AuditLog:
    """The queue of lines, and the thread that writes them."""

    def __init__(
        self, settings: Audit, sink: Sink, redact: Callable[[str], str], on_drop: Callable[[int], None]
    ) -> None:
        self.settings = settings
        self._sink = sink
        self._redact = redact
        self._on_drop = on_drop
        self._lines: list[Line] = []
        self._writing = 0
        """Lines that the writer has taken from the queue and the sink has not accepted yet."""
        self._reserved = 0
        """Reads under way that hold a reservation."""
        self._failing = self._full = self._ended = False
        """`_full`: a lack of room has been logged, and the writer has finished no batch since."""
        self.lost = False
        """Whether lines were lost to a sink that failed or hung at the end of the process."""
        self._changed = threading.Condition()
        self._closing = threading.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write lines until the block ends, then all that are still queued.

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
            # Polled, not joined in another thread: the threads of a pool may all hang like this one.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    while writer.is_alive():  # noqa: ASYNC110 - a thread has no event to await
                        await asyncio.sleep(_POLL_S)
            with self._changed:
                self._ended, lost = True, len(self._lines) + self._writing
            if lost:
                self._lose(lost)
            else:
                self._sink.close()

    @property
    def failing(self) -> bool:
        """Whether lines can't be written now: the sink fails, or the queue was full and no batch was written since."""
        return self._failing or self._full

    def reserve(self) -> bool:
        """Reserve room for the line of a read that starts; if this returns false, the read must be refused."""
        with self._changed:
            reserved = has_room(self._taken, self.settings, failing=self._failing)
            self._reserved += reserved
        if not reserved:
            self._report_full()
        return reserved

    def put(self, line: Line, *, reserved: bool) -> None:
        """Queue a line. One without a reservation may be lost."""
        # Counting double keeps half of the queue free for reads that need a reservation.
        weight = 2 if self.settings.when_full == "refuse" else 1
        with self._changed:
            accepted = (reserved or has_room(self._taken * weight, self.settings)) and not self._ended
            self._reserved -= reserved
            if accepted:
                self._lines.append(line)
                self._changed.notify()
        if not accepted:
            self._report_full()
            self._on_drop(1)

    @property
    def _taken(self) -> int:
        return len(self._lines) + self._writing + self._reserved

    def _report_full(self) -> None:
        if not self._full:
            self._full = True
            log.error("audit_no_room", when_full=self.settings.when_full, failing=self._failing)

    def _write(self) -> None:
        """The writer thread: writes whatever is queued, batch by batch, until it is closed and the queue is empty."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing.is_set())
                batch, self._lines = self._lines, []
                self._writing = len(batch)
            if not batch:
                return
            # Masked in the finished text, so that no field is forgotten.
            text = b"".join(self._redact(msgspec.json.encode(line).decode()).encode() + b"\n" for line in batch)
            while text:
                try:
                    text = self._sink.write(text)
                except OSError as exc:
                    self._note_state(exc)
                    if self._closing.is_set():
                        self._lose(text.count(b"\n"))
                        break
                    self._closing.wait(PAUSE)
                else:
                    self._note_state(None)
            with self._changed:
                self._writing, self._full = 0, False

    def _note_state(self, fault: OSError | None) -> None:
        """Log once when the sink starts to fail, and once when it works again."""
        before, self._failing = self._failing, fault is not None
        if fault is not None and not before:
            log.error("audit_unwritable", sink=str(self._sink), error=fault.strerror)
        if fault is None and before:
            log.warning("audit_written_again", sink=str(self._sink))

    def _lose(self, lines: int) -> None:
        self.lost = True
        log.error("audit_lines_lost", lines=lines, sink=str(self._sink))
        self._on_drop(lines)
