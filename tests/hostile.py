"""What somebody else may have left at a key of ours: other types, and values that no replica can have written."""

from collections.abc import AsyncIterator
from typing import Any

CANARY = "canary-of-redis"
"""A text that must never get past the gateway."""

NUMBERS: tuple[bytes, ...] = (
    b"",
    CANARY.encode(),
    b"9" * 5_000,
    b"9" * 15,
    b"9007199254740993",
    b"-5",
    b"1.5",
    b"1e400",
    b"inf",
    b"nan",
    b"\xff\xfe",
    b"[" * 5_000,
)


async def hostile_states(redis: Any, key: str) -> AsyncIterator[str]:
    """Leave one thing after the other at a key, and say what: its types, each of its fields, its life."""
    if await redis.type(key) == b"hash":
        for field in await redis.hkeys(key):
            for value in NUMBERS:
                await redis.hset(key, field, value)
                yield f"{value[:20]!r} in {field!r}"
    for value in NUMBERS:
        await redis.set(key, value)
        yield f"{value[:20]!r}"
    values: dict[str, tuple[Any, ...]] = {
        "rpush": ("rpush", CANARY),
        "sadd": ("sadd", CANARY),
        "zadd": ("zadd", {CANARY: 1.5}),
        "xadd": ("xadd", {CANARY: CANARY}),
        "hset": ("hset", CANARY, CANARY),
        "binary names": ("hset", b"account:\xff", b"5"),
        "many fields": ("hset", None, None, {f"{CANARY}-{number}": "1" for number in range(1_100)}),
    }
    for name, (command, *arguments) in values.items():
        await redis.delete(key)
        await getattr(redis, command)(key, *arguments)
        yield name
    yield "left alone"
    for life in (None, 10**13):
        if life is None:
            await redis.persist(key)
        else:
            await redis.pexpire(key, life)
        yield f"a life of {life}"
