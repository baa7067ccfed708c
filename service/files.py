"""Files that an operator names: read bounded, regular ones only, and without quoting what they hold or where they are.

The path of a `*_file` key is a value of the settings, and may be a secret at the wrong place: whoever reads one puts
the key before a fault.
"""

import os
import stat
from pathlib import Path

MAX_FILE = 1024 * 1024
"""Bytes of a settings file or a bundle of certificates: some hundred times what they need."""
MAX_SECRET = 64 * 1024
"""Bytes of a secret file: an RSA key of 16,384 bits in PEM has 13 KB."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_EXPOSED = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
"""What nobody but the owner's group may read, and nobody but the owner write. The group may read: Kubernetes gives
mounted secrets to the pod's group (`fsGroup`), mode 0440."""


class FileError(Exception):
    """What is wrong with a file, in words that show neither its path nor its content."""


def read_bounded(path: Path, limit: int) -> bytes:
    """A regular file's content.

    Raises:
        FileError: it can't be read, is none, or has more bytes than `limit`.
    """
    try:
        descriptor = os.open(path, _FLAGS)  # waits for no writer of a pipe
    except OSError as exc:
        raise FileError(f"cannot be read: {exc.strerror}") from None
    except ValueError:
        raise FileError("cannot be read: no path") from None  # a NUL in it
    try:
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
    """The same as text, less a byte-order mark.

    Raises:
        FileError: as above, or it is not UTF-8.
    """
    content = read_bounded(path, limit)
    if content.startswith(_UTF_16):
        raise FileError("expected UTF-8 text, found UTF-16")
    try:
        return content.removeprefix(_BOM).decode()
    except UnicodeDecodeError:
        raise FileError("expected UTF-8 text") from None


def exposure(path: Path) -> str | None:
    """Who beside the owner and its readers may do what with a file, links followed; None: nobody, or no such file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, ValueError):
        return None
    if not mode & _EXPOSED:
        return None
    what = "every user can write it" if mode & stat.S_IWOTH else "every user can read it"
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        what = "its group can write it"
    return f"{what} (mode {mode:04o}); expected 0600, or 0440 where a group must read it"
