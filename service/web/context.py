"""The facts of one request. Every module notes what it learns; the edge makes the log line, audit line and counters."""

from collections.abc import MutableMapping
from typing import Any, cast

from service.access.limits import Quota
from service.account.selection import Selection
from service.cache.ports import Served

_KEY = "coinm.record"
_LOGGED = (
    *("account", "age_ms", "client", "problem", "refresh", "refusal", "request_id", "result"),
    "service_account",
)


class RequestContext:
    """One request's facts. A field that was not set stays `None` and out of the log line."""

    __slots__ = (*_LOGGED, "malformed", "quota", "reserved", "selection", "served")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.client: str | None = None
        self.service_account: str | None = None
        """`namespace/name`, of a caller with a ServiceAccount's token."""
        self.refusal: str | None = None
        """Why such a token belongs to no client, or could not be verified."""
        self.account: str | None = None
        self.result: str | None = None
        """The cache's result (`Result`)."""
        self.refresh: str | None = None
        """Why the read waited for a refresh."""
        self.age_ms: int | None = None
        self.problem: str | None = None
        self.quota: Quota | None = None
        """What is left of the client's rate limit; `None`: no limit, or the client isn't known."""
        self.selection: Selection | None = None
        """What the request reads, once its path and query have proved well-formed."""
        self.served: Served | None = None
        """What the read was answered from; `None`: it was not answered with data."""
        self.malformed: str | None = None
        """What is wrong with the request itself, whatever its path; `None`: nothing."""
        self.reserved = False
        """Whether the audit log holds a place for this read's line."""

    def log_fields(self) -> dict[str, Any]:
        """The fields of the log line."""
        fields = {name: getattr(self, name) for name in _LOGGED}
        return {name: value for name, value in fields.items() if value is not None}


def attach(scope: MutableMapping[str, Any], context: RequestContext) -> None:
    scope[_KEY] = context


def context_of(scope: Any) -> RequestContext:
    """The context of the request that a scope belongs to."""
    return cast("RequestContext", scope[_KEY])
