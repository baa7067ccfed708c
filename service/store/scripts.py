"""The Lua scripts: one `.lua` file each, and one attribute of `Scripts` each that runs it.

The attribute has the script's name, and takes keys and arguments in the order of the file's header. All numbers are
whole milliseconds, or weight.
"""

# A script is atomic. It may run twice, or run without its answer ever arriving: the guard gives up after 250 ms and
# never repeats, but its callers may call again. A token, an id or a comparison of times makes the second run harmless.
# None answers nil: `RedisGuard.call` returns `None` while Redis is unavailable.
#
# Scripts go past redis-py's commands, straight to a connection of its pool: what a command does besides (retries,
# figures for OpenTelemetry, packing in Python) takes more CPU than sending the script and reading its answer.

import asyncio
import hashlib
from importlib import resources
from typing import Any, TypeAlias

import hiredis
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

Args: TypeAlias = list[bytes | str | int]
"""A script's arguments."""
ScriptResult: TypeAlias = list[Any]
"""A script's result in Redis' types: lists, bytes, whole numbers and `None`."""


class Script:
    """A script, together with the files of functions that it uses; Redis has no way to import one."""

    def __init__(self, redis: Redis, name: str, *libraries: str) -> None:
        files = [resources.files("service.store").joinpath(f"{each}.lua") for each in ("values", *libraries, name)]
        self.text = "\n".join(file.read_text("utf-8") for file in files)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self._redis = redis

    async def __call__(self, keys: list[str], args: Args) -> Any:
        """Run it."""
        (result,) = await run(self._redis, (self, keys, args))
        return result


class Scripts:
    """The scripts on one Redis; call them through `RedisGuard`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._try_acquire = Script(redis, "try_acquire", "lineage")
        self._read_cooldowns = Script(redis, "read_cooldowns")
        self.renew = Script(redis, "renew")
        self.release = Script(redis, "release")
        self.store_fenced = Script(redis, "store_fenced", "lineage")
        self.record_failure = Script(redis, "record_failure")
        self.record_rotation = Script(redis, "record_rotation", "lineage")
        self.clear = Script(redis, "clear", "lineage")
        self.reserve = Script(redis, "reserve")
        self.settle = Script(redis, "settle")
        self.cool_down = Script(redis, "cool_down")
        self.resume = Script(redis, "resume")
        self.acquire_once = Script(redis, "acquire_once")
        self.exchange_info = Script(redis, "exchange_info")

    async def try_acquire(
        self, keys: list[str], args: Args, cooldown_keys: list[str]
    ) -> tuple[ScriptResult, ScriptResult]:
        """Run `try_acquire` and `read_cooldowns`: two scripts, for their keys may be in two slots; one round trip."""
        account, cooldowns = await run(
            self._redis, (self._try_acquire, keys, args), (self._read_cooldowns, cooldown_keys, [])
        )
        return account, cooldowns


async def run(redis: Redis, *calls: tuple[Script, list[str], Args]) -> list[Any]:
    """Run scripts in one round trip; their results.

    Raises:
        RedisError: Redis can't be reached, or refuses a script.
    """
    try:
        return await _run(redis, calls)
    except NoScriptError:  # Redis restarted, or was flushed; what did run is repeated
        for script, _, _ in calls:
            await redis.script_load(script.text)
        return await _run(redis, calls)


async def _run(redis: Redis, calls: tuple[tuple[Script, list[str], Args], ...]) -> list[Any]:
    pool: Any = redis.connection_pool  # redis-py leaves it untyped
    connection = await pool.get_connection()
    task: Any = asyncio.current_task()
    cancellations = task.cancelling()
    results: list[Any] = []
    # If anything but an answer ends this, redis-py closes the connection: no answer is left on it for the next caller.
    try:
        await connection.send_packed_command(b"".join(_packed(*call) for call in calls))
        # What `WaitBudget.bound` says of swallowed cancellations, seen before the answer is waited for.
        if task.cancelling() > cancellations:
            await connection.disconnect(nowait=True)
            raise asyncio.CancelledError
        for _ in calls:
            try:
                results.append(await connection.read_response())
            except ResponseError as exc:  # also an answer; those after it must be read too
                results.append(exc)
    finally:
        await pool.release(connection)
    for result in results:
        if isinstance(result, ResponseError):
            raise result
    return results


def _packed(script: Script, keys: list[str], args: Args) -> bytes:
    plain = [int(each) if isinstance(each, int) else each for each in args]  # hiredis takes no `Duration`
    command: Any = ("EVALSHA", script.sha, len(keys), *keys, *plain)
    packed: bytes = hiredis.pack_command(command)
    return packed
