"""The start of the process: signals first, everything slow after."""

# A signal with its default action ends an ordinary process. For PID 1 of a container the kernel drops it instead, and
# importing the rest takes half a second. So `serve` blocks its signals before anything else. From here on each is
# queued, none is lost, and `service.ending` reads them for the life of the process. The start of the interpreter itself
# comes before this and can't be covered.

import os
import signal
import sys
from types import TracebackType


def main() -> None:
    """The console script, and `python -m service`."""
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        from service import ending  # noqa: PLC0415 - its imports take milliseconds; by now signals are queued

        ending.begin()
    sys.excepthook = show_fault
    keep_standard_descriptors()
    from service import cli  # noqa: PLC0415 - takes half a second

    cli.main(prog_name="coinm-gateway")


def keep_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed, so that no socket gets their number."""
    # Otherwise text for stdout or stderr would go to the next opened descriptor: to Redis, or to the exchange.
    # A closed stdout is replaced by one that refuses every line, so that lines are counted as lost.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY)  # gets the lowest free number: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - open to the end


def show_fault(kind: type[BaseException], _: BaseException, trace: TracebackType | None) -> None:
    """Print one line on stderr: the kind and place of a fault. A message or a traceback might quote a secret."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    sys.stderr.write(f"coinm-gateway: a fault of the gateway: {kind.__name__}{place}\n")
