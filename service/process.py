"""Process-wide settings of the server: scheduling policy, the interpreter's lock, open files, garbage collector."""

import gc
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import structlog

from service.settings import Scheduling

log = structlog.get_logger("coinm.process")

SetScheduler: TypeAlias = Callable[[int, int, Any], None]
"""`os.sched_setscheduler`, which only Linux has."""

_KERNEL: SetScheduler | None = getattr(os, "sched_setscheduler", None)
_THIS_THREAD = 0
_DESCRIPTORS = "/proc/self/fd"


def schedule(how: Scheduling, set_scheduler: SetScheduler | None = _KERNEL) -> None:
    """Set the scheduling policy of this thread, and of the threads that it starts from now on (sched(7))."""
    # The server reads and writes in threads of its own, and hands each request to the event loop's thread. Under the
    # normal policy a thread that wakes interrupts the other, then waits for the interpreter's lock that the other still
    # holds: some two and a half switches per request. Under `batch` each first finishes all its work. It doesn't
    # interrupt other processes either: where they fill the core, an answer waits for the end of a time slice.
    if how == "normal" or set_scheduler is None:
        return
    try:
        set_scheduler(_THIS_THREAD, os.SCHED_BATCH, os.sched_param(0))
    except OSError as exc:  # sandboxes forbid it, or support only one policy
        log.warning("scheduling_refused", wanted=how, reason=exc.strerror)


SWITCH_S = 0.0005
"""Seconds after which a thread that computes hands over the interpreter's lock, if another waits for it. With Python's
5 ms, the slowest hundredth of reads beside scrapes took half as long again."""


def hand_over_soon() -> None:
    """Let the event loop's thread have its turn soon while another computes, such as the text of a scrape."""
    sys.setswitchinterval(SWITCH_S)


MOST_CONNECTIONS = 10_000
"""Concurrent connections of callers. Each takes some kilobytes, and a dozen services need hundreds."""
RESERVED = 128
"""Descriptors for everything else: Redis 33, the exchange and the API server some 40, the metrics port at most 64, our
files a dozen. That is more than 128, but they are never all in use at once."""
HANDSHAKES = 2_048
"""Descriptors for TLS connections before their handshake: a full queue of the kernel's, and those that arrive between
two readings of the number of open descriptors."""
FEWEST_CONNECTIONS = 16
"""The server doesn't start with fewer: they don't suffice for a load balancer and a handful of services."""
FEW_CONNECTIONS = 500
"""With fewer, the start logs a warning: any system's default limit (1,024) allows more."""


def open_files() -> int:
    """Raise the limit of open files as far as this process may; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return _bounded(soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS enforces a limit below the hard one
        return _bounded(soft)
    return _bounded(hard)


def _bounded(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


def connections(files: int, *, encrypted: bool) -> int | None:
    """Concurrent connections of callers under this limit of open files; `None`: too few to start."""
    # The server counts an encrypted connection only after its handshake, and as many may be before theirs: hence half.
    free = most_open(files, encrypted=encrypted) // 2 if encrypted else files - RESERVED
    return min(MOST_CONNECTIONS, free) if free >= FEWEST_CONNECTIONS else None


def most_open(files: int, *, encrypted: bool) -> int:
    """The number of open descriptors above which no connection may be accepted."""
    return files - RESERVED - (HANDSHAKES if encrypted else 0)


def too_few(files: int, *, encrypted: bool) -> str:
    """The message for a limit that is too low."""
    least = RESERVED + (HANDSHAKES + 2 * FEWEST_CONNECTIONS if encrypted else FEWEST_CONNECTIONS)
    return f"the limit of open files is {files}: expected {least} or more (ulimit -n, LimitNOFILE)"


def descriptors() -> int:
    """Open descriptors of this process; 0: this system doesn't report them."""
    try:
        # Since Linux 6.2 the folder's size is the count; before, it is 0.
        return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))  # noqa: PTH116, PTH208 - called often
    except OSError:
        return 0


def freeze() -> None:
    """Exclude all present objects from garbage collection; called at the end of the start."""
    # They live as long as the process. A full collection would visit them all and stop every request meanwhile: 50 ms
    # for the objects of the libraries.
    gc.freeze()
