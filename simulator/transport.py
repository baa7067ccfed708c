"""A simulated server in process, failing as httpx would report it over a socket."""

import asyncio
from collections.abc import AsyncIterator

import httpx

from simulator.asgi import App, Message, Receive, Scope, Send
from simulator.exchange import Exchange

# Bodies arrive in pieces, as from a socket, so that a client which bounds what it reads is exercised.
CHUNK_BYTES = 64 * 1024


class _Body(httpx.AsyncByteStream):
    """The bytes that were sent; torn ones end as a connection that closes too early."""

    def __init__(self, content: bytes, request: httpx.Request, *, torn: bool) -> None:
        self._content = content
        self._request = request
        self._torn = torn

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), CHUNK_BYTES):
            yield self._content[start : start + CHUNK_BYTES]
        if self._torn:
            raise httpx.RemoteProtocolError(
                "peer closed connection without sending complete message body", request=self._request
            )


class _Attempt:
    """One request's way through the app, and whether the connection broke in the body."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.torn = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def notice(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, notice)
        except ConnectionResetError:
            if not started:
                raise
            self.torn = True
            await send({"type": "http.response.body"})


class AppTransport(httpx.AsyncBaseTransport):
    """Give to `httpx.AsyncClient(transport=…)`; any host name reaches the app.

    Args:
        app: The server.
        client: The address and port it sees; several transports with several addresses can share one server.

    Raises what a socket would: httpx.ConnectError while `down`, httpx.ReadError for a reset,
    httpx.RemoteProtocolError for a body cut short (while it is read), httpx.ReadTimeout when the answer takes
    longer than the request's read timeout (the server then sees the client leave).
    """

    def __init__(self, app: App, client: tuple[str, int] = ("127.0.0.1", 50_000)) -> None:
        self._app = app
        self.client = client
        self.down = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("All connection attempts failed", request=request)
        attempt = _Attempt(self._app)
        seconds = request.extensions.get("timeout", {}).get("read")
        try:
            async with asyncio.timeout(seconds):
                response = await httpx.ASGITransport(attempt, client=self.client).handle_async_request(request)
        except TimeoutError as exc:
            raise httpx.ReadTimeout("", request=request) from exc
        except ConnectionResetError as exc:
            raise httpx.ReadError("", request=request) from exc
        content = await response.aread()
        body = _Body(content, request, torn=attempt.torn)
        return httpx.Response(response.status_code, headers=response.headers, stream=body)


class SimulatorTransport(AppTransport):
    """The way to a simulated exchange."""

    def __init__(self, exchange: Exchange, client: tuple[str, int] = ("127.0.0.1", 50_000)) -> None:
        super().__init__(exchange, client)
        self.exchange = exchange
