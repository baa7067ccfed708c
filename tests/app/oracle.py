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
Reason: TypeAlias = Unidentified | Literal["account", "parameter", "name"] | Missing
"""Why there is no data, in the order of the checks."""


class View(msgspec.Struct, frozen=True):
    """What somebody may see of an account; `None` is all."""

    assets: frozenset[str] | None = None
    sides: frozenset[str] | None = None


Grants = Mapping[str, View]
"""By account; `*` is for those without one of their own."""


DOCUMENTED = {"assets", "positions", "canDeposit", "canTrade", "canWithdraw", "feeTier", "updateTime"}
"""What somebody sees of an account beside its rows who doesn't see all of them."""
TODAY = "260921"
"""By the stage's clock."""


class Book(msgspec.Struct, frozen=True):
    """An account as the exchange has it.

    `listed` is exchangeInfo's margin assets where they differ from the form, `contracts` all that it lists. `before`,
    `between` and `after` are members that stand around the arrays.
    """

    assets: tuple[Row, ...]
    positions: tuple[Row, ...]
    listed: Mapping[str, str]
    contracts: frozenset[str]
    before: Mapping[str, Json]
    between: Mapping[str, Json]
    after: Mapping[str, Json]

    @property
    def document(self) -> Json:
        arrays = {"assets": list(self.assets), **self.between, "positions": list(self.positions)}
        return {**self.before, **arrays, **self.after}

    def knows_asset(self, name: str) -> bool:
        """Whether the account or the exchange has it."""
        margins = {self.margin(symbol) for symbol in (*self.contracts, *(row["symbol"] for row in self.positions))}
        return name in margins or any(row["asset"] == name for row in self.assets)

    def knows_symbol(self, name: str) -> bool:
        """The same of a contract; one that was delivered is known by its pair and its day."""
        pair, _, day = name.rpartition("_")
        delivered = day.isdecimal() and day < TODAY and any(pair == each.split("_")[0] for each in self.contracts)
        return delivered or name in self.contracts or any(row["symbol"] == name for row in self.positions)

    def margin(self, symbol: str) -> str | None:
        coin, separator, _ = symbol.partition("USD_")
        return self.listed.get(symbol) or (coin if separator else None)


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
        given = [value for key, value in (*self.path.items(), *self.query) if key == name]
        return {each for value in given for each in value.split(",")} if given else None


ACCOUNTS, STATUS = "/v1/accounts", "/v1/status"
ACCOUNT, ASSETS, POSITIONS = (f"/v1/accounts/{{account}}{rest}" for rest in ("", "/assets", "/positions"))
ASSET, SYMBOL = f"{ASSETS}/{{asset}}", f"{POSITIONS}/{{symbol}}"
POSITION = f"{SYMBOL}/{{positionSide}}"
DROP_IN = "/binance/{account}/dapi/v1/account"

FILTERS: Mapping[str, set[str]] = {
    ACCOUNT: {"asset", "symbol", "positionSide", "open", "nonzero"},
    ASSETS: {"asset", "nonzero"},
    POSITIONS: {"asset", "symbol", "positionSide", "open"},
    DROP_IN: {"timestamp", "recvWindow", "signature"},
}
"""Other paths take none. Those of the drop-in path are taken and narrow nothing."""
SHAPES = {
    ACCOUNT: "account",
    DROP_IN: "account",
    ASSETS: "assets",
    ASSET: "asset",
    POSITIONS: "positions",
    SYMBOL: "symbol",
    POSITION: "position",
}
FORMS = {
    "asset": "[^\x00-\x1f\x7f-\x9f/,]{1,64}",
    "symbol": "[^\x00-\x1f\x7f-\x9f/,]{1,64}",
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
    if not _well_formed(question):
        return Expected("parameter")
    if not _names_only_what_is_granted(question, view, book):
        return Expected("name")
    assets = [row for row in book.assets if _keeps_asset(row, question, view)]
    positions = [row for row in book.positions if _keeps_position(row, question, view, book)]
    shape = SHAPES[question.route]
    unknown = _unknown(question, book) if shape in ("account", "assets", "positions") else None
    if unknown is not None:
        return Expected(unknown)
    match shape:
        case "account":
            return Expected(None, _account(view, book.document | {"assets": assets, "positions": positions}))
        case "assets":
            return Expected(None, assets)
        case "asset":
            return Expected(None, assets[0]) if assets else Expected("unknown-asset")
        case "positions":
            return Expected(None, positions)
    if not any(row["symbol"] == question.path["symbol"] for row in book.positions):
        return Expected("unknown-symbol")
    if shape == "symbol":
        return Expected(None, positions)
    return Expected(None, positions[0]) if positions else Expected("no-such-position-side")


def _account(view: View, document: Json) -> Json:
    """All of it, or for whom rows may be hidden what is documented."""
    narrow = view.assets is not None or view.sides is not None
    return {name: member for name, member in document.items() if name in DOCUMENTED or not narrow}


def _unknown(question: Question, book: Book) -> Missing | None:
    """What is missing where a filter has a name that nobody knows."""
    if not all(book.knows_asset(name) for name in question.named("asset") or ()):
        return "unknown-asset"
    return None if all(book.knows_symbol(name) for name in question.named("symbol") or ()) else "unknown-symbol"


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


def _names_only_what_is_granted(question: Question, view: View, book: Book) -> bool:
    symbols = (book.margin(symbol) for symbol in question.named("symbol") or ())
    return (
        _all_within(question.named("asset") or (), view.assets)
        and _all_within(symbols, view.assets)
        and _all_within(question.named("positionSide") or (), view.sides)
    )


def _all_within(values: Iterable[str | None], names: frozenset[str] | set[str] | None) -> bool:
    return names is None or all(value in names for value in values)


def _keeps_asset(row: Row, question: Question, view: View) -> bool:
    return all(_all_within([row["asset"]], names) for names in (view.assets, question.named("asset")))


def _keeps_position(row: Row, question: Question, view: View, book: Book) -> bool:
    margin = book.margin(row["symbol"])
    return all(
        _all_within([value], names)
        for value, names in [
            (margin, view.assets),
            (margin, question.named("asset")),
            (row["symbol"], question.named("symbol")),
            (row["positionSide"], view.sides),
            (row["positionSide"], question.named("positionSide")),
        ]
    )
