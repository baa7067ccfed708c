"""Verdicts of a moment ago, by the token's digest; bounded, and the refused can't push out the accepted."""

from collections import OrderedDict

import msgspec

from service.kubernetes.token_review import Refusal, ReviewResult

MAX_ENTRIES = 4_096
"""Verdicts of either kind; some 1 MB. More pods than that calling within ten seconds cost reviews, nothing else."""


class _Remembered(msgspec.Struct, frozen=True):
    verdict: ReviewResult
    until: int


class ReviewCache:
    """Times are ms, monotonic."""

    def __init__(self, room: int = MAX_ENTRIES) -> None:
        self._room = room
        self._accepted: OrderedDict[str, _Remembered] = OrderedDict()
        self._refused: OrderedDict[str, _Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accepted) + len(self._refused)

    def recall(self, digest: str, now: int) -> ReviewResult | None:
        """The verdict, while it holds."""
        for kept in (self._accepted, self._refused):
            found = kept.get(digest)
            if found is not None and now < found.until:
                kept.move_to_end(digest)
                return found.verdict
        return None

    def was_accepted(self, digest: str) -> bool:
        """Whether the last verdict on it was a good one, even if that holds no longer."""
        return digest in self._accepted

    def keep(self, digest: str, verdict: ReviewResult, until: int) -> None:
        """Remember a verdict in place of an earlier one."""
        into, other = self._accepted, self._refused
        if isinstance(verdict, Refusal):
            into, other = other, into
        other.pop(digest, None)
        into[digest] = _Remembered(verdict, until)
        into.move_to_end(digest)
        if len(into) > self._room:
            into.popitem(last=False)
