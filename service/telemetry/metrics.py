"""Every metric the gateway has, declared in one place.

Labels are bounded: route templates, statuses, accounts' and clients' names, outcomes from closed lists; never a path,
an address or a symbol. Figures that are read rather than counted are gauges with a function, asked at scrape time.
"""

from collections.abc import Callable, Iterator, Mapping

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

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody reads

_LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds: hits take well below a millisecond, misses a round trip, the slowest answer timeout + 3 s."""


class Metrics:
    """One registry a gateway, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
            "cache_results", "Reads by how the cache met them.", "account", "client", "result"
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
            "Refreshes by how they ended: fetched (alone: without Redis), joined, adopted, barred, failed.",
            "account",
            "outcome",
        )
        self.weight_spent = self._counter(
            "weight_spent", "Request weight of our calls, by the client that caused them.", "endpoint", "client"
        )
        self.credential_proofs = self._counter(
            "credential_proofs",
            "New credentials by what became of them: accepted by the exchange, adopted as accepted already, rejected, "
            "failed.",
            "account",
            "outcome",
        )
        self.reloads = self._counter("reloads", "Changed settings and secrets: applied, refused.", "outcome")
        self.token_reviews = self._counter(
            "token_reviews",
            "ServiceAccounts' tokens: accepted or refused by a review, remembered, implausible, or why none was had.",
            "outcome",
        )
        self.token_review_duration = Histogram(
            "coinm_token_review_duration_seconds",
            "From a TokenReview sent to its answer or failure.",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.foreign_entries = self._counter(
            "foreign_entries",
            "Looks in Redis that found the account's name in use by a credential that has nothing to do with ours.",
            "account",
        )
        self.redis_failures = self._counter("redis_failures", "Redis operations that failed, by kind.", "kind")
        self.audit_lines_dropped = self._counter("audit_lines_dropped", "Audit lines that were not written.")
        self.log_lines_dropped = self._counter(
            "log_lines_dropped",
            "Log lines lost to a full queue or a stdout that takes none, or left out while callers flood.",
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A figure that is read when asked for; `NaN` where there is none."""
        Gauge(f"coinm_{name}", text, registry=self.registry).set_function(read)

    def info(self, name: str, text: str, **labels: str) -> None:
        """What stays as it is for as long as the process lives: a 1 with labels, to be joined to other series."""
        Gauge(f"coinm_{name}", text, list(labels), registry=self.registry).labels(**labels).set(1)

    def account_gauge(self, name: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        """The same for every account there is just then: they come and go."""
        self.registry.register(_AccountGauge(f"coinm_{name}", text, read))

    def client_counter(self, name: str, text: str, read: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """What is counted already, told in another way: by account and client."""
        self.registry.register(_ClientCounter(f"coinm_{name}", text, read))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"coinm_{name}", text, labels, registry=self.registry)


class _AccountGauge(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=["account"])
        for account, value in self._read().items():
            family.add_metric([account], value)
        yield family


class _ClientCounter(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=["account", "client"])
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family
