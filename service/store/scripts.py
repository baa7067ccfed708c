"""The Lua scripts, and the names of what they work on.

An account's keys are `{prefix}:{environment}:{exchange host}:{account}:…`. A public address belongs to no
environment, so its ledger and its not-before are `{prefix}:egress:{exchange host}:{egress}:…`. All numbers are
whole milliseconds, or weight.
"""

from importlib import resources
from typing import Any, TypeAlias

import msgspec
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from service.settings import Settings

Args: TypeAlias = list[bytes | str | int]
"""A script's arguments."""
Found: TypeAlias = list[Any]
"""What a script gives: lists, bytes, whole numbers and `None`, as Redis has them."""


class AccountKeys(msgspec.Struct, frozen=True):
    """The names of one account's state."""

    snapshot: str
    credential: str
    failures: str
    lease: str
    address_hold: str
    credential_hold: str
    proof: str
    """Who tries the credential out."""
    channel: str
    """Where replicas tell each other that an account's state has changed."""


class EgressKeys(msgspec.Struct, frozen=True):
    """The names of one public address's state."""

    hold: str
    probe: str
    ledger: str
    """Of a minute, with its number behind a colon."""
    scope: str
    """Before an account's name."""

    def credential_hold(self, account: str, credential: str) -> str:
        """Of one credential, by its identity: a changed one leaves its latch behind."""
        return _credential_hold(self.scope, account, credential)


def account_keys(settings: Settings, account: str, credential: str) -> AccountKeys:
    """Names for an account under a credential's identity."""
    scope = _scope(settings)
    own = f"{scope}:{account}"
    return AccountKeys(
        snapshot=f"{own}:snapshot",
        credential=f"{own}:credential",
        failures=f"{own}:failures",
        lease=f"{own}:lease",
        address_hold=f"{_egress(settings)}:hold",
        credential_hold=_credential_hold(scope, account, credential),
        proof=f"{own}:proof:{credential}",
        channel=f"{scope}:news",
    )


def egress_keys(settings: Settings) -> EgressKeys:
    own = _egress(settings)
    return EgressKeys(hold=f"{own}:hold", probe=f"{own}:probe", ledger=f"{own}:ledger", scope=_scope(settings))


def heartbeat_key(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:heartbeat"


class Scripts:
    """The Lua scripts, registered with one client; each is atomic and safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self.look = _script(redis, "look")
        self.keep = _script(redis, "keep")
        self.prove = _script(redis, "prove")
        self.fail = _script(redis, "fail")
        self.renew = _script(redis, "renew")
        self.release = _script(redis, "release")
        self.reserve = _script(redis, "reserve")
        self.settle = _script(redis, "settle")
        self.hold = _script(redis, "hold")
        self.resume = _script(redis, "resume")


def _scope(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:{settings.environment}:{settings.exchange.host}"


def _credential_hold(scope: str, account: str, credential: str) -> str:
    return f"{scope}:{account}:hold:{credential}"


def _egress(settings: Settings) -> str:
    return f"{settings.redis.key_prefix}:egress:{settings.exchange.host}:{settings.exchange.egress}"


def _script(redis: Redis, name: str) -> AsyncScript:
    source = resources.files("service.store").joinpath(f"{name}.lua").read_text("utf-8")
    return redis.register_script(source)
