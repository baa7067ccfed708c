"""How a request to the JSON control API under /_sim/ is answered; `operations` has what it can do.

No weight, no record, no ban. Operations on an account take `?account=`, `main` if left out. A body that
doesn't fit is a 400 `{"error":…}` that names the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

import msgspec

from simulator.asgi import Receive, Reply, Request, json_reply, read_body
from simulator.book import Book

if TYPE_CHECKING:
    from simulator.exchange import Exchange  # it imports this module

PREFIX = "/_sim/"
Body = TypeVar("Body")


class Turn(msgspec.Struct, frozen=True):
    """One control request: the exchange, and the account it is about."""

    exchange: Any  # Exchange, which msgspec couldn't resolve at run time
    account: str

    @property
    def sim(self) -> Exchange:
        exchange: Exchange = self.exchange
        return exchange

    @property
    def book(self) -> Book:
        try:
            return self.sim.book(self.account)
        except KeyError as exc:
            raise ValueError(f"account {self.account} doesn't exist") from exc


class Operation(msgspec.Struct, frozen=True):
    """One method of one path; `act` gets the decoded body and returns what is answered as JSON."""

    does: str
    body_type: Any
    act: Callable[[Turn, Any], object]


OPERATIONS: dict[tuple[str, str], Operation] = {}


class Form(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A JSON body: camelCase names, no others."""


class Nothing(Form):
    """No body, or `{}`."""


def operation(
    method: str, path: str, does: str, body_type: type[Body]
) -> Callable[[Callable[[Turn, Body], object]], Callable[[Turn, Body], object]]:
    def register(act: Callable[[Turn, Body], object]) -> Callable[[Turn, Body], object]:
        OPERATIONS[method, PREFIX + path] = Operation(does, body_type, act)
        return act

    return register


async def respond(exchange: Exchange, request: Request, receive: Receive) -> Reply:
    """Do what a control request says."""
    operation = OPERATIONS.get((request.method, request.path))
    if operation is None:
        return _refusal(404, f"no {request.method} {request.path}; GET {PREFIX} lists what there is")
    raw = await read_body(receive)
    if raw is None:
        return _refusal(413, "the body is too large")
    account = parse_qs(request.query.decode("latin-1")).get("account", ["main"])[0]
    try:
        body = raw if operation.body_type is bytes else msgspec.json.decode(raw or b"{}", type=operation.body_type)
        answer = operation.act(Turn(exchange, account), body)
    except (ValueError, ArithmeticError) as exc:  # msgspec's errors are ValueErrors; Decimal's are not
        return _refusal(400, str(exc) or type(exc).__name__)
    return Reply(200, answer) if isinstance(answer, bytes) else json_reply(answer)


def _refusal(status: int, text: str) -> Reply:
    return json_reply({"error": text}, status)


def patched(current: msgspec.Struct, changes: dict[str, object]) -> Any:
    """*current* with the named fields changed; ValueError for a name or value that doesn't fit."""
    return msgspec.convert({**msgspec.to_builtins(current), **changes}, type(current))
