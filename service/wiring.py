"""Builds and joins every part of a gateway: all of them at the start, clients and caches again when settings change."""

# The order of `build`: first what leads outside (Redis, the ledger over it, the exchange over both), then a store and a
# client for each credential, then the caches over those. Nothing connects and nothing is called yet: a fault of the
# settings shows before the first side effect. `close` goes the other way: caches release their leases through Redis.

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType

import httpx
from redis.asyncio import Redis

from service import __version__
from service.access.clients import Clients
from service.access.limits import RequestLimits
from service.access.waiting import WaitingRoom
from service.account.documents import ACCOUNT, DOCUMENTS
from service.cache import policy
from service.cache.account_cache import AccountCache
from service.cache.flight import cancel_and_wait
from service.cache.ports import ActiveCredential
from service.cache.savings import weight_saved
from service.clock import Clock
from service.exchange.account_client import AccountClient
from service.exchange.clock import ExchangeClock
from service.exchange.gate import ADDRESS, AddressBudget, Gate
from service.exchange.public_api import PublicApi
from service.exchange.signing import Credential, read_credential
from service.exchange.transport import open_client
from service.fleet.shared_state import Notification
from service.gateway import Config, Gateway
from service.kubernetes import api_server
from service.kubernetes.api_server import ApiServer
from service.kubernetes.reviews import TokenReviews
from service.settings import Settings
from service.settings_file import secrets_of
from service.store.documents import DocumentStore
from service.store.exchange_info import RedisExchangeInfo
from service.store.guard import RedisGuard, connect
from service.store.keys import document_keys, egress_keys, exchange_info_key, heartbeat_key
from service.store.ledger import EgressLedger
from service.store.notifications import Notifications
from service.telemetry.audit import AuditLog
from service.telemetry.logs import Redactor
from service.telemetry.metrics import Metrics
from service.telemetry.sinks import sink_of

NOT_A_NUMBER = float("nan")


def build(
    settings: Settings,
    transport: httpx.AsyncBaseTransport | None,
    redis: Redis | None,
    clock: Clock,
    cluster: httpx.AsyncBaseTransport | None = None,
) -> Gateway:
    """The gateway's parts, joined; neither Redis nor the exchange is called yet. The arguments are as in `create_app`.

    Raises:
        SettingsError: a secret file is not what is expected.
    """
    metrics, exchange_clock, redactor = Metrics(), ExchangeClock(clock), Redactor(secrets_of(settings))
    credentials = {name: read_credential(name, account) for name, account in settings.accounts.items()}
    guard = RedisGuard(redis if redis is not None else connect(settings.redis), clock, metrics)
    address_keys = egress_keys(settings)
    ledger = EgressLedger(guard, address_keys, exchange_clock)
    exchange_info = RedisExchangeInfo(guard, exchange_info_key(settings))
    open_http = partial(open_client, settings.exchange, transport)
    gate = Gate(open_http(), AddressBudget(settings.exchange, exchange_clock), ledger, metrics)
    public_api = PublicApi(settings.exchange, gate, exchange_info)

    def open_credential(account: str, credential: Credential) -> ActiveCredential:
        client = AccountClient(account, credential, public_api, open_http)
        keys = {document: document_keys(settings, account, document) for document in DOCUMENTS}
        stores = {
            document: DocumentStore(guard, each, address_keys, exchange_clock, client.identity)
            for document, each in keys.items()
        }
        return ActiveCredential(client, stores)

    audit = None
    if settings.audit is not None:
        sink = sink_of(settings.audit.file)
        audit = AuditLog(settings.audit, sink, redactor, metrics.audit_lines_dropped.inc)
    reviews = None
    if settings.kubernetes is not None:
        server = ApiServer(settings.kubernetes, api_server.open_client(settings.kubernetes, cluster))
        reviews = TokenReviews(settings.kubernetes.audience, server, clock, metrics)
    gateway = Gateway(
        config=config_of(settings, credentials, open_credential, metrics),
        clock=clock,
        metrics=metrics,
        limits=RequestLimits(settings.exchange.expected_replicas),
        waiting=WaitingRoom("refresh", settings.server.waiters, metrics),
        queue=WaitingRoom("turn", settings.server.waiters, metrics),
        exchange=public_api,
        redis=guard,
        ledger=ledger,
        open_credential=open_credential,
        open_http=open_http,
        redactor=redactor,
        reviews=reviews,
        audit=audit,
    )
    _observe(gateway)
    return gateway


def config_of(
    settings: Settings,
    credentials: Mapping[str, Credential],
    open_credential: Callable[[str, Credential], ActiveCredential],
    metrics: Metrics,
    kept: Mapping[str, AccountCache] = MappingProxyType({}),
) -> Config:
    """What these settings amount to; `kept`: the caches of accounts that are there already, by account."""
    caches = {
        account: kept.get(account)
        or AccountCache(
            account,
            open_credential(account, credential),
            settings.accounts[account].freshness,
            settings.exchange.timeout.seconds,
            metrics,
        )
        for account, credential in credentials.items()
    }
    return Config(settings, Clients(settings.clients, settings.accounts), caches)


@asynccontextmanager
async def fleet_notifications(gateway: Gateway) -> AsyncGenerator[None, None]:
    """While it lasts, receive what other replicas announce, and check whether Redis answers."""
    channel = document_keys(gateway.config.settings, "").channel
    # Without a message: while Redis was unavailable any announcement may have been lost, and so may what Redis held.
    gateway.redis.on_back = partial(_on_notification, gateway, None)
    notifications = Notifications(gateway.redis.redis, channel, partial(_on_notification, gateway))
    tasks = [
        asyncio.create_task(notifications.listen()),
        asyncio.create_task(gateway.redis.beat(heartbeat_key(gateway.config.settings))),
    ]
    try:
        yield
    finally:
        for task in tasks:
            await cancel_and_wait(task)
        gateway.redis.on_back = lambda: None  # the caches are about to close


def _on_notification(gateway: Gateway, message: bytes | None) -> None:
    """An account's state has changed, or another replica requests a refresh; no message: any state may have changed."""
    if message is None:
        for cache in gateway.config.caches.values():
            cache.on_notification()
        return
    notification = Notification.decode(message)
    # None: it is malformed. An unknown account: another replica has other settings, as in the middle of a rollout.
    if notification is not None and notification.account in gateway.config.caches:
        gateway.config.caches[notification.account].receive(notification)


async def close(gateway: Gateway) -> None:
    """End the refreshes under way, and close every connection."""
    await asyncio.gather(*(cache.close() for cache in gateway.config.caches.values()))
    if gateway.reviews is not None:
        await gateway.reviews.close()
    await gateway.exchange.close()
    await gateway.redis.close()


def _observe(gateway: Gateway) -> None:
    """Gauges of values that are read at a scrape rather than counted."""
    metrics, exchange = gateway.metrics, gateway.exchange
    environment = gateway.config.settings.environment
    metrics.info("build_info", "The release, and the environment.", version=__version__, environment=environment)
    metrics.gauge(
        "exchange_used_weight",
        "Request weight used on our address this minute.",
        lambda: exchange.address.used,
    )
    metrics.gauge("exchange_weight_ceiling", "What may be used of it.", lambda: exchange.address.ceiling)
    metrics.gauge(
        "exchange_not_before_seconds",
        "Seconds until the exchange may be asked again; 0: now.",
        lambda: max(0, exchange.address.cooldown(ADDRESS).until - exchange.clock.now()) / 1000,
    )
    metrics.gauge(
        "exchange_clock_offset_seconds",
        "How far the exchange is ahead of this machine's clock.",
        lambda: NOT_A_NUMBER if exchange.clock.skew is None else exchange.clock.skew / 1000,
    )
    metrics.gauge("redis_up", "Whether the last Redis operation worked.", lambda: gateway.redis.up)
    audit = gateway.audit
    metrics.gauge(
        "audit_failing",
        "Whether audit lines can't be written now.",
        lambda: audit is not None and audit.failing,
    )
    metrics.gauge(
        "connection_limit", "Callers' connections that are accepted at a time.", lambda: gateway.connection_limit
    )
    metrics.gauge(
        "connections_waiting",
        "Callers' connections that wait to be accepted because there are too many.",
        lambda: gateway.connections_waiting,
    )
    metrics.gauge("waiting_reads", "Reads that wait for a refresh.", lambda: gateway.waiting.waiting)
    metrics.gauge("queued_requests", "Requests that wait to be begun.", lambda: gateway.queue.waiting)
    metrics.gauge("ready", "Whether the replica is ready.", lambda: not gateway.draining)
    metrics.client_counter(
        "weight_saved",
        "Request weight of calls that a snapshot spared, by its reader.",
        lambda: weight_saved(metrics.cache_results.counts()),
    )
    metrics.document_gauge(
        "snapshot_age_seconds",
        "Age of the snapshot in memory; of an account's further documents, only those that have one.",
        lambda: {
            (name, document.name): NOT_A_NUMBER if (age := state.age) is None else age / 1000
            for name, cache in gateway.config.caches.items()  # those of this moment: a reload replaces them
            for document, state in cache.state.documents.items()
            if document is ACCOUNT or state.snapshot is not None
        },
    )
    metrics.document_gauge(
        "snapshot_objective_seconds",
        "Age that no answer has unless it is marked: fresh_for and stale_while_revalidate.",
        lambda: {
            (name, document.name): policy.windows(document, account.freshness).revalidate_until / 1000
            for name, account in gateway.config.settings.accounts.items()
            for document in DOCUMENTS
        },
    )
    metrics.account_gauge(
        "credential_refused",
        "Whether the exchange has rejected the credential in use, which is not tried again for a while.",
        lambda: {
            name: float(cache.source.credential_cooldown.until > exchange.clock.now())
            for name, cache in gateway.config.caches.items()
        },
    )
    metrics.account_gauge(
        "credential_pending",
        "Whether a new credential waits for the exchange to accept it.",
        lambda: {name: float(cache.rotation.pending) for name, cache in gateway.config.caches.items()},
    )
