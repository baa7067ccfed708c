"""What the serving process asks of the kernel's scheduler and of the garbage collector."""

import gc
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import structlog

from service.settings import Scheduling

log = structlog.get_logger("coinm.process")

Ask: TypeAlias = Callable[[int, int, Any], None]
"""`os.sched_setscheduler`, which only Linux has."""

_KERNEL: Ask | None = getattr(os, "sched_setscheduler", None)
_THIS_THREAD = 0


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


def freeze() -> None:
    """Spare the garbage collector what the start has made: it lives as long as the process.

    A full collection looks at all that lives and stops every request meanwhile, with what the libraries make for 50 ms.
    """
    gc.freeze()
