"""What the cache needs of the rooms around it, and the values it hands out."""

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

import msgspec

from service.account.documents import Document
from service.account.snapshot import Snapshot
from service.cache.policy import RefreshReason, ServeReason
from service.cache.wait_budget import WaitBudget
from service.fleet.budget import Barrier, Cooldown
from service.fleet.errors import Failure
from service.fleet.ledger import Cooldowns
from service.fleet.shared_state import Cleared, Entry, Failed, LeaseRequest, Lineage, LinkKind, SharedState, StoreResult

Result: TypeAlias = ServeReason | Literal["stored", "collapsed"]
"""How a read was met: `stored` by the refresh it caused, `collapsed` by one that another caused."""

Outcome: TypeAlias = Literal["fetched", "joined", "adopted", "barred"]
"""How a refresh ended that did not fail: `joined` another replica's call, `adopted` what was shared already; `barred`:
the exchange can't be called now."""


class ExchangeTime(Protocol):
    """The exchange's clock, as far as it is known, and a steady one; all in ms."""

    @property
    def offset(self) -> object | None:
        """How the exchange's clock differs from this machine's; `None`: not known."""
        ...

    @property
    def measured(self) -> bool:
        """Whether the offset was measured by this replica, and not only adopted."""
        ...

    def now(self) -> int: ...

    def monotonic(self) -> int: ...


class Upstream(Protocol):
    """One account at the exchange."""

    fingerprint: str
    """The credential's name in logs."""
    identity: str
    """Distinguishes it from every other credential: a digest of its key and secret."""

    @property
    def clock(self) -> ExchangeTime: ...

    async def fetch(self, document: Document, *, forced: bool) -> Snapshot: ...

    def barrier(self, document: Document, *, forced: bool) -> Barrier | None: ...

    async def reconcile(self, cooldowns: Cooldowns) -> None: ...

    async def close(self) -> None: ...

    def degrade(self, *, degraded: bool) -> None: ...

    @property
    def margin_assets(self) -> Mapping[str, str] | None: ...

    @property
    def credential_cooldown(self) -> Cooldown: ...


class SharedStore(Protocol):
    """What the replicas share about one document of the account, and of its credentials.

    `None`: Redis is unavailable; then only `clear` raises.

    All operations of a refresh's round share one `budget`; an operation that gets none has one of its own.
    """

    async def read_state(self, known_request_time: int, budget: WaitBudget | None = None) -> SharedState | None: ...

    async def try_acquire(
        self, known_request_time: int, wanted: LeaseRequest, budget: WaitBudget | None = None
    ) -> SharedState | None: ...

    async def renew(self, token: str, *, in_time: bool) -> bool | None: ...

    async def release(self, token: str, budget: WaitBudget | None = None) -> None: ...

    async def store_fenced(
        self, entry: Entry, remaining_ms: int, token: str, replaced: str = ""
    ) -> StoreResult | None: ...

    async def record_failure(self, failed: Failed, token: str) -> None: ...

    async def acquire_once(self, life_ms: int) -> bool | None: ...

    async def record_rotation(self, replaced: str, link: LinkKind = "permanent") -> None: ...

    async def clear(self) -> Cleared: ...

    def request_refresh(self, max_age_ms: int) -> None: ...

    @property
    def followed(self) -> str:
        """The identity whose snapshot is read: the own credential, or the one that replaced it."""
        ...


class ActiveCredential:
    """The active credential with its client and store; a rotation replaces it.

    Args:
        source: calls the exchange with it.
        shared: what the replicas share of each document, as this credential may read and change it.
    """

    def __init__(self, source: Upstream, shared: Mapping[Document, SharedStore]) -> None:
        self.source = source
        self.shared = shared
        self.lineage = Lineage()
        """How the credential stands among the others, by this replica's last read."""
        self.replaced = ""
        """The identity that was active before it in this process; empty: it was the first."""
        self.strangers = False
        """Whether others used it before this process did, that may have nothing to do with the one before it."""
        self.link: LinkKind = "none"
        """The link from the one before it to it."""

    @property
    def superseded(self) -> bool:
        """Whether one that replaced it is in use, by this replica's last read."""
        return self.lineage.superseded


class Served(msgspec.Struct, frozen=True):
    """A snapshot that meets a read's directives, and how it was obtained."""

    snapshot: Snapshot
    age: int
    """Ms since the request to the exchange."""
    ttl: int
    """Ms of freshness left; negative: stale for that long."""
    result: Result
    refresh: RefreshReason | None = None
    """Why a refresh was waited for, if one was."""
    answered: int | None = None
    """The exchange's status, where a failed refresh is behind a stale answer."""


class RefreshWait(msgspec.Struct, frozen=True):
    """The result of waiting for a refresh."""

    reason: RefreshReason
    initiated: bool
    """Whether this caller started the refresh."""
    outcome: Outcome | None = None
    failure: Failure | None = None


class LastRefresh(msgspec.Struct, frozen=True):
    """The last attempt: when (epoch ms on the exchange's clock), and `ok` or the problem type."""

    at: int
    outcome: str
    detail: str | None = None
    """What the problem was."""
