"""The Lua scripts, and the names of the keys that they work on.

An account's keys are `{prefix}:{account:ENVIRONMENT:HOST:NAME}:…`. A public address belongs to no environment: its keys
are `{prefix}:{egress:HOST:NAME}:…`. The cooldowns of the credentials that are used there are among them, because a
rejected credential may be rejected for its address. A key that belongs to one credential ends in its identity. All
numbers are whole milliseconds, or weight.
"""

# The inner braces are Redis' hash tags, and stand in the keys as they do above: one tag per account, one per address.
# No command or script touches keys of two tags. So a server that spreads keys over slots works too, if one shard holds
# all slots; `store.selftest` finds out whether it does.
#
# A script may run twice, or run without its answer ever arriving: the guard gives up after 250 ms and never repeats,
# but its callers may call again. A token, an id or a comparison of times makes the second run
# of a script harmless.

import contextlib
import secrets
from importlib import resources
from typing import Any, TypeAlias

import msgspec
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError

from service.cache.wait_budget import WaitBudget
from service.settings import Settings
from service.store.guard import RedisGuard, RedisUnavailableError

Args: TypeAlias = list[bytes | str | int]
"""A script's arguments."""
ScriptResult: TypeAlias = list[Any]
"""A script's result in Redis' types: lists, bytes, whole numbers and `None`."""


class AccountKeys(msgspec.Struct, frozen=True):
    """The keys of one account's state."""

    account: str
    scope: str
    channel: str
    """Where replicas publish that the state of any account has changed."""

    @property
    def credentials(self) -> str:
        """Which credentials use the account, and which has replaced which."""
        return f"{self.scope}:credentials"

    def snapshot(self, identity: str) -> str:
        return f"{self.scope}:snapshot:{identity}"

    def failures(self, identity: str) -> str:
        return f"{self.scope}:failures:{identity}"

    def lease(self, identity: str) -> str:
        return f"{self.scope}:lease:{identity}"

    def proof(self, identity: str) -> str:
        """Held by the replica that may try the credential out."""
        return f"{self.scope}:proof:{identity}"


class EgressKeys(msgspec.Struct, frozen=True):
    """The keys of one public address's state."""

    scope: str

    @property
    def hold(self) -> str:
        return f"{self.scope}:hold"

    @property
    def probe(self) -> str:
        return f"{self.scope}:probe"

    def credential_cooldown(self, identity: str) -> str:
        """One per credential: a new credential isn't bound by the cooldown of the one it replaced."""
        return f"{self.scope}:hold:{identity}"

    def minute(self, minute: int) -> list[str]:
        """A minute's ledger, and its calls in flight."""
        return [f"{self.scope}:ledger:{minute}", f"{self.scope}:ledger:{minute}:calls"]


def account_keys(settings: Settings, account: str) -> AccountKeys:
    place = f"{settings.environment}:{settings.exchange.host}"
    prefix = settings.redis.key_prefix
    return AccountKeys(account, f"{prefix}:{{account:{place}:{account}}}", f"{prefix}:{place}:news")


def egress_keys(settings: Settings) -> EgressKeys:
    exchange = settings.exchange
    return EgressKeys(f"{settings.redis.key_prefix}:{{egress:{exchange.host}:{exchange.egress}}}")


def heartbeat_key(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:heartbeat"


class Scripts:
    """The Lua scripts, registered with one client; each is atomic, and safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._read_account = _script(redis, "read_account", "lineage")
        self._read_cooldowns = _script(redis, "read_cooldowns")
        self.store_fenced = _script(redis, "store_fenced", "lineage")
        self.link = _script(redis, "link", "lineage")
        self.clear = _script(redis, "clear", "lineage")
        self.record_failure = _script(redis, "record_failure")
        self.renew = _script(redis, "renew")
        self.release = _script(redis, "release")
        self.acquire_once = _script(redis, "acquire_once")
        self.reserve = _script(redis, "reserve")
        self.settle = _script(redis, "settle")
        self.cool_down = _script(redis, "cool_down")
        self.resume = _script(redis, "resume")
        self.exchange_info = _script(redis, "exchange_info")

    async def read_state(
        self, keys: list[str], args: Args, cooldown_keys: list[str]
    ) -> tuple[ScriptResult, ScriptResult]:
        """Read an account's shared state (and try for its lease), and the cooldowns that bind its calls.

        Two scripts, for their keys may be in two slots; both travel in one round trip.
        """
        try:
            return await self._read_both(keys, args, cooldown_keys)
        except NoScriptError:  # Redis restarted, or was flushed; what of the first script did run is repeated
            for each in (self._read_account, self._read_cooldowns):
                await self._redis.script_load(each.script)
            return await self._read_both(keys, args, cooldown_keys)

    async def _read_both(
        self, keys: list[str], args: Args, cooldown_keys: list[str]
    ) -> tuple[ScriptResult, ScriptResult]:
        async with self._redis.pipeline(transaction=False) as pipeline:  # MULTI: one command more for the ACL to allow
            _ = pipeline.evalsha(self._read_account.sha, len(keys), *keys, *args)
            _ = pipeline.evalsha(self._read_cooldowns.sha, len(cooldown_keys), *cooldown_keys)
            account, cooldowns = await pipeline.execute()
        return account, cooldowns


async def acquire_once(
    guard: RedisGuard, scripts: Scripts, key: str, milliseconds: int, limit: WaitBudget | None = None
) -> bool | None:
    """Acquire the sole right to do something; it lasts that long, whatever comes of it. `None`: unavailable."""
    args: Args = [secrets.token_hex(8), milliseconds]
    with contextlib.suppress(RedisUnavailableError):
        return bool(await guard.run(lambda: scripts.acquire_once(keys=[key], args=args), limit))
    return None


def _script(redis: Redis, name: str, *before: str) -> AsyncScript:
    """Register a script together with the files of functions that it uses; Redis has no way to import one."""
    files = [resources.files("service.store").joinpath(f"{each}.lua") for each in ("values", *before, name)]
    return redis.register_script("\n".join(file.read_text("utf-8") for file in files))
