"""The operations of the control API: what `Exchange`'s attributes do, over HTTP; `control` calls them."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, TypeVar

import msgspec

from simulator.book import Book, Options, Position, Side, truncated
from simulator.exchange import Exchange
from simulator.faults import NAMES, Fault
from simulator.limits import Policy
from simulator.market import BY_SYMBOL

PREFIX = "/_sim/"
Body = TypeVar("Body")


class ControlRequest(msgspec.Struct, frozen=True):
    """The exchange that is controlled, and the account that the operation is about."""

    exchange: Exchange
    account: str

    @property
    def book(self) -> Book:
        try:
            return self.exchange.book(self.account)
        except KeyError as exc:
            raise ValueError(f"account {self.account} doesn't exist") from exc


class Operation(msgspec.Struct, frozen=True):
    """One method of one path; `act` gets the decoded body and returns what is answered as JSON."""

    does: str
    body_type: Any
    act: Callable[[ControlRequest, Any], object]


OPERATIONS: dict[tuple[str, str], Operation] = {}
"""By method and path; the decorator below enters each."""


class Form(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A JSON body: camelCase names, no others."""


class EmptyBody(Form):
    """No body, or `{}`."""


def operation(
    method: str, path: str, does: str, body_type: type[Body]
) -> Callable[[Callable[[ControlRequest, Body], object]], Callable[[ControlRequest, Body], object]]:
    def register(act: Callable[[ControlRequest, Body], object]) -> Callable[[ControlRequest, Body], object]:
        OPERATIONS[method, PREFIX + path] = Operation(does, body_type, act)
        return act

    return register


def patched(current: msgspec.Struct, changes: dict[str, object]) -> Any:
    """*current* with the named fields changed; ValueError for a name or value that doesn't fit."""
    return msgspec.convert({**msgspec.to_builtins(current), **changes}, type(current))


Mode = Literal["one-way", "hedge"]


@operation("GET", "", "list the operations and the faults there are", EmptyBody)
def _help(_: ControlRequest, __: EmptyBody) -> object:
    operations = [{"method": method, "path": path, "does": it.does} for (method, path), it in OPERATIONS.items()]
    return {"operations": operations, "faults": NAMES}


@operation("GET", "calls", "recorded calls, oldest first, and totals", EmptyBody)
def _calls(request: ControlRequest, _: EmptyBody) -> object:
    calls = request.exchange.calls
    return {"calls": calls.kept(), "byPath": calls.by_path(), "byClient": calls.by_client()}


@operation("DELETE", "calls", "forget the recorded calls", EmptyBody)
def _forget_calls(request: ControlRequest, _: EmptyBody) -> object:
    request.exchange.calls.clear()
    return {}


@operation("POST", "reset", "back to the start state", EmptyBody)
def _reset(request: ControlRequest, _: EmptyBody) -> object:
    request.exchange.reset()
    return {}


# Accounts


class NewAccount(Form):
    name: str
    mode: Mode = "one-way"


@operation("GET", "accounts", "the accounts and their modes", EmptyBody)
def _accounts(request: ControlRequest, _: EmptyBody) -> object:
    return {book.name: {"mode": _mode_of(book)} for book in request.exchange.books()}


@operation("POST", "accounts", 'open an empty account: {"name", "mode"?}', NewAccount)
def _open_account(request: ControlRequest, body: NewAccount) -> object:
    request.exchange.add_book(body.name, hedge=body.mode == "hedge")
    return _accounts(request, EmptyBody())


@operation("GET", "balances", "wallet balances", EmptyBody)
def _balances(request: ControlRequest, _: EmptyBody) -> object:
    return request.book.balances


@operation("PUT", "balances", 'set wallet balances: {"BTC": "1.5", …}; others stay', dict[str, str | int])
def _set_balances(request: ControlRequest, body: dict[str, str | int]) -> object:
    wallets = {asset: _amount(asset, wallet) for asset, wallet in body.items()}  # all or none
    for asset, wallet in wallets.items():
        request.book.set_balance(asset, wallet, request.exchange.now_ms())
    return request.book.balances


def _amount(asset: str, wallet: str | int) -> Decimal:
    try:
        return truncated(Decimal(wallet))
    except ArithmeticError as exc:
        raise ValueError(f"{asset} must be a decimal amount, as a string") from exc


class OpenPosition(Form):
    """An amount of 0 closes the row, unless orders still bind margin there."""

    symbol: str
    amount: int
    side: Side = "BOTH"
    entry_price: Decimal | None = None  # None: at the mark price
    leverage: int = 20
    isolated: bool = False
    open_order_initial_margin: Decimal = Decimal(0)


class Row(Form):
    symbol: str
    side: Side = "BOTH"


@operation("GET", "positions", "open positions", EmptyBody)
def _positions(request: ControlRequest, _: EmptyBody) -> object:
    return request.book.positions()


@operation(
    "PUT",
    "positions",
    'set one: {"symbol", "amount" in contracts, "side"?, "entryPrice"?, "leverage"?, "isolated"?,'
    ' "openOrderInitialMargin"?}; amount 0 closes it',
    OpenPosition,
)
def _set_position(request: ControlRequest, body: OpenPosition) -> object:
    contract = BY_SYMBOL.get(body.symbol)
    if contract is None:
        raise ValueError(f"symbol {body.symbol} is not listed")
    if not body.amount and not body.open_order_initial_margin:
        request.book.close(body.symbol, body.side)
        return request.book.positions()
    now_ms = request.exchange.now_ms()
    position = Position(
        symbol=body.symbol,
        side=body.side,
        amount=body.amount,
        entry_price=request.exchange.market.mark(contract, now_ms) if body.entry_price is None else body.entry_price,
        leverage=body.leverage,
        isolated=body.isolated,
        open_order_margin=body.open_order_initial_margin,
        updated_ms=now_ms,
    )
    request.book.open(position)
    return request.book.positions()


@operation("DELETE", "positions", 'close one: {"symbol", "side"?}', Row)
def _close_position(request: ControlRequest, body: Row) -> object:
    request.book.close(body.symbol, body.side)
    return request.book.positions()


class NewMode(Form):
    mode: Mode


def _mode_of(book: Book) -> Mode:
    return "hedge" if book.hedge else "one-way"


@operation("GET", "mode", "the position mode", EmptyBody)
def _mode(request: ControlRequest, _: EmptyBody) -> object:
    return {"mode": _mode_of(request.book)}


@operation("PUT", "mode", 'switch it and carry positions over: {"mode": "one-way" | "hedge"}', NewMode)
def _set_mode(request: ControlRequest, body: NewMode) -> object:
    request.book.set_mode(hedge=body.mode == "hedge")
    return _mode(request, EmptyBody())


@operation("GET", "options", "how the account is printed", EmptyBody)
def _options(request: ControlRequest, _: EmptyBody) -> object:
    return request.book.options


@operation(
    "PUT",
    "options",
    'change some: {"assets": 20-50, "notionalValue": "none"|"open"|"all", "isolatedWallet", "breakEvenPrice",'
    ' "extraFields", "keyOrder": "rest"|"ws"}',
    dict[str, object],
)
def _set_options(request: ControlRequest, body: dict[str, object]) -> object:
    options: Options = patched(request.book.options, body)
    request.book.options = options
    return options


@operation("PUT", "raw", "answer /dapi/v1/account with this body, byte for byte", bytes)
def _set_raw(request: ControlRequest, body: bytes) -> object:
    request.book.raw = body
    return {"bytes": len(body)}


@operation("DELETE", "raw", "answer it from the book again", EmptyBody)
def _clear_raw(request: ControlRequest, _: EmptyBody) -> object:
    request.book.raw = None
    return {}


# The exchange


class MarketForm(Form):
    frozen: bool | None = None
    margin_assets: dict[str, str] | None = None


@operation("GET", "market", "whether marks stand still, and overridden margin assets", EmptyBody)
def _market(request: ControlRequest, _: EmptyBody) -> object:
    market = request.exchange.market
    return {"frozen": market.frozen, "marginAssets": market.margin_assets}


@operation("PUT", "market", '{"frozen"?: marks stand still, "marginAssets"?: {symbol: asset}}', MarketForm)
def _set_market(request: ControlRequest, body: MarketForm) -> object:
    market = request.exchange.market
    if body.frozen is not None:
        market.frozen = body.frozen
    if body.margin_assets is not None:
        unlisted = body.margin_assets.keys() - BY_SYMBOL.keys()
        if unlisted:
            raise ValueError(f"marginAssets names {min(unlisted)}, which is not listed")
        market.margin_assets = body.margin_assets
    return _market(request, EmptyBody())


class ClockForm(Form):
    skew_ms: int | None = None
    frozen: bool | None = None
    now_ms: int | None = None
    advance_ms: int | None = None


@operation("GET", "clock", "the exchange's time, its skew, and whether it stands", EmptyBody)
def _clock(request: ControlRequest, _: EmptyBody) -> object:
    clock = request.exchange.clock
    return {"nowMs": clock.now_ms(), "skewMs": clock.skew_ms, "frozen": clock.frozen_at_ms is not None}


@operation("PUT", "clock", '{"skewMs"? from the real time, "frozen"?, "nowMs"?, "advanceMs"?}', ClockForm)
def _set_clock(request: ControlRequest, body: ClockForm) -> object:
    clock = request.exchange.clock
    if body.skew_ms is not None:
        clock.skew_ms = body.skew_ms
    if body.frozen is not None:
        clock.freeze() if body.frozen else clock.resume()
    if body.now_ms is not None:
        clock.set(body.now_ms)
    clock.advance(body.advance_ms or 0)
    return _clock(request, EmptyBody())


class UsedForm(Form):
    address: str
    used: int


class BanForm(Form):
    address: str
    seconds: float = 120


class PardonForm(Form):
    address: str | None = None


@operation("GET", "limits", "the policy, and what each address has used and earned", EmptyBody)
def _limits(request: ControlRequest, _: EmptyBody) -> object:
    limits, now_ms = request.exchange.limits, request.exchange.now_ms()
    addresses = {address: limits.tally(address, now_ms) for address in limits.addresses()}
    return {**msgspec.to_builtins(limits.policy), "addresses": addresses}


@operation("PUT", "limits", 'change some: {"weightLimit", "grace", "retryAfter"}', dict[str, object])
def _set_limits(request: ControlRequest, body: dict[str, object]) -> object:
    policy: Policy = patched(request.exchange.limits.policy, body)
    request.exchange.limits.policy = policy
    return policy


@operation("PUT", "used", 'a neighbour\'s spending in this minute: {"address", "used"}', UsedForm)
def _set_used(request: ControlRequest, body: UsedForm) -> object:
    request.exchange.limits.set_used(body.address, body.used, request.exchange.now_ms())
    return _limits(request, EmptyBody())


@operation("POST", "bans", 'ban an address: {"address", "seconds"?}', BanForm)
def _ban(request: ControlRequest, body: BanForm) -> object:
    now_ms = request.exchange.now_ms()
    request.exchange.limits.ban(body.address, now_ms + int(body.seconds * 1000), now_ms)
    return _limits(request, EmptyBody())


@operation("DELETE", "bans", 'pardon: {"address"?}, all without one', PardonForm)
def _pardon(request: ControlRequest, body: PardonForm) -> object:
    request.exchange.limits.pardon(body.address)
    return _limits(request, EmptyBody())


class KeyForm(Form):
    """Exactly one of the two secrets."""

    api_key: str
    secret_key: str | None = None
    public_key: str | None = None


class KeyName(Form):
    api_key: str


@operation("GET", "keys", "API keys, without secrets", EmptyBody)
def _keys(request: ControlRequest, _: EmptyBody) -> object:
    return [
        {"apiKey": key.name, "account": key.account, "kind": key.kind, "allowed": key.allowed}
        for key in request.exchange.keys.values()
    ]


@operation("POST", "keys", '{"apiKey", "secretKey" or "publicKey" (PEM)} for the account', KeyForm)
def _add_key(request: ControlRequest, body: KeyForm) -> object:
    if body.secret_key is not None and body.public_key is None:
        request.exchange.add_secret_key(body.api_key, body.secret_key, request.book.name)
    elif body.public_key is not None and body.secret_key is None:
        request.exchange.add_public_key(body.api_key, body.public_key.encode(), request.book.name)
    else:
        raise ValueError("exactly one of secretKey and publicKey must be given")
    return _keys(request, EmptyBody())


@operation("DELETE", "keys", 'revoke: {"apiKey"}', KeyName)
def _revoke_key(request: ControlRequest, body: KeyName) -> object:
    if body.api_key not in request.exchange.keys:
        raise ValueError("apiKey is unknown")
    request.exchange.revoke(body.api_key)
    return _keys(request, EmptyBody())


@operation("GET", "restrictions", "what each key may do, as /sapi tells it", EmptyBody)
def _restrictions(request: ControlRequest, _: EmptyBody) -> object:
    return {key.name: key.restrictions for key in request.exchange.keys.values()}


@operation(
    "PUT",
    "restrictions",
    'change some: {"apiKey", "ipRestrict"?, "enableReading"?, "enableWithdrawals"?, "enableFutures"?, …}',
    dict[str, object],
)
def _set_restrictions(request: ControlRequest, body: dict[str, object]) -> object:
    key = request.exchange.keys.get(str(body.pop("apiKey", "")))
    if key is None:
        raise ValueError("apiKey is unknown")
    request.exchange.restrict(key.name, patched(key.restrictions, body))
    return _restrictions(request, EmptyBody())


# Faults and the gate


@operation("GET", "faults", "faults in force, with the counts left", EmptyBody)
def _faults(request: ControlRequest, _: EmptyBody) -> object:
    return request.exchange.faults.active()


@operation(
    "POST",
    "faults",
    'add one: {"name", "path"?: "*" is all, "count"?, "seconds"?}; "custom" takes "status", "headers", "body"',
    Fault,
)
def _add_fault(request: ControlRequest, body: Fault) -> object:
    request.exchange.faults.add(body)
    return request.exchange.faults.active()


@operation("PUT", "faults", "these and no others: [{…}, …]", list[Fault])
def _set_faults(request: ControlRequest, body: list[Fault]) -> object:
    request.exchange.faults.set(body)
    return request.exchange.faults.active()


@operation("DELETE", "faults", "no more faults", EmptyBody)
def _clear_faults(request: ControlRequest, _: EmptyBody) -> object:
    request.exchange.faults.clear()
    return []


@operation("GET", "held", "how many answers are held back or hang", EmptyBody)
def _held(request: ControlRequest, _: EmptyBody) -> object:
    return {"held": request.exchange.held}


@operation(
    "POST",
    "hold",
    "hold back the answers of calls for an account's documents; of one path alone: the fault hang",
    EmptyBody,
)
def _hold(request: ControlRequest, _: EmptyBody) -> object:
    request.exchange.hold()
    return _held(request, EmptyBody())


@operation("POST", "release", "let held and hanging answers go", EmptyBody)
def _release(request: ControlRequest, _: EmptyBody) -> object:
    request.exchange.release()
    return _held(request, EmptyBody())
