"""How the process ends: its signals, and a deadline that holds whatever else does not.

One thread reads the signals, which are blocked everywhere else: none is lost between the interpreter's handlers and the
event loop's, and a loop that is busy or stuck does not hold them up. What a signal means depends on how far we are:

    starting    SIGTERM, SIGINT: end at once, status 0: nothing is served yet. SIGHUP: the files are about to be read
    serving     the first SIGTERM or SIGINT begins the end and arms the deadline; SIGHUP: look at the files
    ending      another SIGTERM or SIGINT: skip what is left of the drain, and end within `HURRY`

At the deadline a timer ends the process with status 1. It needs the interpreter's lock: for the case that another
thread keeps that, the interpreter's own watchdog (`faulthandler`, a thread without it) does the same `BACKSTOP` later.

Only what costs no time is imported here: this comes before all else.
"""

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""What `serve` is told by: end (twice: at once), and look at the files."""
HURRY = 1.0
"""Seconds from the second signal to the end: enough to give leases back and to write what is queued."""
BACKSTOP = 0.5
"""Seconds after a deadline at which the process is ended even if no thread of Python can run."""
LAST_LINE = 0.1
"""Seconds in which the log may take the line that says that the end was forced."""
FORCED = 1
"""Exit status of an end that did not finish what was its own."""


class Ending:
    """What the signals do to a process that serves.

    Args:
        seconds: from the first signal to the deadline.
        on_signal: called for every SIGTERM and SIGINT; from the signals' thread, like all of these.
        on_hangup: called for every SIGHUP.
        on_forced: called when the deadline has come, with its seconds; what it begins has `LAST_LINE` to show.
        leave: ends the process at once.
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
            self._arm(self._seconds if self._signals == 1 else HURRY)
        self._on_signal()

    def _arm(self, seconds: float) -> None:
        timer = threading.Timer(max(0.0, seconds - LAST_LINE), self._force, [seconds])
        timer.daemon = True
        timer.start()
        if self._leave is os._exit:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # a stack is for nobody's eyes here
            faulthandler.dump_traceback_later(seconds + BACKSTOP, exit=True, file=nowhere)

    def _force(self, seconds: float) -> None:
        threading.Thread(target=self._on_forced, args=[seconds], daemon=True).start()  # the log may be what hangs
        time.sleep(LAST_LINE)
        self._leave(FORCED)


_lock = threading.Lock()
_serving: list[Ending] = []
"""What serves, if anything does yet."""
_begun = threading.Event()


def begin() -> None:
    """Read the signals from now on; called by the main thread before it starts any other: they inherit the mask."""
    if not _begun.is_set():
        _begun.set()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_read, name="signals", daemon=True).start()


def serve(ending: Ending) -> None:
    """From now on there is something to end in order."""
    with _lock:
        _serving.append(ending)


def _read() -> None:
    while True:
        number = signal.sigwait(SIGNALS)
        with _lock:
            if not _serving and number != signal.SIGHUP:
                os._exit(0)
        for ending in _serving:
            ending.receive(number)
