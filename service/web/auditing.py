"""Which requests are reads, and the audit line of each. Routes say themselves what they read."""

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
"""The route of requests that match none: paths are unbounded, labels must not be."""

_DATA_PATHS = re.compile(r"/+(?:v1/+accounts|binance)(?:/|\Z)")
"""Where a request that no route takes is a refused read all the same; slashes as the framework counts them."""
_ACCOUNT = re.compile(NAME_PATTERN)
_AGAIN = 1_000
"""Ms after which whoever was refused for the audit's sake may try again; the queue is emptied in far less."""


async def admit(request: AnyRequest) -> None:
    """Before any handler: where no read may go without its line, one that has no room for it ends here.

    Raises:
        AuditUnavailableError: the queue is full, or what it is written to fails.
    """
    audit = request.app.state.gateway.audit
    if audit is None or audit.settings.when_full != "refuse" or _shape(request.route_handler.opt) is None:
        return
    if not audit.reserve():
        raise AuditUnavailableError("no read is answered without its line in the audit log", retry_after(_AGAIN))
    context_of(request.scope).reserved = True


def audit(gateway: Gateway, scope: Mapping[str, Any], method: str, status: int) -> None:
    """Write the line of a request that has ended, if it was a read; `status` 0: the caller hung up before."""
    if gateway.audit is None:
        return
    handler = scope.get("route_handler")
    shape = None if handler is None else _shape(handler.opt)
    if shape is None and (handler is not None or not _DATA_PATHS.match(scope["path"])):
        return
    record, account = context_of(scope), str(scope.get("path_params", {}).get("account"))
    put(
        gateway,
        Access(
            request_id=record.request_id,
            client=record.client,
            account=account if _ACCOUNT.fullmatch(account) else None,
            method=method,
            route=str(scope.get("path_template") or UNMATCHED),
            shape=shape,
            selection=record.selection,
            status=status,
            problem=record.problem,
            served=record.served,
        ),
        reserved=record.reserved,
    )


class Access(msgspec.Struct, frozen=True):
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


def put(gateway: Gateway, access: Access, *, reserved: bool = False) -> None:
    """Write the line of a read, where there is an audit log."""
    if gateway.audit is None:
        return
    line = Line(
        time=timestamp(gateway.clock.epoch()),
        request_id=access.request_id,
        environment=gateway.settings.environment,
        client=access.client,
        account=access.account,
        method=access.method,
        route=access.route,
        shape=access.shape,
        filters=_filters(access.selection),
        status=access.status or None,
        problem=access.problem,
        snapshot=_snapshot(access.served) if 0 < access.status < 400 else None,
    )
    gateway.audit.put(line, reserved=reserved)


def _shape(opt: Mapping[str, Any]) -> str | None:
    """What a route reads; `None`: nothing."""
    shape: Shape | None = opt.get(READS)
    return shape.value if shape else opt.get(LISTS)


def _filters(selection: Selection | None) -> Filters | None:
    if selection is None:
        return None
    return Filters(
        _listed(selection.assets),
        _listed(selection.symbols),
        _listed(selection.sides),
        selection.open,
        selection.nonzero,
    )


def _listed(names: frozenset[str] | None) -> tuple[str, ...] | None:
    """The names as they were asked for, but for what has a key's form, which the log doesn't mask by itself."""
    return None if names is None else tuple(sorted(MASK if _is_key(name) else name for name in names))


def _is_key(name: str) -> bool:
    return len(name) == API_KEY_LENGTH and looks_secret(name)


def _snapshot(served: Served | None) -> SnapshotRead | None:
    return None if served is None else SnapshotRead(timestamp(served.held.snapshot.request_time), served.age)
