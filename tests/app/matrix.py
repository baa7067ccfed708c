"""The authorisation matrix: every kind of caller, on every path, with every filter that names something.

Three tables say what there is: who calls (`IDENTITIES`), what may be asked (`ROUTES`), and how a kind of path takes
credentials and tells refusals (a `Dialect`). What is due in each cell is the oracle's to say.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import httpx
import msgspec

from service.access import tokens
from simulator import market
from simulator.exchange import MAIN
from tests.app import oracle
from tests.app.harness import problem
from tests.app.oracle import Book, Expected, Grants, Missing, Question, Reason, Row, Unidentified, View, expected

# What there is to see. Every row names itself, so that it is known wherever it turns up.

OTHER, NOWHERE = "other", "nowhere"
CONTRACTS = frozenset(contract.symbol for contract in market.CONTRACTS)
LISTED = {"XRPUSD_PERP": "BTC", "BTCUSD_261225": "SOL"}
"""exchangeInfo has the last word on the margin asset."""
SYMBOLS = ["BTCUSD_PERP", "ETHUSD_PERP", "SOLUSD_PERP", *LISTED, "WEIRD"]
SIDES = ["BOTH", "LONG", "SHORT"]


OWN_ASSETS = ["OWN", "BAL", "RISK"]
OWN_SYMBOLS = ["OWNUSD_PERP", "RISKUSD_PERP", "LEVUSD_PERP"]
"""What one document alone has, and exchangeInfo neither: account, balance and position risk; or account, position risk
and brackets."""


def _book(account: str, sides: list[str]) -> Book:
    assets = [{"asset": asset, "note": f"row({account} {asset})"} for asset in ("BTC", "ETH", "SOL", "OWN")]
    before = {"totalWalletBalanceUsd": f"row({account} total)", "updateTime": 0, "assetsOf": {"assets": [1], "x": {}}}
    between = {"canTrade": True, "loans": [{"note": f"row({account} loans)", "positions": []}]}
    after = {"feeTier": 2, "positions ": [], "canDeposit": False}
    return Book(
        assets=tuple(assets),
        positions=_of_symbols(account, "position", [*SYMBOLS, OWN_SYMBOLS[0]], sides),
        balance=tuple(_balance(account, asset, place) for place, asset in enumerate(("BTC", "ETH", "SOL", "BAL"))),
        risk=_of_symbols(account, "risk", [*SYMBOLS, OWN_SYMBOLS[1]], sides),
        brackets=_of_symbols(account, "brackets", [*SYMBOLS, OWN_SYMBOLS[2]], []),
        listed=LISTED,
        contracts=CONTRACTS,
        before=before,
        between=between,
        after=after,
    )


def _of_symbols(account: str, what: str, symbols: list[str], sides: list[str]) -> tuple[Row, ...]:
    """Rows of each symbol on each side; without sides, one each."""
    keys = [
        {"symbol": symbol} | side for symbol in symbols for side in [{"positionSide": side} for side in sides] or [{}]
    ]
    return tuple(key | {"note": f"row({account} {what} {' '.join(key.values())})"} for key in keys)


def _balance(account: str, asset: str, place: int) -> Row:
    """A row with its alias at the beginning, between others, or at the end."""
    members = [("asset", asset), ("note", f"row({account} balance {asset})"), ("x", {oracle.ALIAS: "not at the top"})]
    members.insert(place, (oracle.ALIAS, f"alias({account} {asset})"))
    return dict(members)


BOOKS = {MAIN: _book(MAIN, SIDES), OTHER: _book(OTHER, SIDES[:1])}


# Who calls.

Headers = list[tuple[str, str]]
Credential = Callable[[str], tuple[str, str]]
"""A token → the header that a kind of path takes it in."""


class Identity(msgspec.Struct, frozen=True):
    """A kind of caller: what it may see, or why nobody knows who it is; and the headers that it sends."""

    grants: Grants | Unidentified
    headers: Callable[[Credential, str], Headers]
    """Of a path's way to take a credential, and of the token that belongs to this identity."""


def _one(credential: Credential, token: str) -> Headers:
    return [credential(token)]


def _none(credential: Credential, token: str) -> Headers:
    return []


def _unknown(credential: Credential, token: str) -> Headers:
    return [credential(STRANGER)]


def _twice(credential: Credential, token: str) -> Headers:
    return [credential(token), credential(token)]


def _both_ways(credential: Credential, token: str) -> Headers:
    return [("authorization", f"Bearer {token}"), ("x-mbx-apikey", token)]


def _misplaced(credential: Credential, token: str) -> Headers:
    """In the header of the other kind of paths."""
    ways = (("authorization", f"Bearer {token}"), ("x-mbx-apikey", token))
    return [way for way in ways if way != credential(token)]


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


STRANGER = tokens.generate()
POD = "pod"
"""Who calls with a ServiceAccount's token."""
EVERYTHING = {"*": View()}
IDENTITIES = {
    "unrestricted": Identity(EVERYTHING, _one),
    "assets": Identity({MAIN: View(_names("BTC", "ETH"))}, _one),
    "assets-and-sides": Identity({MAIN: View(_names("BTC"), _names("LONG"))}, _one),
    "sides": Identity({MAIN: View(sides=_names("LONG", "BOTH"))}, _one),
    "any-account": Identity({"*": View(_names("BTC"))}, _one),
    "own-narrows-any": Identity({"*": View(), MAIN: View(_names("BTC"), _names("BOTH"))}, _one),
    "own-widens-any": Identity({"*": View(_names("BTC"), _names("LONG")), MAIN: View()}, _one),
    "another-account": Identity({OTHER: View()}, _one),
    "nothing": Identity({}, _one),
    POD: Identity({MAIN: View(_names("BTC", "ETH"))}, _one),
    "pod-that-is-gone": Identity("unknown-credential", _one),
    "pod-of-nobody": Identity("unknown-credential", _one),
    "unknown-token": Identity("unknown-credential", _unknown),
    "no-token": Identity("no-credential", _none),
    "misplaced-token": Identity("no-credential", _misplaced),
    "token-twice": Identity("several-credentials", _twice),
    "token-in-both-headers": Identity("several-credentials", _both_ways),
}
TOKENS = {name: tokens.generate() for name in IDENTITIES}
"""Those of pods are issued by the cluster that the gateway is in."""


# What may be asked, and how it is told.

Reportable = tuple[int, str]
"""Status and name of a refusal."""


class Dialect(msgspec.Struct, frozen=True):
    """How a kind of path takes credentials and tells refusals."""

    credential: Credential
    refusals: Mapping[Reason, Reportable]
    refusal: Callable[[httpx.Response], str]
    """The name in an answer."""


V1 = Dialect(
    credential=lambda token: ("authorization", f"Bearer {token}"),
    refusals={
        **dict.fromkeys(get_args(Unidentified), (401, "unauthenticated")),
        "account": (403, "forbidden"),
        "parameter": (400, "invalid-parameter"),
        "name": (403, "forbidden"),
        "unknown-asset": (404, "unknown-asset"),
        "unknown-symbol": (404, "unknown-symbol"),
        "no-such-position-side": (404, "no-such-position-side"),
    },
    refusal=problem,
)

BINANCE = Dialect(
    credential=lambda token: ("x-mbx-apikey", token),
    refusals={
        "no-credential": (401, "-2014"),
        "several-credentials": (401, "-2014"),
        "unknown-credential": (401, "-2015"),
        "account": (401, "-2015"),
        "parameter": (400, "-1104"),
        "combination": (400, "-1128"),
        "name": (401, "-2015"),
        "unknown-asset": (400, "-1121"),
        "unknown-symbol": (400, "-1121"),
    },
    refusal=lambda answer: str(answer.json()["code"]),
)

Query = tuple[tuple[str, str], ...]

VALUES = {
    "asset": ["BTC", "SOL", "NONESUCH"],
    "symbol": ["BTCUSD_PERP", "SOLUSD_PERP", "BTCUSD_NONE"],
    "positionSide": SIDES,
}
"""Granted to whoever sees anything, granted to whoever sees all, and not there."""
FURTHER = {
    "asset": ["ETH", "ADA", *OWN_ASSETS, "btc", "币安人生", "a b", "B\x00", "A" * 65, ""],
    "symbol": [
        *("ETHUSD_PERP", *LISTED, "WEIRD", *OWN_SYMBOLS, "NONESUSD_PERP", "NONESUCH", "b", "ADAUSD_PERP"),
        *("BTCUSD_201225", "BTCUSD_991225", "NONESUSD_201225", "BTC\x7f", "\u5e01USD_PERP"),
    ],
    "positionSide": ["long"],
}
ALL = {name: VALUES[name] + FURTHER[name] for name in VALUES}
SOME = {
    "asset": [*VALUES["asset"], OWN_ASSETS[0], "btc", "B\x00"],
    "symbol": [
        *(*VALUES["symbol"], "XRPUSD_PERP", "WEIRD", OWN_SYMBOLS[0], "NONESUCH", "ADAUSD_PERP", "BTCUSD_201225"),
        "BTC\x7f",
    ],
    "positionSide": ALL["positionSide"],
}
"""A value of each kind: enough where the names are judged by the same code as on the account's own paths."""
PAIRS = ["BTCUSD", "SOLUSD", "XRPUSD", "RISKUSD", "ADAUSD", "NONESUSD", "BTC", "WEIRD", "btcusd", "b\x7f", "A" * 65, ""]
UNFORMED = {"WEIRD", "NONESUCH", "b", *LISTED, "BTC", "btcusd", "XRPUSD"}
"""Symbols and pairs whose form doesn't say the asset that decides."""


def _combinations() -> list[Query]:
    """Every filter that names something with every other, and by itself with further values."""
    chosen = itertools.product(*([None, *values] for values in VALUES.values()))
    found = [tuple((n, v) for n, v in zip(VALUES, values, strict=True) if v is not None) for values in chosen]
    found += [((name, value),) for name, values in FURTHER.items() for value in values]
    found += [(("asset", "BTC,SOL"),), (("asset", "BTC"), ("asset", "ETH")), (("positionSide", "LONG,SHORT"),)]
    return [*found, (("symbol", "BTCUSD_PERP,XRPUSD_PERP"),), (("symbol", "BTCUSD_PERP"), ("symbol", "SOLUSD_PERP"))]


def _singles(*names: str) -> list[Query]:
    """Every filter by itself, each of its values, several at once, and those that the path doesn't take."""
    found: list[Query] = [((name, value),) for name in names for value in SOME[name]]
    found += [((name, values[0]),) for name, values in VALUES.items() if name not in names]
    several = [(name, values[:2]) for name, values in VALUES.items() if name in names]
    found += [((name, ",".join(values)),) for name, values in several]
    found += [tuple((name, value) for value in values) for name, values in several]
    return [(), *found, (("x", "1"),), (("nonzero", "true"),), (("accountAlias", "1"),)]


def _together(*names: str) -> list[Query]:
    """Two filters or more at a time, of what is granted to whoever sees anything and to whoever sees all."""
    chosen = itertools.product(*([None, *VALUES[name][:2]] for name in names))
    found = [tuple((n, v) for n, v in zip(names, values, strict=True) if v is not None) for values in chosen]
    return [query for query in found if len(query) > 1]


def _chosen(**values: list[str]) -> list[Query]:
    """The exchange's own parameters: each with each value, and in every way that it doesn't take them."""
    found: list[Query] = [((name, each),) for name, given in values.items() for each in given]
    for name, (first, second, *_) in values.items():
        found += [((name, f"{first},{second}"),), ((name, first), (name, second)), ((name, first), (name, first))]
        found += [((name, first), ("timestamp", "1"), ("timestamp", "2")), ((name, first), ("limit", "5"))]
        found += [((name, first), (other, values[other][0])) for other in values if other != name]
        found += [((name, first), (other, values[other][1])) for other in values if other != name]
    return found


def _paths(*names: str, of: Mapping[str, list[str]] = ALL) -> list[Mapping[str, str]]:
    """Every value of every name in a path; never an empty one, which is another path."""
    values = ([value for value in of[name] if value] for name in names)
    return [dict(zip(names, each, strict=True)) for each in itertools.product(*values)]


def _few_sides(of: Mapping[str, list[str]]) -> list[Mapping[str, str]]:
    """The same of symbols and sides, with few of one where there are all of the other."""
    few = VALUES["symbol"] + ["XRPUSD_PERP", "WEIRD"]
    return [
        path
        for path in _paths("symbol", "positionSide", of=of)
        if path["symbol"] in few or path["positionSide"] == "LONG"
    ]


FEW: list[Query] = [(), (("asset", "SOL"),), (("positionSide", "long"),), (("x", "1"),)]
"""Enough for those who may not see the account at all, and for paths that take no filters."""
FEWER = [FEW[0], FEW[3]]
SIGNED: Query = (("timestamp", "1"), ("recvWindow", "5000"), ("signature", "c0ffee"))


class Route(msgspec.Struct, frozen=True):
    """What may be asked on one route of the app."""

    dialect: Dialect
    paths: list[Mapping[str, str]]
    """The names in the path, beside the account's."""
    queries: list[Query]
    of_account: bool = True
    briefly: bool = False
    """Whether those who may not see the account ask only a little of it."""
    told: Callable[[bytes], bytes] = bytes
    """What the oracle has to say of a body."""


def _names_of_accounts(body: bytes) -> bytes:
    """Of the status, which tells of much else."""
    return msgspec.json.encode([row["account"] for row in msgspec.json.decode(body)["accounts"]])


ROUTES = {
    oracle.ACCOUNTS: Route(V1, [{}], FEW, of_account=False),
    oracle.STATUS: Route(V1, [{}], FEW, of_account=False, told=_names_of_accounts),
    oracle.ACCOUNT: Route(V1, [{}], _combinations()),
    oracle.ASSETS: Route(V1, [{}], [*_singles("asset"), *((("asset", each),) for each in FURTHER["asset"])]),
    oracle.POSITIONS: Route(V1, [{}], _combinations()),
    oracle.ASSET: Route(V1, _paths("asset"), FEW[:2]),
    oracle.SYMBOL: Route(V1, _paths("symbol"), FEW[:2]),
    oracle.POSITION: Route(V1, _few_sides(ALL), FEW[:1]),
    oracle.BALANCE: Route(V1, [{}], _singles("asset"), briefly=True),
    oracle.BALANCE_ROW: Route(V1, _paths("asset", of=SOME), FEW[:1], briefly=True),
    oracle.RISK: Route(
        V1,
        [{}],
        [*_singles(*VALUES), *_together(*VALUES)],
        briefly=True,
    ),
    oracle.RISK_SYMBOL: Route(V1, _paths("symbol", of=SOME), FEW[:1], briefly=True),
    oracle.RISK_ROW: Route(V1, _few_sides(SOME), FEW[:1], briefly=True),
    oracle.BRACKETS: Route(V1, [{}], [*_singles("asset", "symbol"), *_together("asset", "symbol")], briefly=True),
    oracle.BRACKET: Route(V1, _paths("symbol", of=SOME), FEW[:1], briefly=True),
    oracle.DROP_IN: Route(BINANCE, [{}], [*FEW, SIGNED]),
    oracle.DROP_IN_BALANCE: Route(BINANCE, [{}], [*FEW, SIGNED, (("marginAsset", "BTC"),)], briefly=True),
    oracle.DROP_IN_RISK: Route(
        BINANCE,
        [{}],
        [
            *FEW,
            SIGNED,
            (("symbol", "BTCUSD_PERP"),),
            *_chosen(marginAsset=[*SOME["asset"], ""], pair=PAIRS),
        ],
        briefly=True,
    ),
    oracle.DROP_IN_BRACKETS: Route(
        BINANCE,
        [{}],
        [*FEW, SIGNED, (("pair", "BTCUSD"),), *_chosen(symbol=[*SOME["symbol"], ""])],
        briefly=True,
    ),
}
OPEN = {"/healthz", "/readyz", "/docs", "/docs/{name}"}
OPEN |= {f"/binance/{{account}}/dapi/v1/{name}" for name in ("exchangeInfo", "ping", "time")}
"""Routes on which nobody is asked who they are."""


class Cell(msgspec.Struct, frozen=True):
    """Somebody who asks something, and what is due."""

    identity: str
    question: Question
    due: Expected

    @property
    def route(self) -> Route:
        return ROUTES[self.question.route]

    @property
    def headers(self) -> Headers:
        return IDENTITIES[self.identity].headers(self.route.dialect.credential, TOKENS[self.identity])

    @property
    def told(self) -> Reportable | None:
        """The refusal that is due, as its path tells it."""
        return None if self.due.reason is None else self.route.dialect.refusals[self.due.reason]

    @property
    def document(self) -> str:
        """The exchange's path whose answer is read."""
        return oracle.DOCUMENTS[self.question.route]

    @property
    def has_a_tag(self) -> bool:
        return self.due.reason is None and self.route.of_account

    @property
    def needs_reading(self) -> bool:
        """Whether it takes a snapshot, or exchangeInfo, to tell."""
        names = [self.question.named(name) or set[str]() for name in ("symbol", "pair")]
        told_by_form = set[str]().union(*names).isdisjoint(UNFORMED)
        return self.due.reason in (None, *get_args(Missing)) or not told_by_form


def _cell(identity: str, question: Question) -> Cell:
    return Cell(identity, question, expected(question, IDENTITIES[identity].grants, BOOKS))


def cells_of(identity: str) -> Iterator[Cell]:
    """Of all accounts; few questions on those that an identity may not see, for they must all end alike."""
    for name, route in ROUTES.items():
        for account in (MAIN, OTHER, NOWHERE) if route.of_account else ("",):
            seen = _cell(identity, Question(oracle.ACCOUNT, {"account": account})).due.reason is None
            few = (FEWER, route.paths[:1]) if route.briefly else (FEW, route.paths[:2])
            queries, paths = (route.queries, route.paths) if seen else few
            for path, query in itertools.product(paths, queries):
                yield _cell(identity, Question(name, {"account": account, **path} if account else path, query))


def simple(identity: str) -> list[Cell]:
    """Without what is told of filters together."""
    return [cell for cell in CELLS[identity] if len(cell.question.query) < 2]


def before_the_listing(cell: Cell) -> Cell:
    """Until exchangeInfo has been read, a symbol's form must allow it too: to refuse is the safe side."""
    books = {name: msgspec.structs.replace(book, listed={}) for name, book in BOOKS.items()}
    by_form = expected(cell.question, IDENTITIES[cell.identity].grants, books)
    return msgspec.structs.replace(cell, due=by_form) if by_form.reason == "name" else cell


CELLS = {identity: list(cells_of(identity)) for identity in IDENTITIES}
