"""For `check`: what an API key may do beyond what the gateway needs, and how bad that is.

The wallet API, another host of the exchange, answers that; its docs call it "Get API Key Permission".
"""

# The gateway only reads, so any other permission of its key is only useful to a thief. An unknown member is judged by
# its value, so that a permission that the exchange adds later is reported too.
#
# A ban binds the address. The two hosts count requests separately, but which of them enforces a ban and what lengthens
# it isn't documented. So nothing is sent to either during a cooldown of the address, nor before a probe has cleared it.
# The other direction is local: a refusal here stops neither the replicas nor their ledger, only the next call here.

import asyncio
import re
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from service.exchange import responses, transport
from service.exchange.gate import AddressBudget
from service.exchange.responses import MalformedAnswerError
from service.exchange.signing import Credential
from service.exchange.transport import HttpClient
from service.fleet import budget
from service.fleet.budget import Charge
from service.fleet.errors import ExchangeAnswerInvalidError, ExchangeError, ExchangeTimeoutError, Failure
from service.settings import Exchange

PATH = "/sapi/v1/account/apiRestrictions"
"""Weight 1 of the wallet API's own limit per address, which the ledger of `/dapi` doesn't count."""

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


class WalletApi:
    """One signed call; each opens a client of its own, because there are only as many calls as accounts."""

    def __init__(self, settings: Exchange, address_budget: AddressBudget, connect: Callable[[], HttpClient]) -> None:
        self._settings = settings
        self._budget = address_budget
        self._connect = connect
        self._refused: Failure | None = None

    async def restrictions(self, credential: Credential) -> Restrictions:
        """What a key may do, by a call within the configured time.

        Raises:
            ExchangeError: not sent, not answered, refused, or not of the documented shape.
        """
        settings, clock = self._settings, self._budget.clock
        if barrier := self._budget.barrier(Charge(0, credential=credential.identity)):
            raise barrier.failure.error()
        if self._refused is not None:
            raise self._refused.error()
        try:
            async with asyncio.timeout(settings.timeout.seconds):
                query = credential.signed_query(clock.timestamp(), settings.recv_window)
                async with self._connect() as http:
                    answer = await transport.fetch(http, PATH, query, credential.headers)
            error = responses.error_in(answer, clock.now())
            if error is not None:
                raise error
        except TimeoutError:
            raise ExchangeTimeoutError("the wallet API did not answer in time") from None
        except ExchangeError as exc:
            cooldown = budget.cooldown_after(exc, clock.now())
            # A rejected credential is not remembered: the next account has another one.
            if cooldown is not None and not budget.is_credential(cooldown):
                self._refused = exc.failure.until(cooldown.until)
            raise
        try:
            return parse(answer.body)
        except MalformedAnswerError as exc:
            raise ExchangeAnswerInvalidError(str(exc), answered=answer.status) from None
