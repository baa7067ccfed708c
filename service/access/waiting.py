"""Where requests wait: how many at a time, whose, and until when.

A read that memory can't answer waits for a refresh, which a slow exchange makes last for seconds. Callers that hang up
and come again meanwhile, or simply many of them, must cost neither memory nor other clients' reads.

A replica has two such rooms: one for reads that wait for a refresh, and one at the entrance, for requests that come
faster than `Turns` lets them begin.
"""

# States of a place: taken → *answered* (the work ended), *left* (its caller hung up), or *displaced* (another client's
# read has it now). Each ends the wait and frees the place, whichever comes first; what comes after that finds the place
# closed. The refresh itself is a task of its own, and goes on for the others.
#
# Invariants:
#
# - Never more than `room` places are taken.
# - While there is room, every read gets a place: one client alone may take all.
# - When there is none, a client below its equal part (`room` / clients that wait, itself included) takes the place of
#   the newest read of the client that has most: the oldest reads have waited longest and are answered soonest. A client
#   with no more than its part is never displaced, so two clients can't take turns in displacing each other.
# - Any other read is refused at once: an answer that says "later" costs less than a wait that ends in one.
#
# How a hang-up is noticed: `receive()` returns ASGI's `http.disconnect`. A caller that has already sent its next
# request on the same connection (pipelining) is noticed only at the wait's own deadline; it has one place, not two.
#
# To end a wait costs as much as to begin it. So waits whose callers left by the thousand end a few per turn of the
# event loop; their places are free at once.
#
# Without the room at the entrance, a burst would occupy the event loop for seconds: no hang-up, lease or probe would
# get a turn. That room doesn't watch its callers: its waits are short, and to notice a hang-up costs more than to wait
# or to be refused, which a flood's requests do by the ten thousand.

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import structlog

from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.waiting")

T = TypeVar("T")

EACH_TURN = 32
"""Waiting requests that begin in one turn, and also waits of callers that hung up that end in one: some 15 ms for each
kind, if none of them is a hit."""

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
"""ASGI's `receive`."""


class NoRoomError(Exception):
    """No place is left for this client's read."""

    kind = "busy"


class CallerLeftError(BaseException):
    """The caller hung up. A `BaseException`, so that no error handler makes an answer of it."""


def who_leaves(waiting: Mapping[str, int], client: str, room: int) -> str | None:
    """The client whose newest read loses its place when a read comes; the coming one counts; `None`: there is room.

    Args:
        waiting: reads that wait, by client.
        client: the owner of the coming read.
        room: places, at least one.
    """
    if sum(waiting.values()) < room:
        return None
    clients = len(waiting) + (client not in waiting)
    if (waiting.get(client, 0) + 1) * clients > room:
        return client
    return max(waiting, key=waiting.__getitem__)  # above its part, because there is no room and this client is below


class _Place:
    """One read's place."""

    __slots__ = ("closed", "ended", "scope")

    def __init__(self) -> None:
        self.scope = asyncio.timeout(None)
        self.ended: NoRoomError | CallerLeftError | None = None
        self.closed = False

    def end(self, why: NoRoomError | CallerLeftError) -> None:
        """End the wait, unless it has ended."""
        if not self.closed:
            self.closed, self.ended = True, why
            self.scope.reschedule(0)  # a time in the past: the scope ends in the next turn


class WaitingRoom:
    """The places of one replica.

    Args:
        name: what requests wait for, for the log.
        room: how many may wait.
        metrics: counts the refused and displaced ones.
    """

    def __init__(self, name: str, room: int, metrics: Metrics) -> None:
        self.room = room
        self._name = name
        self._metrics = metrics
        self._places: dict[str, dict[_Place, None]] = {}
        """By client, the newest last. The inner dictionary is an ordered set: freeing any place costs the same."""
        self._left = deque[_Place]()
        """Places whose callers hung up; their waits haven't ended yet."""
        self._full = False
        """Whether the lack of room has been logged."""

    @property
    def waiting(self) -> int:
        """Places taken."""
        return sum(map(len, self._places.values()))

    async def wait(self, client: str, receive: Receive | None, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for some work on behalf of a client's caller, as long as the caller stays connected; returns its result.

        Args:
            client: the caller's client.
            receive: of the caller's connection; without it, a hang-up isn't noticed.
            work: what is waited for.

        Raises:
            NoRoomError: there is no place, or another client's read has it now.
            CallerLeftError: the caller hung up.
        """
        place = self._enter(client)
        watching = None if receive is None else asyncio.create_task(_watch(receive))
        if watching is not None:
            watching.add_done_callback(partial(self._hung_up, client, place))
        try:
            async with place.scope:
                return await work()
        except TimeoutError:
            if place.ended is None:  # the work's own time limit, not the place's
                raise
            raise place.ended from None
        finally:
            place.closed = True
            self._leave(client, place)
            if watching is not None:
                watching.cancel()

    def _enter(self, client: str) -> _Place:
        leaver = who_leaves({name: len(places) for name, places in self._places.items()}, client, self.room)
        if leaver is not None:
            self._metrics.overloaded.labels(leaver).inc()
            if not self._full:
                self._full = True
                log.warning("waiting_room_full", waiting_for=self._name, room=self.room, clients=len(self._places))
        if leaver == client:
            raise NoRoomError
        if leaver is not None:
            newest = next(reversed(self._places[leaver]))
            newest.end(NoRoomError())
            self._leave(leaver, newest)
        place = _Place()
        self._places.setdefault(client, {})[place] = None
        return place

    def _leave(self, client: str, place: _Place) -> None:
        """Free a place, once."""
        places = self._places.get(client, {})
        places.pop(place, None)
        if not places:
            self._places.pop(client, None)
        if self._full and self.waiting <= self.room // 2:  # not at one free place: each would be logged
            self._full = False
            log.info("waiting_room_has_room", waiting_for=self._name, room=self.room)

    def _hung_up(self, client: str, place: _Place, watching: asyncio.Task[None]) -> None:
        """Free the place at once, and end the wait in a turn of the event loop that has time for it.

        Callers may hang up by the thousand in one turn.
        """
        if watching.cancelled():
            return
        watching.exception()  # marks it retrieved: a connection that fails has gone, too
        self._leave(client, place)
        if not self._left:
            asyncio.get_running_loop().call_soon(self._end_left)
        self._left.append(place)

    def _end_left(self) -> None:
        for _ in range(min(EACH_TURN, len(self._left))):
            self._left.popleft().end(CallerLeftError())
        if self._left:
            asyncio.get_running_loop().call_soon(self._end_left)


async def _watch(receive: Receive) -> None:
    """Return once the caller has hung up; a body is read and ignored."""
    while (await receive())["type"] != "http.disconnect":
        pass
