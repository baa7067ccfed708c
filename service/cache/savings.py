"""The exchange's request weight that snapshots saved, by how reads were answered."""

from collections import Counter
from collections.abc import Mapping

from service.fleet.budget import ACCOUNT_WEIGHT

CALLED = frozenset({"stored", "stale-if-error"})
"""Results of reads that caused a call to the exchange, whether or not it succeeded; all others saved one."""


def weight_saved(cache_results: Mapping[tuple[str, str, str], int]) -> Mapping[tuple[str, str], int]:
    """Request weight by account and client; of reads by account, client and result."""
    saved = Counter[tuple[str, str]]()
    for (account, client, result), reads in cache_results.items():
        if result not in CALLED:
            saved[account, client] += ACCOUNT_WEIGHT * reads
    return saved
