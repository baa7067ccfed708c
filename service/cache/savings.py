"""The exchange's request weight that snapshots saved, by how reads were answered."""

from collections import Counter as Tally
from collections.abc import Mapping

from prometheus_client import Counter

from service.fleet.budget import ACCOUNT_WEIGHT

CALLED = frozenset({"stored", "stale-if-error"})
"""Results of reads that caused a call to the exchange, whether or not it succeeded; all others saved one."""


def weight_saved(cache_results: Counter) -> Mapping[tuple[str, str], int]:
    """Request weight by account and client, since the start. Computed when it is scraped, so that reads pay nothing."""
    saved = Tally[tuple[str, str]]()
    for sample in (sample for metric in cache_results.collect() for sample in metric.samples):
        if sample.labels["result"] not in CALLED:
            saved[sample.labels["account"], sample.labels["client"]] += ACCOUNT_WEIGHT * int(sample.value)
    return saved
