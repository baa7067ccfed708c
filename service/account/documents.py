"""The documents of an account: what the exchange answers with, and how the rows in it are keyed.

A document is a value. Requests, snapshots, freshness, weight, views, paths, filters and the audit follow from its entry
in `DOCUMENTS`. Only `ACCOUNT` is known by name elsewhere: a credential is proved by it, its keys and messages in Redis
are those of releases that knew no other, and its object has two arrays, each with paths of its own.
"""

from collections.abc import Mapping

import msgspec

MINUTE, HOUR = 60_000, 3_600_000


class RowKind(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """How the rows of one array are keyed, cut and filtered."""

    name: str
    """What a row is called; the OpenAPI document has a schema of that name."""
    keys: tuple[str, ...]
    """The members that identify a row, in the order of a path: `asset`, or `symbol`, or `symbol` and `positionSide`."""
    array: str = ""
    """The member of the document whose value the rows are; empty: the document itself is the array."""
    amounts: tuple[str, ...] = ()
    """The members that are all zero in a row without substance."""
    flag: str = ""
    """The filter that tells such rows from others: `open` or `nonzero`; empty: there is none."""
    private: frozenset[str] = frozenset()
    """Members that only a grant on all assets sees."""

    @property
    def filters(self) -> frozenset[str]:
        """The names of the query parameters that select rows; a symbol's margin asset is known too."""
        return frozenset({"asset", *self.keys, self.flag} - {""})


class Document(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One endpoint of the exchange that answers for a whole account, and is cached as one snapshot."""

    name: str
    """In metrics and in Redis; and in paths, where the document is an array."""
    path: str
    """At the exchange."""
    weight: int
    """Of one request for the whole document, by the exchange's page on it."""
    kinds: tuple[RowKind, ...]
    documented: frozenset[str] = frozenset()
    """Members beside the arrays that the exchange documents. Others that it may add, such as sums over all coins, are
    not for a client that may see only some rows."""
    parameters: Mapping[str, str] = {}
    """The exchange's own parameters that choose rows, and the field of `Selection` that each is. One at a time."""
    fresh_for: int | None = None
    """Ms; `None`: as the account's settings say."""
    min_refresh_interval: int | None = None
    """Ms; `None`: as the account's settings say."""


ACCOUNT = Document(
    name="account",
    path="/dapi/v1/account",
    weight=5,
    kinds=(
        RowKind(
            name="Asset", keys=("asset",), array="assets", amounts=("walletBalance", "marginBalance"), flag="nonzero"
        ),
        RowKind(
            name="Position", keys=("symbol", "positionSide"), array="positions", amounts=("positionAmt",), flag="open"
        ),
    ),
    documented=frozenset({"canDeposit", "canTrade", "canWithdraw", "feeTier", "updateTime"}),
)

DOCUMENTS = (
    ACCOUNT,
    Document(
        name="balance",
        path="/dapi/v1/balance",
        weight=1,
        kinds=(RowKind(name="Balance", keys=("asset",), private=frozenset({"accountAlias"})),),
    ),
    Document(
        name="position-risk",
        path="/dapi/v1/positionRisk",
        weight=1,
        kinds=(RowKind(name="PositionRisk", keys=("symbol", "positionSide"), amounts=("positionAmt",), flag="open"),),
        parameters={"marginAsset": "assets", "pair": "pairs"},
    ),
    Document(
        name="leverage-brackets",
        path="/dapi/v2/leverageBracket",
        weight=2,  # 1 for one symbol: but each symbol would be a document of its own
        kinds=(RowKind(name="LeverageBracket", keys=("symbol",)),),
        parameters={"symbol": "symbols"},
        fresh_for=HOUR,  # they hardly ever change
        min_refresh_interval=MINUTE,
    ),
)
"""Every document. A new one is an entry here, its schema in `web/openapi/document.yaml`, and its tests."""


class Shape(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The form of an answer: which rows of a document it has, and what its path names."""

    name: str
    """As the audit log has it."""
    document: Document
    kinds: tuple[RowKind, ...]
    resource: str = ""
    """The first part of its path below the account; empty: it is the account itself."""
    named: tuple[str, ...] = ()
    """The keys that the rest of its path names."""

    @property
    def one(self) -> bool:
        """Whether it is one row alone: what an asset or a side names. A symbol names an array, be it of one row."""
        return self.named[-1:] not in ((), ("symbol",))

    @property
    def filters(self) -> frozenset[str]:
        """The query parameters that it takes."""
        return frozenset[str]() if self.named else frozenset[str]().union(*(kind.filters for kind in self.kinds))

    @property
    def has_sides(self) -> bool:
        """Whether its rows say which position mode the account is in."""
        return any("positionSide" in kind.keys for kind in self.kinds)


def _shapes() -> list[Shape]:
    assets, positions = ((kind,) for kind in ACCOUNT.kinds)
    found = [
        Shape(name="account", document=ACCOUNT, kinds=ACCOUNT.kinds),
        Shape(name="assets", document=ACCOUNT, kinds=assets, resource="assets"),
        Shape(name="asset", document=ACCOUNT, kinds=assets, resource="assets", named=("asset",)),
        Shape(name="positions", document=ACCOUNT, kinds=positions, resource="positions"),
        Shape(name="symbol", document=ACCOUNT, kinds=positions, resource="positions", named=("symbol",)),
        Shape(
            name="position", document=ACCOUNT, kinds=positions, resource="positions", named=("symbol", "positionSide")
        ),
    ]
    for each in DOCUMENTS[1:]:
        (kind,) = each.kinds
        for count in range(len(kind.keys) + 1):
            named = kind.keys[:count]
            name = "/".join((each.name, *named))
            found.append(Shape(name=name, document=each, kinds=each.kinds, resource=each.name, named=named))
    return found


SHAPES = {shape.name: shape for shape in _shapes()}
"""Every form of an answer, by its name. The first of a document is the whole of it."""
WHOLE = {document: next(shape for shape in SHAPES.values() if shape.document is document) for document in DOCUMENTS}
