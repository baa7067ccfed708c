"""The audit line of each read. A route's `opt` says what it reads; a request without a route is one by its path."""

# With `when_full = "refuse"` a read reserves a place in the queue before its handler runs, so that nothing is answered
# whose line could be lost. The place is used by the read's own line, or by that of its refusal: every admitted request
# ends in `audit` once. The fast path never reserves: it leaves such settings to the framework.

import re
from collections.abc import Mapping
from typing import Any

from service.account.documents import Shape
from service.clock import timestamp
from service.gateway import Gateway
from service.settings import NAME_PATTERN
from service.telemetry.audit import AuditLog, Filters, Line, SnapshotRead
from service.telemetry.logs import API_KEY_LENGTH, MASK, looks_secret
from service.web.context import UNMATCHED, RequestContext, context_of
from service.web.problems import AnyRequest, AuditUnavailableError, retry_after
from service.web.reads import LISTS_ACCOUNTS, READS

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


def note_route(context: RequestContext, scope: Mapping[str, Any]) -> None:
    """Note which route a request had, what it reads, and whether it has a line."""
    handler = scope.get("route_handler")
    context.route = str(scope.get("path_template") or UNMATCHED)
    context.shape = None if handler is None else _shape(handler.opt)
    refused_path = handler is None and _DATA_PATHS.match(scope["path"]) is not None
    context.audited = context.shape is not None or refused_path
    account = str(scope.get("path_params", {}).get("account"))
    context.named_account = account if _ACCOUNT.fullmatch(account) else None


def audit(audit_log: AuditLog, gateway: Gateway, context: RequestContext) -> None:
    """Write the line of a request that has ended, if it was a read."""
    if not context.audited:
        return
    filters, snapshot, selection = None, None, context.selection
    if selection is not None:
        filters = Filters(**{name: _recorded(getattr(selection, name)) for name in Filters.__struct_fields__})
    # A refused or unanswered read showed no snapshot; a 304 did, for the caller holds the same rows.
    if context.served is not None and 0 < context.status < 400:
        snapshot = SnapshotRead(timestamp(context.served.snapshot.request_time), context.served.age)
    line = Line(
        time=timestamp(gateway.clock.epoch()),
        request_id=context.request_id,
        environment=gateway.config.settings.environment,
        client=context.client,
        account=context.named_account,
        method=context.method,
        route=context.route,
        shape=context.shape,
        filters=filters,
        status=context.status or None,
        problem=context.problem,
        snapshot=snapshot,
    )
    audit_log.put(line, reserved=context.reserved)


def _shape(opt: Mapping[str, Any]) -> str | None:
    """What a route reads; `None`: nothing."""
    shape: Shape | None = opt.get(READS)
    return shape.name if shape else opt.get(LISTS_ACCOUNTS)


def _recorded(value: frozenset[str] | bool | None) -> Any:  # noqa: FBT001 - a field of `Selection`, not a switch
    """A filter as the caller sent it; a name that looks like an API key is masked here, for the log itself doesn't."""
    if not isinstance(value, frozenset):
        return value
    return tuple(sorted(MASK if len(name) == API_KEY_LENGTH and looks_secret(name) else name for name in value))
