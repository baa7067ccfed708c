"""Request weight per client address and calendar minute, 429, 418 and bans.

`assess` is the whole rule and pure; `Limits` remembers one tally per address. The source is "COIN-M
docs, general info" and replies seen on the wire. Where those are silent, this simulator says:

- every request counts, refused ones and errors too;
- in a minute that went over, the first refused request and `grace` further ones get 429, the next one a ban;
- requests during a ban answer 418 and do not make it longer.
"""

from enum import Enum

import msgspec

from simulator.asgi import Reply, error

MINUTE_MS = 60_000
FIRST_BAN_MS = 2 * MINUTE_MS  # "scale in duration for repeat offenders, from 2 minutes to 3 days"
LONGEST_BAN_MS = 3 * 24 * 60 * MINUTE_MS
# 2 minutes doubled 11 times is nearly 3 days, 12 times is more: larger powers need not be computed.
MAX_DOUBLINGS = 12


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """`weight_limit` per minute and address (2400 since mid-2026); `retry_after`: send that header at all."""

    weight_limit: int = 2400
    grace: int = 3
    retry_after: bool = False  # the futures docs don't mention it


class Tally(msgspec.Struct, frozen=True, rename="camel"):
    """One address: `used` and `refused` count in `minute` (since the epoch), `bans` over its life."""

    minute: int = 0
    used: int = 0
    refused: int = 0
    bans: int = 0
    banned_until_ms: int = 0


class Verdict(Enum):
    ADMITTED = 200
    THROTTLED = 429
    BANNED = 418


def at(tally: Tally, now_ms: int) -> Tally:
    """The tally as it stands at *now_ms*: a new calendar minute starts from zero."""
    minute = now_ms // MINUTE_MS
    return tally if tally.minute == minute else msgspec.structs.replace(tally, minute=minute, used=0, refused=0)


def ban(tally: Tally, now_ms: int) -> Tally:
    """The next ban: twice as long as the one before, at most three days."""
    length = min(FIRST_BAN_MS << min(tally.bans, MAX_DOUBLINGS), LONGEST_BAN_MS)
    return msgspec.structs.replace(tally, bans=tally.bans + 1, banned_until_ms=now_ms + length)


def assess(tally: Tally, weight: int, policy: Policy, now_ms: int) -> tuple[Tally, Verdict]:
    """Count one request of *weight*; the tally after it, and whether it is answered."""
    current = at(tally, now_ms)
    current = msgspec.structs.replace(current, used=current.used + weight)
    if now_ms < current.banned_until_ms:
        return current, Verdict.BANNED
    if current.used <= policy.weight_limit:
        return current, Verdict.ADMITTED
    current = msgspec.structs.replace(current, refused=current.refused + 1)
    if current.refused <= 1 + policy.grace:
        return current, Verdict.THROTTLED
    return ban(current, now_ms), Verdict.BANNED


def throttled(address: str, weight_limit: int) -> Reply:
    return error(
        429,
        -1003,
        f"Too many requests; current limit of IP({address}) is {weight_limit} requests per minute. "
        "Please use the websocket for live updates to avoid polling the API.",
    )


def banned(address: str, until_ms: int) -> Reply:
    return error(
        418,
        -1003,
        f"Way too many requests; IP({address}) banned until {until_ms}. "
        "Please use the websocket for live updates to avoid bans.",
    )


class Limits:
    """The tallies of all addresses under one policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._tallies: dict[str, Tally] = {}

    def tally(self, address: str, now_ms: int) -> Tally:
        return at(self._tallies.get(address, Tally()), now_ms)

    def addresses(self) -> list[str]:
        return sorted(self._tallies)

    def spend(self, address: str, weight: int, now_ms: int) -> Verdict:
        """Count a request, or a neighbour's spending on the same address."""
        self._tallies[address], verdict = assess(self.tally(address, now_ms), weight, self.policy, now_ms)
        return verdict

    def set_used(self, address: str, used: int, now_ms: int) -> None:
        """Make it *used* in the current minute, whoever spent it; nobody is refused by this alone."""
        self._tallies[address] = msgspec.structs.replace(self.tally(address, now_ms), used=used)

    def ban(self, address: str, until_ms: int, now_ms: int) -> None:
        self._tallies[address] = msgspec.structs.replace(self.tally(address, now_ms), banned_until_ms=until_ms)

    def pardon(self, address: str | None = None) -> None:
        """Forget bans, offences and used weight of one address, or of all."""
        if address is None:
            self._tallies.clear()
        else:
            self._tallies.pop(address, None)

    def refusal(self, address: str, verdict: Verdict, now_ms: int) -> Reply:
        """The answer to a request that was not admitted."""
        tally = self.tally(address, now_ms)
        if verdict is Verdict.BANNED:
            reply, ends_ms = banned(address, tally.banned_until_ms), tally.banned_until_ms
        else:
            reply, ends_ms = throttled(address, self.policy.weight_limit), (tally.minute + 1) * MINUTE_MS
        if not self.policy.retry_after:
            return reply
        seconds = -((now_ms - ends_ms) // 1000)  # rounded up: earlier would be refused again
        return msgspec.structs.replace(reply, headers=((b"retry-after", str(seconds).encode()),))
