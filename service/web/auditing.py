"""The audit line of each read. A route's `opt` says what it reads; a request without a route is one by its path."""

# With `when_full = "refuse"` a read reserves a place in the queue before its handler runs, so that nothing is answered
# whose line could be lost. The place is used by the read's own line, or by that of its refusal: every admitted request
# ends in `audit` once. The fast path never reserves: it leaves such settings to the framework.

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from service.account.selection import Selection, Shape
from service.cache.ports import Served
from service.clock import timestamp
from service.gateway import Gateway
from service.settings import NAME_PATTERN
from service.telemetry.audit import Filters, Line, SnapshotRead
from service.telemetry.logs import API_KEY_LENGTH, MASK, looks_secret
from service.web.context import context_of
from service.web.problems import AnyRequest, AuditUnavailableError, retry_after
from service.web.reads import LISTS, READS

UNMATCHED = "unmatched"
"""The route of requests that match none: paths are unbounded, metric labels must not be."""

_DATA_PATHS = re.compile(r"/+(?:v1/+accounts|binance)(?:/|\Z)")
"""Below these a request without a route is a refused read. The framework ignores repeated slashes, and so do we."""
_ACCOUNT = re.compile(NAME_PATTERN)
_RETRY_MS = 1_000
"""When a read that found the queue full may be retried; the queue is emptied in far less."""


async def admit(request: AnyRequest) -> None:
    """Reserve the place of a read's line before its handler runs, if no read may go without a line.

    Raises:
        AuditUnavailableError: the queue is full, or its sink fails.
    """
    audit = request.app.state.gateway.audit
    if audit is None or audit.settings.when_full != "refuse" or _shape(request.route_handler.opt) is None:
        return
    if not audit.reserve():
        raise AuditUnavailableError("no read is answered without its line in the audit log", retry_after(_RETRY_MS))
    context_of(request.scope).reserved = True


def audit(gateway: Gateway, scope: Mapping[str, Any], method: str, status: int) -> None:
    """Write the line of a request that has ended, if it was a read; `status` 0: the caller hung up before."""
    if gateway.audit is None:
        return
    handler = scope.get("route_handler")
    shape = None if handler is None else _shape(handler.opt)
    if shape is None and (handler is not None or not _DATA_PATHS.match(scope["path"])):
        return
    # The account is that of the path, also where the read was refused: the line must say what was attempted.
    context, account = context_of(scope), str(scope.get("path_params", {}).get("account"))
    put(
        gateway,
        AuditedRead(
            request_id=context.request_id,
            client=context.client,
            account=account if _ACCOUNT.fullmatch(account) else None,
            method=method,
            route=str(scope.get("path_template") or UNMATCHED),
            shape=shape,
            selection=context.selection,
            status=status,
            problem=context.problem,
            served=context.served,
        ),
        reserved=context.reserved,
    )


class AuditedRead(msgspec.Struct, frozen=True):
    """What is known of a read that has ended; `status` 0: the caller hung up before."""

    request_id: str
    client: str | None
    account: str | None
    method: str
    route: str
    shape: str | None
    selection: Selection | None
    status: int
    problem: str | None
    served: Served | None


def put(gateway: Gateway, read: AuditedRead, *, reserved: bool = False) -> None:
    """Write the line of a read, if there is an audit log."""
    if gateway.audit is None:
        return
    filters, snapshot, selection = None, None, read.selection
    if selection is not None:
        assets, symbols, sides = _listed(selection.assets), _listed(selection.symbols), _listed(selection.sides)
        filters = Filters(assets=assets, symbols=symbols, sides=sides, open=selection.open, nonzero=selection.nonzero)
    # A refused or unanswered read showed no snapshot; a 304 did, for the caller holds the same rows.
    if read.served is not None and 0 < read.status < 400:
        snapshot = SnapshotRead(timestamp(read.served.held.snapshot.request_time), read.served.age)
    line = Line(
        time=timestamp(gateway.clock.epoch()),
        request_id=read.request_id,
        environment=gateway.settings.environment,
        client=read.client,
        account=read.account,
        method=read.method,
        route=read.route,
        shape=read.shape,
        filters=filters,
        status=read.status or None,
        problem=read.problem,
        snapshot=snapshot,
    )
    gateway.audit.put(line, reserved=reserved)


def _shape(opt: Mapping[str, Any]) -> str | None:
    """What a route reads; `None`: nothing."""
    shape: Shape | None = opt.get(READS)
    return shape.value if shape else opt.get(LISTS)


def _listed(names: frozenset[str] | None) -> tuple[str, ...] | None:
    """The names as the caller sent them; what looks like an API key is masked here, for the log itself doesn't."""
    if names is None:
        return None
    return tuple(sorted(MASK if len(name) == API_KEY_LENGTH and looks_secret(name) else name for name in names))
