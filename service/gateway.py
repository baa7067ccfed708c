"""Everything a request may need: `wiring` builds it, `web` reads it."""

# A handler takes what it needs from `config` without an `await` in between, and again after one. A reload replaces the
# whole of it: what a handler keeps over an `await` may be old, but it is never half new. An account that stays keeps
# its cache.

from collections.abc import Callable, Mapping

import msgspec

from service.access.clients import Clients
from service.access.limits import RequestLimits
from service.access.waiting import WaitingRoom
from service.cache.account_cache import AccountCache
from service.cache.ports import ActiveCredential
from service.clock import Clock
from service.exchange.public_api import PublicApi
from service.exchange.signing import Credential
from service.exchange.transport import HttpClient
from service.kubernetes.reviews import TokenReviews
from service.settings import Settings
from service.store.guard import RedisGuard
from service.store.ledger import EgressLedger
from service.telemetry.audit import AuditLog
from service.telemetry.logs import Redactor
from service.telemetry.metrics import Metrics


class Config(msgspec.Struct, frozen=True):
    """What a reload replaces, in one assignment."""

    settings: Settings
    clients: Clients
    caches: Mapping[str, AccountCache]
    """By account."""


class Gateway(msgspec.Struct):
    """One running gateway."""

    config: Config
    clock: Clock
    metrics: Metrics
    limits: RequestLimits
    waiting: WaitingRoom
    """Reads that wait for a refresh."""
    queue: WaitingRoom
    """Requests that wait for their turn to begin."""
    exchange: PublicApi
    """The exchange without an account: its time and contracts, and the budget of the address."""
    redis: RedisGuard
    ledger: EgressLedger
    open_credential: Callable[[str, Credential], ActiveCredential]
    """By account name and credential: what a rotation activates."""
    open_http: Callable[[str | None], HttpClient]
    """By base URL: a client of the exchange (`None`) or of another host of it."""
    redactor: Redactor
    """Masks known secrets in the log and the audit log."""
    reviews: TokenReviews | None = None
    """None: no ServiceAccount may call."""
    audit: AuditLog | None = None
    connection_limit: int = 0
    """Callers' connections that are accepted at a time; 0: nothing is served yet."""
    connections_waiting: int = 0
    """Callers' connections that wait to be accepted, at the last reading."""
    draining: bool = False
    """Whether a stop was requested: not ready, and every answer closes its connection."""
