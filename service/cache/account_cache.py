"""One account in this process: a cache for each of its documents, and the credential that they share."""

import asyncio

from service.account.documents import ACCOUNT
from service.cache.account_state import AccountState
from service.cache.document_cache import DocumentCache
from service.cache.ports import ActiveCredential, Upstream
from service.cache.rotation import Rotation
from service.fleet.shared_state import Notification
from service.settings import Freshness
from service.telemetry.metrics import Metrics


class AccountCache:
    """What is kept of one account."""

    def __init__(
        self, account: str, active: ActiveCredential, freshness: Freshness, timeout_s: float, metrics: Metrics
    ) -> None:
        self.account = account
        self.state = AccountState(account, active)
        self.rotation = Rotation(self.state, timeout_s, metrics)
        # What replicas publish of credentials, they publish as news of the account itself.
        on_news = {ACCOUNT: self.rotation.on_notification}
        self.documents = {
            document: DocumentCache(state, freshness, timeout_s, metrics, on_news.get(document, lambda: None))
            for document, state in self.state.documents.items()
        }
        self._by_name = {document.name: cache for document, cache in self.documents.items()}

    @property
    def source(self) -> Upstream:
        """The account at the exchange, with the credential in use."""
        return self.state.active.source

    def reconfigure(self, freshness: Freshness) -> None:
        """Apply other windows from now on."""
        for cache in self.documents.values():
            cache.reconfigure(freshness)

    def receive(self, notification: Notification) -> None:
        """Handle a notification about one of the documents; one that this release doesn't have is ignored."""
        cache = self._by_name.get(notification.document)
        if cache is not None:
            cache.receive(notification)

    def on_notification(self) -> None:
        """Anything may have changed: read what other replicas have of all that is in use."""
        for cache in self.documents.values():
            if cache.in_use:
                cache.on_notification()

    async def close(self) -> None:
        """End what is under way; no caller waits for it any more."""
        # The rotation first: it could replace the credential that is closed last.
        await self.rotation.close()
        # All at once: each releases its lease, and together they have the time of one.
        await asyncio.gather(*(cache.close() for cache in self.documents.values()))
        await self.source.close()

    async def drain(self) -> None:
        """The same, once the callers that wait now have an answer: the account is no longer kept."""
        await self.rotation.close()
        for cache in self.documents.values():
            await cache.land()
        await self.close()
