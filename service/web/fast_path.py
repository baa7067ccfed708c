"""A way past the framework, for reads that were asked before and that memory can answer.

What is remembered of a request is how it was understood: the route, the account and the selection, which are functions
of its path and query alone. Who is calling, what it may see, how fresh the snapshot is and how often the client may ask
is judged anew each time, by the functions that the framework's handlers call. Whatever is not an ordinary answer from
memory (an unknown token, a refusal, a miss, a malformed header, a drain) goes the whole way, and so does what starts
anything.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import structlog

from service.access.clients import Client
from service.access.grants import Grant
from service.access.limits import Quota
from service.account.selection import MAX_VIEW_BYTES, MAX_VIEWS, Selection
from service.cache.policy import NO_DIRECTIVES, RequestDirectives
from service.cache.ports import Held, Served
from service.gateway import Gateway
from service.kubernetes.token_review import Refusal
from service.web import caching
from service.web.authentication import bearer_token
from service.web.problems import ProblemError
from service.web.reads import JSON, Cut, ReadCounters, cut, require_grant

log = structlog.get_logger("coinm.web")

PLANS = 1024
"""Requests that are remembered; the oldest goes first. A dozen services with a handful of polls each stay far below."""
DEMANDS = 64
"""Demands that are remembered as they are spelt: a client has one or two. They weigh half a megabyte at most."""
MAX_QUERY = 1024
"""Bytes of a query that is remembered: a plan weighs some kilobytes at most."""

Fields = list[tuple[bytes, bytes]]
Asked = dict[bytes, bytes]
"""What the header of a request says, as far as an answer depends on it."""

_READ = frozenset({b"authorization", b"cache-control", b"host", b"if-none-match", b"x-request-id"})
_CREDENTIALS = frozenset({b"authorization", b"x-mbx-apikey"})
_UNUSUAL = frozenset({b"pragma", b"x-mbx-apikey"})
CONTENT_TYPE = (b"content-type", JSON.encode())


class ParsedRead:
    """How a request was understood.

    Args:
        route: the template of its path.
        account: whose data it reads.
        selection: what of it.
    """

    __slots__ = ("account", "route", "selection")

    def __init__(self, route: str, account: str, selection: Selection) -> None:
        self.route = route
        self.account = account
        self.selection = selection


class PreparedAnswer(NamedTuple):
    """What answers a plan from one snapshot under one grant, and the counters of such answers."""

    grant: Grant
    answer: Cut
    lasting: Fields
    """The header that lasts as long as the snapshot."""
    described: Fields
    """What says of the body what it is; a 304 has none."""
    counted: ReadCounters


class _Snapshot:
    """What has been made of the snapshot that an account is served from; bounded, and goes when that does."""

    __slots__ = ("_bytes", "_made", "_passing", "_served", "held")

    def __init__(self, held: Held) -> None:
        self.held = held
        self._made: dict[tuple[ParsedRead, str], PreparedAnswer] = {}
        self._bytes = 0
        self._served: Served | None = None
        self._passing: Fields = []

    def made(self, plan: ParsedRead, client: str, grant: Grant) -> PreparedAnswer | None:
        """What has been made for a plan and a client, if that was under the same grant."""
        made = self._made.get((plan, client))
        return made if made is not None and made.grant == grant else None

    def remember(self, plan: ParsedRead, client: str, made: PreparedAnswer) -> None:
        """Stops where the snapshot's own views stop: a body beyond them is nobody else's."""
        size = len(made.answer.body)
        if len(self._made) < MAX_VIEWS and self._bytes + size <= MAX_VIEW_BYTES:
            self._made[plan, client] = made
            self._bytes += size

    def passing(self, served: Served) -> Fields:
        """What says how old it is."""
        if served is not self._served:  # it often is: the cache serves alike for a millisecond
            self._served, self._passing = served, _encoded(caching.passing(served))
        return self._passing


class Hit(msgspec.Struct, frozen=True):
    """An answer from memory, and what is to be noted of it."""

    plan: ParsedRead
    client: str
    service_account: str | None
    served: Served
    quota: Quota | None
    status: int
    fields: Fields
    """Nobody else's: whoever sends it adds what all answers have."""
    body: bytes
    request_id: bytes
    """The caller's; empty: it gave none."""


class FastPath:
    """Knows the requests that have been answered before."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._plans: dict[tuple[bytes, bytes], ParsedRead] = {}
        self._snapshots: dict[str, _Snapshot] = {}

    def learn(self, scope: Mapping[str, Any], plan: ParsedRead) -> None:
        """Remember how a read was understood that has just been answered."""
        key = scope["raw_path"], scope["query_string"]
        if key in self._plans or len(scope["query_string"]) > MAX_QUERY:
            return
        if len(self._plans) >= PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = plan

    def hit(self, scope: Mapping[str, Any]) -> Hit | None:
        """The answer, if it is an ordinary one; `None`: the framework has to see, and nothing has been taken."""
        plan = self._plans.get((scope["raw_path"], scope["query_string"]))
        gateway = self._gateway
        if plan is None or scope["method"] != "GET" or gateway.draining or _must_reserve(gateway):
            return None
        asked = _asked(scope["headers"])
        if asked is None:
            return None
        try:
            return self._hit(plan, asked)
        except ProblemError:
            return None
        except Exception:  # a bug: the framework answers, and if it meets the bug too it says so
            log.exception("lane_fault")
            return None

    def client(self, scope: Mapping[str, Any]) -> str:
        """Whose a request seems to be, before anything is judged; empty: nobody knows yet."""
        for name, value in scope["headers"]:
            if name in _CREDENTIALS:
                client, _ = self._caller(value.removeprefix(b"Bearer "))
                return client.name if client else ""
        return ""

    def _hit(self, plan: ParsedRead, asked: Asked) -> Hit | None:
        gateway = self._gateway
        client, service_account = self._caller(_token(asked))
        grant = gateway.clients.grant(client, plan.account) if client else None
        served = gateway.caches[plan.account].from_memory(_demand(asked)) if grant else None
        if client is None or grant is None or served is None:
            return None
        tags = _tags(asked)
        snapshot = self._snapshot(plan.account, served.held)
        made = snapshot.made(plan, client.name, grant) or self._make(plan, client, snapshot, grant)
        quota = gateway.limits.take(client.name, gateway.clock.monotonic())  # the last that may say no
        if quota is not None and not quota.admitted:
            return None
        if service_account is not None and gateway.reviews is not None:
            gateway.reviews.note_recalled()
        made.counted.count(served.result)
        status, fields, body = 200, [*made.lasting, *snapshot.passing(served), *made.described], made.answer.body
        if tags and caching.not_modified(tags, made.answer.etag):
            status, fields, body = 304, [*made.lasting, *snapshot.passing(served)], b""
        request_id = asked.get(b"x-request-id", b"")
        return Hit(plan, client.name, service_account, served, quota, status, fields, body, request_id)

    def _caller(self, token: bytes) -> tuple[Client | None, str | None]:
        """The client that holds a token, or whose ServiceAccount is known to; and that ServiceAccount."""
        gateway = self._gateway
        client = gateway.clients.authenticate(token)
        if client is not None or gateway.reviews is None:
            return client, None
        verdict = gateway.reviews.recall(token)
        if verdict is None or isinstance(verdict, Refusal):
            return None, None
        return gateway.clients.of_service_account(verdict.name), verdict.name

    def _snapshot(self, account: str, held: Held) -> _Snapshot:
        snapshot = self._snapshots.get(account)
        if snapshot is None or snapshot.held is not held:
            kept = {name: each for name, each in self._snapshots.items() if name in self._gateway.caches}
            self._snapshots = kept | {account: _Snapshot(held)}
        return self._snapshots[account]

    def _make(self, plan: ParsedRead, client: Client, snapshot: _Snapshot, grant: Grant) -> PreparedAnswer:
        """The answer under a grant.

        Raises:
            ProblemError: the grant doesn't allow it, or there is no such row.
        """
        require_grant(grant, plan.selection, snapshot.held.margin_assets)
        answer = cut(snapshot.held, plan.selection, grant, self._gateway.settings.environment)
        described = [CONTENT_TYPE, (b"content-length", str(len(answer.body)).encode())]
        counted = ReadCounters(self._gateway.metrics, plan.account, client.name)
        made = PreparedAnswer(grant, answer, _encoded(answer.headers), described, counted)
        snapshot.remember(plan, client.name, made)
        return made


def _must_reserve(gateway: Gateway) -> bool:
    """Whether no read may go without a line in the audit log; then a place in it comes before all else."""
    return gateway.audit is not None and gateway.audit.settings.when_full == "refuse"


def _asked(headers: Iterable[tuple[bytes, bytes]]) -> Asked | None:
    """The fields that an answer depends on; `None`: one is missing, there twice, or seldom there at all."""
    asked: Asked = {}
    for name, value in headers:
        if name in _READ:
            if name in asked:
                return None
            asked[name] = value
        elif name in _UNUSUAL:
            return None
    return asked if b"authorization" in asked and asked.get(b"host") else None


def _token(asked: Asked) -> bytes:
    return bearer_token([asked[b"authorization"].decode("latin-1")], another=False)


def _demand(asked: Asked) -> RequestDirectives:
    control = asked.get(b"cache-control")
    return NO_DIRECTIVES if control is None else _demanded(control)


@lru_cache(DEMANDS)
def _demanded(control: bytes) -> RequestDirectives:
    return caching.demand(caching.bounded("Cache-Control", [control.decode("latin-1")]), [])


def _tags(asked: Asked) -> list[str]:
    tags = asked.get(b"if-none-match")
    return [] if tags is None else caching.bounded("If-None-Match", [tags.decode("latin-1")])


def _encoded(headers: Mapping[str, str]) -> Fields:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
