"""The exchange's unsigned calls: its time, its contracts (exchangeInfo), and the probe after a cooldown.

A refresh makes all three ready before it signs. The upkeep of a serving process keeps time and contracts up to date
too, so that callers of the public paths alone find them, and no such caller ever causes a call. Each replica measures
the clock for itself; one replica fetches exchangeInfo for all.
"""

# Who may fetch, and what keeps the two from doing it twice:
# - A refresh holds `prepare_lock` while it prepares. The upkeep skips its tick while the lock is taken, and takes it
#   for its own work. So in one process at most one of them measures or fetches.
# - Across replicas, exchangeInfo is fetched by the one that acquires the right to it in Redis. The right expires after
#   a refresh's timeout, so a crashed replica blocks the others no longer than that. They adopt the shared copy then.
# - Only a refresh on a replica that has no exchangeInfo at all fetches in spite of that: rows are granted by it.
#
# Retry times are separate. Refreshes and the upkeep each wait `SIDE_PAUSE_MS` after a failure of their own, because
# neither knows what the other needs. No failure here fails a refresh: it signs with what there is.

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import structlog

from service.exchange import exchange_info
from service.exchange.clock import EARLIEST, LATEST, SAMPLES, Sample, estimate
from service.exchange.exchange_info import EXCHANGE_INFO_MAX_AGE, ExchangeInfo, ExchangeInfoStore
from service.exchange.gate import EXCHANGE_INFO, HEAVIEST, PING, TIME, Call, Gate
from service.exchange.responses import Answer, MalformedAnswerError
from service.fleet.errors import ExchangeError
from service.settings import Exchange

log = structlog.get_logger("coinm.exchange")

SIDE_SHARE = 0.25
"""Of a refresh's time, for measuring the clock and for exchangeInfo each: a refresh can do without either."""
SIDE_PAUSE_MS = 30_000
"""Ms between attempts after a failure; counted for refreshes and for the upkeep separately."""
TICK_S = 1.0  # between checks whether anything is due: what another replica is fetching is there by the next one
REFRESH_WEIGHT = HEAVIEST + SAMPLES * TIME.weight + EXCHANGE_INFO.weight + PING.weight
"""Of the very first refresh, which needs everything."""


class _Time(msgspec.Struct, rename="camel"):
    server_time: Annotated[int, msgspec.Meta(ge=EARLIEST, le=LATEST)]


class PublicApi:
    """The exchange's time and contracts, and its address's budget, as this replica knows them."""

    def __init__(self, settings: Exchange, gate: Gate, store: ExchangeInfoStore) -> None:
        self.settings = settings
        self.gate = gate
        self.address = gate.address
        self.clock = gate.clock
        self._store = store
        self._monotonic = gate.clock.monotonic
        # All of them in monotonic ms: when exchangeInfo is too old, and the earliest next attempts.
        self._info_expires_ms = self._time_retry_ms = self._info_retry_ms = self._upkeep_retry_ms = self._monotonic()
        self._failing: dict[str, str | None] = {}
        self.exchange_info: ExchangeInfo | None = None
        """The latest. It stays when it is too old: an old one knows more contracts than none."""
        self.prepare_lock = asyncio.Lock()
        """Held while either is measured or fetched; those that wait for it find it done."""

    @property
    def exchange_info_age_ms(self) -> int:
        """Ms since exchangeInfo was fetched, by any replica."""
        return self._monotonic() - self._info_expires_ms + EXCHANGE_INFO_MAX_AGE

    async def synchronise(self) -> None:
        """Measure the exchange's clock.

        Raises:
            ExchangeError: no sample was answered.
        """
        samples: list[Sample] = []
        for _ in range(SAMPLES):
            sent = self._monotonic()
            server_time = await self.gate.send(Call(TIME), _server_time)
            samples.append(Sample(sent, self._monotonic(), server_time))
        self.clock.offset = estimate(samples)

    async def load_exchange_info(self) -> None:
        """Fetch exchangeInfo, for all replicas.

        Raises:
            ExchangeError: no answer, or not the documented shape.
        """
        fetched = await self.gate.send(Call(EXCHANGE_INFO), lambda answer: exchange_info.parse(answer.body))
        self._adopt(fetched, EXCHANGE_INFO_MAX_AGE)
        await self._store.put(fetched.body)

    async def make_ready(self) -> None:
        """Before a signed call: probe a half-open address, then measure and fetch what is due.

        Raises:
            ExchangeError: the exchange still refuses, or the probe is another's or got no answer.
        """
        # If nothing is due, the lock may still be taken by the upkeep: that is no reason to wait.
        now = self._monotonic()
        if not (self._time_due(now) or self._info_due(now) or self.address.half_open):
            return
        # A probe under way is not waited for either: it may take all the time there is.
        if self.prepare_lock.locked() and self.address.half_open:
            raise self.address.defer_probe().failure.error()
        # One account at a time; the others find it done.
        async with self.prepare_lock:
            await self.reopen()
            now = self._monotonic()
            if self._time_due(now) and not await self._succeeds("time", self.synchronise):
                self._time_retry_ms = now + SIDE_PAUSE_MS
            if self._info_due(now) and not await self._succeeds("exchangeInfo", lambda: self._find_info(required=True)):
                self._info_retry_ms = now + SIDE_PAUSE_MS

    async def reopen(self) -> None:
        """If a cooldown of the address has expired, probe whether the exchange agrees, before anything else is sent.

        Raises:
            ExchangeError: it still refuses, or can't be called.
        """
        if self.address.half_open:
            await self.gate.probe(self.settings.timeout)

    async def close(self) -> None:
        await self.gate.close()

    def _time_due(self, now: int) -> bool:
        return self.clock.due and now >= self._time_retry_ms

    def _info_due(self, now: int) -> bool:
        return now >= max(self._info_expires_ms, self._info_retry_ms)

    async def keep_up(self) -> None:
        """Measure and fetch what is due, unless the address is in a cooldown; a probe is left to reads of accounts."""
        now = self._monotonic()
        if now < self._upkeep_retry_ms or self.address.in_cooldown:
            return
        if self.prepare_lock.locked():
            return  # a refresh prepares both
        async with self.prepare_lock:
            # Set before the work, in case it raises: a bug of ours must not hammer the exchange.
            self._upkeep_retry_ms = now + SIDE_PAUSE_MS
            measured = not self.clock.due or await self._succeeds("time", self.synchronise)
            loaded = now < self._info_expires_ms or await self._succeeds(
                "exchangeInfo", lambda: self._find_info(required=False)
            )
            if measured and loaded:
                self._upkeep_retry_ms = now

    async def run(self) -> None:
        """Keep up for as long as the process serves; ends only by being cancelled."""
        while True:
            try:
                await self.keep_up()
            except Exception:
                # Goes on: reads prepare both too, but a dead upkeep would leave the public paths old.
                log.exception("upkeep_fault")
            await asyncio.sleep(TICK_S)

    async def _find_info(self, *, required: bool) -> None:
        """Adopt the copy that the replicas share, else fetch one for all, unless another replica is fetching it.

        Args:
            required: fetch it even then, if this replica has none.

        Raises:
            ExchangeError: it had to be fetched, and could not be.
        """
        shared = await self._store.get()
        if shared is not None:
            # Anything else that was written to that key counts as none.
            with contextlib.suppress(MalformedAnswerError):
                self._adopt(exchange_info.parse(shared.body), shared.remaining_ms)
                return
        # `None`, without Redis, goes on: each replica fetches for itself.
        acquired = await self._store.acquire_once(self.settings.timeout)
        if acquired is False and not (required and self.exchange_info is None):
            return
        await self.load_exchange_info()

    def _adopt(self, found: ExchangeInfo, remaining_ms: int) -> None:
        self.exchange_info = found
        self._info_expires_ms = self._monotonic() + remaining_ms
        limit = found.weight_limit
        # The exchange's own limit lowers ours. One in which no refresh would fit is treated as a misprint.
        if limit is not None and limit * self.settings.weight_share < REFRESH_WEIGHT:
            log.error("exchange_limit_ignored", limit=limit)
            return
        self.address.live_limit = limit

    async def _succeeds(self, name: str, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether an optional call succeeded; logged when that changes."""
        error: str | None = None
        try:
            async with asyncio.timeout(self.settings.timeout.seconds * SIDE_SHARE):
                await call()
        except (ExchangeError, TimeoutError) as exc:
            error = type(exc).__name__
        if self._failing.get(name) != error:
            self._failing[name] = error
            if error is None:
                log.info("exchange_preparation_back", call=name)
            else:
                log.warning("exchange_preparation_failed", call=name, error=error)
        return error is None


def _server_time(answer: Answer) -> int:
    try:
        return msgspec.json.decode(answer.body, type=_Time).server_time
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswerError("the exchange's time is not of the documented shape") from None
