"""Every metric of the gateway, declared in one place.

Labels are bounded: route templates, statuses, accounts' and clients' names, outcomes from closed lists; never a path,
an address or a symbol. Values that are read rather than counted are gauges with a function, called at scrape time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series per counter, of no use here

_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily

_LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds. Hits take well below a millisecond, misses a round trip, the slowest answer `exchange.timeout` + 3 s."""


class Metrics:
    """One registry per gateway, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # These belong to the default registry; without this, ours would lack the process's own figures.
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        self.requests = self._counter("requests", "Requests answered.", "route", "method", "status")
        self.request_duration = Histogram(
            "coinm_request_duration_seconds",
            "From a request's arrival to its answer.",
            ["route"],
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.cache_results = self._counter(
            "cache_results", "Reads, by the result of the cache.", "account", "client", "result"
        )
        self.overloaded = self._counter(
            "overloaded", "Reads refused, or displaced by another client's, because too many wait.", "client"
        )
        self.exchange_calls = self._counter("exchange_calls", "Calls to the exchange.", "endpoint", "outcome")
        self.refresh_duration = Histogram(
            "coinm_refresh_duration_seconds",
            "From the decision to refresh to the new snapshot or the failure.",
            ["account"],
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.refreshes = self._counter(
            "refreshes",
            "Refreshes, by their end: fetched (alone: without Redis), joined, adopted, barred, failed.",
            "account",
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
