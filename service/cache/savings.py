"""What snapshots have spared at the exchange, told by how reads were met."""

from collections import Counter as Tally
from collections.abc import Mapping

from prometheus_client import Counter

from service.exchange.gate import ACCOUNT

ASKED = frozenset({"stored", "stale-if-error"})
"""Results of the reads that the exchange was asked for, in vain or not; all others were spared a call."""


def weight_saved(cache_results: Counter) -> Mapping[tuple[str, str], int]:
    """Request weight by account and client, since the start. Read when asked for: it costs a read nothing."""
    saved = Tally[tuple[str, str]]()
    for sample in (sample for metric in cache_results.collect() for sample in metric.samples):
        if sample.labels["result"] not in ASKED:
            saved[sample.labels["account"], sample.labels["client"]] += ACCOUNT.weight * int(sample.value)
    return saved
