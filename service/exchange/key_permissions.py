"""What an API key may do beside what the gateway needs of it, and how bad that is. Pure.

The gateway reads, so whatever else its key can do is only of use to who steals it. The members are those of the
wallet docs' "Get API Key Permission"; one that isn't known here is judged by its value, so that a permission the
exchange adds tomorrow doesn't pass in silence.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from service.exchange.answers import MalformedAnswerError

MAX_NAMES = 8
"""Unknown permissions that are named; the exchange has a dozen in all."""

MOVES = ("enableWithdrawals", "enableInternalTransfer", "permitsUniversalTransfer")
"""Money leaves the account by these."""
FUTURES = "enableFutures"
TRADES = (
    "enableSpotAndMarginTrading",
    "enableMargin",
    "enableVanillaOptions",
    "enablePortfolioMarginTrading",
    "enableFixApiTrade",
)
READS = ("enableReading", "enableFixReadOnly")
"""All that is needed, and nothing that a reader shouldn't have."""
_REQUIRED = ("ipRestrict", "enableReading", *MOVES, FUTURES, "enableSpotAndMarginTrading")
"""Without these there is nothing to judge by: what isn't told is not known to be off. The others came later."""
_KNOWN = frozenset({"ipRestrict", FUTURES, *MOVES, *TRADES, *READS})

_PERMISSION = re.compile(r"(?:enable|permits).*", re.DOTALL)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,47}")
"""A name that can be printed: it is the exchange's text."""

Verdict: TypeAlias = Literal["ok", "warn", "fail"]
Judgement: TypeAlias = tuple[Verdict, str]


class Restrictions(msgspec.Struct, frozen=True):
    """An API key's permissions."""

    on: frozenset[str]
    """The names of those that are on; an unknown one that is neither true nor false counts as on."""


def parse(body: bytes) -> Restrictions:
    """The permissions in an answer.

    Raises:
        MalformedAnswerError: not the documented shape. The message never quotes it.
    """
    try:
        members = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswerError("the key's permissions are not a JSON object") from None
    untold = {name for name in _REQUIRED if name not in members}
    untold |= {name for name in _KNOWN & members.keys() if not isinstance(members[name], bool)}
    if untold:
        raise MalformedAnswerError(f"the key's permissions don't say {', '.join(sorted(untold))}")
    return Restrictions(frozenset(_on(members)))


def _on(members: Mapping[str, object]) -> Iterable[str]:
    for name, value in members.items():
        if value is True or (_PERMISSION.fullmatch(name) and value is not False):
            yield name


def key_permissions(restrictions: Restrictions) -> list[Judgement]:
    """What there is to say of a key, the worst first; one sentence that is `ok` where there is nothing.

    `fail` is what lets money leave, or keeps the gateway from reading; `warn` is what a thief could do harm with.
    """
    on = restrictions.on
    found: list[Judgement] = []
    if moves := _named(on, MOVES):
        found.append(("fail", f"the key can move money ({moves}): use one that can only read"))
    if "enableReading" not in on:
        found.append(("fail", "the key can't read (enableReading is off)"))
    if trades := _named(on, TRADES):
        found.append(("warn", f"the key can trade ({trades}), which the gateway never does"))
    if FUTURES in on:
        found.append(("warn", _FUTURES_ON))
    if unknown := on - _KNOWN:
        found.append(("warn", f"the key has permissions unknown to this release: {_shown(unknown)}"))
    if "ipRestrict" not in on:
        found.append(("warn", "the key isn't bound to an address: whoever has a copy can use it from anywhere"))
    return found or [("ok", "the key can only read, and only from the addresses it is bound to")]


_FUTURES_ON = (
    "the key can trade futures (enableFutures): whether reading COIN-M needs that isn't documented; "
    "try without, and bind the key to the gateway's address"
)


def _named(on: frozenset[str], names: tuple[str, ...]) -> str:
    return ", ".join(name for name in names if name in on)


def _shown(names: frozenset[str]) -> str:
    """Names in order, as many as fit, and the number of the others."""
    printable = sorted(name for name in names if _NAME.fullmatch(name))[:MAX_NAMES]
    others = len(names) - len(printable)
    return ", ".join([*printable, *([f"{others} more"] if others else [])])
