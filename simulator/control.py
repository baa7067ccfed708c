"""The JSON control API under /_sim/, in front of an exchange; `operations` has what it can do.

No weight, no record, no ban. Operations on an account take `?account=`, `main` if left out. A body that
doesn't fit is a 400 `{"error":…}` that names the field.
"""

from urllib.parse import parse_qs

import msgspec

from simulator.asgi import App, Receive, Reply, Request, Scope, Send, deliver, json_reply, read_body
from simulator.exchange import MAIN, Exchange
from simulator.operations import OPERATIONS, PREFIX, ControlRequest


def controllable(exchange: Exchange) -> App:
    """*exchange* as an app that also answers the control API."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            reply = await _respond(exchange, Request.from_scope(scope), receive)
            await deliver(reply, scope, receive, send, now_ms=exchange.now_ms())
        else:
            await exchange(scope, receive, send)

    return app


async def _respond(exchange: Exchange, request: Request, receive: Receive) -> Reply:
    operation = OPERATIONS.get((request.method, request.path))
    if operation is None:
        return _refusal(404, f"no {request.method} {request.path}; GET {PREFIX} lists what there is")
    raw = await read_body(receive)
    if raw is None:
        return _refusal(413, "the body is too large")
    account = parse_qs(request.query.decode("latin-1")).get("account", [MAIN])[0]
    try:
        body = raw if operation.body_type is bytes else msgspec.json.decode(raw or b"{}", type=operation.body_type)
        answer = operation.act(ControlRequest(exchange, account), body)
    except (ValueError, ArithmeticError) as exc:  # msgspec's errors are ValueErrors; Decimal's are not
        return _refusal(400, str(exc) or type(exc).__name__)
    return Reply(200, answer) if isinstance(answer, bytes) else json_reply(answer)


def _refusal(status: int, text: str) -> Reply:
    return json_reply({"error": text}, status)
