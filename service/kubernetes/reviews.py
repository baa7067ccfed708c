"""A token's way to its verdict: remembered, else refused at a look, else reviewed by the API server."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import structlog

from service.access import tokens
from service.cache.flight import SingleFlight
from service.clock import Clock
from service.kubernetes.errors import MISCONFIGURED, NotVerifiedError
from service.kubernetes.memory import Memory
from service.kubernetes.verdicts import Claims, Refusal, Verdict, decide, examine, remembered_for
from service.telemetry.metrics import Metrics

log = structlog.get_logger("coinm.kubernetes")

AT_ONCE = 8
"""Reviews under way, of tokens that were accepted before and of others apart: who invents tokens by the thousand can
hold up others that nobody knows yet, not the callers whose memory has run out. More than enough: one takes
milliseconds."""
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

    async def rehearse(self, audience: str) -> bytes:
        """The same of the reviewer's own token."""
        ...

    async def close(self) -> None: ...


class TokenReviews:
    """Verifies ServiceAccounts' tokens for one audience. One review for any number of callers with the same token."""

    def __init__(self, audience: str, reviewer: Reviewer, clock: Clock, metrics: Metrics) -> None:
        self.audience = audience
        self._reviewer = reviewer
        self._clock = clock
        self._metrics = metrics
        self._memory = Memory()
        self._flights: defaultdict[str, SingleFlight[Verdict]] = defaultdict(SingleFlight)
        self._accepted, self._others = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_ONCE)
        self._trouble: str | None = None
        self._next_try = 0

    async def verify(self, token: bytes) -> Verdict:
        """Whose token it is.

        Raises:
            NotVerifiedError: nobody can say just now; nothing is remembered of that.
        """
        digest = tokens.digest(token)
        remembered = self._memory.recall(digest, self._clock.monotonic())
        if remembered is not None:
            self._count("remembered")
            return remembered
        claims = examine(token, self.audience, self._clock.epoch())
        if isinstance(claims, Refusal):
            self._count("implausible")
            return claims
        if self._clock.monotonic() < self._next_try and digest not in self._flights:
            self._count("timeout")
            raise NotVerifiedError("timeout")
        return await self._flights[digest].join(partial(self._review, digest, token.decode(), claims))

    async def rehearse(self) -> None:
        """Try whether tokens can be reviewed.

        Raises:
            NotVerifiedError: they can't.
        """
        async with _in_time(PATIENCE, "timeout"):
            decide(await self._reviewer.rehearse(self.audience), self.audience)

    async def close(self) -> None:
        """End what is under way and hang up."""
        for flight in list(self._flights.values()):
            await flight.close()
        await self._reviewer.close()

    async def _review(self, digest: str, token: str, claims: Claims) -> Verdict:
        turns = self._accepted if self._memory.was_accepted(digest) else self._others
        try:
            async with _in_time(TURN, "busy"):
                await turns.acquire()
            try:
                verdict = await self._ask(digest, token, claims)
            finally:
                turns.release()
        except NotVerifiedError as exc:
            self._fail(exc.kind)
            raise
        finally:
            self._flights.pop(digest, None)
        self._count("refused" if isinstance(verdict, Refusal) else "accepted")
        if self._trouble is not None:
            self._trouble = None
            log.info("token_reviews_back")
        return verdict

    async def _ask(self, digest: str, token: str, claims: Claims) -> Verdict:
        """The API server's verdict. It holds from when it was asked for: what changes meanwhile counts."""
        asked, epoch = self._clock.monotonic(), self._clock.epoch()
        with self._metrics.token_review_duration.time():
            async with _in_time(PATIENCE, "timeout"):
                verdict = decide(await self._reviewer.review(token, self.audience), self.audience)
        self._memory.keep(digest, verdict, asked + remembered_for(verdict, claims, epoch))
        return verdict

    def _fail(self, kind: str) -> None:
        self._count(kind)
        if kind == "timeout":
            self._next_try = self._clock.monotonic() + PAUSE
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
