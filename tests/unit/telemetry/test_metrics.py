"""What is counted without prometheus_client's metrics looks as if they had counted it."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from service.telemetry.metrics import CacheResults, Metrics, Requests

ROUTE = "/v1/accounts/{account}"
FINE = [0.000025, 0.00005, 0.0001, 0.00025]
BOUNDS = [*FINE, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
DURATIONS = [0, 0.00001, 0.000025, 0.0000251, 0.0005, 0.0007, 3, 10, 11]
"""Seconds: below, at and above bounds of buckets."""


def text(*collectors: Requests | CacheResults) -> str:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry).decode()


def test_requests_are_exposed_as_a_counter_and_a_histogram_of_the_library_would_be() -> None:
    library, requests = CollectorRegistry(), Requests()
    counter = Counter("coinm_requests", "Requests answered.", ["route", "method", "status"], registry=library)
    histogram = Histogram(
        "coinm_request_duration_seconds",
        "From a request's arrival to its answer.",
        ["route"],
        buckets=BOUNDS,
        registry=library,
    )
    assert text(requests) == generate_latest(library).decode()
    kinds = ((ROUTE, "GET", 200, DURATIONS), (ROUTE, "HEAD", 304, [0.5]), ("unmatched", "other", 0, DURATIONS))
    for route, method, status, durations in kinds:
        for seconds in durations:
            requests.count(route, method, status, seconds)
            counter.labels(route, method, str(status)).inc()
            histogram.labels(route).observe(seconds)
    assert text(requests) == generate_latest(library).decode()


def test_results_of_the_cache_are_exposed_as_a_counter_of_the_library_would_be() -> None:
    library, results = CollectorRegistry(), CacheResults()
    labels = ["account", "document", "client", "result"]
    counter = Counter("coinm_cache_results", "Reads, by the result of the cache.", labels, registry=library)
    assert text(results) == generate_latest(library).decode()
    for read in (
        ("main", "account", "risk", "fresh"),
        ("main", "balance", "risk", "stored"),
        ("main", "account", "risk", "fresh"),
    ):
        results.count(*read)
        counter.labels(*read).inc()
    assert text(results) == generate_latest(library).decode()


def test_a_gateways_registry_has_both() -> None:
    metrics = Metrics()
    metrics.requests.count(ROUTE, "GET", 200, 0.002)
    metrics.cache_results.count("main", "balance", "risk", "fresh")
    read = {"account": "main", "document": "balance", "client": "risk", "result": "fresh"}
    bucket = {"route": ROUTE, "le": "0.0025"}
    assert metrics.registry.get_sample_value("coinm_cache_results_total", read) == 1
    assert metrics.registry.get_sample_value("coinm_request_duration_seconds_bucket", bucket) == 1


def test_requests_that_end_during_a_scrape_do_not_break_it() -> None:
    requests = Requests()

    class Status(int):
        """One that is turned into a label's text when a further request ends."""

        def __str__(self) -> str:
            requests.count("/new", "GET", 200, 0.1)
            return super().__str__()

    requests.count(ROUTE, "GET", Status(200), 0.1)
    assert "/new" not in text(requests)
    assert "/new" in text(requests)


def test_counts_that_were_taken_stay_as_they_are() -> None:
    results = CacheResults()
    results.count("main", "balance", "risk", "fresh")
    taken = results.counts()
    results.count("main", "balance", "risk", "fresh")
    results.count("main", "balance", "risk", "stored")
    assert taken == {("main", "balance", "risk", "fresh"): 1}
