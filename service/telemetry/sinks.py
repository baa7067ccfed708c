"""Where audit lines end: a file that may be rotated, or stdout beside the log. Whole lines, whoever else writes."""

import os
import sys
from pathlib import Path
from typing import Protocol

from service.telemetry.logs import WHOLE_LINES

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK  # which says of a pipe that nobody reads it
_MODE = 0o600
"""Who may read an audit is decided by whoever runs the gateway, who widens it if need be."""


class Sink(Protocol):
    """What takes lines."""

    def open(self) -> None: ...

    def write(self, lines: bytes) -> bytes:
        """Write as much as goes; what is left, to be written next.

        Raises:
            OSError: nothing went.
        """
        ...

    def close(self) -> None: ...


class Stdout:
    """Among the log's lines, between two of them."""

    def open(self) -> None:
        self._descriptor = sys.stdout.fileno()

    def write(self, lines: bytes) -> bytes:
        with WHOLE_LINES:
            return _write(self._descriptor, lines)

    def close(self) -> None:
        """It is not ours."""

    def __str__(self) -> str:
        return "stdout"


class File:
    """A file that is appended to, found anew by its path when it has been moved away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = b""
        """What stands in the file of a line whose rest it didn't take."""
        self._owed = b""
        """The same of a former file: a line stands whole in one, so this one gets it again."""

    def open(self) -> None:
        self._descriptor = os.open(self._path, _FLAGS | os.O_CREAT, _MODE)

    def write(self, lines: bytes) -> bytes:
        if self._moved():
            former = self._descriptor
            self.open()
            os.close(former)
            self._owed, self._begun = self._owed + self._begun, b""
        lines = self._owed + lines
        left = _write(self._descriptor, lines)
        self._owed = b""
        self._begun = (self._begun + lines[: len(lines) - len(left)]).rpartition(b"\n")[2]
        return left

    def close(self) -> None:
        os.close(self._descriptor)

    def __str__(self) -> str:
        return "audit.file"  # its path is a value of the settings

    def _moved(self) -> bool:
        """Whether the path is another file by now, or none (logrotate's `create`; after `copytruncate` it is not)."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True


def sink_of(path: Path | None) -> Sink:
    return Stdout() if path is None else File(path)


def fault(path: Path) -> str | None:
    """Why a file can't be appended to, if so. Creates none: another user may be asking."""
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
