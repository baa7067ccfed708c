"""A path around the framework, for repeated reads that memory can answer.

Raw request → `Answer` or `None`. On `None` the framework handles the request, and nothing was taken or counted yet.
"""

# Remembered by raw path and query: route, account and selection (`ParsedRead`). These are functions of the two alone,
# so they never go stale. Only a read that the framework has answered is learnt.
#
# Remembered for as long as one snapshot is served: what a parsed read rendered to for one client under one grant
# (`PreparedAnswer`). A reload that changes the grant changes the value that `find` compares, which voids the entry.
#
# Decided for every request, by the functions that the handlers call: which client the token belongs to, what it is
# granted, whether the snapshot is fresh enough, and whether the client's rate limit admits the request.
#
# A request leaves the fast path when
# - its path and query are unknown, it is not a GET, the process drains, or the audit log must reserve a place first;
# - a header that an answer depends on is missing, repeated or rare (`Pragma`, `X-MBX-APIKEY`, an empty `Host`);
# - anything refuses it: token, grant, selection, header syntax, rate limit;
# - the cache can't answer from memory, or would have to start a refresh for it.
#
# Invariant: no decision that may end in `None` follows the charge to the rate limit; the limit's own refusal takes no
# token. The framework repeats every decision, so each request is charged and counted once, whichever way it goes. No
# step awaits, hence neither a reload nor a new snapshot can come between two decisions.

from collections.abc import Mapping
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
from service.web.reads import JSON, ReadCounters, Rendered, render, require_grant

log = structlog.get_logger("coinm.web")

MAX_PARSED_READS = 1024
"""Requests that are remembered; the oldest is dropped first. A dozen services with a few polls each stay far below."""
MAX_CACHE_CONTROLS = 64
"""Spellings of `Cache-Control` that are remembered: a client uses one or two. Together they take 0.5 MB at most."""
MAX_QUERY = 1024
"""Bytes of a query that is remembered, so that a parsed read takes some kilobytes at most."""

Headers = list[tuple[bytes, bytes]]

_READ = frozenset({b"authorization", b"cache-control", b"host", b"if-none-match", b"x-request-id"})
_CREDENTIALS = frozenset({b"authorization", b"x-mbx-apikey"})
_UNUSUAL = frozenset({b"pragma", b"x-mbx-apikey"})
CONTENT_TYPE = (b"content-type", JSON.encode())


class ParsedRead:
    """What a request's path and query mean. Compared by identity, so that it is a cheap key.

    Args:
        route: the template of the path.
        account: the account that is read.
        selection: the rows that are read.
    """

    __slots__ = ("account", "route", "selection")

    def __init__(self, route: str, account: str, selection: Selection) -> None:
        self.route = route
        self.account = account
        self.selection = selection


class PreparedAnswer(NamedTuple):
    """The answer to a parsed read from one snapshot under one grant, and the counters of such answers."""

    grant: Grant
    rendered: Rendered
    snapshot_headers: Headers
    """Fixed for the snapshot's life."""
    body_headers: Headers
    """Describe the body; a 304 has none."""
    counters: ReadCounters


class _PreparedAnswers:
    """What was prepared from the snapshot of one account. Bounded, and dropped with the snapshot."""

    __slots__ = ("_age_headers", "_answers", "_bytes", "_served", "held")

    def __init__(self, held: Held) -> None:
        self.held = held
        self._answers: dict[tuple[ParsedRead, str], PreparedAnswer] = {}
        self._bytes = 0
        self._served: Served | None = None
        self._age_headers: Headers = []

    def find(self, read: ParsedRead, client: str, grant: Grant) -> PreparedAnswer | None:
        """The answer that was prepared for a client, if that was under the same grant."""
        answer = self._answers.get((read, client))
        return answer if answer is not None and answer.grant == grant else None

    def add(self, read: ParsedRead, client: str, answer: PreparedAnswer) -> None:
        """Remember an answer, within the bounds of the snapshot's own views: up to there they hold the same body."""
        size_bytes = len(answer.rendered.body)
        if len(self._answers) < MAX_VIEWS and self._bytes + size_bytes <= MAX_VIEW_BYTES:
            self._answers[read, client] = answer
            self._bytes += size_bytes

    def age_headers(self, served: Served) -> Headers:
        """The headers that change with the snapshot's age."""
        if served is not self._served:  # often it is the same: the cache repeats its object within a millisecond
            self._served, self._age_headers = served, _encoded(caching.age_headers(served))
        return self._age_headers


class Answer(msgspec.Struct, frozen=True):
    """An answer from memory, and what its log line and audit line say."""

    read: ParsedRead
    client: str
    service_account: str | None
    served: Served
    quota: Quota | None
    status: int
    headers: Headers
    """A list of its own: the sender appends the headers that every answer has."""
    body: bytes
    request_id: bytes
    """As the caller sent it; empty: it sent none."""


class FastPath:
    """Remembers the reads that the framework has answered, and answers their repetitions from memory."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reads: dict[tuple[bytes, bytes], ParsedRead] = {}
        self._prepared: dict[str, _PreparedAnswers] = {}
        """By account."""

    def learn(self, scope: Mapping[str, Any], read: ParsedRead) -> None:
        """Remember the meaning of a request that the framework has just answered."""
        key = scope["raw_path"], scope["query_string"]
        if key in self._reads or len(scope["query_string"]) > MAX_QUERY:
            return
        if len(self._reads) >= MAX_PARSED_READS:
            del self._reads[next(iter(self._reads))]
        self._reads[key] = read

    def answer(self, scope: Mapping[str, Any]) -> Answer | None:
        """The answer, if memory has an ordinary one; `None`: the framework must handle it, and nothing was taken."""
        read = self._reads.get((scope["raw_path"], scope["query_string"]))
        gateway = self._gateway
        if read is None or scope["method"] != "GET" or gateway.draining:
            return None
        if gateway.audit is not None and gateway.audit.settings.when_full == "refuse":
            return None  # a place in the audit log comes before everything else, and `auditing.admit` reserves it
        try:
            return self._answer(read, scope["headers"])
        except ProblemError:
            return None
        except Exception:  # a bug: the framework answers, and reports the bug if it meets it too
            log.exception("lane_fault")
            return None

    def client(self, scope: Mapping[str, Any]) -> str:
        """The name of the client that a request seems to come from, before any check; empty: not known yet."""
        for name, value in scope["headers"]:
            if name in _CREDENTIALS:
                client, _ = self._caller(value.removeprefix(b"Bearer "))
                return client.name if client else ""
        return ""

    def _answer(self, read: ParsedRead, headers: Headers) -> Answer | None:
        sent = _relevant(headers)
        if sent is None:
            return None
        gateway = self._gateway
        token = bearer_token([sent[b"authorization"].decode("latin-1")], another=False)
        client, service_account = self._caller(token)
        grant = gateway.clients.grant(client, read.account) if client else None
        if client is None or grant is None:
            return None
        control = sent.get(b"cache-control")
        # The cache repeats its last decision only for the same object: equal directives must be identical ones.
        directives = NO_DIRECTIVES if control is None else _directives(control)
        served = gateway.caches[read.account].from_memory(directives)
        if served is None:
            return None
        tags = sent.get(b"if-none-match")
        etags = [] if tags is None else caching.bounded("If-None-Match", [tags.decode("latin-1")])
        prepared = self._prepared.get(read.account)
        if prepared is None or prepared.held is not served.held:
            # A new snapshot drops the answers of the one before it, and those of accounts that a reload has removed.
            kept = {name: each for name, each in self._prepared.items() if name in gateway.caches}
            prepared = _PreparedAnswers(served.held)
            self._prepared = kept | {read.account: prepared}
        answer = prepared.find(read, client.name, grant) or self._prepare(read, client, prepared, grant)
        # The charge comes after every other decision: an admitted request has spent its token.
        quota = gateway.limits.take(client.name, gateway.clock.monotonic())
        if quota is not None and not quota.admitted:
            return None
        if service_account is not None and gateway.reviews is not None:
            gateway.reviews.note_recalled()
        answer.counters.count(served.result)
        status, body = 200, answer.rendered.body
        answer_headers = [*answer.snapshot_headers, *prepared.age_headers(served), *answer.body_headers]
        if etags and caching.not_modified(etags, answer.rendered.etag):
            status, answer_headers, body = 304, [*answer.snapshot_headers, *prepared.age_headers(served)], b""
        request_id = sent.get(b"x-request-id", b"")
        return Answer(read, client.name, service_account, served, quota, status, answer_headers, body, request_id)

    def _caller(self, token: bytes) -> tuple[Client | None, str | None]:
        """The client of a token, and its ServiceAccount if a remembered review named one."""
        gateway = self._gateway
        client = gateway.clients.authenticate(token)
        if client is not None or gateway.reviews is None:
            return client, None
        review = gateway.reviews.recall(token)
        if review is None or isinstance(review, Refusal):
            return None, None
        return gateway.clients.of_service_account(review.name), review.name

    def _prepare(self, read: ParsedRead, client: Client, prepared: _PreparedAnswers, grant: Grant) -> PreparedAnswer:
        """Render a parsed read under a grant, and remember the result.

        Raises:
            ProblemError: the grant doesn't allow the read, or there is no such row.
        """
        require_grant(grant, read.selection, prepared.held.margin_assets)
        rendered = render(prepared.held, read.selection, grant, self._gateway.settings.environment)
        body_headers = [CONTENT_TYPE, (b"content-length", str(len(rendered.body)).encode())]
        counters = ReadCounters(self._gateway.metrics, read.account, client.name)
        answer = PreparedAnswer(grant, rendered, _encoded(rendered.headers), body_headers, counters)
        prepared.add(read, client.name, answer)
        return answer


def _relevant(headers: Headers) -> dict[bytes, bytes] | None:
    """The headers that an answer depends on; `None`: one is missing, repeated, or too rare to be handled here."""
    sent: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _READ:
            if name in sent:
                return None
            sent[name] = value
        elif name in _UNUSUAL:
            return None
    return sent if b"authorization" in sent and sent.get(b"host") else None


@lru_cache(MAX_CACHE_CONTROLS)
def _directives(cache_control: bytes) -> RequestDirectives:
    return caching.request_directives(caching.bounded("Cache-Control", [cache_control.decode("latin-1")]), [])


def _encoded(headers: Mapping[str, str]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
