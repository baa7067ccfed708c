"""The composition root: every part is built and joined here, and closed again when the app ends."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import httpx
import structlog
from litestar import Litestar
from litestar.types import Receive, Scope, Send
from redis.asyncio import Redis

from service.cache.flight import cancel_and_wait
from service.clock import Clock, SystemClock
from service.gateway import Gateway
from service.settings import Settings
from service.web.accounts import Accounts
from service.web.auditing import admit
from service.web.docs import Docs
from service.web.dropin import DropIn
from service.web.edge import Edge
from service.web.operations import Operations
from service.web.refusals import answer
from service.wiring import build, close, fleet_notifications, reviews_of

log = structlog.get_logger("coinm.process")

CLOSING = 0.75
"""Seconds for the leases to go back and for what is yet to be told to Redis, each of which has 250 ms."""


class App:
    """The gateway as an ASGI application."""

    def __init__(self, gateway: Gateway, litestar: Litestar) -> None:
        self.gateway = gateway
        self.litestar = litestar
        self.edge = Edge(litestar, gateway)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.edge(scope, receive, send)

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """For servers and tests that don't speak ASGI's lifespan."""
        return self.litestar.lifespan()

    @asynccontextmanager
    async def duties(self) -> AsyncGenerator[None, None]:
        """While it lasts, the gateway keeps up by itself what callers of the public paths ask for.

        Beside the lifespan, not in it: who drives the app by hand decides of every call to the exchange.
        """
        upkeep = asyncio.create_task(self.gateway.exchange.public.run())
        try:
            yield
        finally:
            await cancel_and_wait(upkeep)


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    redis: Redis | None = None,
    clock: Clock | None = None,
    cluster: httpx.AsyncBaseTransport | None = None,
) -> App:
    """The gateway for these settings; `transport`, `redis`, `clock` and `cluster` are the seams to the world outside.

    Raises:
        SettingsError: a secret file is not what is expected.
    """
    gateway = build(settings, transport, redis, clock or SystemClock())
    gateway.reviews = reviews_of(gateway, cluster)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        app.state.gateway = gateway
        try:
            async with gateway.audit.running() if gateway.audit else nullcontext(), fleet_notifications(gateway):
                yield
        finally:
            try:
                async with asyncio.timeout(CLOSING):
                    await close(gateway)
            except TimeoutError:
                log.warning("closing_unfinished")  # leases that were not given back end by themselves

    litestar = Litestar(
        route_handlers=[Accounts, DropIn, Operations, Docs],
        lifespan=[lifespan],
        before_request=admit,
        exception_handlers={Exception: answer},
        openapi_config=None,
        logging_config=None,  # its default would log at INFO what httpx asks for, signatures included
        debug=False,
        pdb_on_exception=False,
        request_max_body_size=16 * 1024,  # nothing here takes a body
    )
    return App(gateway, litestar)
