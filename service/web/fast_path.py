"""A path around the framework, for repeated reads that memory can answer.

Raw request → `Answer` or `None`. On `None` the framework handles the request, and nothing was taken or counted yet.
"""

# Remembered by raw path and query: route and selection (`ParsedRead`). These are functions of the two alone, so they
# never go stale. Only a read that the framework has answered is learnt.
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
from typing import Any

import msgspec
import structlog

from service.access.clients import Client
from service.account.selection import Selection
from service.cache.policy import NO_DIRECTIVES, RequestDirectives
from service.gateway import Gateway
from service.kubernetes.token_review import MAX_TOKEN, Refusal
from service.web import caching
from service.web.compression import accepts_gzip
from service.web.context import RequestContext, request_id
from service.web.problems import ProblemError
from service.web.reads import Answer, Headers, Read, Reads

log = structlog.get_logger("coinm.web")

MAX_PARSED_READS = 1024
"""Requests that are remembered; the oldest is dropped first. A dozen services with a few polls each stay far below."""
MAX_CACHE_CONTROLS = 64
"""Spellings of `Cache-Control` that are remembered: a client uses one or two. Together they take 0.5 MB at most."""
MAX_QUERY = 1024
"""Bytes of a query that is remembered, so that a parsed read takes some kilobytes at most."""

_READ = frozenset({b"accept-encoding", b"authorization", b"cache-control", b"host", b"if-none-match", b"x-request-id"})
_CREDENTIALS = frozenset({b"authorization", b"x-mbx-apikey"})
_UNUSUAL = frozenset({b"pragma", b"x-mbx-apikey"})
_BEARER = b"bearer "


class ParsedRead(msgspec.Struct, frozen=True):
    """What a request's path and query mean."""

    route: str
    """The template of the path."""
    account: str
    selection: Selection
    shape: str
    """The selection's, as the audit log has it."""


class FastPath:
    """Remembers the reads that the framework has answered, and answers their repetitions from memory."""

    def __init__(self, gateway: Gateway, reads: Reads) -> None:
        self._gateway = gateway
        self._reads = reads
        self._parsed: dict[tuple[bytes, bytes], ParsedRead] = {}

    def learn(self, scope: Mapping[str, Any], parsed: ParsedRead) -> None:
        """Remember the meaning of a request that the framework has just answered."""
        key = scope["raw_path"], scope["query_string"]
        if key in self._parsed or len(scope["query_string"]) > MAX_QUERY:
            return
        if len(self._parsed) >= MAX_PARSED_READS:
            del self._parsed[next(iter(self._parsed))]
        self._parsed[key] = parsed

    def answer(self, scope: Mapping[str, Any]) -> tuple[Answer, RequestContext] | None:
        """The answer, if memory has an ordinary one; `None`: the framework must handle it, and nothing was taken."""
        parsed = self._parsed.get((scope["raw_path"], scope["query_string"]))
        gateway = self._gateway
        if parsed is None or scope["method"] != "GET" or gateway.draining:
            return None
        if gateway.audit is not None and gateway.audit.settings.when_full == "refuse":
            return None  # a place in the audit log comes before everything else, and `auditing.admit` reserves it
        try:
            return self._answer(parsed, scope["headers"])
        except ProblemError:
            return None
        except Exception:  # a bug: the framework answers, and reports the bug if it meets it too
            log.exception("lane_fault")
            return None

    def client(self, scope: Mapping[str, Any]) -> str:
        """The name of the client that a request seems to come from, before any check; empty: not known yet."""
        for name, value in scope["headers"]:
            if name in _CREDENTIALS:
                client, _ = self._caller(value[len(_BEARER) :] if value[: len(_BEARER)].lower() == _BEARER else value)
                return client.name if client else ""
        return ""

    def _answer(self, parsed: ParsedRead, headers: Headers) -> tuple[Answer, RequestContext] | None:
        sent: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _READ:
                if name in sent:
                    return None
                sent[name] = value
            elif name in _UNUSUAL:
                return None
        gateway, authorization = self._gateway, sent.get(b"authorization", b"")
        # Only the usual spelling, and no token that is too long for any client: the framework judges all others.
        if authorization[: len(_BEARER)].lower() != _BEARER or len(authorization) > MAX_TOKEN or not sent.get(b"host"):
            return None
        client, service_account = self._caller(authorization[len(_BEARER) :])
        grant = client.grants.get(parsed.account) if client else None
        if client is None or grant is None:
            return None
        control, tags, codings = sent.get(b"cache-control"), sent.get(b"if-none-match"), sent.get(b"accept-encoding")
        if codings is not None and len(codings) > caching.MAX_CODINGS:
            return None
        # The cache repeats its last decision only for the same object: equal directives must be identical ones.
        directives = NO_DIRECTIVES if control is None else _directives(control)
        etags = [] if tags is None else caching.bounded("If-None-Match", [tags.decode("latin-1")])
        gzip = codings is not None and accepts_gzip(codings.decode("latin-1"))
        answer = self._reads.from_memory(Read(client.name, grant, parsed.selection, directives, etags, gzip))
        if answer is None:
            return None
        # The charge comes after every other decision: an admitted request has spent its token.
        quota = None
        if client.requests_per_second is not None:
            quota = gateway.limits.take(client.name, client.requests_per_second, gateway.clock.monotonic())
            if not quota.admitted:
                return None
        if service_account is not None and gateway.reviews is not None:
            gateway.reviews.note_recalled()
        return answer, RequestContext(
            request_id(sent.get(b"x-request-id", b"")),
            route=parsed.route,
            client=client.name,
            service_account=service_account,
            account=parsed.account,
            selection=parsed.selection,
            served=answer.served,
            quota=quota,
            audited=True,
            shape=parsed.shape,
            named_account=parsed.account,
        )

    def _caller(self, token: bytes) -> tuple[Client | None, str | None]:
        """The client of a token, and its ServiceAccount if a remembered review named one."""
        gateway = self._gateway
        client = gateway.config.clients.authenticate(token)
        if client is not None or gateway.reviews is None:
            return client, None
        review = gateway.reviews.recall(token)
        if review is None or isinstance(review, Refusal):
            return None, None
        return gateway.config.clients.of_service_account(review.name), review.name


@lru_cache(MAX_CACHE_CONTROLS)
def _directives(cache_control: bytes) -> RequestDirectives:
    return caching.request_directives(caching.bounded("Cache-Control", [cache_control.decode("latin-1")]), [])
