"""What is known of one request. Every module notes what it learns; the edge logs, counts and audits from it."""

import os
import re
from collections.abc import Iterable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from service.access.limits import Quota
from service.account.selection import Selection
from service.cache.ports import Served
from service.telemetry.logs import REQUESTS, RequestLine, looks_secret

UNMATCHED = "unmatched"
"""The route of requests that match none: paths are unbounded, metric labels must not be."""

_KEY = "coinm.record"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestContext(msgspec.Struct, eq=False):
    """One request's facts."""

    request_id: str
    method: str = "GET"
    """One that the metrics know, or `other`."""
    route: str = UNMATCHED
    """The template of the path."""
    status: int = 0
    """What was sent; 0: nothing, because the caller hung up before."""
    client: str | None = None
    service_account: str | None = None
    """`namespace/name`, of a caller with a ServiceAccount's token."""
    refusal: str | None = None
    """Why such a token belongs to no client, or could not be verified."""
    account: str | None = None
    """The account that is read, once it has proved to be granted."""
    selection: Selection | None = None
    """What the request reads, once its path and query have proved well-formed."""
    served: Served | None = None
    """The snapshot that the read was answered from; or refused from, if it has no such row."""
    problem: str | None = None
    quota: Quota | None = None
    """What is left of the client's rate limit; `None`: no limit, or the client isn't known."""
    malformed: str | None = None
    """What is wrong with the request itself, whatever its path; `None`: nothing."""
    audited: bool = False
    """Whether it is a read, so that it has a line in the audit log."""
    shape: str | None = None
    """What its route reads."""
    named_account: str | None = None
    """The account in the path, whether or not it was granted: the audit log says what was attempted."""
    reserved: bool = False
    """Whether the audit log holds a place for this read's line."""
    logged: bool = True
    """Whether it has a log line."""

    def log_line(self, level: str, duration_s: float) -> RequestLine:
        """Its line in the log."""
        served = self.served
        age_ms, refresh, result = (served.age, served.refresh, served.result) if served else (None, None, None)
        return RequestLine(
            datetime.now(UTC),
            level,
            REQUESTS,
            "request",
            self.method,
            self.route,
            self.status,
            int(duration_s * 1_000_000) / 1000,  # whole microseconds
            account=self.account,
            age_ms=age_ms,
            client=self.client,
            problem=self.problem,
            refresh=refresh,
            refusal=self.refusal,
            request_id=self.request_id,
            result=result,
            service_account=self.service_account,
        )


def attach(scope: MutableMapping[str, Any], context: RequestContext) -> None:
    scope[_KEY] = context


def context_of(scope: Any) -> RequestContext:
    """The context of the request that a scope belongs to."""
    return cast("RequestContext", scope[_KEY])


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The request id of a request with these headers; see `request_id`."""
    return request_id(next((value for name, value in headers if name == b"x-request-id"), b""))


def request_id(sent: bytes) -> str:
    """The caller's id if it is harmless in logs and no log would mask it; else a new one, 32 hex digits."""
    if sent and _REQUEST_ID.fullmatch(sent) and not looks_secret(name := sent.decode()):
        return name
    return next(_IDS)


def _random_ids() -> Iterator[str]:
    """128 random bits each. They must not count up: two ids in a row would reveal how many requests came between."""
    while True:
        # By the hundred: a system call for each id would cost as much as the authentication of a caller.
        drawn = os.urandom(16 * 256).hex()
        for start in range(0, len(drawn), 32):
            yield drawn[start : start + 32]


_IDS = _random_ids()
