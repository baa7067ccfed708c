"""Which credential has replaced which: whose entries a replica may read, and whose refreshes it waits for.

An account's name doesn't say whose account it is: two deployments may each call theirs `main`, and a key file may be
given another exchange account's key while the gateway is stopped. Only the exchange knows what a key may see. So the
state of an account (snapshot, lease, failures) is kept for each **identity** apart, a digest of key and secret. State
under another identity can't be read, overwritten, fenced out or waited for.

Only an **accepted rotation** joins two identities: a replica that had used the old pair itself was given a new pair,
and the exchange accepted it. The replica then writes the link `old → new`. A process that starts with a pair writes no
link, because it can't know what was used before. A link is followed while the credential at its end was in use within
`MEMORY`. The replicas that still hold the old pair are then *superseded*: they read the newer credential's snapshot,
wait for its refreshes, and request refreshes from its replicas. No other replica reads over a link, and none reads
back over one.
"""

# Invariants: a chain of links never closes to a ring; it is never followed to a credential that isn't in use; and a
# process that shares a pair with strangers never leads the strangers anywhere.
#
# The interleavings:
#
# - *A new pod starts with the new pair before an old pod has proven it.* Both work, each under its own identity with
#   its own calls, and each sees the other as foreign. Once an old replica has proven the pair, `old → new` leads the
#   other old replicas to what the new pod stores. The new pod lacked nothing meanwhile; nothing has to be merged.
# - *Two rotations in a row.* `first → second → third`: a replica follows the chain to the last credential in use.
# - *Back to an earlier pair.* The pair that was accepted last is used: if the accepted one leads to the replaced one,
#   its own link is removed before the new one is written. So no ring closes, whatever the order of the writes.
# - *A slow replica proves a pair that others have replaced already.* That pair doesn't lead to the slow replica's old
#   one, so its link stays. The latest pair supersedes the slow replica at once.
# - *Redis has lost everything.* A replica that has used both pairs writes the link again with its next snapshot, unless
#   the old pair has a link. Until then the others work apart: that costs calls, and never shows wrong numbers.
# - *The new pair is taken back, and its pods are gone.* After `MEMORY` the link leads to no credential in use, and the
#   old pair goes on.
# - *A running replica is given another exchange account's key.* The exchange accepts it, so it is a rotation like any
#   other; no gateway can tell. Replicas with the old pair are then shown the new account, as they will be when they see
#   the files themselves. Those that used the other account's key before are led nowhere.
# - *Strangers use the new pair already*: another deployment that has an account of the same name, whose pair a wrong
#   file names, or a new pod that was started with it. A link away from the pair would lead the strangers to whatever
#   this process uses next. So a process that came to a pair of strangers writes no link away from it. When it goes
#   back, it only removes the link that led there (link `none`). The link to the pair is `temporary`: followed for
#   `MEMORY`, so that replicas which see the new files a little later share the pair's state, but not for as long as
#   the strangers use it.
#   + A replica that adopts over a temporary link came to strangers too. So, for all it knows, did one that proved a
#     pair while Redis was unavailable. Until the matter ends, each of them proves the next pair with a call of its own.
#   + It ends by a rotation or a restart: a process may link away from a pair that it was started with, that no other
#     used when it proved it, or that it had before and goes back to.
#
# The hash is bounded to the 16 credentials used last; a longer chain loses its oldest links. `lineage.lua` writes it.

from collections.abc import Mapping, Sequence

import msgspec

from service.fleet.shared_state import Lineage

MEMORY = 120_000
"""Ms for which a credential counts as in use after the exchange last accepted it. Longer than the time between two
replicas seeing a changed Secret (kubelet's minute and its cache: 90 s); short enough that a credential that was taken
back doesn't bar the old one for long."""

MAX_LINKS = 16
"""Links of a chain that are followed; `lineage.lua` has the same bound."""


class Use(msgspec.Struct, frozen=True):
    """One credential's use of the account."""

    used: int
    """When the exchange last accepted it: epoch ms on the exchange's clock."""
    successor: str = ""
    """The identity that replaced it."""
    temporary_link: bool = False
    """Whether strangers used the successor when it replaced this one."""


def uses_of(rows: Sequence[tuple[bytes, int, bytes, int]]) -> dict[str, Use]:
    """Decode the credentials that have used the account, by identity."""
    return {
        identity.decode(): Use(used, successor.decode(), bool(temporary))
        for identity, used, successor, temporary in rows
    }


def lineage_of(uses: Mapping[str, Use], identity: str, newest: str, now: int) -> Lineage:
    """How an identity relates to the others; `newest` is the last one in use that replaced it, or itself."""
    successors = _successors(uses, identity)
    last = successors[-1] if successors else identity
    replaced = frozenset(each for each in uses if identity in _successors(uses, each))
    # Related credentials lead to the same end of a chain, whichever of the two is the older. `abs`: a use may be dated
    # ahead, by a replica whose clock is.
    foreign = [
        each
        for each, use in uses.items()
        if each != identity and abs(now - use.used) <= MEMORY and last not in (each, *_successors(uses, each))
    ]
    temporary = any(use.temporary_link and use.successor == identity for use in uses.values())
    in_use = identity in uses and abs(now - uses[identity].used) <= MEMORY
    return Lineage(newest != identity, replaced, len(foreign), in_use, temporary)


def _successors(uses: Mapping[str, Use], identity: str) -> list[str]:
    """The identities that replaced a credential, in order."""
    found: list[str] = []
    while len(found) < MAX_LINKS and identity in uses and uses[identity].successor:
        identity = uses[identity].successor
        found.append(identity)
    return found


def used_by_strangers(candidate: str, lineage: Lineage | None, active: str, replaced: str) -> bool:
    """Whether processes that may have nothing to do with this one use a candidate; all but `lineage` are identities.

    Args:
        candidate: the credential that a rotation proves.
        lineage: the candidate's, as Redis shows it; `None` without Redis.
        active: the credential in use.
        replaced: the one that was in use before it; empty: none was.
    """
    if candidate == replaced:
        return False  # this process used it itself
    if lineage is None:
        return True  # unknown, so perhaps
    return lineage.temporary_link or (lineage.in_use and active not in lineage.replaced)
