"""A token's way to its verdict: remembered, else refused at a look, else reviewed by the API server."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import structlog

from service.access import tokens
from service.access.limits import Bucket, Rate, take
from service.cache.flight import SingleFlight
from service.clock import Clock
from service.kubernetes.errors import MISCONFIGURED, NotVerifiedError
from service.kubernetes.review_cache import ReviewCache
from service.kubernetes.token_review import Claims, Refusal, ReviewResult, decide, precheck, remembered_for
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.kubernetes")

AT_ONCE = 8
"""Reviews under way, of tokens that were accepted before and of others apart: who invents tokens by the thousand can
hold up others that nobody knows yet, not the callers whose memory has run out. More than enough: one takes
milliseconds."""
UNKNOWN_TOKEN_RATE = Rate(50)
"""Reviews a second of tokens that were not accepted before, new ones of known pods among them: the API server counts
them against the gateway, and has limits of its own."""
TURN = 1.0
"""Seconds that a token waits for its turn."""
PATIENCE = 2.0
"""Seconds for a review; it is much of what a caller waits for an answer at all."""
PAUSE = 1_000
"""Ms after one that had no answer in time, in which none is begun: nobody waits to be told what is known. Failures that
come at once need no pause, and one of them says little of the next."""


class Reviewer(Protocol):
    """Who reviews tokens."""

    async def review(self, token: str, audience: str) -> bytes:
        """The TokenReview as it came back; raises NotVerifiedError."""
        ...

    async def selftest(self, audience: str) -> bytes:
        """The same of the reviewer's own token."""
        ...

    async def close(self) -> None: ...


class _Queue:
    """Tokens of one kind that wait for a review; a time-out of one makes others of its kind wait (ms, monotonic)."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.next_try = 0


class TokenReviews:
    """Verifies ServiceAccounts' tokens for one audience. One review for any number of callers with the same token."""

    def __init__(self, audience: str, reviewer: Reviewer, clock: Clock, metrics: Metrics) -> None:
        self.audience = audience
        self._reviewer = reviewer
        self._clock = clock
        self._metrics = metrics
        self._memory = ReviewCache()
        self._flights: defaultdict[str, SingleFlight[ReviewResult]] = defaultdict(SingleFlight)
        self._accepted, self._others = _Queue(), _Queue()
        self._pace: Bucket | None = None
        self._trouble: str | None = None

    async def verify(self, token: bytes) -> ReviewResult:
        """Whose token it is.

        Raises:
            NotVerifiedError: nobody can say just now; nothing is remembered of that.
        """
        known = self.at_once(token)
        if known is not None:
            return known
        digest = tokens.digest(token)
        claims = precheck(token, self.audience, self._clock.epoch())
        if isinstance(claims, Refusal):
            return claims
        if digest not in self._flights:
            self._admit(digest)
        return await self._flights[digest].join(partial(self._review, digest, token.decode(), claims))

    def at_once(self, token: bytes) -> ReviewResult | None:
        """The same where that needs no review: found out a moment ago, or seen at a look."""
        remembered = self.recall(token)
        if remembered is not None:
            self.note_recalled()
            return remembered
        claims = precheck(token, self.audience, self._clock.epoch())
        if isinstance(claims, Refusal):
            self._count("implausible")
            return claims
        return None

    def recall(self, token: bytes) -> ReviewResult | None:
        """Whose token it is, as far as that was found out a moment ago."""
        return self._memory.recall(tokens.digest(token), self._clock.monotonic())

    def note_recalled(self) -> None:
        """What was recalled has been used."""
        self._count("remembered")

    async def selftest(self) -> None:
        """Try whether tokens can be reviewed.

        Raises:
            NotVerifiedError: they can't.
        """
        async with _in_time(PATIENCE, "timeout"):
            decide(await self._reviewer.selftest(self.audience), self.audience)

    async def close(self) -> None:
        """End what is under way and hang up."""
        for flight in list(self._flights.values()):
            await flight.close()
        await self._reviewer.close()

    def _queue(self, digest: str) -> "_Queue":
        return self._accepted if self._memory.was_accepted(digest) else self._others

    def _admit(self, digest: str) -> None:
        """Raise what forbids a review now: one that has just timed out, or too many of tokens that nobody knows."""
        now, queue = self._clock.monotonic(), self._queue(digest)
        if now < queue.next_try:
            self._count("timeout")
            raise NotVerifiedError("timeout")
        if queue is self._others:
            self._pace, wait = take(UNKNOWN_TOKEN_RATE, self._pace, now)
            if wait:
                self._count("busy")
                raise NotVerifiedError("busy")

    async def _review(self, digest: str, token: str, claims: Claims) -> ReviewResult:
        queue = self._queue(digest)
        try:
            async with _in_time(TURN, "busy"):
                await queue.turns.acquire()
            try:
                verdict = await self._ask(digest, token, claims)
            finally:
                queue.turns.release()
        except NotVerifiedError as exc:
            if exc.kind == "timeout":
                queue.next_try = self._clock.monotonic() + PAUSE
            self._fail(exc.kind)
            raise
        finally:
            self._flights.pop(digest, None)
        self._count("refused" if isinstance(verdict, Refusal) else "accepted")
        if self._trouble is not None:
            self._trouble = None
            log.info("token_reviews_back")
        return verdict

    async def _ask(self, digest: str, token: str, claims: Claims) -> ReviewResult:
        """The API server's verdict. It holds from when it was asked for: what changes meanwhile counts."""
        asked, epoch = self._clock.monotonic(), self._clock.epoch()
        with self._metrics.token_review_duration.time():
            async with _in_time(PATIENCE, "timeout"):
                verdict = decide(await self._reviewer.review(token, self.audience), self.audience)
        self._memory.keep(digest, verdict, asked + remembered_for(verdict, claims, epoch))
        return verdict

    def _fail(self, kind: str) -> None:
        self._count(kind)
        if kind in (self._trouble, "busy"):  # the API server has nothing to do with the latter
            return
        self._trouble = kind
        (log.error if kind in MISCONFIGURED else log.warning)("token_reviews_away", kind=kind)

    def _count(self, outcome: str) -> None:
        self._metrics.token_reviews.labels(outcome).inc()


@asynccontextmanager
async def _in_time(seconds: float, kind: str) -> AsyncIterator[None]:
    """Raises NotVerifiedError of this kind once the time is up."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise NotVerifiedError(kind) from None
