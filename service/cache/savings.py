"""The exchange's request weight that snapshots saved, by how reads were answered."""

from collections import Counter
from collections.abc import Mapping

from service.account.documents import DOCUMENTS

CALLED = frozenset({"stored", "stale-if-error"})
"""Results of reads that caused a call to the exchange, whether or not it succeeded; all others saved one."""

_WEIGHTS = {document.name: document.weight for document in DOCUMENTS}


def weight_saved(cache_results: Mapping[tuple[str, str, str, str], int]) -> Mapping[tuple[str, str], int]:
    """Request weight by account and client; of reads by account, document, client and result."""
    saved = Counter[tuple[str, str]]()
    for (account, document, client, result), reads in cache_results.items():
        if result not in CALLED:
            saved[account, client] += _WEIGHTS[document] * reads
    return saved
