"""The Lua scripts, and the names of what they work on.

An account's keys are `{prefix}:{account:ENVIRONMENT:HOST:NAME}:…`. A public address belongs to no environment: its keys
are `{prefix}:{egress:HOST:NAME}:…`, the not-befores of the credentials that are used there among them (a rejection may
be about the address too). The inner braces are Redis' hash tags and stand in the keys as they do here: one tag an
account and one an address, and no command touches keys of two, so that a server whose keys are spread over slots serves
too, if one shard has them all. What belongs to one credential ends in its identity. All numbers are whole milliseconds,
or weight.
"""

import contextlib
import secrets
from importlib import resources
from typing import Any, TypeAlias

import msgspec
from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError

from service.settings import Settings
from service.store.guard import RedisGuard, RedisUnavailableError, WaitBudget

Args: TypeAlias = list[bytes | str | int]
"""A script's arguments."""
Found: TypeAlias = list[Any]
"""What a script gives: lists, bytes, whole numbers and `None`, as Redis has them."""


class AccountKeys(msgspec.Struct, frozen=True):
    """The names of one account's state."""

    account: str
    scope: str
    channel: str
    """Where replicas tell each other that an account's state has changed."""

    @property
    def credentials(self) -> str:
        """Who uses the account, and which credential has replaced which."""
        return f"{self.scope}:credentials"

    def snapshot(self, identity: str) -> str:
        return f"{self.scope}:snapshot:{identity}"

    def failures(self, identity: str) -> str:
        return f"{self.scope}:failures:{identity}"

    def lease(self, identity: str) -> str:
        return f"{self.scope}:lease:{identity}"

    def proof(self, identity: str) -> str:
        """Who tries the credential out."""
        return f"{self.scope}:proof:{identity}"


class EgressKeys(msgspec.Struct, frozen=True):
    """The names of one public address's state."""

    scope: str

    @property
    def hold(self) -> str:
        return f"{self.scope}:hold"

    @property
    def probe(self) -> str:
        return f"{self.scope}:probe"

    def credential_cooldown(self, identity: str) -> str:
        """Of one credential; a changed one leaves its latch behind."""
        return f"{self.scope}:hold:{identity}"

    def minute(self, minute: int) -> list[str]:
        """A minute's ledger, and its calls under way."""
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
    """The Lua scripts, registered with one client; each is atomic and safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._look = _script(redis, "look", "lineage")
        self._holds = _script(redis, "holds")
        self.keep = _script(redis, "keep", "lineage")
        self.link = _script(redis, "link", "lineage")
        self.clear = _script(redis, "clear", "lineage")
        self.fail = _script(redis, "fail")
        self.renew = _script(redis, "renew")
        self.release = _script(redis, "release")
        self.claim = _script(redis, "claim")
        self.reserve = _script(redis, "reserve")
        self.settle = _script(redis, "settle")
        self.hold = _script(redis, "hold")
        self.resume = _script(redis, "resume")
        self.listing = _script(redis, "listing")

    async def look(self, keys: list[str], args: Args, holds: list[str]) -> tuple[Found, Found]:
        """What is shared of an account, and what forbids its calls: two scripts, for their keys may be in two slots.

        They travel together, in one round trip.
        """
        try:
            return await self._look_at_both(keys, args, holds)
        except NoScriptError:
            for each in (self._look, self._holds):
                await self._redis.script_load(each.script)
            return await self._look_at_both(keys, args, holds)

    async def _look_at_both(self, keys: list[str], args: Args, holds: list[str]) -> tuple[Found, Found]:
        async with self._redis.pipeline(transaction=False) as pipeline:  # MULTI: one command more to allow
            _ = pipeline.evalsha(self._look.sha, len(keys), *keys, *args)
            _ = pipeline.evalsha(self._holds.sha, len(holds), *holds)
            look, bound = await pipeline.execute()
        return look, bound


async def claim(
    link: RedisGuard, scripts: Scripts, key: str, milliseconds: int, limit: WaitBudget | None = None
) -> bool | None:
    """Whether this replica alone may do something; nobody else may for so long, whatever comes of it. `None`: away."""
    args: Args = [secrets.token_hex(8), milliseconds]
    with contextlib.suppress(RedisUnavailableError):
        return bool(await link.run(lambda: scripts.claim(keys=[key], args=args), limit))
    return None


def _script(redis: Redis, name: str, *before: str) -> AsyncScript:
    """A script behind the functions that it uses."""
    files = [resources.files("service.store").joinpath(f"{each}.lua") for each in ("values", *before, name)]
    return redis.register_script("\n".join(file.read_text("utf-8") for file in files))
