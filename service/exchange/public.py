"""What the exchange tells anybody: its time, and its contracts (exchangeInfo).

A refresh sees to both before it signs. A served process sees to them by itself as well, so that callers who ask for
nothing else find them, and no caller of a public path ever causes a call. The clock each replica measures for itself;
exchangeInfo one fetches for all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import structlog

from service.exchange import exchange_info
from service.exchange.address_budget import AddressBudget
from service.exchange.answers import Answer, MalformedAnswerError
from service.exchange.clock import EARLIEST, LATEST, SAMPLES, Sample, estimate
from service.exchange.errors import ExchangeError
from service.exchange.exchange_info import ExchangeInfo
from service.exchange.gate import ACCOUNT, EXCHANGE_INFO, PING, TIME, Call, Gate
from service.exchange.ports import EXCHANGE_INFO_MAX_AGE, ExchangeInfoStore
from service.settings import Exchange

log = structlog.get_logger("coinm.exchange")

SIDE_SHARE = 0.25
"""Of a refresh's time, for measuring the clock and for exchangeInfo each: a refresh can do without either."""
SIDE_PAUSE = 30_000
"""Ms between tries after a failure; of refreshes and of the upkeep each, for one knows nothing of the other's need."""
TICK = 1.0
"""Seconds between looks whether anything is due: what another replica is fetching is there by the next."""
REFRESH_WEIGHT = ACCOUNT.weight + SAMPLES * TIME.weight + EXCHANGE_INFO.weight + PING.weight
"""What the first refresh of all costs."""


class _Time(msgspec.Struct, rename="camel"):
    server_time: Annotated[int, msgspec.Meta(ge=EARLIEST, le=LATEST)]


class PublicData:
    """The exchange's time and contracts, as this replica knows them."""

    def __init__(self, settings: Exchange, gate: Gate, egress: AddressBudget, listings: ExchangeInfoStore) -> None:
        self._settings = settings
        self._gate = gate
        self._egress = egress
        self._listings = listings
        self._clock = egress.clock
        self._monotonic = egress.clock.monotonic
        self._expires = self._clock_due = self._listing_due = self._upkeep_due = self._monotonic()
        self._failing: dict[str, str | None] = {}
        self.listing: ExchangeInfo | None = None
        """The last there was: an old one tells of more contracts than none."""
        self.turn = asyncio.Lock()
        """Who sees to both; the others find it done."""

    @property
    def listing_age(self) -> int:
        """Ms since the listing was fetched, by whichever replica."""
        return self._monotonic() - self._expires + EXCHANGE_INFO_MAX_AGE

    async def synchronise(self) -> None:
        """Measure the exchange's clock.

        Raises:
            ExchangeError: no sample could be had.
        """
        self._clock.offset = estimate([await self._sample() for _ in range(SAMPLES)])

    async def load_listing(self) -> None:
        """Fetch exchangeInfo, for all replicas.

        Raises:
            ExchangeError: no answer, or not the documented shape.
        """
        found = await self._gate.send(Call(EXCHANGE_INFO), lambda answer: exchange_info.parse(answer.body))
        self._adopt(found, EXCHANGE_INFO_MAX_AGE)
        await self._listings.put(found.body)

    async def prepare(self) -> None:
        """What a signed call wants to know first; holds `turn`.

        A listing that this replica has never had is worth a call although another replica is fetching it: rows are
        granted by it.
        """
        now = self._monotonic()
        if self._wants_time(now) and not await self._works("time", self.synchronise):
            self._clock_due = now + SIDE_PAUSE
        if self._wants_listing(now) and not await self._works("exchangeInfo", self._find_listing):
            self._listing_due = now + SIDE_PAUSE

    @property
    def due(self) -> bool:
        """Whether a refresh has anything to prepare."""
        now = self._monotonic()
        return self._wants_time(now) or self._wants_listing(now)

    def _wants_time(self, now: int) -> bool:
        return self._clock.due and now >= self._clock_due

    def _wants_listing(self, now: int) -> bool:
        return now >= max(self._expires, self._listing_due)

    async def keep_up(self) -> None:
        """Whatever is due and may be asked for now; the probe after a refusal is left to whoever reads an account."""
        now = self._monotonic()
        if now < self._upkeep_due or self._egress.held:
            return
        if self.turn.locked():
            return  # a refresh is at it
        async with self.turn:
            self._upkeep_due = now + SIDE_PAUSE  # whatever comes of it: a bug of ours must not hammer the exchange
            measured = not self._clock.due or await self._works("time", self.synchronise)
            listed = now < self._expires or await self._works("exchangeInfo", self._look_or_claim)
            if measured and listed:
                self._upkeep_due = now

    async def run(self) -> None:
        """Keep up for as long as the process serves; ends only by being cancelled."""
        while True:
            try:
                await self.keep_up()
            except Exception:
                log.exception("upkeep_fault")  # reads see to both too; a dead upkeep would leave the public paths old
            await asyncio.sleep(TICK)

    async def _find_listing(self) -> None:
        """Another replica's listing, else one from the exchange."""
        if not await self._look_or_leave() or self.listing is None:
            await self.load_listing()

    async def _look_or_claim(self) -> None:
        """The same, but never while another replica fetches it."""
        if not await self._look_or_leave():
            await self.load_listing()

    async def _look_or_leave(self) -> bool:
        """Whether this replica need not fetch the listing: a shared one is there, or another replica is fetching it."""
        shared = await self._listings.get()
        if shared is not None and self._adopted(shared.body, shared.remaining):
            return True
        return await self._listings.claim(self._settings.timeout) is False

    def _adopted(self, body: bytes, remaining: int) -> bool:
        """Take a shared listing over; what somebody else wrote there counts as none."""
        try:
            self._adopt(exchange_info.parse(body), remaining)
        except MalformedAnswerError:
            return False
        return True

    def _adopt(self, found: ExchangeInfo, remaining: int) -> None:
        self.listing = found
        self._expires = self._monotonic() + remaining
        self._heed(found.weight_limit)

    def _heed(self, live_limit: int | None) -> None:
        """The exchange's own limit lowers ours; one that no refresh would fit in is taken for a misprint."""
        if live_limit is not None and live_limit * self._settings.weight_share < REFRESH_WEIGHT:
            log.error("exchange_limit_ignored", limit=live_limit)
            return
        self._egress.live_limit = live_limit

    async def _works(self, what: str, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether a call worked that can be done without; logged when that changes."""
        try:
            async with asyncio.timeout(self._settings.timeout.seconds * SIDE_SHARE):
                await call()
        except (ExchangeError, TimeoutError) as exc:
            self._note(what, type(exc).__name__)
            return False
        self._note(what, None)
        return True

    def _note(self, what: str, error: str | None) -> None:
        if self._failing.get(what) == error:
            return
        self._failing[what] = error
        if error is None:
            log.info("exchange_preparation_back", call=what)
        else:
            log.warning("exchange_preparation_failed", call=what, error=error)

    async def _sample(self) -> Sample:
        sent = self._monotonic()
        server_time = await self._gate.send(Call(TIME), _server_time)
        return Sample(sent, self._monotonic(), server_time)


def _server_time(answer: Answer) -> int:
    try:
        return msgspec.json.decode(answer.body, type=_Time).server_time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswerError("the exchange's time is not of the documented shape") from None
