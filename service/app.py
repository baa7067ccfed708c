"""The composition root: it builds the gateway, puts Litestar in front of it, and closes it when the app ends."""

# Who runs what, and for how long:
#
#     lifespan            announcements and the heartbeat of Redis, the audit log; closes the gateway at its end. A test
#                         enters it too, through `App.lifespan`
#     background_tasks    calls to the exchange that no request begins. Only a serving process enters it, so a test that
#                         drives the app by hand decides on every call
#     request             `Edge` first: it answers most reads itself and hands the rest to Litestar

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
from service.web.accounts import ACCOUNTS
from service.web.auditing import admit
from service.web.docs import Docs
from service.web.dropin import DROP_IN
from service.web.edge import Edge
from service.web.operations import Operations
from service.web.reads import Reads
from service.web.refusals import answer
from service.wiring import build, close, fleet_notifications

log = structlog.get_logger("coinm.process")

CLOSING_S = 0.75
"""Seconds for releasing leases and for other last writes to Redis, each of which has 250 ms."""


class App:
    """The gateway as an ASGI application."""

    def __init__(self, gateway: Gateway, litestar: Litestar, reads: Reads) -> None:
        self.gateway = gateway
        self.litestar = litestar
        self.edge = Edge(litestar, gateway, reads)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.edge(scope, receive, send)

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """For servers and tests that don't speak ASGI's lifespan."""
        return self.litestar.lifespan()

    @asynccontextmanager
    async def background_tasks(self) -> AsyncGenerator[None, None]:
        """While it lasts, the gateway refreshes what callers of the public paths use."""
        upkeep = asyncio.create_task(self.gateway.exchange.run())
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
    gateway = build(settings, transport, redis, clock or SystemClock(), cluster)
    reads = Reads(gateway)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        app.state.gateway, app.state.reads = gateway, reads
        try:
            async with gateway.audit.running() if gateway.audit else nullcontext(), fleet_notifications(gateway):
                yield
        finally:
            try:
                async with asyncio.timeout(CLOSING_S):
                    await close(gateway)
            except TimeoutError:
                log.warning("closing_unfinished")  # leases that were not released expire by themselves

    litestar = Litestar(
        route_handlers=[*ACCOUNTS, DROP_IN, Operations, Docs],
        lifespan=[lifespan],
        before_request=admit,
        exception_handlers={Exception: answer},
        openapi_config=None,
        logging_config=None,  # its default would log httpx's requests at INFO, signatures included
        debug=False,
        pdb_on_exception=False,
        request_max_body_size=16 * 1024,  # nothing here takes a body
    )
    return App(gateway, litestar, reads)
