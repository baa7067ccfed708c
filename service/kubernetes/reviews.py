"""From a token to its review result: remembered, else refused by the precheck, else reviewed by the API server."""

# One token, by its digest:
#
#     unknown ── precheck refuses ──────────────────> Refusal, not remembered: the precheck is cheaper than an entry
#        │
#        └─ queue `_unknown` or `_known` ─ review ──> accepted: remembered for 10 s at most, then `known` until evicted
#                                            │──────> refused: remembered for 2 s
#                                            └──────> NotVerifiedError: not remembered, the next caller tries again
#
# What holds at any time, and why:
#
# 1. A digest has one review at most. Between the lookup in `_flights` and the start of the flight nothing awaits, so no
#    second caller comes in between. The review writes the cache before it removes its flight: a caller that arrives
#    after that finds the result.
# 2. A caller that hangs up cancels its own wait only. The review goes on and its result is remembered.
# 3. Made-up tokens can't delay known callers. Tokens that were accepted before have a queue, a limit and a time-out
#    pause of their own. Only the unknown ones are rate limited.
# 4. A result counts from before its request was sent: a token deleted meanwhile isn't accepted beyond `ACCEPTED_FOR`.

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
"""Concurrent reviews for each of the two queues. It is more than enough: one review takes milliseconds."""
UNKNOWN_TOKEN_RATE = Rate(50)
"""Reviews per second of tokens that were not accepted before; new tokens of known pods are among them. The API server
counts these reviews against the gateway, and has rate limits of its own."""
TURN_TIMEOUT_S = 1.0
"""Seconds that a token waits in its queue."""
REVIEW_TIMEOUT_S = 2.0
"""Seconds for one review. This is a large part of what a caller waits for any answer."""
TIMEOUT_PAUSE_MS = 1_000
"""Milliseconds after a review that timed out in which no other of its queue starts: callers fail at once instead of
waiting for a known result. Failures that come at once need no pause, and one says little about the next."""


class Reviewer(Protocol):
    """Reviews tokens."""

    async def review(self, token: str, audience: str) -> bytes:
        """The TokenReview as received; raises NotVerifiedError."""
        ...

    async def selftest(self, audience: str) -> bytes:
        """The TokenReview of the reviewer's own token; raises NotVerifiedError."""
        ...

    async def close(self) -> None: ...


class _Queue:
    """Tokens of one kind that wait for a review. After a time-out, none starts before `next_try_ms` (monotonic)."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.next_try_ms = 0


class TokenReviews:
    """Verifies ServiceAccount tokens for one audience. Concurrent callers with the same token share one review."""

    def __init__(self, audience: str, reviewer: Reviewer, clock: Clock, metrics: Metrics) -> None:
        self.audience = audience
        self._reviewer = reviewer
        self._clock = clock
        self._metrics = metrics
        self._cache = ReviewCache()
        self._flights: defaultdict[str, SingleFlight[ReviewResult]] = defaultdict(SingleFlight)
        self._known, self._unknown = _Queue(), _Queue()
        self._unknown_bucket: Bucket | None = None
        self._failure: str | None = None
        """Kind of the failure that was last logged; None: reviews work."""

    async def verify(self, token: bytes) -> ReviewResult:
        """The owner of a token, or why it is refused.

        Raises:
            NotVerifiedError: no review was possible; this isn't remembered.
        """
        known = self.at_once(token)
        if known is not None:
            return known
        digest = tokens.digest(token)
        claims = precheck(token, self.audience, self._clock.epoch())
        if isinstance(claims, Refusal):  # it has expired since `at_once`
            return claims
        # Only the caller that starts a review needs admission: joining one costs nothing.
        if digest not in self._flights:
            now_ms, queue = self._clock.monotonic(), self._queue(digest)
            if now_ms < queue.next_try_ms:
                self._count("timeout")
                raise NotVerifiedError("timeout")
            if queue is self._unknown:
                self._unknown_bucket, wait = take(UNKNOWN_TOKEN_RATE, self._unknown_bucket, now_ms)
                if wait:
                    self._count("busy")
                    raise NotVerifiedError("busy")
        return await self._flights[digest].join(partial(self._review, digest, token.decode(), claims))

    def at_once(self, token: bytes) -> ReviewResult | None:
        """The result if it needs no review: it is remembered, or the precheck refuses the token."""
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
        """The remembered result, while it is valid. Counts nothing: the fast path may yet hand the request on."""
        return self._cache.get(tokens.digest(token), self._clock.monotonic())

    def note_recalled(self) -> None:
        """Count a recalled result as used."""
        self._count("remembered")

    async def selftest(self) -> None:
        """Check that tokens can be reviewed.

        Raises:
            NotVerifiedError: they can't.
        """
        async with _time_limit(REVIEW_TIMEOUT_S, "timeout"):
            decide(await self._reviewer.selftest(self.audience), self.audience)

    async def close(self) -> None:
        """Cancel the reviews under way and close the connections."""
        for flight in list(self._flights.values()):
            await flight.close()
        await self._reviewer.close()

    def _queue(self, digest: str) -> _Queue:
        return self._known if self._cache.was_accepted(digest) else self._unknown

    async def _review(self, digest: str, token: str, claims: Claims) -> ReviewResult:
        queue = self._queue(digest)
        try:
            async with _time_limit(TURN_TIMEOUT_S, "busy"):
                await queue.turns.acquire()
            try:
                # Validity starts before the request is sent: what changes while it is under way must count.
                requested_ms, epoch_ms = self._clock.monotonic(), self._clock.epoch()
                with self._metrics.token_review_duration.time():
                    async with _time_limit(REVIEW_TIMEOUT_S, "timeout"):
                        result = decide(await self._reviewer.review(token, self.audience), self.audience)
                self._cache.put(digest, result, requested_ms + remembered_for(result, claims, epoch_ms))
            finally:
                queue.turns.release()
        except NotVerifiedError as exc:
            if exc.kind == "timeout":
                queue.next_try_ms = self._clock.monotonic() + TIMEOUT_PAUSE_MS
            self._count(exc.kind)
            # One line per change. "busy" is our own limit, so it says nothing about the API server.
            if exc.kind not in (self._failure, "busy"):
                self._failure = exc.kind
                (log.error if exc.kind in MISCONFIGURED else log.warning)("token_reviews_away", kind=exc.kind)
            raise
        finally:
            self._flights.pop(digest, None)
        self._count("refused" if isinstance(result, Refusal) else "accepted")
        if self._failure is not None:
            self._failure = None
            log.info("token_reviews_back")
        return result

    def _count(self, outcome: str) -> None:
        self._metrics.token_reviews.labels(outcome).inc()


@asynccontextmanager
async def _time_limit(seconds: float, kind: str) -> AsyncIterator[None]:
    """Raises NotVerifiedError of this kind when the time is up."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise NotVerifiedError(kind) from None
