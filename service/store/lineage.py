"""Which credential has replaced which: whose entries a replica may read, and whose work it has to wait for.

An account's name says nothing of whose account it is: two deployments may each call theirs `main`, and a key file may
be given another exchange account's key while the gateway is stopped. What a key may see is only known to the
exchange. So all state of an account is kept for each **identity** (a digest of key and secret) apart: snapshot,
lease, failures. What stands under another identity can't be read, overwritten, fenced out or waited for.

The one thing that joins two identities is an **accepted rotation**: a replica that had used the old pair itself was
given a new one, and saw the exchange accept it. It then writes `old → new`. A process that is started with a pair
links nothing: it can't know what was used before it. A link is followed while the credential at its end was in use
within `MEMORY`; the replicas that still hold the old pair are then *superseded*: they read the newer one's snapshot,
wait for its refreshes, and ask its replicas for some. Nobody else reads over a link, and nobody reads back over one.

The interleavings:

- *A new pod starts with the new pair before an old one has proven it.* Both work, each under its own identity with
  its own calls, and see each other as foreign. Once an old replica has proven the pair, `old → new` leads the other
  old replicas to what the new pod stores; the new pod had all the time what it needed. Nothing has to be merged.
- *Two rotations in a row.* `first → second → third`: a replica follows the chain to the last that is in use.
- *Back to an earlier pair.* What is accepted last is used: if the accepted one leads to the replaced one, its own
  link is removed first. So a chain never closes to a ring, whoever writes what in which order.
- *A slow replica proves a pair that others have replaced already.* It doesn't lead to the slow one's, so its own link
  stays: the slow one is superseded by the latest at once, and does as that says.
- *Redis has lost everything.* A replica that has used both pairs writes the link again with its next snapshot, unless
  the old pair has a link. Until then the others work apart: that costs calls, and never shows wrong numbers.
- *The new pair is in use already, by who has nothing to do with ours*, as another deployment's account of the same name
  that a wrong file names, or as a new pod's that was started with it. To the strangers we are none of their business: a
  link away from the pair would lead them to whatever we use next. So a process that came to a pair in use by
  **strangers** writes no link away from it, only removes the one that led there when it goes back; and the link to it
  is **passing**: followed for `MEMORY`, so that replicas which see the new files a little later share what is under it,
  and not for as long as the strangers keep the pair in use. Who adopts over a passing link came to strangers too, and
  so did, for all it knows, who proved a pair while Redis was away. A process that was started with a pair, or proved
  one that nobody used, or goes back to the one it had before, may link away from it: so a rotation or a restart ends
  the matter. Until then each replica proves the next pair with a call of its own.
- *The new pair is taken back, its pods are gone.* After `MEMORY` the link leads to nobody in use, and the old pair
  goes on.
- *The files are given another exchange account's key under a running replica.* The exchange accepts it, so it is a
  rotation like any other: no gateway can tell. Replicas with the old pair are then shown the new account, as they
  will be themselves when they see the files; who used that account's key before is led nowhere.

The hash is bounded: 16 credentials, the latest; a longer chain loses its oldest links.
"""

from collections.abc import Mapping, Sequence

import msgspec

from service.store.entries import Lineage

MEMORY = 120_000
"""Ms that a credential counts as in use after the exchange has accepted it last: longer than two replicas see a changed
Secret apart (kubelet's minute and its cache: 90 s), short enough that one that was taken back doesn't bar the other."""

MOST = 16
"""Links of a chain that are followed."""


class Use(msgspec.Struct, frozen=True):
    """One credential's use of the account."""

    used: int
    """When the exchange accepted it last, epoch ms on its clock."""
    successor: str = ""
    """The identity that replaced it."""
    passing: bool = False
    """Whether that was in use by strangers when it did."""


def uses_of(found: Sequence[tuple[bytes, int, bytes, int]]) -> dict[str, Use]:
    """Who has used the account, as the script gives it."""
    return {
        identity.decode(): Use(used, successor.decode(), bool(passing)) for identity, used, successor, passing in found
    }


def lineage_of(uses: Mapping[str, Use], identity: str, newest: str, now: int) -> Lineage:
    """How an identity stands among the others; `newest` is the one in use that replaced it, or itself."""
    related = _successors(uses, identity)
    last = related[-1] if related else identity
    replaced = frozenset(each for each in uses if identity in _successors(uses, each))
    foreign = [
        each
        for each, use in uses.items()
        if each != identity and abs(now - use.used) <= MEMORY and last not in (each, *_successors(uses, each))
    ]
    passing = any(use.passing and use.successor == identity for use in uses.values())
    in_use = identity in uses and abs(now - uses[identity].used) <= MEMORY
    return Lineage(newest != identity, replaced, len(foreign), in_use, passing)


def _successors(uses: Mapping[str, Use], identity: str) -> list[str]:
    """What replaced a credential, in order."""
    found: list[str] = []
    while len(found) < MOST and identity in uses and uses[identity].successor:
        identity = uses[identity].successor
        found.append(identity)
    return found
