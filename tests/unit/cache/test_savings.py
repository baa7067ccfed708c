"""What counts as spared, and what it would have cost."""

from service.cache.savings import weight_saved


def test_a_read_that_had_the_exchange_asked_spared_nothing() -> None:
    results = {"stored": 7, "stale-if-error": 3, "fresh": 2, "collapsed": 1, "backoff": 1}
    reads = {("main", "account", "risk", result): count for result, count in results.items()}
    reads |= {("main", "account", "bots", "swr"): 1, ("other", "account", "bots", "stored"): 1}
    reads |= {("main", "position-risk", "bots", "fresh"): 3}
    assert weight_saved(reads) == {("main", "risk"): 4 * 5, ("main", "bots"): 5 + 3 * 1}
