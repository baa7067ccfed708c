"""What a signal does to a process that serves, and its deadline."""

import signal
import threading
from collections.abc import Callable

from service.ending import FORCED, Ending


class Process:
    """Takes note of what happens to it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.left = threading.Event()
        self.status: int | None = None

    def note(self, word: str) -> Callable[..., None]:
        return lambda *_: self.told.append(word)

    def leave(self, status: int) -> None:
        self.status = status
        self.left.set()

    def ending(self, seconds: float) -> Ending:
        return Ending(
            seconds,
            on_signal=self.note("end"),
            on_hangup=self.note("look"),
            on_forced=self.note("forced"),
            leave=self.leave,
        )


def test_a_hangup_is_no_end() -> None:
    process = Process()
    process.ending(0.0).receive(signal.SIGHUP)
    assert process.told == ["look"]
    assert not process.left.wait(0.3)


def test_at_the_deadline_it_says_so_and_leaves() -> None:
    process = Process()
    process.ending(0.0).receive(signal.SIGTERM)
    assert process.left.wait(30)
    assert (sorted(process.told), process.status) == (["end", "forced"], FORCED)


def test_before_the_deadline_it_is_let_be() -> None:
    process = Process()
    process.ending(60.0).receive(signal.SIGINT)
    assert not process.left.wait(0.3)
    assert process.told == ["end"]


def test_a_second_signal_brings_the_deadline_near() -> None:
    process = Process()
    ending = process.ending(60.0)
    ending.receive(signal.SIGTERM)
    ending.receive(signal.SIGINT)
    assert process.left.wait(30)
    assert process.told == ["end", "end", "forced"]
