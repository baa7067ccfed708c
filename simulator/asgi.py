"""Requests and replies as values, and how they get on the wire (ASGI 3)."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from email.utils import formatdate
from enum import Enum
from typing import Any, Self

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
HTML = b"text/html"
TRANSPORT_EXTENSION = "simulator.transport"

# A control body is a few settings, or one raw account body; the largest real one is planned at 256 KiB.
MAX_CONTROL_BODY_BYTES = 16 * 1024 * 1024


class Request(msgspec.Struct, frozen=True):
    """What the exchange looks at: the query is the raw bytes after `?`, header names are lower case."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    client: str

    @classmethod
    def from_scope(cls, scope: Scope) -> Self:
        peer = scope.get("client")
        return cls(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"],
            headers={name.lower(): value for name, value in scope["headers"]},
            client=peer[0] if peer else "unknown",
        )

    @property
    def api_key(self) -> str | None:
        value = self.headers.get(b"x-mbx-apikey")
        return None if value is None else value.decode("latin-1")


class Ending(Enum):
    """How an answer leaves: whole, cut off in the body, or not at all."""

    WHOLE = "whole"
    TRUNCATED = "truncated"
    RESET = "reset"


class Reply(msgspec.Struct, frozen=True):
    """One answer: `delay` is seconds before it, `hangs` keeps it until somebody releases it."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    delay: float = 0
    hangs: bool = False
    ending: Ending = Ending.WHOLE


def json_reply(content: object, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(content))


def error(status: int, code: int, text: str) -> Reply:
    """The exchange's error body, compact: `{"code":-1021,"msg":"…"}` ("COIN-M docs, error codes")."""
    return json_reply({"code": code, "msg": text}, status)


async def read_body(receive: Receive) -> bytes | None:
    """The request's body, or None if it is larger than `MAX_CONTROL_BODY_BYTES` or the client left."""
    body = b""
    while len(body) <= MAX_CONTROL_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
    return None


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def outlasts(wait: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Whether *wait* ended before the client left. Cancelled with its caller, both tasks included."""
    waiting = asyncio.ensure_future(wait)
    leaving = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return False
        waiting.result()
        return True
    finally:
        waiting.cancel()
        leaving.cancel()


def _head(reply: Reply, now_ms: int) -> Message:
    headers = [
        (b"date", formatdate(now_ms / 1000, usegmt=True).encode()),
        (b"server", b"Tengine"),  # what a futures reply called its server
        *reply.headers,
    ]
    if reply.status != 204:  # RFC 9110 §8.6: no Content-Length in a 204
        headers += [(b"content-type", reply.content_type), (b"content-length", str(len(reply.body)).encode())]
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


async def deliver(reply: Reply, scope: Scope, receive: Receive, send: Send, *, now_ms: int) -> None:
    """Send *reply* the way it ends.

    A reset or truncated answer ends the connection through the asyncio transport that the server put
    into the scope; in process, where there is none, it raises ConnectionResetError.
    """
    if reply.ending is not Ending.RESET:
        await send(_head(reply, now_ms))
        whole = reply.ending is Ending.WHOLE
        body = reply.body if whole else reply.body[: len(reply.body) // 2]
        await send({"type": "http.response.body", "body": body, "more_body": not whole})
    if reply.ending is not Ending.WHOLE:
        await _hang_up(scope, receive, reset=reply.ending is Ending.RESET)


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool) -> None:
    transport: asyncio.Transport | None = scope.get("extensions", {}).get(TRANSPORT_EXTENSION)
    if transport is None:
        raise ConnectionResetError("the simulated exchange hung up")
    if reset:
        _reset(transport)
    else:
        # Not a reset: that may throw away bytes the client has not read yet.
        transport.close()
    await disconnected(receive)  # else the server would complain of an unfinished answer


def _reset(transport: asyncio.Transport) -> None:
    """Close with an RST: lingering on for zero seconds makes close() discard instead of finishing."""
    # A duplicate, since uvloop's socket stand-in has no setsockopt; options belong to the open socket.
    duplicate = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=duplicate) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
