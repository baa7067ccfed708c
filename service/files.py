"""Reads files named in the settings: bounded, regular files only.

Errors quote neither content nor path: the path of a `*_file` key is a value of the settings, and may be a secret in the
wrong place. The caller puts the key before the message.
"""

import os
import stat
from pathlib import Path

MAX_FILE = 1024 * 1024
"""Bytes of a settings file or a certificate bundle; some hundred times what they need."""
MAX_SECRET = 64 * 1024
"""Bytes of a secret file: an RSA key of 16,384 bits in PEM has 13 KB."""

# Nonblocking: opening a pipe must not wait for a writer. O_NOCTTY: opening a terminal must not make it ours.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_EXPOSED = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
"""Modes that expose a secret: readable by others, or writable by anyone but the owner. Its group may read: Kubernetes
gives mounted secrets to the pod's group (`fsGroup`), mode 0440."""


class FileError(Exception):
    """What is wrong with a file; the message shows neither its path nor its content."""


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a regular file.

    Raises:
        FileError: it can't be read, isn't a regular file, or has more bytes than `limit`.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as exc:
        raise FileError(f"cannot be read: {exc.strerror}") from None
    except ValueError:
        raise FileError("cannot be read: no path") from None  # it contains a NUL
    try:
        # The type is checked on the descriptor: the path may point elsewhere a moment later.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileError("expected a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    except OSError as exc:
        raise FileError(f"cannot be read: {exc.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise FileError(f"expected {limit // 1024} KiB at the most")
    return content


def read_text(path: Path, limit: int) -> str:
    """The content as text, without a byte-order mark.

    Raises:
        FileError: as `read_bounded`, or it is not UTF-8.
    """
    content = read_bounded(path, limit)
    if content.startswith(_UTF_16):
        raise FileError("expected UTF-8 text, found UTF-16")
    try:
        return content.removeprefix(_BOM).decode()
    except UnicodeDecodeError:
        raise FileError("expected UTF-8 text") from None


def exposure(path: Path) -> str | None:
    """Which access to a secret file is too wide, links followed; None: none is, or there is no such file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, ValueError):
        return None
    if not mode & _EXPOSED:
        return None
    # The worst exposure is named: writable by all, then readable by all, then writable by the group.
    what = "every user can write it" if mode & stat.S_IWOTH else "every user can read it"
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        what = "its group can write it"
    return f"{what} (mode {mode:04o}); expected 0600, or 0440 where a group must read it"
