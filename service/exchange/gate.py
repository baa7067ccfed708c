"""The gate: nothing is sent to the exchange but through here.

Barrier, reservation, call, settlement, and the refusal that binds the calls after it.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import httpx
import msgspec

from service.account.snapshot import MalformedAccountError
from service.exchange import answers, budget, transport
from service.exchange.answers import Answer, MalformedAnswerError
from service.exchange.egress import ADDRESS, Egress
from service.exchange.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeTimeoutError,
    RefreshFaultError,
)
from service.exchange.signing import Credential
from service.telemetry.metrics import Metrics

T = TypeVar("T")


class Endpoint(msgspec.Struct, frozen=True):
    """One path of the exchange and what it costs. Paths are constants, never text from a request."""

    name: str
    path: str
    weight: int


TIME = Endpoint("time", "/dapi/v1/time", 1)
EXCHANGE_INFO = Endpoint("exchangeInfo", "/dapi/v1/exchangeInfo", 1)
ACCOUNT = Endpoint("account", "/dapi/v1/account", 5)


class Call(msgspec.Struct, frozen=True):
    """One request about to be sent."""

    endpoint: Endpoint
    query: bytes = b""
    credential: Credential | None = None
    forced: bool = False

    @property
    def scope(self) -> str:
        """Whose not-before binds it besides the address's."""
        return self.credential.identity if self.credential else ADDRESS

    @property
    def headers(self) -> dict[str, str]:
        return {"x-mbx-apikey": self.credential.api_key.reveal()} if self.credential else {}


class Gate:
    """The way out to the exchange through one public address."""

    def __init__(self, http: httpx.AsyncClient, egress: Egress, metrics: Metrics) -> None:
        self._http = http
        self._egress = egress
        self._metrics = metrics

    async def send(self, call: Call, read: Callable[[Answer], T]) -> T:
        """What `read` takes from the answer.

        Raises:
            ExchangeError: not sent, not answered, refused, or not of the shape that `read` expects.
        """
        barrier = self._egress.barrier(call.scope, call.endpoint.weight, forced=call.forced)
        if barrier is not None:
            raise barrier.error
        outcome = RefreshFaultError.problem
        try:
            answer = await self._answer(call)
            self._egress.clock.see(answer.headers.get("date", ""))
            self._refuse(answer, call)
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

    async def close(self) -> None:
        await self._http.aclose()

    async def _answer(self, call: Call) -> Answer:
        """Reserve, send, settle; a call that got no answer, for whatever reason, stays counted."""
        weight = call.endpoint.weight
        minute = self._egress.reserve(weight, forced=call.forced)
        self._metrics.weight_spent.labels(call.endpoint.name).inc(weight)
        try:
            answer = await transport.fetch(self._http, call.endpoint.path, call.query, call.headers)
        except BaseException:
            self._egress.abandon(weight)
            raise
        self._egress.settle(weight, answers.used_weight(answer), minute)
        return answer

    def _refuse(self, answer: Answer, call: Call) -> None:
        """Raise the error that an answer stands for; before that, let a refusal bind every later call.

        It binds the address, or the credential that was rejected (an unsigned call has none).
        """
        now = self._egress.clock.now()
        error = answers.error_in(answer, now)
        if error is None:
            return
        hold = budget.hold_after(error, now)
        if hold is not None and (call.credential is not None or not budget.is_credential(hold)):
            error.retry_at = hold.until
            self._egress.impose(call.scope if budget.is_credential(hold) else ADDRESS, hold)
        raise error


def _read(answer: Answer, read: Callable[[Answer], T]) -> T:
    try:
        return read(answer)
    except (MalformedAccountError, MalformedAnswerError) as exc:
        raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None
