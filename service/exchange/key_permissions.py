"""What an API key may do beyond what the gateway needs, and how bad that is. Pure.

The members are those of the wallet docs' "Get API Key Permission".
"""

# The gateway only reads, so any other permission of its key is only useful to a thief. An unknown member is judged by
# its value, so that a permission that the exchange adds later is reported too.

import re
from typing import Literal, TypeAlias

import msgspec

from service.exchange.answers import MalformedAnswerError

MAX_NAMES = 8
"""Unknown permissions that are listed by name; the exchange has a dozen in all."""

MOVES = ("enableWithdrawals", "enableInternalTransfer", "permitsUniversalTransfer")
"""These let money leave the account."""
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
# A missing member is not known to be off, so without these there is nothing to judge by. The others were added later.
_REQUIRED = ("ipRestrict", "enableReading", *MOVES, FUTURES, "enableSpotAndMarginTrading")
_KNOWN = frozenset({"ipRestrict", FUTURES, *MOVES, *TRADES, *READS})

_PERMISSION = re.compile(r"(?:enable|permits).*", re.DOTALL)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,47}")  # safe to print: names are the exchange's text

Severity: TypeAlias = Literal["ok", "warn", "fail"]
Judgement: TypeAlias = tuple[Severity, str]


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
    missing = {name for name in _REQUIRED if name not in members}
    missing |= {name for name in _KNOWN & members.keys() if not isinstance(members[name], bool)}
    if missing:
        raise MalformedAnswerError(f"the key's permissions don't say {', '.join(sorted(missing))}")
    # A name that looks like a permission counts as on unless it is plainly false: in doubt, warn.
    on = (
        each for each, value in members.items() if value is True or (_PERMISSION.fullmatch(each) and value is not False)
    )
    return Restrictions(frozenset(on))


def key_permissions(restrictions: Restrictions) -> list[Judgement]:
    """The findings about a key, the worst first; a single `ok` where there are none.

    `fail`: money can leave, or the gateway can't read. `warn`: a thief could do harm with it.
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
        # The names come from the exchange: a few printable ones are listed, and the rest are counted.
        names = sorted(name for name in unknown if _NAME.fullmatch(name))[:MAX_NAMES]
        others = len(unknown) - len(names)
        listed = ", ".join([*names, *([f"{others} more"] if others else [])])
        found.append(("warn", f"the key has permissions unknown to this release: {listed}"))
    if "ipRestrict" not in on:
        found.append(("warn", "the key isn't bound to an address: whoever has a copy can use it from anywhere"))
    return found or [("ok", "the key can only read, and only from the addresses it is bound to")]


_FUTURES_ON = (
    "the key can trade futures (enableFutures): whether reading COIN-M needs that isn't documented; "
    "try without, and bind the key to the gateway's address"
)


def _named(on: frozenset[str], names: tuple[str, ...]) -> str:
    return ", ".join(name for name in names if name in on)
