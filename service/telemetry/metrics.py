"""Every metric of the gateway, declared in one place.

Labels are bounded: route templates, statuses, accounts' and clients' names, outcomes from closed lists; never a path,
an address or a symbol. Values that are read rather than counted are gauges with a function, called at scrape time.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from operator import add
from typing import TypeAlias

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series per counter, of no use here

_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily

_LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds. Misses take a round trip, the slowest answer `exchange.timeout` + 3 s."""
_REQUEST_LATENCY = (0.000025, 0.00005, 0.0001, 0.00025, *_LATENCY)
"""The same, and finer where hits are."""


class Metrics:
    """One registry per gateway, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # These belong to the default registry; without this, ours would lack the process's own figures.
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        self.requests = Requests()
        self.registry.register(self.requests)
        self.cache_results = CacheResults()
        self.registry.register(self.cache_results)
        self.overloaded = self._counter(
            "overloaded", "Reads refused, or displaced by another client's, because too many wait.", "client"
        )
        self.exchange_calls = self._counter("exchange_calls", "Calls to the exchange.", "endpoint", "outcome")
        self.refresh_duration = Histogram(
            "coinm_refresh_duration_seconds",
            "From the decision to refresh to the new snapshot or the failure.",
            ["account", "document"],
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.refreshes = self._counter(
            "refreshes",
            "Refreshes, by their end: fetched (alone: without Redis), joined, adopted, barred, failed.",
            "account",
            "document",
            "outcome",
        )
        self.weight_spent = self._counter(
            "weight_spent", "Request weight spent on calls, by the client that caused them.", "endpoint", "client"
        )
        self.credential_proofs = self._counter(
            "credential_proofs",
            "New credentials, by their result: accepted by the exchange, adopted because another replica had proved "
            "them, rejected, failed.",
            "account",
            "outcome",
        )
        self.reloads = self._counter("reloads", "Reloads of changed settings and secrets: applied, refused.", "outcome")
        self.token_reviews = self._counter(
            "token_reviews",
            "ServiceAccount tokens: accepted or refused by a review, remembered, implausible, or why none happened.",
            "outcome",
        )
        self.token_review_duration = Histogram(
            "coinm_token_review_duration_seconds",
            "From sending a TokenReview to its answer or failure.",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.foreign_entries = self._counter(
            "foreign_entries",
            "Reads of Redis that found the account in use by a credential unrelated to ours.",
            "account",
        )
        self.redis_failures = self._counter("redis_failures", "Redis operations that failed, by kind.", "kind")
        self.audit_lines_dropped = self._counter("audit_lines_dropped", "Audit lines that were not written.")
        self.log_lines_dropped = self._counter(
            "log_lines_dropped",
            "Log lines dropped by a full queue or a blocked stdout, or left out during a flood of requests.",
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read at scrape time; `NaN`: no value."""
        Gauge(f"coinm_{name}", text, registry=self.registry).set_function(read)

    def info(self, name: str, text: str, **labels: str) -> None:
        """A fact that holds for the life of the process: the value 1 with labels, to join with other series."""
        Gauge(f"coinm_{name}", text, list(labels), registry=self.registry).labels(**labels).set(1)

    def account_gauge(self, name: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A gauge for each account that exists at scrape time: accounts come and go with reloads."""
        family = partial(GaugeMetricFamily, f"coinm_{name}", text, labels=["account"])
        self.registry.register(_ScrapedFamily(family, lambda: (([account], each) for account, each in read().items())))

    def document_gauge(self, name: str, text: str, read: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """The same for each document of each account."""
        family = partial(GaugeMetricFamily, f"coinm_{name}", text, labels=["account", "document"])
        self.registry.register(_ScrapedFamily(family, lambda: read().items()))

    def client_counter(self, name: str, text: str, read: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """A counter by account and client whose counts are kept elsewhere."""
        family = partial(CounterMetricFamily, f"coinm_{name}", text, labels=["account", "client"])
        self.registry.register(_ScrapedFamily(family, lambda: read().items()))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"coinm_{name}", text, labels, registry=self.registry)


class _ScrapedFamily(Collector):
    """A metric whose labels and values are read at scrape time, since they come and go."""

    # prometheus_client's own labelled metrics keep a series until it is removed explicitly.
    def __init__(
        self, family: Callable[[], _Family], read: Callable[[], Iterable[tuple[Sequence[str], float]]]
    ) -> None:
        self._family = family
        self._read = read

    def collect(self) -> Iterator[_Family]:
        family = self._family()
        for labels, value in self._read():
            family.add_metric(labels, value)
        yield family


# What every request counts is counted in plain numbers: prometheus_client's counters and histograms take a lock each.
# So only the event loop's thread may count. A scrape reads in another thread, which may take its turn between any two
# steps here. It takes a dict or a list by its `copy`, which is one step: iterating fails if a key comes in between. So
# each figure is whole and never falls, but figures may be some requests apart, as the library's own are.


class Requests(Collector):
    """Requests answered, and how long they took; counted in the event loop's thread."""

    def __init__(self) -> None:
        self._tallies = defaultdict[tuple[str, str, int], list[float]](_no_requests)
        """By route, method and status: how many requests are in each bucket, then the sum of their seconds."""

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        tally = self._tallies[route, method, status]
        tally[bisect_left(_REQUEST_LATENCY, seconds)] += 1
        tally[-1] += seconds

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        requests = CounterMetricFamily("coinm_requests", "Requests answered.", labels=["route", "method", "status"])
        routes = dict[str, list[float]]()
        for (route, method, status), tally in self._tallies.copy().items():
            counted = tally.copy()
            requests.add_metric([route, method, str(status)], sum(counted[:-1]))
            routes[route] = [*map(add, routes.get(route, _no_requests()), counted)]
        yield requests
        durations = HistogramMetricFamily(
            "coinm_request_duration_seconds", "From a request's arrival to its answer.", labels=["route"]
        )
        bounds = [*map(floatToGoString, _REQUEST_LATENCY), "+Inf"]
        for route, (*buckets, seconds) in routes.items():
            durations.add_metric([route], list(zip(bounds, accumulate(buckets), strict=True)), seconds)
        yield durations


def _no_requests() -> list[float]:
    return [0] * (len(_REQUEST_LATENCY) + 1) + [0.0]


class CacheResults(Collector):
    """Reads, by account, document, client and the result of the cache; counted in the event loop's thread."""

    def __init__(self) -> None:
        self._counts = defaultdict[tuple[str, str, str, str], int](int)

    def count(self, account: str, document: str, client: str, result: str) -> None:
        self._counts[account, document, client, result] += 1

    def counts(self) -> Mapping[tuple[str, str, str, str], int]:
        """The counts of this moment, in any thread."""
        return self._counts.copy()

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "coinm_cache_results",
            "Reads, by the result of the cache.",
            labels=["account", "document", "client", "result"],
        )
        for labels, count in self.counts().items():
            family.add_metric(labels, count)
        yield family
