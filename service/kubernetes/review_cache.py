"""Recent review results, by the token's digest. The size is bounded, and refused tokens can't evict accepted ones."""

from collections import OrderedDict

import msgspec

from service.kubernetes.token_review import Refusal, ReviewResult

MAX_ENTRIES = 4_096
"""Results of each kind; some 1 MB. If more pods than that call within ten seconds, it costs reviews, nothing else."""


class _Entry(msgspec.Struct, frozen=True):
    result: ReviewResult
    until_ms: int


class ReviewCache:
    """Times are ms, monotonic."""

    # A digest is in one of the two maps at most: `put` removes it from the other. Both are in LRU order, oldest first.
    # An expired entry stays until its eviction: `was_accepted` recognises known callers by it.

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._accepted: OrderedDict[str, _Entry] = OrderedDict()
        self._refused: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accepted) + len(self._refused)

    def get(self, digest: str, now_ms: int) -> ReviewResult | None:
        """The result, while it is valid."""
        for entries in (self._accepted, self._refused):
            entry = entries.get(digest)
            if entry is not None and now_ms < entry.until_ms:
                entries.move_to_end(digest)
                return entry.result
        return None

    def was_accepted(self, digest: str) -> bool:
        """Whether the last result accepted the token, even if that result has expired."""
        return digest in self._accepted

    def put(self, digest: str, result: ReviewResult, until_ms: int) -> None:
        """Remember a result in place of an earlier one."""
        into, other = self._accepted, self._refused
        if isinstance(result, Refusal):
            into, other = other, into
        other.pop(digest, None)
        into[digest] = _Entry(result, until_ms)
        into.move_to_end(digest)
        if len(into) > self._max_entries:
            into.popitem(last=False)
