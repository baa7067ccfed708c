"""What counts as spared, and what it would have cost."""

from service.cache.savings import weight_saved
from service.telemetry.metrics import Metrics


def test_a_read_that_had_the_exchange_asked_spared_nothing() -> None:
    results = Metrics().cache_results
    for result, count in {"stored": 7, "stale-if-error": 3, "fresh": 2, "collapsed": 1, "backoff": 1}.items():
        results.labels("main", "risk", result).inc(count)
    results.labels("main", "bots", "swr").inc()
    results.labels("other", "bots", "stored").inc()
    assert weight_saved(results) == {("main", "risk"): 4 * 5, ("main", "bots"): 5}
