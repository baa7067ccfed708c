"""The gate: nothing is sent to the exchange but through here.

Barrier, reservation in the ledger that all replicas share, call, settlement, and the refusal that binds every
replica's calls after it.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import TypeVar

import httpx
import msgspec
from msgspec.structs import replace

from service.account.snapshot import MalformedAccountError
from service.exchange import answers, budget, transport
from service.exchange.address_budget import ADDRESS, AddressBudget
from service.exchange.answers import Answer, MalformedAnswerError
from service.exchange.budget import Charge, Cooldown
from service.exchange.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeRefusedError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    RefreshFaultError,
)
from service.exchange.ports import Cooldowns, Ledger, Reservation
from service.exchange.signing import Credential
from service.telemetry.attribution import CLIENT
from service.telemetry.metrics import Metrics

T = TypeVar("T")


class Endpoint(msgspec.Struct, frozen=True):
    """One path of the exchange and what it costs. Paths are constants, never text from a request."""

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
    def claim(self) -> Charge:
        identity = self.credential.identity if self.credential else ADDRESS
        return Charge(self.endpoint.weight, self.account, identity, self.forced, CLIENT.get())

    @property
    def headers(self) -> dict[str, str]:
        return {"x-mbx-apikey": self.credential.api_key.reveal()} if self.credential else {}


class Gate:
    """The way out to the exchange through one public address."""

    def __init__(self, http: httpx.AsyncClient, egress: AddressBudget, ledger: Ledger, metrics: Metrics) -> None:
        self._http = http
        self._egress = egress
        self._ledger = ledger
        self._metrics = metrics

    async def send(self, call: Call, read: Callable[[Answer], T]) -> T:
        """What `read` takes from the answer.

        Raises:
            ExchangeError: not sent, not answered, refused, or not of the shape that `read` expects.
        """
        reservation = await self._reserve(call)
        outcome = RefreshFaultError.problem
        try:
            answer = await self._answer(call, reservation)
            result = _read(answer, read)
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

    async def probe(self, patience: int) -> None:
        """After a refusal's time has passed, ask something that needs no key, once for all replicas.

        Args:
            patience: ms that the answer may take.

        Raises:
            ExchangeError: the exchange refuses still, or does not answer, or another replica is asking.
        """
        hold = self._egress.hold(ADDRESS)
        if await self._ledger.probe(patience) is False:
            self._egress.defer_probe()
            raise budget.probe_barrier(hold, self._egress.clock.now()).error
        await self.send(Call(PING), lambda _: None)
        opened = replace(hold, opened=True)
        self._egress.learn(ADDRESS, opened)
        await self._ledger.cool_down_address(opened)

    async def reconcile(self, claim: Charge, holds: Cooldowns) -> None:
        """Take over the not-befores that replicas share, and share those that Redis lost or never had."""
        egress = self._egress
        if holds.now is not None:
            egress.clock.hear(holds.now)
        egress.learn(ADDRESS, holds.address)
        if _adds(egress.hold(ADDRESS), holds.address):
            await self._ledger.cool_down_address(egress.hold(ADDRESS))
        if claim.credential:
            egress.learn(claim.credential, holds.credential)
            if _adds(egress.hold(claim.credential), holds.credential):
                await self._ledger.cool_down_credential(claim, egress.hold(claim.credential))

    async def close(self) -> None:
        await self._http.aclose()

    async def _reserve(self, call: Call) -> Reservation:
        """Enter a call in the ledger, and in this replica's own, which counts alone while Redis is away."""
        claim, egress = call.claim, self._egress
        self._admit(call)
        reservation = Reservation(secrets.token_hex(8), egress.window.minute, claim)
        standing = await self._ledger.reserve(reservation)
        egress.degraded = standing is None
        try:
            if standing is not None:
                egress.learn_window(standing.window)
                await self.reconcile(claim, standing.holds)
            self._admit(call)
        except ExchangeError:
            await self._ledger.cancel(reservation)
            raise
        egress.reserve(claim)
        return reservation

    def _admit(self, call: Call) -> None:
        """Raise what forbids a call by all that this replica knows."""
        egress, probing = self._egress, call.endpoint is PING
        barrier = egress.barrier(call.claim, probing=probing)
        if barrier is None and egress.half_open and not probing:
            barrier = budget.probe_barrier(egress.hold(ADDRESS), egress.clock.now())
        if barrier is not None:
            raise barrier.error

    async def _answer(self, call: Call, reservation: Reservation) -> Answer:
        """Send, and take in what the answer tells of us, whatever it tells of the account.

        A call that got no answer, for whatever reason, stays counted.
        """
        weight = call.endpoint.weight
        self._metrics.weight_spent.labels(call.endpoint.name, CLIENT.get()).inc(weight)
        try:
            answer = await transport.fetch(call.http or self._http, call.endpoint.path, call.query, call.headers)
        except BaseException:
            self._egress.abandon(weight)
            raise
        # Before any await: no deadline may come between a refusal and its being remembered.
        self._egress.clock.see(answer.headers.get("date", ""))
        error, scope = self._refusal(answer, call)
        reported = answers.used_weight(answer)
        self._egress.settle(weight, reported, reservation.minute)
        current = self._egress.window.minute == reservation.minute
        if scope is not None:
            await self._share(call.claim, scope)
        await self._ledger.settle(reservation, reported if current else None)
        if error is not None:
            raise error
        return answer

    def _refusal(self, answer: Answer, call: Call) -> tuple[ExchangeError | None, str | None]:
        """The error that an answer stands for, and the scope of the not-before that it imposes.

        It binds the address, or the credential that was rejected; an unsigned call has none, and is just refused.
        """
        now, credential = self._egress.clock.now(), call.claim.credential
        error = answers.error_in(answer, now)
        if isinstance(error, ExchangeRejectedCredentialsError) and not credential:
            error = ExchangeRefusedError(
                "the exchange refuses an unsigned call",
                answered=error.answered,
                code=error.code,
                retry_at=error.retry_at,
            )
        hold = budget.hold_after(error, now) if error else None
        if error is None or hold is None:
            return error, None
        scope = credential if budget.is_credential(hold) else ADDRESS
        error.retry_at = hold.until
        self._egress.impose(scope, hold)
        return error, scope

    async def _share(self, claim: Charge, scope: str) -> None:
        """Enter a refusal in the ledger, before anything else is told: it binds who asks next."""
        if scope == ADDRESS:
            await self._ledger.cool_down_address(self._egress.hold(ADDRESS))
        else:
            await self._ledger.cool_down_credential(claim, self._egress.hold(scope))


def _adds(known: Cooldown, shared: Cooldown) -> bool:
    """Whether what this replica knows is news to the others."""
    return budget.joined(shared, known) != shared


def _read(answer: Answer, read: Callable[[Answer], T]) -> T:
    try:
        return read(answer)
    except (MalformedAccountError, MalformedAnswerError) as exc:
        raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None
