"""How the process ends: its signals, and a deadline that holds even if the event loop or the interpreter hangs."""

# One thread reads the signals; all other threads block them. So none is lost between the interpreter's handlers and the
# event loop's, and a loop that is busy or stuck does not delay them. What a signal means depends on the state:
#
#     starting    SIGTERM or SIGINT: end at once with status 0, since nothing is served yet. SIGHUP: no effect, since
#                 the files are about to be read.
#     serving     The first SIGTERM or SIGINT begins the end and arms the deadline. SIGHUP: read the files again.
#     ending      Another SIGTERM or SIGINT: skip the rest of the drain, and end within `HURRY`.
#
# `_lock` makes the step from starting to serving atomic: a signal either ends the process or reaches the `Ending`.
# Three layers enforce the deadline, each for the case that the one before hangs:
#
#     1. the orderly end       needs the event loop
#     2. `threading.Timer`     needs the interpreter's lock; ends the process with status 1
#     3. `faulthandler`        a thread without that lock; does the same `BACKSTOP` later
#
# This module is imported before everything else, so it imports only what costs no time.

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""The signals of `serve`: two to end (a second one: at once), and one to read the files again."""
HURRY = 1.0
"""Seconds from the second signal to the end: enough to release leases and to write queued lines."""
BACKSTOP = 0.5
"""Seconds after a deadline at which the process ends even if no Python thread can run."""
LAST_LINE = 0.1
"""Seconds for the log to write the line that reports the forced end."""
FORCED = 1
"""Exit status of an end that was cut short."""


class Ending:
    """Acts on signals while the process serves.

    Args:
        seconds: from the first signal to the deadline.
        on_signal: called for every SIGTERM and SIGINT, in the signals' thread.
        on_hangup: called for every SIGHUP, in the signals' thread.
        on_forced: called at the deadline with its seconds, in a thread of its own; has `LAST_LINE` seconds to run.
        leave: ends the process at once, with an exit status.
    """

    def __init__(
        self,
        seconds: float,
        *,
        on_signal: Callable[[], object],
        on_hangup: Callable[[], object],
        on_forced: Callable[[float], None],
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._seconds = seconds
        self._on_signal = on_signal
        self._on_hangup = on_hangup
        self._on_forced = on_forced
        self._leave = leave
        self._signals = 0

    def receive(self, number: int) -> None:
        """Act on a signal."""
        if number == signal.SIGHUP:
            self._on_hangup()
            return
        self._signals += 1
        if self._signals <= 2:
            # A second timer doesn't cancel the first: the earlier of the two deadlines holds.
            seconds = self._seconds if self._signals == 1 else HURRY
            timer = threading.Timer(max(0.0, seconds - LAST_LINE), self._force, [seconds])
            timer.daemon = True
            timer.start()
            if self._leave is os._exit:  # a test's substitute must not end the process of the tests
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # a stack trace would be of no use
                faulthandler.dump_traceback_later(seconds + BACKSTOP, exit=True, file=nowhere)
        self._on_signal()  # after the timer: the deadline holds even if this call never returns

    def _force(self, seconds: float) -> None:
        # In a thread, because the log may be what hangs.
        threading.Thread(target=self._on_forced, args=[seconds], daemon=True).start()
        time.sleep(LAST_LINE)
        self._leave(FORCED)


_lock = threading.Lock()
_serving: list[Ending] = []
"""Empty while starting, then one."""
_begun = threading.Event()


def begin() -> None:
    """Start the thread that reads the signals. The main thread must call this first: later threads inherit its mask."""
    if not _begun.is_set():
        _begun.set()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_read, name="signals", daemon=True).start()


def serve(ending: Ending) -> None:
    """Enter the state "serving": from now on signals go to `ending`."""
    with _lock:
        _serving.append(ending)


def _read() -> None:
    """The signals' thread."""
    while True:
        number = signal.sigwait(SIGNALS)
        with _lock:
            if not _serving and number != signal.SIGHUP:
                os._exit(0)
        for ending in _serving:
            ending.receive(number)
