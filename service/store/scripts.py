"""The Lua scripts: one `.lua` file each, and one Python function each that runs it.

The function has the script's name (or it is `RedisExchangeInfo.get`), and lists keys and arguments in the order of the
file's header. All numbers are whole milliseconds, or weight.
"""

# A script is atomic. It may run twice, or run without its answer ever arriving: the guard gives up after 250 ms and
# never repeats, but its callers may call again. A token, an id or a comparison of times makes the second run harmless.
# None answers nil: `RedisGuard.call` returns `None` while Redis is unavailable.

from importlib import resources
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError

Args: TypeAlias = list[bytes | str | int]
"""A script's arguments."""
ScriptResult: TypeAlias = list[Any]
"""A script's result in Redis' types: lists, bytes, whole numbers and `None`."""


class Scripts:
    """The scripts, registered with one client; call them through `RedisGuard`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._try_acquire = _script(redis, "try_acquire", "lineage")
        self._read_cooldowns = _script(redis, "read_cooldowns")
        self.renew = _script(redis, "renew")
        self.release = _script(redis, "release")
        self.store_fenced = _script(redis, "store_fenced", "lineage")
        self.record_failure = _script(redis, "record_failure")
        self.record_rotation = _script(redis, "record_rotation", "lineage")
        self.clear = _script(redis, "clear", "lineage")
        self.reserve = _script(redis, "reserve")
        self.settle = _script(redis, "settle")
        self.cool_down = _script(redis, "cool_down")
        self.resume = _script(redis, "resume")
        self.acquire_once = _script(redis, "acquire_once")
        self.exchange_info = _script(redis, "exchange_info")

    async def try_acquire(
        self, keys: list[str], args: Args, cooldown_keys: list[str]
    ) -> tuple[ScriptResult, ScriptResult]:
        """Run `try_acquire` and `read_cooldowns`: two scripts, for their keys may be in two slots; one round trip."""

        async def run_both() -> tuple[ScriptResult, ScriptResult]:
            # No MULTI: one command more for the ACL to allow.
            async with self._redis.pipeline(transaction=False) as pipeline:
                _ = pipeline.evalsha(self._try_acquire.sha, len(keys), *keys, *args)
                _ = pipeline.evalsha(self._read_cooldowns.sha, len(cooldown_keys), *cooldown_keys)
                account, cooldowns = await pipeline.execute()
            return account, cooldowns

        try:
            return await run_both()
        except NoScriptError:  # Redis restarted, or was flushed; what of the first script did run is repeated
            for each in (self._try_acquire, self._read_cooldowns):
                await self._redis.script_load(each.script)
            return await run_both()


def _script(redis: Redis, name: str, *libraries: str) -> AsyncScript:
    """Register a script together with the files of functions that it uses; Redis has no way to import one."""
    files = [resources.files("service.store").joinpath(f"{each}.lua") for each in ("values", *libraries, name)]
    return redis.register_script("\n".join(file.read_text("utf-8") for file in files))
