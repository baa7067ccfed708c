"""What calls want to know first, kept up to date: the exchange's clock, and its listing.

A refresh sees to both before it signs, and can do without either. A served process sees to them by itself as well, so
that what the gateway tells without a token never costs a call on a caller's behalf.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import structlog

from service.account.snapshot import MAX_BODY
from service.exchange import budget, listing
from service.exchange.answers import Answer, MalformedAnswerError
from service.exchange.clock import EARLIEST, LATEST, SAMPLES, ExchangeClock, Sample, estimate
from service.exchange.egress import ADDRESS, Egress
from service.exchange.errors import ExchangeError
from service.exchange.gate import ACCOUNT, EXCHANGE_INFO, PING, TIME, Call, Gate
from service.exchange.listing import Listing
from service.exchange.ports import Listings
from service.settings import Exchange

log = structlog.get_logger("coinm.exchange")

SIDE_SHARE = 0.25
"""Of the refresh's time, for measuring the clock and for exchangeInfo each: a refresh can do without either."""
SIDE_PAUSE = 30_000
"""Ms between tries of either after a failure."""
LISTING_MAX_AGE = 60 * 60 * 1000
"""Ms. Contracts are listed and delivered by the quarter."""
CLAIM_PAUSE = 1_000
"""Ms until a replica looks again for what another one is reading."""
LOOK = 1.0
"""Seconds between looks at whether anything is due; it costs nothing to look."""
REFRESH_WEIGHT = ACCOUNT.weight + SAMPLES * TIME.weight + EXCHANGE_INFO.weight + PING.weight
"""What the first refresh of all costs."""


class _Time(msgspec.Struct, rename="camel"):
    server_time: Annotated[int, msgspec.Meta(ge=EARLIEST, le=LATEST)]


class Upkeep:
    """Of one public address."""

    def __init__(self, settings: Exchange, egress: Egress, gate: Gate, listings: Listings) -> None:
        self.listing: Listing | None = None
        self._settings = settings
        self._egress = egress
        self._gate = gate
        self._listings = listings
        self._clock: ExchangeClock = egress.clock
        self._monotonic = egress.clock.monotonic
        self._listing_due = self._clock_due = self._monotonic()
        self._measuring = asyncio.Lock()

    async def watch(self) -> None:
        """See to it for as long as the process serves; ends only by being cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        """See to what is due, unless the exchange must not be asked, or waits for the probe that a refresh sends."""
        hold, now = self._egress.hold(ADDRESS), self._clock.now()
        if not (hold.binds(now) or hold.opens(now) or self._measuring.locked()):
            async with self._measuring:
                await self._catch_up()

    async def prepare(self) -> None:
        """What a signed call wants to know first; one account at a time, the others find it done.

        A probe is not waited for: it may take all the time there is.
        """
        hold, now = self._egress.hold(ADDRESS), self._clock.now()
        if self._measuring.locked() and hold.opens(now):
            self._egress.leave_to_another()
            raise budget.probe_barrier(hold, now).error
        async with self._measuring:
            await self.reopen()
            await self._catch_up()

    async def reopen(self) -> None:
        """If a refusal of the address has passed, see whether the exchange agrees, before anything else is sent.

        Raises:
            ExchangeError: it refuses still, or can't be asked.
        """
        if self._egress.hold(ADDRESS).opens(self._clock.now()):
            await self._gate.probe(self._settings.timeout)

    async def synchronise(self) -> None:
        """Measure the exchange's clock.

        Raises:
            ExchangeError: no sample could be had.
        """
        self._clock.offset = estimate([await self._sample() for _ in range(SAMPLES)])

    async def load_listing(self) -> None:
        """Read exchangeInfo, and share it.

        Raises:
            ExchangeError: no answer, or not the documented shape.
        """
        found = await self._gate.send(Call(EXCHANGE_INFO), lambda answer: listing.parse(answer.body))
        self._adopt(found, LISTING_MAX_AGE)
        await self._listings.put(found.body, LISTING_MAX_AGE)

    async def _catch_up(self) -> None:
        now = self._monotonic()
        if self._clock.due and now >= self._clock_due and not await self._on_the_side(self.synchronise):
            self._clock_due = now + SIDE_PAUSE
        if now >= self._listing_due and not await self._on_the_side(self._bring_listing):
            self._listing_due = now + SIDE_PAUSE

    async def _bring_listing(self) -> None:
        """Take over the shared copy, else read it for all; while another replica does, the old one will do."""
        shared = await self._listings.get()
        if shared is not None and self._take_over(shared.body, shared.left):
            return
        if await self._listings.claim(self._settings.timeout) is False:
            self._listing_due = self._monotonic() + CLAIM_PAUSE
            return
        await self.load_listing()

    def _take_over(self, body: bytes, left: int) -> bool:
        """Whether the shared copy is one; whatever else stands in its place is written over."""
        try:
            found = listing.parse(body[: MAX_BODY + 1])
        except MalformedAnswerError as exc:
            log.warning("shared_listing_refused", reason=str(exc))
            return False
        self._adopt(found, min(left, LISTING_MAX_AGE))
        return True

    def _adopt(self, found: Listing, milliseconds: int) -> None:
        self.listing = found
        self._heed(found.weight_limit)
        self._listing_due = self._monotonic() + milliseconds

    def _heed(self, live_limit: int | None) -> None:
        """The exchange's own limit lowers ours; one that no refresh would fit in is taken for a misprint."""
        if live_limit is not None and live_limit * self._settings.weight_share < REFRESH_WEIGHT:
            log.error("exchange_limit_ignored", limit=live_limit)
            return
        self._egress.live_limit = live_limit

    async def _on_the_side(self, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether a call worked that a refresh can do without; if not, the refresh goes on as it is."""
        try:
            async with asyncio.timeout(self._settings.timeout.seconds * SIDE_SHARE):
                await call()
        except (ExchangeError, TimeoutError) as exc:
            log.warning("exchange_preparation_failed", call=call.__name__.strip("_"), error=type(exc).__name__)
            return False
        return True

    async def _sample(self) -> Sample:
        sent = self._monotonic()
        server_time = await self._gate.send(Call(TIME), _server_time)
        return Sample(sent, self._monotonic(), server_time)


def _server_time(answer: Answer) -> int:
    try:
        return msgspec.json.decode(answer.body, type=_Time).server_time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswerError("the exchange's time is not of the documented shape") from None
