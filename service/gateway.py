"""Everything a request may need, wired once: what `app` builds and `web` reads."""

from collections.abc import Mapping

import msgspec

from service.access.clients import Clients
from service.access.limits import RequestLimits
from service.cache.keeper import SnapshotKeeper
from service.clock import Clock
from service.exchange.client import ExchangeClient
from service.exchange.wallet import Wallet
from service.settings import Settings
from service.store.accounts import AccountStore
from service.store.connection import Link
from service.store.ledger import EgressLedger
from service.telemetry.metrics import Metrics


class Gateway(msgspec.Struct):
    """One running gateway."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    clients: Clients
    limits: RequestLimits
    exchange: ExchangeClient
    wallet: Wallet
    redis: Link
    ledger: EgressLedger
    stores: Mapping[str, AccountStore]
    """By account, like the keepers."""
    keepers: Mapping[str, SnapshotKeeper]
    draining: bool = False
    """Whether it has been told to stop: not ready, and every answer closes its connection."""
    weight_saved: int = 0
    """Since the start: what the answers from a snapshot would have cost at the exchange."""
