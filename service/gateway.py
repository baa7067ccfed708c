"""Everything a request may need, wired once: what `app` builds and `web` reads."""

from collections.abc import Callable, Mapping

import msgspec

from service.access.clients import Clients
from service.access.limits import RequestLimits
from service.access.waiting import WaitingRoom
from service.cache.account_cache import AccountCache
from service.cache.ports import ActiveCredential
from service.clock import Clock
from service.exchange.client import ExchangeClient
from service.exchange.signing import Credential
from service.exchange.wallet_api import WalletApi
from service.kubernetes.reviews import TokenReviews
from service.settings import Settings
from service.store.guard import RedisGuard
from service.store.ledger import EgressLedger
from service.telemetry.audit import AuditLog
from service.telemetry.logs import Redactor
from service.telemetry.metrics import Metrics


class Gateway(msgspec.Struct):
    """One running gateway."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    clients: Clients
    limits: RequestLimits
    waiting: WaitingRoom
    """Reads that wait for a refresh."""
    queue: WaitingRoom
    """Requests that wait to be begun."""
    exchange: ExchangeClient
    wallet: WalletApi
    redis: RedisGuard
    ledger: EgressLedger
    open_credential: Callable[[str, Credential], ActiveCredential]
    """An account under a credential."""
    caches: Mapping[str, AccountCache]
    """By account. Replaced as a whole when settings change, like `settings` and `clients`."""
    redactor: Redactor
    """Masks in the log and the audit log what it knows to be secret."""
    reviews: TokenReviews | None = None
    """None: no ServiceAccount may call."""
    audit: AuditLog | None = None
    connection_limit: int = 0
    """Callers' connections that are accepted at a time; 0: nothing is served yet."""
    connections_waiting: int = 0
    """Callers' connections that wait to be accepted, at the last look."""
    draining: bool = False
    """Whether it has been told to stop: not ready, and every answer closes its connection."""
