"""How often a client may ask: a token bucket a client and replica, kept in memory.

The limit protects the gateway from a caller's loop, not the exchange: what the exchange is asked doesn't depend
on how many ask.
"""

import math

import msgspec

MILLISECONDS = 1000


class Bucket(msgspec.Struct, frozen=True):
    """Tokens left at an instant (ms, monotonic)."""

    tokens: float
    at: int


class Rate(msgspec.Struct, frozen=True):
    """Requests a second, and as many at once; never less than one at once, or nothing could ever pass."""

    per_second: float

    @property
    def burst(self) -> float:
        return max(1.0, self.per_second)


def take(rate: Rate, bucket: Bucket | None, now: int) -> tuple[Bucket, int]:
    """One request: the bucket after it, and how many ms the caller must wait (0: admitted)."""
    if bucket is None:
        bucket = Bucket(rate.burst, now)
    gained = (now - bucket.at) * rate.per_second / MILLISECONDS
    tokens = min(rate.burst, bucket.tokens + gained)
    if tokens >= 1:
        return Bucket(tokens - 1, now), 0
    return Bucket(tokens, now), math.ceil((1 - tokens) * MILLISECONDS / rate.per_second)


class RequestLimits:
    """The buckets of all clients that have a limit, this replica's share of it each."""

    def __init__(self, per_second: dict[str, float], replicas: int) -> None:
        self._rates = {client: Rate(limit / replicas) for client, limit in per_second.items()}
        self._buckets: dict[str, Bucket] = {}

    def change(self, per_second: dict[str, float], replicas: int) -> None:
        """Other limits from now on; who keeps its limit keeps its bucket."""
        before, self._rates = self._rates, {client: Rate(limit / replicas) for client, limit in per_second.items()}
        kept = {client for client, rate in self._rates.items() if before.get(client) == rate}
        self._buckets = {client: bucket for client, bucket in self._buckets.items() if client in kept}

    def wait(self, client: str, now: int) -> int:
        """Take one request from a client's bucket; ms until there is room again, 0 when there was."""
        rate = self._rates.get(client)
        if rate is None:
            return 0
        self._buckets[client], wait = take(rate, self._buckets.get(client), now)
        return wait
