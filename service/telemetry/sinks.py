"""Sinks of the audit log: a file that may be rotated, or stdout beside the log. Lines stay whole in either."""

# A write may take only part of a line: a full disk, or a pipe whose reader stalls. `write` returns the rest, and the
# writer comes back with it. Meanwhile logrotate may move the file away. Then the new file would begin with half a line,
# so `File` keeps the half that is already in the old file (`_partial`) and repeats it in the new one (`_carried`). The
# old file ends with half a line, the new one has all of it: no line is lost, and each stands whole in one file.

import os
import sys
from pathlib import Path
from typing import Protocol

from service.telemetry.logs import WHOLE_LINES

# O_NONBLOCK: a pipe without a reader, or a full one, is an error instead of a wait. O_APPEND: each write goes to the
# end, also after `copytruncate` and beside other writers.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
_MODE = 0o600
"""Readable by the owner only; the operator may widen it."""


class Sink(Protocol):
    """A destination for lines."""

    def open(self) -> None: ...

    def write(self, lines: bytes) -> bytes:
        """Write as much as possible; returns the rest, which is to be written next.

        Raises:
            OSError: nothing was written.
        """
        ...

    def close(self) -> None: ...


class Stdout:
    """Standard output, which the log may use too: `WHOLE_LINES` keeps lines of both apart."""

    def open(self) -> None:
        self._descriptor = sys.stdout.fileno()

    def write(self, lines: bytes) -> bytes:
        with WHOLE_LINES:
            return _write(self._descriptor, lines)

    def close(self) -> None:
        """Does nothing: stdout belongs to the process."""

    def __str__(self) -> str:
        return "stdout"


class File:
    """A file that is appended to, and opened again by its path after it was moved away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = b""
        """The part already in the file of a line whose rest is still to be written."""
        self._carried = b""
        """The same part of a former file, to be repeated in this one."""

    def open(self) -> None:
        self._descriptor = os.open(self._path, _FLAGS | os.O_CREAT, _MODE)

    def write(self, lines: bytes) -> bytes:
        # Another file by now, or none: logrotate's `create`. After `copytruncate` it is still the same.
        try:
            moved = not os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            moved = True
        if moved:
            former = self._descriptor
            self.open()  # if it raises, nothing has changed, and the next write tries again
            os.close(former)
            self._carried, self._partial = self._carried + self._partial, b""
        lines = self._carried + lines
        left = _write(self._descriptor, lines)
        self._carried = b""  # whatever of it wasn't written is in `left`
        self._partial = (self._partial + lines[: len(lines) - len(left)]).rpartition(b"\n")[2]
        return left

    def close(self) -> None:
        os.close(self._descriptor)

    def __str__(self) -> str:
        return "audit.file"  # its path is a value of the settings, which no log shows


def sink_of(path: Path | None) -> Sink:
    return Stdout() if path is None else File(path)


def fault(path: Path) -> str | None:
    """Why a file can't be appended to; None: it can. Creates no file: the check may run as another user."""
    try:
        os.close(os.open(path, _FLAGS))
    except FileNotFoundError:
        writable = os.access(path.parent, os.W_OK | os.X_OK)
        return None if writable else "cannot be created in its folder"
    except OSError as exc:
        return f"cannot be written: {exc.strerror}"
    return None


def _write(descriptor: int, lines: bytes) -> bytes:
    left = lines
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        if left is lines:
            raise
    return left
