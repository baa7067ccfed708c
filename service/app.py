"""The composition root: every part is built and joined here, and closed again when the app ends."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import httpx
from litestar import Litestar
from litestar.types import Receive, Scope, Send
from redis.asyncio import Redis

from service.access.clients import Client, Clients
from service.access.grants import Grant
from service.access.limits import RequestLimits
from service.cache.flight import end
from service.cache.keeper import SnapshotKeeper
from service.cache.policy import Windows
from service.cache.ports import KeeperSettings
from service.clock import Clock, SystemClock
from service.exchange.client import ExchangeClient, Way
from service.exchange.clock import ExchangeClock
from service.exchange.egress import ADDRESS
from service.exchange.signing import read_credential
from service.exchange.source import AccountSource
from service.exchange.transport import open_client
from service.gateway import Gateway
from service.settings import Client as ClientSettings
from service.settings import ClientGrant, Settings
from service.store.accounts import AccountStore
from service.store.announcements import Announcements
from service.store.connection import Link, connect
from service.store.ledger import EgressLedger
from service.store.listings import ListingStore, listing_key
from service.store.scripts import Scripts, account_keys, egress_keys, heartbeat_key
from service.telemetry.metrics import Metrics
from service.web.accounts import Accounts
from service.web.docs import Docs
from service.web.dropin import DropIn
from service.web.edge import Edge
from service.web.operations import Operations
from service.web.refusals import answer

NOT_A_NUMBER = float("nan")


class App:
    """The gateway as an ASGI application."""

    def __init__(self, gateway: Gateway, litestar: Litestar) -> None:
        self.gateway = gateway
        self._litestar = litestar
        self._edge = Edge(litestar, gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._edge(scope, receive, send)

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """For servers and tests that don't speak ASGI's lifespan."""
        return self._litestar.lifespan()

    @asynccontextmanager
    async def duties(self) -> AsyncGenerator[None, None]:
        """While it lasts, the gateway keeps up by itself what callers of the public paths ask for.

        Beside the lifespan, not in it: who drives the app by hand decides of every call to the exchange.
        """
        upkeep = asyncio.create_task(self.gateway.exchange.public.run())
        try:
            yield
        finally:
            await end(upkeep)


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    redis: Redis | None = None,
    clock: Clock | None = None,
) -> App:
    """The gateway for these settings; `transport`, `redis` and `clock` are the seams to the world outside.

    Raises:
        SettingsError: a secret file is not what is expected.
    """
    gateway = build(settings, open_client(settings.exchange, transport), redis, clock or SystemClock())

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        app.state.gateway = gateway
        try:
            async with in_touch(gateway):
                yield
        finally:
            await close(gateway)

    litestar = Litestar(
        route_handlers=[Accounts, DropIn, Operations, Docs],
        lifespan=[lifespan],
        exception_handlers={Exception: answer},
        openapi_config=None,
        logging_config=None,  # its default would log at INFO what httpx asks for, signatures included
        debug=False,
        pdb_on_exception=False,
        request_max_body_size=16 * 1024,  # nothing here takes a body
    )
    return App(gateway, litestar)


def build(settings: Settings, http: httpx.AsyncClient, redis: Redis | None, clock: Clock) -> Gateway:
    """The gateway's parts, joined; nothing is asked of Redis or the exchange yet.

    Raises:
        SettingsError: a secret file is not what is expected.
    """
    metrics, exchange_clock = Metrics(), ExchangeClock(clock)
    credentials = {name: read_credential(account) for name, account in settings.accounts.items()}
    link = Link(redis if redis is not None else connect(settings.redis), clock, metrics)
    scripts = Scripts(link.redis)
    keys = {name: account_keys(settings, name, each.identity) for name, each in credentials.items()}
    stores = {name: AccountStore(link, scripts, keys[name], each.identity) for name, each in credentials.items()}
    ledger = EgressLedger(link, scripts, egress_keys(settings, keys), exchange_clock)
    listings = ListingStore(link, listing_key(settings))
    exchange = ExchangeClient(settings.exchange, exchange_clock, Way(http, ledger, listings), metrics)
    sources = {name: AccountSource(exchange, name, credential) for name, credential in credentials.items()}
    limits = {name: each.requests_per_second for name, each in settings.clients.items() if each.requests_per_second}
    gateway = Gateway(
        settings=settings,
        clock=clock,
        metrics=metrics,
        clients=Clients([_client(name, each) for name, each in settings.clients.items()], settings.accounts),
        limits=RequestLimits(limits, settings.exchange.expected_replicas),
        exchange=exchange,
        redis=link,
        ledger=ledger,
        stores=stores,
        keepers={
            name: SnapshotKeeper(_keeping(settings, name), source, stores[name], metrics)
            for name, source in sources.items()
        },
    )
    _observe(gateway)
    return gateway


@asynccontextmanager
async def in_touch(gateway: Gateway) -> AsyncGenerator[None, None]:
    """While it lasts, what other replicas announce is heard, and whether Redis answers is noticed."""
    keepers = {gateway.stores[name].keys.snapshot: keeper for name, keeper in gateway.keepers.items()}
    channel = next(iter(gateway.stores.values())).keys.channel
    gateway.redis.on_back = partial(_hear, keepers, None)  # so that what it has lost is written back
    announcements = Announcements(gateway.redis.redis, channel, partial(_hear, keepers))
    tasks = [
        asyncio.create_task(announcements.listen()),
        asyncio.create_task(gateway.redis.beat(heartbeat_key(gateway.settings))),
    ]
    try:
        yield
    finally:
        for task in tasks:
            await end(task)
        gateway.redis.on_back = _nobody


def _nobody() -> None:
    """Hears nothing any more."""


def _hear(keepers: Mapping[str, SnapshotKeeper], message: str | None) -> None:
    """An account's state has changed; without a message, any may have."""
    for name, keeper in keepers.items():
        if message in (None, name):
            keeper.hear()


async def close(gateway: Gateway) -> None:
    """End what is under way and hang up."""
    for keeper in gateway.keepers.values():
        await keeper.close()
    await gateway.exchange.close()
    await gateway.redis.close()


def _keeping(settings: Settings, account: str) -> KeeperSettings:
    freshness = settings.accounts[account].freshness
    windows = Windows(
        freshness.fresh_for,
        freshness.stale_while_revalidate,
        freshness.stale_if_error,
        freshness.min_refresh_interval,
    )
    return KeeperSettings(account, windows, settings.exchange.timeout.seconds)


def _client(name: str, settings: ClientSettings) -> Client:
    grants = {account: _grant(account, grant) for account, grant in settings.accounts.items()}
    return Client(name, tuple(settings.token_sha256), grants)


def _grant(account: str, grant: ClientGrant) -> Grant:
    return Grant(account, _names(grant.assets), _names(grant.position_sides))


def _names(listed: object) -> frozenset[str] | None:
    return frozenset(listed) if isinstance(listed, list) else None


def _observe(gateway: Gateway) -> None:
    """Gauges of what is read rather than counted."""
    metrics, exchange, keepers = gateway.metrics, gateway.exchange, gateway.keepers
    metrics.gauge(
        "exchange_used_weight",
        "Request weight used on our address this minute.",
        lambda: exchange.egress.used,
    )
    metrics.gauge("exchange_weight_ceiling", "What may be used of it.", lambda: exchange.egress.ceiling)
    metrics.gauge(
        "exchange_not_before_seconds",
        "Seconds until the exchange may be asked again; 0: now.",
        lambda: max(0, exchange.egress.hold(ADDRESS).until - exchange.clock.now()) / 1000,
    )
    metrics.gauge(
        "exchange_clock_offset_seconds",
        "How far the exchange is ahead of this machine's clock.",
        lambda: NOT_A_NUMBER if exchange.clock.skew is None else exchange.clock.skew / 1000,
    )
    metrics.gauge("redis_up", "Whether the last Redis operation worked.", lambda: gateway.redis.up)
    metrics.gauge("ready", "Whether the replica is ready.", lambda: not gateway.draining)
    metrics.account_gauge(
        "snapshot_age_seconds",
        "Age of the snapshot in memory.",
        {name: partial(_age, keeper) for name, keeper in keepers.items()},
    )


def _age(keeper: SnapshotKeeper) -> float:
    age = keeper.memory.age
    return NOT_A_NUMBER if age is None else age / 1000
