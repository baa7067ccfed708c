"""What the serving process asks of the kernel's scheduler, of its limit of open files, and of the garbage collector."""

import gc
import os
import resource
from collections.abc import Callable
from typing import Any, TypeAlias

import structlog

from service.settings import Scheduling

log = structlog.get_logger("coinm.process")

Ask: TypeAlias = Callable[[int, int, Any], None]
"""`os.sched_setscheduler`, which only Linux has."""

_KERNEL: Ask | None = getattr(os, "sched_setscheduler", None)
_THIS_THREAD = 0
_DESCRIPTORS = "/proc/self/fd"


def schedule(how: Scheduling, ask: Ask | None = _KERNEL) -> None:
    """Say how this thread, and those that it begins from now on, take their turns on a core (sched(7)).

    The server reads and writes in threads of its own, and hands each request to the event loop's. By the normal policy
    each interrupts the other as it is woken, and then waits for the interpreter's lock that the other still holds: some
    two and a half switches a request. With `batch` each first does all that there is to do. Other processes are not
    interrupted either: where those fill the core, an answer waits for the end of a slice.
    """
    if how == "normal" or ask is None:
        return
    try:
        ask(_THIS_THREAD, os.SCHED_BATCH, os.sched_param(0))
    except OSError as exc:  # sandboxes forbid it, or know no policy but one
        log.warning("scheduling_refused", wanted=how, reason=exc.strerror)


MOST_CONNECTIONS = 10_000
"""Callers' connections at a time; each takes some kilobytes, and a dozen services need hundreds."""
RESERVED = 128
"""Descriptors for all else: Redis 33, the exchange and the API server some 40, the metrics port 64 at most, our files
a dozen. They are never all in use at once."""
HANDSHAKES = 2_048
"""Descriptors for TLS connections that are about to shake hands: a full queue of the kernel's, and what arrives between
two looks at how many descriptors are in use."""
FEWEST_CONNECTIONS = 16
"""With fewer no balancer and handful of services could be served: better not to start."""
FEW_CONNECTIONS = 500
"""With fewer a start says so: that is less than any system's default (1,024) gives."""


def open_files() -> int:
    """The limit of open files, raised as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return _bounded(soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS has a limit of its own below the hard one
        return _bounded(soft)
    return _bounded(hard)


def _bounded(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


def connections(files: int, *, encrypted: bool) -> int | None:
    """Callers' connections at a time, with this limit of open files; `None`: too few to start.

    Encrypted ones are counted once they have shaken hands; as many may be about to.
    """
    free = most_open(files, encrypted=encrypted) // 2 if encrypted else files - RESERVED
    return min(MOST_CONNECTIONS, free) if free >= FEWEST_CONNECTIONS else None


def most_open(files: int, *, encrypted: bool) -> int:
    """Descriptors in use beyond which no connection may be let in."""
    return files - RESERVED - (HANDSHAKES if encrypted else 0)


def too_few(files: int, *, encrypted: bool) -> str:
    """What is said of a limit that is too low."""
    least = RESERVED + (HANDSHAKES + 2 * FEWEST_CONNECTIONS if encrypted else FEWEST_CONNECTIONS)
    return f"the limit of open files is {files}: expected {least} or more (ulimit -n, LimitNOFILE)"


def descriptors() -> int:
    """Open descriptors of this process; 0: this system doesn't tell."""
    try:
        return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))  # noqa: PTH116, PTH208 - Linux 6.2; before
    except OSError:
        return 0


def freeze() -> None:
    """Spare the garbage collector what the start has made: it lives as long as the process.

    A full collection looks at all that lives and stops every request meanwhile, with what the libraries make for 50 ms.
    """
    gc.freeze()
