"""The gate: every call to the exchange's `/dapi` passes it (`wallet_api` calls another host).

Each call takes four steps: barrier, reservation in the ledger that all replicas share, call, settlement. A refusal
then binds the later calls of every replica.
"""

# The one admit rule (`Gate._admit`), by all that this replica knows. All of these must hold:
# - no cooldown binds the address or the credential
# - the address is not half-open: an expired cooldown lets only the probe through
# - the weight fits under our share, in this replica's window and in the fleet's
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

import asyncio
import secrets
from collections.abc import Callable
from typing import TypeVar

import httpx
import msgspec
from msgspec.structs import replace

from service.account.parsing import MalformedAccountError
from service.exchange import answers, transport
from service.exchange.address_budget import ADDRESS, AddressBudget
from service.exchange.answers import Answer, MalformedAnswerError
from service.exchange.ports import Ledger
from service.exchange.signing import Credential
from service.fleet import budget
from service.fleet.budget import Charge, Cooldown
from service.fleet.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeRefusedError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
)
from service.fleet.ledger import Cooldowns, Reservation
from service.telemetry.attribution import CLIENT
from service.telemetry.metrics import Metrics

T = TypeVar("T")


class Endpoint(msgspec.Struct, frozen=True):
    """One path of the exchange and its weight. Paths are constants, never text from a request."""

    name: str
    path: str
    weight: int


PING = Endpoint("ping", "/dapi/v1/ping", 1)
TIME = Endpoint("time", "/dapi/v1/time", 1)
EXCHANGE_INFO = Endpoint("exchangeInfo", "/dapi/v1/exchangeInfo", 1)
ACCOUNT = Endpoint("account", "/dapi/v1/account", budget.ACCOUNT_WEIGHT)


class Call(msgspec.Struct, frozen=True):
    """One request about to be sent: signed for an account, or unsigned and for all of them."""

    endpoint: Endpoint
    query: bytes = b""
    credential: Credential | None = None
    account: str = ""
    forced: bool = False
    http: httpx.AsyncClient | None = None
    """The credential's own client; `None`: the one for unsigned calls."""

    @property
    def charge(self) -> Charge:
        identity = self.credential.identity if self.credential else ADDRESS
        return Charge(self.endpoint.weight, self.account, identity, self.forced, CLIENT.get())

    @property
    def headers(self) -> dict[str, str]:
        return {"x-mbx-apikey": self.credential.api_key.reveal()} if self.credential else {}


class Gate:
    """The way out to the exchange through one public address.

    Args:
        http: for unsigned calls; each credential has a client of its own.
        egress: this replica's budget of the address.
        ledger: shared with the other replicas on the address.
        metrics: counts calls and weight.
    """

    def __init__(self, http: httpx.AsyncClient, egress: AddressBudget, ledger: Ledger, metrics: Metrics) -> None:
        self._http = http
        self.egress = egress
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
            except (MalformedAccountError, MalformedAnswerError) as exc:
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
        cooldown = self.egress.cooldown(ADDRESS)
        # `None`, without Redis, goes on: each replica probes for itself.
        if await self._ledger.acquire_probe(timeout_ms) is False:
            self.egress.defer_probe()
            raise budget.probe_barrier(cooldown, self.egress.clock.now()).error
        await self.send(Call(PING), lambda _: None)
        # What was read before the ping: a longer cooldown that was learned meanwhile stays in force.
        cleared = replace(cooldown, cleared=True)
        self.egress.learn(ADDRESS, cleared)
        await self._ledger.cool_down_address(cleared)

    async def reconcile(self, charge: Charge, shared: Cooldowns) -> None:
        """Adopt the cooldowns that replicas share, and share those that Redis lost or never had."""
        egress = self.egress
        # The time comes first: it bounds the cooldowns that are learned next.
        if shared.now is not None:
            egress.clock.adopt_fleet_time(shared.now)
        egress.learn(ADDRESS, shared.address)
        if _is_news(egress.cooldown(ADDRESS), shared.address):
            await self._ledger.cool_down_address(egress.cooldown(ADDRESS))
        if charge.credential:
            egress.learn(charge.credential, shared.credential)
            if _is_news(egress.cooldown(charge.credential), shared.credential):
                await self._ledger.cool_down_credential(charge, egress.cooldown(charge.credential))

    async def close(self) -> None:
        await self._http.aclose()

    async def _reserve(self, call: Call) -> Reservation:
        """Enter a call in the ledger, and in this replica's own window, which counts alone without Redis."""
        charge, egress = call.charge, self.egress
        self._admit(call)
        reservation = Reservation(secrets.token_hex(8), egress.window.minute, charge)
        ledger_before = await self._ledger.reserve(reservation)
        egress.degraded = ledger_before is None
        try:
            if ledger_before is not None:
                egress.learn_window(ledger_before.window)
                await self.reconcile(charge, ledger_before.cooldowns)
            self._admit(call)
        except ExchangeError:
            await self._ledger.cancel(reservation)
            raise
        # No await since `_admit`: see above.
        egress.reserve(charge)
        return reservation

    def _admit(self, call: Call) -> None:
        """Raise what forbids a call: a cooldown, a probe that is due, or the weight."""
        egress, probing = self.egress, call.endpoint is PING
        barrier = egress.barrier(call.charge, probing=probing)
        if barrier is None and egress.half_open and not probing:
            barrier = budget.probe_barrier(egress.cooldown(ADDRESS), egress.clock.now())
        if barrier is not None:
            raise barrier.error

    async def _fetch(self, call: Call, reservation: Reservation) -> Answer:
        """Send, remember what the answer says about us, and only then judge it.

        Raises:
            ExchangeError: no answer, or a refusal. A call without an answer stays counted, whatever the reason.
        """
        egress, charge = self.egress, call.charge
        self._metrics.weight_spent.labels(call.endpoint.name, CLIENT.get()).inc(charge.weight)
        try:
            answer = await transport.fetch(call.http or self._http, call.endpoint.path, call.query, call.headers)
        except BaseException:  # cancellation too
            egress.abandon(charge.weight)
            raise
        # From here to the first await nothing can be cancelled. The clock comes first: a ban's length is read by it.
        egress.clock.observe_date(answer.headers.get("date", ""))
        now = egress.clock.now()
        error = answers.error_in(answer, now)
        if isinstance(error, ExchangeRejectedCredentialsError) and not charge.credential:
            # There is no credential to bind, so this is just a refusal.
            error = ExchangeRefusedError(
                "the exchange refuses an unsigned call",
                answered=error.answered,
                code=error.code,
                retry_at=error.retry_at,
            )
        cooldown = budget.cooldown_after(error, now) if error else None
        scope = charge.credential if cooldown and budget.is_credential(cooldown) else ADDRESS
        if error is not None and cooldown is not None:
            error.retry_at = cooldown.until
            egress.impose(scope, cooldown)
        reported = answers.used_weight(answer)
        egress.settle(charge.weight, reported, reservation.minute)
        current = egress.window.minute == reservation.minute
        # Awaits begin. The refusal is shared first, because it binds the next call of every replica.
        if cooldown is not None and scope == ADDRESS:
            await self._ledger.cool_down_address(egress.cooldown(ADDRESS))
        elif cooldown is not None:
            await self._ledger.cool_down_credential(charge, egress.cooldown(scope))
        # A report that came after the minute ended may count either minute, so it is left out.
        await self._ledger.settle(reservation, reported if current else None)
        if error is not None:
            raise error
        return answer


def _is_news(known: Cooldown, shared: Cooldown) -> bool:
    """Whether what this replica knows adds anything to what the replicas share."""
    return budget.merged(shared, known) != shared
