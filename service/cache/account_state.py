"""What this process knows of an account's documents: snapshots, the refreshes that failed since, how the last went."""

import structlog

from service.account.documents import DOCUMENTS, Document
from service.account.parsing import MalformedDocumentError, parse
from service.account.snapshot import Snapshot
from service.cache.ports import ActiveCredential, LastRefresh
from service.fleet import budget
from service.fleet.budget import Barrier, Failures
from service.fleet.errors import ExchangeError, ExchangeRejectedCredentialsError, Failure
from service.fleet.shared_state import Entry, Failed, LinkKind, SharedState

log = structlog.get_logger("coinm.cache")


EARLY_MS = 5_000
"""Ms that a shared snapshot's request time may lie ahead of now: two measured clocks differ by far less."""


class AccountState:
    """One account in this process: the credential in use, and what is known of each document."""

    def __init__(self, account: str, active: ActiveCredential) -> None:
        self.account = account
        self.active = active
        """The credential in use; all documents are requested with it."""
        self.documents = {document: DocumentState(self, document) for document in DOCUMENTS}

    def link_to(self, active: ActiveCredential) -> LinkKind:
        """The link from the credential in use to one that replaces it; no link starts at one that strangers use."""
        if self.active.strangers:
            return "none"
        return "temporary" if active.strangers else "permanent"

    def activate(self, active: ActiveCredential) -> None:
        """Use another credential from now on; failures with the one before don't count against it.

        The snapshots in memory are still served as they age, because the exchange has accepted the new credential in
        place of the old one; but they are not shared as the new one's.
        """
        # Before the assignment: the link leads from the credential that is active until now.
        active.replaced = self.active.source.identity
        active.link = self.link_to(active)
        self.active = active
        for state in self.documents.values():
            state.failures = None


class DocumentState:
    """One document of an account in this process."""

    def __init__(self, owner: AccountState, document: Document) -> None:
        self.account = owner.account
        self.document = document
        self.snapshot: Snapshot | None = None
        """The latest, by its request time."""
        self.snapshot_identity = ""
        """Of the credential that it was requested with, by whichever replica."""
        self.last_refresh: LastRefresh | None = None
        self.failures: Failures | None = None
        self._owner = owner
        self._clock = owner.active.source.clock

    @property
    def active(self) -> ActiveCredential:
        """The account's credential in use."""
        return self._owner.active

    @property
    def age(self) -> int | None:
        """Ms since the snapshot in memory was requested of the exchange."""
        return None if self.snapshot is None else self.age_of(self.snapshot)

    @property
    def known_request_time(self) -> int:
        """When that was (epoch ms on the exchange's clock): a shared snapshot is useful only if it is later."""
        return self.snapshot.request_time if self.snapshot else 0

    def age_of(self, snapshot: Snapshot) -> int:
        return max(0, self._clock.monotonic() - snapshot.requested_monotonic_ms)

    def barrier(self, *, forced: bool) -> Barrier | None:
        """Why the exchange can't be called now: a not-before, back-off after failures, or the weight."""
        barrier, failures = self.active.source.barrier(self.document, forced=forced), self.failures
        if barrier and self.active.superseded and barrier.failure.problem == ExchangeRejectedCredentialsError.problem:
            barrier = None  # a replica with a newer credential calls instead
        if barrier is not None or failures is None:
            return barrier
        pause_ms = failures.until - self._clock.monotonic()
        return Barrier("backoff", failures.last.until(self._clock.now() + pause_ms)) if pause_ms > 0 else None

    def adopt(self, snapshot: Snapshot, identity: str) -> None:
        """Keep a snapshot that the credential of this identity requested, unless memory has a later one (monotonic)."""
        if self.snapshot is None or snapshot.requested_monotonic_ms >= self.snapshot.requested_monotonic_ms:
            self.snapshot, self.snapshot_identity = snapshot, identity
            self.failures = None

    def adopt_shared(self, shared: SharedState, entry: Entry) -> None:
        """Adopt what another replica fetched, unless no replica could have stored it like this."""
        # Its age comes from its remaining life in Redis. If this replica has measured the exchange's clock, the age may
        # be higher by that clock, but never lower, however wrong the clock of the replica was that stored it.
        clock = self._clock
        lived = entry.life_ms - shared.remaining_ms
        age = max(lived, clock.now() - entry.request_time) if clock.measured else lived
        early = clock.measured and entry.request_time > clock.now() + EARLY_MS
        fault = "no replica stored it like this" if shared.remaining_ms <= 0 or lived < 0 or early else ""
        if not fault:
            requested_ms = clock.monotonic() - age
            try:
                snapshot = parse(self.document, entry.body, entry.request_time, requested_ms, entry.margin_assets)
            except MalformedDocumentError as exc:
                fault = str(exc)
            else:
                self.adopt(snapshot, self.active.shared[self.document].followed)
        if fault:
            log.error("shared_snapshot_refused", account=self.account, document=self.document.name, reason=fault)

    def adopt_failure(self, failed: Failed) -> None:
        """Adopt a failure that another replica has shared, unless this one's own pause is longer."""
        until = self._clock.monotonic() + failed.pause_ms
        if self.failures is None or until > self.failures.until:
            self.failures = Failures(failed.count, failed.failure, until)

    def count_failure(self, error: ExchangeError) -> Failed:
        """Count one more failure in a row; returns it as it is shared with the other replicas."""
        now = self._clock.monotonic()
        failures = self.failures = budget.failures_after(self.failures, error.failure, now)
        # `until` is this process's monotonic time: callers get it as a time, the other replicas as a pause.
        error.failure = error.failure.until(self._clock.now() + failures.until - now)
        return Failed(failures.count, failures.last, failures.until - now)

    def note(self, failure: Failure | None = None) -> None:
        """Record how the last refresh went, or what prevented it."""
        now = self._clock.now()
        self.last_refresh = LastRefresh(now, failure.problem, failure.detail) if failure else LastRefresh(now, "ok")
