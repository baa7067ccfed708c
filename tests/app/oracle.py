"""What the public contract says is answered to whom, worked out from its rules alone.

Nothing of the service is called here: where the two disagree, one of them misreads the contract.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlencode

import msgspec

Json = Any
Row = Mapping[str, Json]

Unidentified: TypeAlias = Literal["no-credential", "several-credentials", "unknown-credential"]
Missing: TypeAlias = Literal["unknown-asset", "unknown-symbol", "no-such-position-side"]
Reason: TypeAlias = Unidentified | Literal["account", "parameter", "combination", "name"] | Missing
"""Why there is no data, in the order of the checks."""


class View(msgspec.Struct, frozen=True):
    """What somebody may see of an account; `None` is all."""

    assets: frozenset[str] | None = None
    sides: frozenset[str] | None = None


Grants = Mapping[str, View]
"""By account; `*` is for those without one of their own."""


DOCUMENTED = {"assets", "positions", "canDeposit", "canTrade", "canWithdraw", "feeTier", "updateTime"}
"""What somebody sees of an account beside its rows who doesn't see all of them."""
ALIAS = "accountAlias"
"""A member of a balance row that tells the account itself: only for who sees all of its assets."""
TODAY = "260921"
"""By the stage's clock."""


class Book(msgspec.Struct, frozen=True):
    """An account as the exchange has it: the account object, and three arrays that are documents of their own.

    `listed` is exchangeInfo's margin assets where they differ from the form, `contracts` all that it lists. `before`,
    `between` and `after` are members that stand around the account object's arrays.
    """

    assets: tuple[Row, ...]
    positions: tuple[Row, ...]
    balance: tuple[Row, ...]
    risk: tuple[Row, ...]
    brackets: tuple[Row, ...]
    listed: Mapping[str, str]
    contracts: frozenset[str]
    before: Mapping[str, Json]
    between: Mapping[str, Json]
    after: Mapping[str, Json]

    @property
    def account(self) -> Json:
        arrays = {"assets": list(self.assets), **self.between, "positions": list(self.positions)}
        return {**self.before, **arrays, **self.after}

    def document(self, path: str) -> Json:
        """What the exchange answers with at one of its paths."""
        return self.account if path == ACCOUNT_OF_EXCHANGE else list(self.rows(path))

    def rows(self, path: str) -> tuple[Row, ...]:
        """All rows of that document."""
        arrays = {BALANCE_OF_EXCHANGE: self.balance, RISK_OF_EXCHANGE: self.risk, BRACKETS_OF_EXCHANGE: self.brackets}
        return (*self.assets, *self.positions) if path == ACCOUNT_OF_EXCHANGE else arrays[path]

    def knows_asset(self, name: str, path: str) -> bool:
        """Whether the document or the exchange has it."""
        listed = {self.margin(symbol) for symbol in self.contracts}
        return name in listed or any(self.asset(row) == name for row in self.rows(path))

    def knows_symbol(self, name: str, path: str) -> bool:
        """The same of a contract; one that was delivered is known by its pair and its day."""
        pair, _, day = name.rpartition("_")
        delivered = day.isdecimal() and day < TODAY and any(pair == each.split("_")[0] for each in self.contracts)
        own = {row.get("symbol") for row in self.rows(path)}
        return delivered or name in self.contracts or name in own

    def knows_pair(self, name: str, path: str) -> bool:
        """The same of a pair: that of a contract."""
        own = {row["symbol"] for row in self.rows(path) if "symbol" in row}
        return any(name == pair_of(symbol) for symbol in self.contracts | own)

    def margin(self, symbol: str) -> str | None:
        coin, separator, _ = symbol.partition("USD_")
        return self.listed.get(symbol) or (coin if separator else None)

    def asset(self, row: Row) -> str | None:
        """What a row is of, or margined in."""
        return row["asset"] if "asset" in row else self.margin(row["symbol"])


def pair_of(symbol: str) -> str:
    return symbol.rpartition("_")[0]


class Question(msgspec.Struct, frozen=True):
    """A request: its route, the names in its path, and its query."""

    route: str
    path: Mapping[str, str] = {}
    query: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        query = urlencode(self.query, safe=",")
        path = {name: quote(value, safe="") for name, value in self.path.items()}
        return self.route.format(**path) + (f"?{query}" if query else "")

    def named(self, name: str) -> set[str] | None:
        """The values of a name in path and query; `None` where it isn't there."""
        keys = ("asset", "marginAsset") if name == "asset" else (name,)
        given = [value for key, value in (*self.path.items(), *self.query) if key in keys]
        return {each for value in given for each in value.split(",")} if given else None


ACCOUNTS, STATUS = "/v1/accounts", "/v1/status"
ACCOUNT, ASSETS, POSITIONS = (f"/v1/accounts/{{account}}{rest}" for rest in ("", "/assets", "/positions"))
ASSET, SYMBOL = f"{ASSETS}/{{asset}}", f"{POSITIONS}/{{symbol}}"
POSITION = f"{SYMBOL}/{{positionSide}}"
BALANCE, RISK, BRACKETS = (f"{ACCOUNT}/{rest}" for rest in ("balance", "position-risk", "leverage-brackets"))
BALANCE_ROW, RISK_SYMBOL, BRACKET = f"{BALANCE}/{{asset}}", f"{RISK}/{{symbol}}", f"{BRACKETS}/{{symbol}}"
RISK_ROW = f"{RISK_SYMBOL}/{{positionSide}}"

ACCOUNT_OF_EXCHANGE = "/dapi/v1/account"
BALANCE_OF_EXCHANGE, RISK_OF_EXCHANGE = "/dapi/v1/balance", "/dapi/v1/positionRisk"
BRACKETS_OF_EXCHANGE = "/dapi/v2/leverageBracket"
DROP_IN, DROP_IN_BALANCE, DROP_IN_RISK, DROP_IN_BRACKETS = (
    f"/binance/{{account}}{path}"
    for path in (ACCOUNT_OF_EXCHANGE, BALANCE_OF_EXCHANGE, RISK_OF_EXCHANGE, BRACKETS_OF_EXCHANGE)
)

FILTERS: Mapping[str, set[str]] = {
    ACCOUNT: {"asset", "symbol", "positionSide", "open", "nonzero"},
    ASSETS: {"asset", "nonzero"},
    POSITIONS: {"asset", "symbol", "positionSide", "open"},
    BALANCE: {"asset"},
    RISK: {"asset", "symbol", "positionSide", "open"},
    BRACKETS: {"asset", "symbol"},
}
"""Other paths of ours take none."""
CHOOSING: Mapping[str, set[str]] = {
    DROP_IN: set(),
    DROP_IN_BALANCE: set(),
    DROP_IN_RISK: {"marginAsset", "pair"},
    DROP_IN_BRACKETS: {"symbol"},
}
"""The exchange's own parameters, of which it takes one, once, with one value."""
SIGNING = {"timestamp", "recvWindow", "signature"}
"""What drop-in paths take besides, and which narrows nothing."""
SHAPES = {
    ACCOUNT: "account",
    DROP_IN: "account",
    ASSETS: "assets",
    ASSET: "asset",
    POSITIONS: "positions",
    SYMBOL: "symbol",
    POSITION: "position",
    BALANCE: "balance",
    DROP_IN_BALANCE: "balance",
    BALANCE_ROW: "balance/asset",
    RISK: "position-risk",
    DROP_IN_RISK: "position-risk",
    RISK_SYMBOL: "position-risk/symbol",
    RISK_ROW: "position-risk/symbol/positionSide",
    BRACKETS: "leverage-brackets",
    DROP_IN_BRACKETS: "leverage-brackets",
    BRACKET: "leverage-brackets/symbol",
}
DOCUMENTS = {
    route: {
        "balance": BALANCE_OF_EXCHANGE,
        "position-risk": RISK_OF_EXCHANGE,
        "leverage-brackets": BRACKETS_OF_EXCHANGE,
    }.get(shape.split("/")[0], ACCOUNT_OF_EXCHANGE)
    for route, shape in SHAPES.items()
}
"""Which of the exchange's answers a route is cut from."""
FORMS = {
    "asset": "[^\x00-\x1f\x7f-\x9f/,]{1,64}",
    "symbol": "[^\x00-\x1f\x7f-\x9f/,]{1,64}",
    "pair": "[^\x00-\x1f\x7f-\x9f/,]{1,64}",
    "positionSide": "BOTH|LONG|SHORT",
    "open": "true|false",
    "nonzero": "true|false",
}


class Expected(msgspec.Struct, frozen=True):
    """A refusal, or the document; of the status, the accounts' names alone."""

    reason: Reason | None
    document: Json = None


def expected(question: Question, grants: Grants | Unidentified, books: Mapping[str, Book]) -> Expected:
    """The answer to somebody with these grants, or of whom it isn't known who that is."""
    if isinstance(grants, str):
        return Expected(grants)
    if "account" not in question.path:
        if not _well_formed(question):
            return Expected("parameter")
        visible = {name: view for name in books if (view := _view(name, grants))}
        names_alone = question.route == STATUS
        return Expected(None, [name if names_alone else _listed(name, view) for name, view in visible.items()])
    account = question.path["account"]
    view = _view(account, grants) if account in books else None
    if view is None:
        return Expected("account")
    return _of_account(question, view, books[account])


def _of_account(question: Question, view: View, book: Book) -> Expected:
    fault = _misformed(question) if question.route in CHOOSING else None if _well_formed(question) else "parameter"
    if fault is not None:
        return Expected(fault)
    if not _names_only_what_is_granted(question, view, book):
        return Expected("name")
    document = DOCUMENTS[question.route]
    asked = len(question.path) > 1  # for what the path names beside the account
    if not asked and (unknown := _unknown(question, book, document)) is not None:
        return Expected(unknown)
    if document == ACCOUNT_OF_EXCHANGE:
        assets, positions = (_kept(rows, question, view, book) for rows in (book.assets, book.positions))
        if SHAPES[question.route] == "account":
            return Expected(None, _account(view, book.account | {"assets": assets, "positions": positions}))
        of_assets = SHAPES[question.route] in ("assets", "asset")
        all_rows, rows = (book.assets, assets) if of_assets else (book.positions, positions)
    else:
        all_rows = book.rows(document)
        rows = _kept(all_rows, question, view, book)
    if not asked:
        return Expected(None, rows)
    if "asset" in question.path:
        return Expected(None, rows[0]) if rows else Expected("unknown-asset")
    if not any(row["symbol"] == question.path["symbol"] for row in all_rows):
        return Expected("unknown-symbol")
    if "positionSide" not in question.path:
        return Expected(None, rows)
    return Expected(None, rows[0]) if rows else Expected("no-such-position-side")


def _account(view: View, document: Json) -> Json:
    """All of it, or for whom rows may be hidden what is documented."""
    narrow = view.assets is not None or view.sides is not None
    return {name: member for name, member in document.items() if name in DOCUMENTED or not narrow}


def _unknown(question: Question, book: Book, document: str) -> Missing | None:
    """What is missing where a filter has a name that neither this document nor the exchange knows."""
    if not all(book.knows_asset(name, document) for name in question.named("asset") or ()):
        return "unknown-asset"
    symbols, pairs = question.named("symbol") or (), question.named("pair") or ()
    known = all(book.knows_symbol(name, document) for name in symbols)
    return None if known and all(book.knows_pair(name, document) for name in pairs) else "unknown-symbol"


def _view(account: str, grants: Grants) -> View | None:
    return grants.get(account, grants.get("*"))


def _listed(account: str, view: View) -> Json:
    assets, sides = (None if names is None else sorted(names) for names in (view.assets, view.sides))
    return {"account": account, "environment": "testing", "assets": assets, "positionSides": sides}


def _well_formed(question: Question) -> bool:
    taken = FILTERS.get(question.route, set())
    return all(name in taken for name, _ in question.query) and all(
        re.fullmatch(form, value) for name, form in FORMS.items() for value in question.named(name) or ()
    )


def _misformed(question: Question) -> Literal["parameter", "combination"] | None:
    """The same on the drop-in paths, where a value is one name, commas included."""
    own = CHOOSING[question.route]
    given = [(name, value) for name, value in question.query if name not in SIGNING]
    if not all(name in own for name, _ in given):
        return "parameter"
    if len({name for name, _ in given}) > 1:
        return "combination"
    forms = {**FORMS, "marginAsset": FORMS["asset"]}
    return None if len(given) < 2 and all(re.fullmatch(forms[name], value) for name, value in given) else "parameter"


def _names_only_what_is_granted(question: Question, view: View, book: Book) -> bool:
    # A pair is granted if any of its listed contracts is; one without any is what its form says.
    pairs = [
        [symbol for symbol in book.contracts if pair_of(symbol) == pair] or [f"{pair}_PERP"]
        for pair in question.named("pair") or ()
    ]
    return (
        _all_within(question.named("asset") or (), view.assets)
        and _all_within(map(book.margin, question.named("symbol") or ()), view.assets)
        and all(any(_all_within([book.margin(each)], view.assets) for each in contracts) for contracts in pairs)
        and _all_within(question.named("positionSide") or (), view.sides)
    )


def _all_within(values: Iterable[str | None], names: frozenset[str] | set[str] | None) -> bool:
    return names is None or all(value in names for value in values)


def _kept(rows: Iterable[Row], question: Question, view: View, book: Book) -> list[Row]:
    """What is selected and granted, as this view has it."""
    return [_seen(row, view) for row in rows if _keeps(row, question, view, book)]


def _seen(row: Row, view: View) -> Row:
    return {name: member for name, member in row.items() if name != ALIAS or view.assets is None}


def _keeps(row: Row, question: Question, view: View, book: Book) -> bool:
    """What a row doesn't have can't leave it out: an asset has no symbol, and a bracket no side."""
    asset = book.asset(row)
    judged = [(asset, view.assets), (asset, question.named("asset"))]
    if "symbol" in row:
        judged += [(row["symbol"], question.named("symbol")), (pair_of(row["symbol"]), question.named("pair"))]
    if "positionSide" in row:
        judged += [(row["positionSide"], view.sides), (row["positionSide"], question.named("positionSide"))]
    return all(_all_within([value], names) for value, names in judged)
