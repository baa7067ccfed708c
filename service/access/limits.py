"""How often a client may send requests: one token bucket per client and replica, kept in memory.

The limit protects the gateway from a caller's loop, not the exchange: calls to the exchange don't become more with the
number of requests.
"""

import math

import msgspec

MILLISECONDS = 1000


class Quota(msgspec.Struct, frozen=True):
    """What is left of a client's limit on this replica after a request."""

    limit: int
    """Requests per window: the burst, rounded down."""
    window: int
    """Seconds in which `limit` tokens refill."""
    remaining: int
    """Whole requests that would be admitted now."""
    gain: int
    """Ms until there is one more."""
    admitted: bool


class Bucket(msgspec.Struct, frozen=True):
    """Tokens left at an instant (ms, monotonic)."""

    tokens: float
    at: int


class Rate(msgspec.Struct, frozen=True):
    """Requests per second, and the same number at once, but at least one: else no request could ever pass."""

    per_second: float

    @property
    def burst(self) -> float:
        return max(1.0, self.per_second)

    @property
    def window(self) -> int:
        """Seconds in which the burst refills: 1, or longer for a rate below one per second."""
        return math.ceil(max(1.0, 1 / self.per_second))


def take(rate: Rate, bucket: Bucket | None, now: int) -> tuple[Bucket, int]:
    """One request: the bucket after it, and how many ms the caller must wait (0: admitted)."""
    if bucket is None:
        bucket = Bucket(rate.burst, now)
    gained = (now - bucket.at) * rate.per_second / MILLISECONDS
    tokens = min(rate.burst, bucket.tokens + gained)
    if tokens >= 1:
        return Bucket(tokens - 1, now), 0
    return Bucket(tokens, now), _gain(rate, tokens)


def quota(rate: Rate, bucket: Bucket, *, admitted: bool) -> Quota:
    """What a bucket holds after a request; its `gain` is exactly how long a refused caller has to wait."""
    return Quota(int(rate.burst), rate.window, int(bucket.tokens), _gain(rate, bucket.tokens), admitted)


def _gain(rate: Rate, tokens: float) -> int:
    """Ms until a bucket holds one more whole token, rounded up."""
    return math.ceil((math.floor(tokens) + 1 - tokens) * MILLISECONDS / rate.per_second)


class RequestLimits:
    """The buckets of all clients with a limit, each for this replica's share of it.

    Args:
        replicas: how many share a client's limit.
    """

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._buckets: dict[str, tuple[Rate, Bucket]] = {}

    def take(self, client: str, per_second: float, now: int) -> Quota:
        """Take one request from a client's bucket at monotonic ms `now`; another limit begins with another bucket."""
        rate = Rate(per_second / self._replicas)
        kept, bucket = self._buckets.get(client, (rate, None))
        bucket, wait = take(rate, bucket if kept == rate else None, now)
        self._buckets[client] = rate, bucket
        return quota(rate, bucket, admitted=wait == 0)
