"""The exchange on a real socket: uvicorn inside the running event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from simulator.asgi import TRANSPORT_EXTENSION, Receive, Scope, Send

# Held and hanging answers must not keep a stopping server; uvicorn cancels them after this many seconds.
GRACE_SECONDS = 1


class TransportProtocol(H11Protocol):
    """Tells the app its asyncio transport, so that a fault can reset the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed as by uvicorn
        super().connection_made(transport)
        app: Any = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[TRANSPORT_EXTENSION] = transport
            await app(scope, receive, send)

        self.app = with_transport


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. OSError: in use, or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def serving(
    app: Any, *, host: str = "127.0.0.1", port: int = 0, tls: tuple[Path, Path] | None = None
) -> AsyncIterator[str]:
    """Serve an ASGI app while the block runs; gives its base URL, `http://host:port`.

    `tls` is a certificate's file and its key's: then it is `https`.
    Signal handlers and logging stay as they are. OSError: the address can't be bound.
    """
    listener = bind(host, port)
    config = uvicorn.Config(
        app,
        http=TransportProtocol,
        interface="asgi3",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the address is the socket's, whatever a client claims
        server_header=False,  # the app sends Server and Date itself
        date_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    config.load()
    server = uvicorn.Server(config)
    # What Server.serve() does, without its signal handlers and its loop that ticks for the Date header.
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}"
    finally:
        await server.shutdown(sockets=[listener])
