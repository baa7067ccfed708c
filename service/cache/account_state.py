"""What this process knows of one account: its snapshot, the refreshes that failed since, and how the last one went."""

from collections.abc import Mapping

import structlog

from service.account import snapshot as snapshots
from service.account.selection import Views
from service.account.snapshot import MalformedAccountError, Snapshot
from service.cache.ports import ActiveCredential, Held, LastRefresh
from service.exchange import budget
from service.exchange.budget import Barrier, Failures
from service.exchange.errors import ExchangeError, ExchangeRejectedCredentialsError
from service.store.entries import Bond, Entry, Failed, SharedState

log = structlog.get_logger("coinm.cache")


EARLY = 5_000
"""Ms by which a shared snapshot may have been requested after now: two measured clocks differ by far less."""


class AccountState:
    """One account in this process."""

    def __init__(self, account: str, active: ActiveCredential) -> None:
        self.account = account
        self.active = active
        """The credential in use."""
        self.held: Held | None = None
        self.last_refresh: LastRefresh | None = None
        self.failures: Failures | None = None
        self._clock = active.source.clock

    @property
    def age(self) -> int | None:
        """Ms since the exchange was asked for the snapshot at hand."""
        return None if self.held is None else self.age_of(self.held)

    @property
    def known(self) -> int:
        """When that was, by the exchange's clock: what is shared is of interest only where it is later."""
        return self.held.snapshot.request_time if self.held else 0

    def age_of(self, held: Held) -> int:
        return max(0, self._clock.monotonic() - held.asked)

    def barrier(self, *, forced: bool) -> Barrier | None:
        """Why the exchange can't be asked now: a not-before, failures of a moment ago, or the weight."""
        barrier, failures = self.active.source.barrier(forced=forced), self.failures
        if barrier and self.active.superseded and isinstance(barrier.error, ExchangeRejectedCredentialsError):
            barrier = None  # another replica asks, with a newer one
        if barrier is not None or failures is None:
            return barrier
        pause = failures.until - self._clock.monotonic()
        return Barrier("backoff", failures.error.again(self._clock.now() + pause)) if pause > 0 else None

    def adopt(self, snapshot: Snapshot, asked: int, margin_assets: Mapping[str, str]) -> None:
        """Take the snapshot of who is in office unless what is there was asked for later, by the steady clock."""
        if self.held is None or asked >= self.held.asked:
            self.held = Held(snapshot, Views(snapshot), asked, margin_assets, self.active.source.identity)
            self.failures = None

    def adopt_shared(self, look: SharedState, entry: Entry) -> None:
        """Take over what another replica fetched.

        Its age is what its remaining life tells. By the exchange's clock it may be older, where this replica has
        measured that; never younger, however wrong the clock was of who stored it.
        """
        clock = self._clock
        lived = entry.life - look.remaining
        age = max(lived, clock.now() - entry.request_time) if clock.measured else lived
        early = clock.measured and entry.request_time > clock.now() + EARLY
        if look.remaining <= 0 or lived < 0 or early:
            log.error("shared_snapshot_refused", account=self.account, reason="no replica stored it like this")
            return
        try:
            snapshot = snapshots.parse(entry.body, entry.request_time, entry.margin_assets)
        except MalformedAccountError as exc:
            log.error("shared_snapshot_refused", account=self.account, reason=str(exc))  # noqa: TRY400 - no traceback
            return
        self.adopt(snapshot, clock.monotonic() - age, entry.margin_assets)

    def bond_to(self, active: ActiveCredential) -> Bond:
        """The link from the credential in use to one that replaces it; no link leads away from what strangers use."""
        if self.active.strangers:
            return "none"
        return "passing" if active.strangers else "lasting"

    def begin(self, active: ActiveCredential) -> None:
        """Put another credential in office; what failed with the one before says nothing of it.

        Its snapshot goes on being served as it ages, for the exchange has accepted the new one in its place; but it is
        not shared as the new one's.
        """
        active.replaced = self.active.source.identity
        active.bond = self.bond_to(active)
        self.active = active
        self.failures = None

    def learn(self, failed: Failed) -> None:
        """Take over a failure that another replica was told, unless this one has to wait for longer anyway."""
        until = self._clock.monotonic() + failed.pause
        if self.failures is None or until > self.failures.until:
            self.failures = Failures(failed.count, failed.error, until)

    def count(self, error: ExchangeError) -> Failed:
        """One more failure in a row; how the other replicas are told."""
        now = self._clock.monotonic()
        failures = self.failures = budget.failures_after(self.failures, error, now)
        error.retry_at = self._clock.now() + failures.until - now
        return Failed(failures.count, failures.error, failures.until - now)

    def note(self, error: ExchangeError | None = None) -> None:
        """How the last refresh went, or what stood in its way."""
        now = self._clock.now()
        self.last_refresh = LastRefresh(now, error.problem, error.detail) if error else LastRefresh(now, "ok")
