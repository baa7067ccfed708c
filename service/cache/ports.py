"""What the cache needs of the rooms around it, and the values it hands out."""

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

import msgspec

from service.account.selection import Views
from service.account.snapshot import Snapshot
from service.cache.policy import RefreshReason, ServeReason, Windows
from service.exchange.budget import Barrier, Cooldown
from service.exchange.client import Fetched
from service.exchange.clock import ExchangeClock
from service.exchange.errors import ExchangeError
from service.exchange.ports import Cooldowns
from service.store.entries import Bond, Cleared, Entry, Failed, LeaseRequest, Lineage, SharedState, StoreResult

Result: TypeAlias = ServeReason | Literal["stored", "collapsed"]
"""How a read was met: `stored` by the refresh it caused, `collapsed` by one that another caused."""

Outcome: TypeAlias = Literal["fetched", "joined", "adopted", "barred"]
"""How a refresh ended that did not fail: `joined` another replica's call, `adopted` what was there already;
`barred`: it turned out that the exchange can't be asked now."""


class Source(Protocol):
    """One account at the exchange."""

    clock: ExchangeClock
    fingerprint: str
    """What the credential is called."""
    identity: str
    """What tells it from every other: a digest of its key and secret."""

    async def fetch(self, *, forced: bool) -> Fetched: ...

    def barrier(self, *, forced: bool) -> Barrier | None: ...

    async def reconcile(self, holds: Cooldowns) -> None: ...

    async def close(self) -> None: ...

    def degrade(self, *, degraded: bool) -> None: ...

    @property
    def margin_assets(self) -> Mapping[str, str] | None: ...

    @property
    def credential_cooldown(self) -> Cooldown: ...


class SharedStore(Protocol):
    """What the replicas share about the account; nothing raises while it is away, `None` says so."""

    async def read_state(self, known: int) -> SharedState | None: ...

    async def try_acquire(self, known: int, wanted: LeaseRequest) -> SharedState | None: ...

    async def renew(self, token: str, *, in_time: bool) -> bool | None: ...

    async def release(self, token: str) -> None: ...

    async def store_fenced(
        self, entry: Entry, remaining: int, token: str, replaced: str = ""
    ) -> StoreResult | None: ...

    async def record_failure(self, failed: Failed, token: str) -> None: ...

    async def claim(self, milliseconds: int) -> bool | None: ...

    async def link(self, replaced: str, bond: Bond = "lasting") -> None: ...

    async def clear(self) -> Cleared: ...

    def request_refresh(self, max_age_ms: int) -> None: ...

    @property
    def followed(self) -> str:
        """Whose snapshot is read: its own credential's, or the one's that replaced it."""
        ...


class ActiveCredential:
    """The time in office of one credential of the account; a rotation ends it and begins another.

    Args:
        source: asks the exchange with it.
        shared: what the replicas share, as this credential may see and change it.
    """

    def __init__(self, source: Source, shared: SharedStore) -> None:
        self.source = source
        self.shared = shared
        self.lineage = Lineage()
        """How the credential stood among the others when this replica looked last."""
        self.replaced = ""
        """The identity of the one that was in office before it in this process; empty: it was the first."""
        self.strangers = False
        """Whether others used it before this process did, who may have nothing to do with the one before it."""
        self.bond: Bond = "none"
        """The link that leads from the one before it to it."""

    @property
    def superseded(self) -> bool:
        """Whether one that replaced it was in use when this replica looked last."""
        return self.lineage.superseded


class CacheSettings(msgspec.Struct, frozen=True):
    """What tells one cache from another."""

    account: str
    windows: Windows
    timeout: float
    """Seconds a refresh takes at the most."""


class Held(msgspec.Struct, frozen=True):
    """The snapshot in memory."""

    snapshot: Snapshot
    views: Views
    asked: int
    """When the exchange was asked, monotonic ms of this process."""
    margin_assets: Mapping[str, str]
    identity: str
    """Of the credential that asked for it, or that found it shared."""


class Served(msgspec.Struct, frozen=True):
    """A snapshot that meets a demand, and how it came."""

    held: Held
    age: int
    """Ms since the exchange was asked."""
    ttl: int
    """Ms of freshness left; negative: stale by so much."""
    result: Result
    refresh: RefreshReason | None = None
    """Why a refresh was waited for, if one was."""
    answered: int | None = None
    """The exchange's status, where a failed refresh is behind a stale answer."""


class RefreshWait(msgspec.Struct, frozen=True):
    """What came of waiting for a refresh."""

    reason: RefreshReason
    initiated: bool
    """Whether the refresh was begun for this caller."""
    outcome: Outcome | None = None
    failure: ExchangeError | None = None


class LastRefresh(msgspec.Struct, frozen=True):
    """The last attempt: when (epoch ms on the exchange's clock), and `ok` or the problem type."""

    at: int
    outcome: str
    detail: str | None = None
    """What the problem was."""
