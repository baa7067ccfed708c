"""What becomes of one request, noted by whoever knows it; the edge makes the log line and the counters of it."""

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
    """One request's facts. A field nobody has set stays `None` and out of the log line."""

    __slots__ = (*_LOGGED, "malformed", "quota", "reserved", "selection", "served")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.client: str | None = None
        self.service_account: str | None = None
        """`namespace/name`, of a caller with a ServiceAccount's token."""
        self.refusal: str | None = None
        """Why such a token is nobody's, or could not be verified."""
        self.account: str | None = None
        self.result: str | None = None
        """How the cache met the read."""
        self.refresh: str | None = None
        """Why a refresh was waited for."""
        self.age_ms: int | None = None
        self.problem: str | None = None
        self.quota: Quota | None = None
        """What is left of the client's limit; `None`: it has none, or isn't known."""
        self.selection: Selection | None = None
        """What a read asks for, once that is known to be well-formed."""
        self.served: Served | None = None
        """What a read was answered from, if it was."""
        self.malformed: str | None = None
        """What is wrong with the request itself, whatever it asks for."""
        self.reserved = False
        """Whether the audit log keeps a place for this read's line."""

    def facts(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in _LOGGED}
        return {name: value for name, value in fields.items() if value is not None}


def attach(scope: MutableMapping[str, Any], record: RequestContext) -> None:
    scope[_KEY] = record


def context_of(scope: Any) -> RequestContext:
    """The record of the request that a scope belongs to."""
    return cast("RequestContext", scope[_KEY])
