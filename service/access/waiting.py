"""Where requests wait: how many at a time, whose, and until when.

A read that memory can't answer waits for a refresh, which a slow exchange makes last for seconds. Callers that hang up
and come again meanwhile, or simply many of them, must cost neither memory nor other clients' reads.

States of a place: taken → *answered* (the work ended), *left* (its caller hung up), or *displaced* (another client's
read has it now). Each ends the wait and frees the place, whichever comes first; what comes after that finds the place
closed. The refresh itself is a task of its own, and goes on for the others.

Invariants:

- never more than `room` places are taken;
- while there is room everybody gets a place: one client alone may take all;
- when there is none, a client below its equal part (`room` / clients that wait, itself included) takes the place of the
  newest read of the client that has most: the oldest ones have waited longest and are answered soonest. Nobody is
  displaced who has no more than its part, so two clients can't take turns in displacing each other;
- everybody else is refused at once: an answer that says "later" costs less than a wait that ends in one.

How a hang-up is noticed: `receive()` returns ASGI's `http.disconnect`. A caller that has sent its next request on the
same connection already (pipelining) is noticed only at the wait's own deadline; it has one place, not two.

To end a wait costs as much as to begin it, so those of callers that left by the thousand end a few in each turn of the
event loop; their places are free at once.

A replica has two such rooms: one for reads that wait for a refresh, and one before everything, for requests that come
faster than `Turns` lets them begin. Without the second a burst would have the event loop to itself for seconds, and
no hang-up, lease or probe would get a turn meanwhile. The second one watches nobody: its waits are short, and to notice
a hang-up costs more than to wait or to be refused, which a flood's requests do by the ten thousand.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import structlog

from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.waiting")

T = TypeVar("T")

TURN = 0.02
"""Seconds for which requests begin in one turn of the event loop: a fraction of what a probe's caller, or the renewal
of a lease, can wait. Hits take some 0.02 to 0.1 ms each, other reads 0.4 ms."""
EACH_TURN = 32
"""Requests that begin in one turn of those that had to wait for one, and waits of callers that hung up that end in it:
some 15 ms each, if none of them is a hit."""

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
"""ASGI's."""


class NoRoomError(Exception):
    """More reads wait than there are places for this client's."""

    kind = "busy"


class CallerLeftError(BaseException):
    """The caller hung up: nobody is there to be answered, so no handler of errors may make an answer of it."""


def who_leaves(waiting: Mapping[str, int], client: str, room: int) -> str | None:
    """Whose newest read has no place once a client's read comes, this client's own included; `None`: there is room.

    Args:
        waiting: reads that wait, by client.
        client: whose read comes.
        room: places, at least one.
    """
    if sum(waiting.values()) < room:
        return None
    clients = len(waiting) + (client not in waiting)
    if (waiting.get(client, 0) + 1) * clients > room:
        return client
    return max(waiting, key=waiting.__getitem__)  # above its part: there is no room, and this client is below


class _Place:
    """One read's."""

    __slots__ = ("closed", "ended", "scope")

    def __init__(self) -> None:
        self.scope = asyncio.timeout(None)
        self.ended: NoRoomError | CallerLeftError | None = None
        self.closed = False

    def end(self, why: NoRoomError | CallerLeftError) -> None:
        """End the wait, unless it has ended."""
        if not self.closed:
            self.closed, self.ended = True, why
            self.scope.reschedule(0)  # a time that has passed


class WaitingRoom:
    """The places of one replica.

    Args:
        name: what requests wait for there, for the log.
        room: how many may.
        metrics: where those are counted that may not.
    """

    def __init__(self, name: str, room: int, metrics: Metrics) -> None:
        self.room = room
        self._name = name
        self._metrics = metrics
        self._places: dict[str, dict[_Place, None]] = {}
        """By client, the newest last."""
        self._left = deque[_Place]()
        """Whose callers hung up, and that have not been ended yet."""
        self._full = False
        """Whether that there is no room has been logged."""

    @property
    def waiting(self) -> int:
        """Places taken."""
        return sum(map(len, self._places.values()))

    async def wait(self, client: str, receive: Receive | None, work: Callable[[], Awaitable[T]]) -> T:
        """The outcome of some work, waited for by a client's caller for as long as it is there.

        Args:
            client: whose caller waits.
            receive: of its connection; without it, a caller that hangs up is not noticed.
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
            if place.ended is None:
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
        if self._full and self.waiting <= self.room // 2:  # not at the first free place: it would be logged without end
            self._full = False
            log.info("waiting_room_has_room", waiting_for=self._name, room=self.room)

    def _hung_up(self, client: str, place: _Place, watching: asyncio.Task[None]) -> None:
        """Free the place at once, and end the wait in a turn of the event loop that has time for it.

        To end it costs as much as to begin it, and callers may hang up by the thousand in one turn.
        """
        if watching.cancelled():
            return
        watching.exception()  # a connection that fails is one that has gone
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
    """Return once the caller has hung up; a body, which means nothing here, is read and dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Turns:
    """How long requests may begin in one turn of the event loop; what comes later begins in the next ones, in order.

    A turn's end is noticed by a callback that its first request schedules: it costs 0.3 µs a turn, not a request.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        """When the first request of this turn began; `None`: none has."""
        self._queue = deque[asyncio.Future[None]]()
        self._scheduled = False
        """Whether this turn's end is scheduled: once, else every turn would have more of them than the one before."""

    def is_over(self, now: float) -> bool:
        """Whether a request that comes at `now` (seconds, of a steady clock) has to wait for another turn."""
        if self._began is None:
            self._began = now
            self._schedule()
        return now - self._began > TURN or len(self._queue) > 0

    async def next(self) -> None:
        """Wait for a turn; one that is no longer waited for is passed over."""
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._schedule()
        await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._began, self._scheduled, left = None, False, EACH_TURN
        while self._queue and left:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                left -= 1
        if self._queue:
            self._schedule()
