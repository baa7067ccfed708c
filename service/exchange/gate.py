"""The gate: every call to the exchange's `/dapi` passes it (the wallet API of `check` is another host).

`AddressBudget` is what this replica knows of its public address, `admit` the one rule over that, and `Gate` takes each
call through four steps: admission, reservation in the ledger that all replicas share, call, settlement. A refusal then
binds the later calls of every replica.
"""

# `admit` decides for the cache, which wants to know whether a refresh is worthwhile, and for the call itself. The two
# differ in the probe alone: a refresh sends one first if one is due, so a half-open address doesn't stop it. While
# another caller or replica sends the probe (`defer_probe`), it does.
#
# The order of one call, and why:
# - admit, reserve, admit again. The first check saves a Redis round trip. The second one uses what the reservation
#   brought back: the fleet's window and the cooldowns of other replicas. Between the two, another call of this replica
#   may have spent the weight. The second check and the local `reserve` have no await between them, so two tasks of one
#   replica can't both take the last weight.
# - Two replicas may reserve at once. The ledger's script is atomic and shows each the charges that came before its own,
#   so the later one sees the other's, and cancels if there is no room for both.
# - A reservation stays when no answer comes, whatever the reason (a timeout, a cancellation, a crash): the exchange may
#   have counted the call. Only what the second check refuses is cancelled. A task that is cancelled while it reserves
#   leaves its charge behind: too much is counted then, never too little.
# - With an answer, the clock, the cooldown and the local window are updated before the first await. A deadline cancels
#   at an await, so it can't fall between a refusal and this replica's memory of it.
# - The cooldown is shared before the settlement and before the caller gets the error, so that the next call of another
#   replica already meets it. The settlement may come late or never: an unsettled reservation counts either way.
#
# The probe, after a cooldown of the address has expired: one unsigned ping, by the replica that acquires the right to
# it in Redis. A success clears the cooldown for the fleet, a refusal imposes the next one, and any other failure leaves
# the address half-open. Without Redis each replica probes for itself.
#
# Which reading of the clock decides (`ExchangeClock`): the exchange's time is known to within an error bound.
# - Cooldowns and minutes end by `earliest`, the lower bound: not a moment too soon.
# - A refusal is stamped with `latest`, the upper bound: never earlier than a resume that an operator gave before it.
# - Our own pauses and caps use `now`, the best estimate; nothing at the exchange depends on them.

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from service.account.documents import DOCUMENTS
from service.account.parsing import MalformedDocumentError
from service.exchange import responses, transport
from service.exchange.clock import ExchangeClock
from service.exchange.responses import Answer, MalformedAnswerError
from service.exchange.signing import Credential
from service.exchange.transport import HttpClient
from service.fleet import budget
from service.fleet.budget import NO_COOLDOWN, Barrier, Ceiling, Charge, Cooldown, Window
from service.fleet.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeRefusedError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
)
from service.fleet.ledger import Cooldowns, Ledger, Reservation
from service.settings import Exchange
from service.telemetry.attribution import CLIENT
from service.telemetry.metrics import Metrics

T = TypeVar("T")

ADDRESS = ""
"""The scope of a cooldown that binds every credential; the other scopes are identities of credentials."""


class Endpoint(msgspec.Struct, frozen=True):
    """One path of the exchange and its weight. Paths are constants, never text from a request."""

    name: str
    path: str
    weight: int


PING = Endpoint("ping", "/dapi/v1/ping", 1)
TIME = Endpoint("time", "/dapi/v1/time", 1)
EXCHANGE_INFO = Endpoint("exchangeInfo", "/dapi/v1/exchangeInfo", 1)
ENDPOINTS = {
    document: Endpoint(document.path.rpartition("/")[2], document.path, document.weight) for document in DOCUMENTS
}
HEAVIEST = max(document.weight for document in DOCUMENTS)
"""Weight of the call that costs most."""
TOGETHER = sum(document.weight for document in DOCUMENTS)
"""Weight of an account's calls that may be under way at once."""


class Call(msgspec.Struct, frozen=True):
    """One request about to be sent: signed for an account, or unsigned and for all of them."""

    endpoint: Endpoint
    query: bytes = b""
    credential: Credential | None = None
    account: str = ""
    forced: bool = False
    http: HttpClient | None = None
    """The credential's own client; `None`: the one for unsigned calls."""

    @property
    def charge(self) -> Charge:
        identity = self.credential.identity if self.credential else ADDRESS
        return Charge(self.endpoint.weight, self.account, identity, self.forced, CLIENT.get())

    @property
    def headers(self) -> dict[str, str]:
        return self.credential.headers if self.credential else {}


def admit(  # noqa: PLR0913 - all that decides, by name
    charge: Charge,
    address: Cooldown,
    credential: Cooldown,
    windows: Iterable[tuple[Window, Ceiling]],
    *,
    probes: bool,
    earliest: int,
    now: int,
) -> Barrier | None:
    """The barrier that forbids a call, or `None`: it is admitted. Pure; the one rule for all calls to the exchange.

    Args:
        charge: the call's weight, and for whom.
        address: the cooldown of the address.
        credential: the cooldown of the credential that signs the call; for an unsigned one the address's again.
        windows: the weight spent, as this replica and as the fleet counts it, each with what may be spent.
        probes: whether the call is the probe of a half-open address, or comes after one.
        earliest: epoch ms on the exchange's clock, the lower bound.
        now: epoch ms on the exchange's clock, the best estimate.
    """
    binding = [cooldown for cooldown in (address, credential) if cooldown.binds(earliest)]
    if binding:
        return budget.cooldown_barrier(max(binding, key=lambda cooldown: cooldown.until))
    if address.awaits_probe(earliest) and not probes:
        return budget.probe_barrier(address, now)
    barriers = (budget.weight_barrier(window, charge, ceiling, earliest) for window, ceiling in windows)
    return next((barrier for barrier in barriers if barrier is not None), None)


class AddressBudget:
    """One public address as this replica knows it: the weight spent, and the cooldowns that bind it or a credential.

    Nothing here awaits, so each method is atomic on the event loop. Metrics read `window`, `used`, `ceiling` and
    `cooldown` from a thread of their own; these change nothing.
    """

    def __init__(self, settings: Exchange, clock: ExchangeClock) -> None:
        self._settings = settings
        self.clock = clock
        self._window = Window(0)
        self._fleet_window = Window(0)
        self._cooldowns: dict[str, Cooldown] = {}
        self._probe_deferred_until_ms = 0
        self.live_limit: int | None = None
        """The exchange's own weight limit per minute, from exchangeInfo; lowers ours, never raises it."""
        self.degraded = False
        """Whether the replicas can't share what they spend."""

    @property
    def ceiling(self) -> float:
        """The weight that everyone on the address together may spend per minute, as far as we decide it."""
        limit = min(self._settings.weight_limit, self.live_limit or self._settings.weight_limit)
        return limit * self._settings.weight_share

    @property
    def window(self) -> Window:
        """This replica's window of the current minute."""
        # The exchange counts a call that arrives a moment early in its old minute, so the lower bound decides.
        return budget.window_at(self._window, self.clock.earliest())

    @property
    def used(self) -> int:
        """The address's weight this minute, by all that is known."""
        own, fleet = self.window, self._fleet_window
        return max(own.used, fleet.used if fleet.minute == own.minute else 0)

    def barrier(self, charge: Charge, *, probes: bool = False) -> Barrier | None:
        """Why a call may not be sent now, or `None`. Without weight it is bound by cooldowns alone."""
        window, together = self.window, self.ceiling
        shared = own = Ceiling(together, together)
        if self.degraded:
            # Without Redis a replica has an equal part. It knows of the others' calls only what its own last answer
            # reported, so each of them may be an account's calls past that.
            replicas = self._settings.expected_replicas
            own = Ceiling(max(1, together - (replicas - 1) * TOGETHER), together / replicas)
        windows = [(window, own)]
        if self._fleet_window.minute == window.minute:
            windows.append((self._fleet_window, shared))
        return admit(
            charge,
            self.cooldown(ADDRESS),
            self.cooldown(charge.credential),
            windows if charge.weight else (),
            probes=probes,
            earliest=self.clock.earliest(),
            now=self.clock.now(),
        )

    def refresh_barrier(self, charge: Charge) -> Barrier | None:
        """Why a refresh would fail now, or `None`: it sends the probe itself, unless that was left to another."""
        return self.barrier(charge, probes=self._probe_deferred_until_ms <= self.clock.now())

    @property
    def half_open(self) -> bool:
        """Whether the address's cooldown has expired, but no probe has confirmed that the exchange agrees."""
        return self.cooldown(ADDRESS).awaits_probe(self.clock.earliest())

    @property
    def in_cooldown(self) -> bool:
        """Whether nothing but that probe may be sent."""
        return self.barrier(Charge(0)) is not None

    def defer_probe(self) -> Barrier:
        """Another caller or replica sends the probe: nothing else is sent for `PROBE_PAUSE`."""
        now = self.clock.now()
        self._probe_deferred_until_ms = now + budget.PROBE_PAUSE
        return budget.probe_barrier(self.cooldown(ADDRESS), now)

    def reserve(self, charge: Charge) -> None:
        """Count a call before it is sent; `settle` or `abandon` follows."""
        self._window = budget.reserve(self.window, charge)
        self._fleet_window = budget.reserve(self._fleet_window, charge)

    def settle(self, weight: int, reported: int | None, minute: int) -> None:
        """A call sent in `minute` was answered; `reported` is the exchange's count for the address then, if any."""
        window = self.window
        # A report of the minute that has just ended says nothing about the new one.
        current = reported if window.minute == minute else None
        self._window = budget.settle(window, weight, current)
        self._fleet_window = budget.settle(self._fleet_window, weight, current)

    def abandon(self, weight: int) -> None:
        """No answer came."""
        self._window = budget.abandon(self.window, weight)

    def learn_window(self, fleet: Window) -> None:
        """Adopt what the replicas together have spent."""
        self._fleet_window = fleet

    def cooldown(self, scope: str) -> Cooldown:
        """The cooldown of a scope; it may have expired."""
        return self._cooldowns.get(scope, NO_COOLDOWN)

    def learn(self, scope: str, cooldown: Cooldown) -> None:
        """Adopt a cooldown and a resume as far as they override what is known."""
        longest = self.clock.now() + budget.MAX_COOLDOWN
        capped = replace(cooldown, until=min(cooldown.until, longest))
        self._cooldowns[scope] = budget.merged(self.cooldown(scope), capped)

    def impose(self, scope: str, cooldown: Cooldown) -> None:
        """Remember a refusal of just now: it is later than any known resume, even if our clock is behind."""
        self.learn(scope, replace(cooldown, imposed=max(self.clock.latest(), self.cooldown(scope).resumed)))


class Gate:
    """The way out to the exchange through one public address.

    Args:
        http: for unsigned calls; each credential has a client of its own.
        address_budget: what this replica knows of the address.
        ledger: shared with the other replicas on the address.
        metrics: counts calls and weight.
    """

    def __init__(self, http: HttpClient, address_budget: AddressBudget, ledger: Ledger, metrics: Metrics) -> None:
        self._http = http
        self.address = address_budget
        self.clock = address_budget.clock
        self._ledger = ledger
        self._metrics = metrics

    async def send(self, call: Call, read: Callable[[Answer], T]) -> T:
        """The result of `read` on the answer.

        Raises:
            ExchangeError: not sent, not answered, refused, or not of the shape that `read` expects.
        """
        reservation = await self._reserve(call)
        outcome = RefreshFaultError.problem  # stays if anything but an `ExchangeError` escapes: a bug of ours
        try:
            answer = await self._fetch(call, reservation)
            try:
                result = read(answer)
            except (MalformedDocumentError, MalformedAnswerError) as exc:
                raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None
            outcome = "ok"
        except asyncio.CancelledError:
            outcome = ExchangeTimeoutError.problem  # the refresh's own deadline comes before httpx'
            raise
        except ExchangeError as exc:
            outcome = exc.problem
            raise
        finally:
            self._metrics.exchange_calls.labels(call.endpoint.name, outcome).inc()
        return result

    async def probe(self, timeout_ms: int) -> None:
        """After a cooldown has expired, send one call that needs no key, once for all replicas.

        Raises:
            ExchangeError: the exchange still refuses, or does not answer, or another replica sends the probe.
        """
        cooldown = self.address.cooldown(ADDRESS)
        # `None`, without Redis, goes on: each replica probes for itself.
        if await self._ledger.acquire_probe(timeout_ms) is False:
            _ = self.address.defer_probe()
            # Of what was read before, too: a resume that was learned meanwhile left no refusal to name.
            raise budget.probe_barrier(cooldown, self.clock.now()).failure.error()
        await self.send(Call(PING), lambda _: None)
        # What was read before the ping: a longer cooldown that was learned meanwhile stays in force.
        cleared = replace(cooldown, cleared=True)
        self.address.learn(ADDRESS, cleared)
        await self._ledger.cool_down_address(cleared)

    async def reconcile(self, charge: Charge, shared: Cooldowns) -> None:
        """Adopt the cooldowns that replicas share, and share those that Redis lost or never had."""
        known = self.address
        # The time comes first: it bounds the cooldowns that are learned next.
        if shared.now is not None:
            self.clock.adopt_fleet_time(shared.now)
        known.learn(ADDRESS, shared.address)
        if _is_news(known.cooldown(ADDRESS), shared.address):
            await self._ledger.cool_down_address(known.cooldown(ADDRESS))
        if charge.credential:
            known.learn(charge.credential, shared.credential)
            if _is_news(known.cooldown(charge.credential), shared.credential):
                await self._ledger.cool_down_credential(charge, known.cooldown(charge.credential))

    async def close(self) -> None:
        await self._http.aclose()

    async def _reserve(self, call: Call) -> Reservation:
        """Enter a call in the ledger, and in this replica's own window, which counts alone without Redis.

        Raises:
            ExchangeError: a cooldown forbids the call, or a probe that is due, or the weight.
        """
        known, charge, probes = self.address, call.charge, call.endpoint is PING
        if barrier := known.barrier(charge, probes=probes):
            raise barrier.failure.error()
        reservation = Reservation(secrets.token_hex(8), known.window.minute, charge)
        ledger_before = await self._ledger.reserve(reservation)
        known.degraded = ledger_before is None
        if ledger_before is not None:
            known.learn_window(ledger_before.window)
            await self.reconcile(charge, ledger_before.cooldowns)
        if barrier := known.barrier(charge, probes=probes):
            await self._ledger.cancel(reservation)
            raise barrier.failure.error()
        # No await since that `barrier`: see above.
        known.reserve(charge)
        return reservation

    async def _fetch(self, call: Call, reservation: Reservation) -> Answer:
        """Send, remember what the answer says about us, and only then judge it.

        Raises:
            ExchangeError: no answer, or a refusal. A call without an answer stays counted, whatever the reason.
        """
        known, charge = self.address, call.charge
        self._metrics.weight_spent.labels(call.endpoint.name, CLIENT.get()).inc(charge.weight)
        try:
            answer = await transport.fetch(call.http or self._http, call.endpoint.path, call.query, call.headers)
        except BaseException:  # cancellation too
            known.abandon(charge.weight)
            raise
        # From here to the first await nothing can be cancelled. The clock comes first: a ban's length is read by it.
        self.clock.observe_date(answer.headers.get("date", ""))
        now = self.clock.now()
        error = responses.error_in(answer, now)
        if isinstance(error, ExchangeRejectedCredentialsError) and not charge.credential:
            # There is no credential to bind, so this is just a refusal.
            error = ExchangeRefusedError(
                "the exchange refuses an unsigned call",
                answered=error.failure.answered,
                code=error.failure.code,
                retry_at=error.failure.retry_at,
            )
        cooldown = budget.cooldown_after(error, now) if error else None
        scope = charge.credential if cooldown and budget.is_credential(cooldown) else ADDRESS
        if error is not None and cooldown is not None:
            error.failure = error.failure.until(cooldown.until)
            known.impose(scope, cooldown)
        reported = responses.used_weight(answer)
        known.settle(charge.weight, reported, reservation.minute)
        current = known.window.minute == reservation.minute
        # Awaits begin. The refusal is shared first, because it binds the next call of every replica.
        if cooldown is not None and scope == ADDRESS:
            await self._ledger.cool_down_address(known.cooldown(ADDRESS))
        elif cooldown is not None:
            await self._ledger.cool_down_credential(charge, known.cooldown(scope))
        # A report that came after the minute ended may count either minute, so it is left out.
        await self._ledger.settle(reservation, reported if current else None)
        if error is not None:
            raise error
        return answer


def _is_news(known: Cooldown, shared: Cooldown) -> bool:
    """Whether what this replica knows adds anything to what the replicas share."""
    return budget.merged(shared, known) != shared
