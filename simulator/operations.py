"""The operations of the control API: what `Exchange`'s attributes do, over HTTP.

Importing this module enters them into `control.OPERATIONS`.
"""

from decimal import Decimal
from typing import Literal

import msgspec

from simulator.book import Book, Options, Position, Side, truncated
from simulator.control import OPERATIONS, Form, Nothing, Turn, operation, patched
from simulator.faults import NAMES, Fault
from simulator.limits import Policy
from simulator.market import BY_SYMBOL

Mode = Literal["one-way", "hedge"]


@operation("GET", "", "list the operations and the faults there are", Nothing)
def _help(_: Turn, __: Nothing) -> object:
    operations = [{"method": method, "path": path, "does": it.does} for (method, path), it in OPERATIONS.items()]
    return {"operations": operations, "faults": NAMES}


@operation("GET", "calls", "recorded calls, oldest first, and totals", Nothing)
def _calls(turn: Turn, _: Nothing) -> object:
    calls = turn.sim.calls
    return {"calls": calls.kept(), "byPath": calls.by_path(), "byClient": calls.by_client()}


@operation("DELETE", "calls", "forget the recorded calls", Nothing)
def _forget_calls(turn: Turn, _: Nothing) -> object:
    turn.sim.calls.clear()
    return {}


@operation("POST", "reset", "back to the start state", Nothing)
def _reset(turn: Turn, _: Nothing) -> object:
    turn.sim.reset()
    return {}


# Accounts


class NewAccount(Form):
    name: str
    mode: Mode = "one-way"


@operation("GET", "accounts", "the accounts and their modes", Nothing)
def _accounts(turn: Turn, _: Nothing) -> object:
    return {book.name: {"mode": _mode_of(book)} for book in turn.sim.books()}


@operation("POST", "accounts", 'open an empty account: {"name", "mode"?}', NewAccount)
def _open_account(turn: Turn, body: NewAccount) -> object:
    turn.sim.add_book(body.name, hedge=body.mode == "hedge")
    return _accounts(turn, Nothing())


@operation("GET", "balances", "wallet balances", Nothing)
def _balances(turn: Turn, _: Nothing) -> object:
    return turn.book.balances


@operation("PUT", "balances", 'set wallet balances: {"BTC": "1.5", …}; others stay', dict[str, str | int])
def _set_balances(turn: Turn, body: dict[str, str | int]) -> object:
    wallets = {asset: _amount(asset, wallet) for asset, wallet in body.items()}  # all or none
    for asset, wallet in wallets.items():
        turn.book.set_balance(asset, wallet, turn.sim.now_ms())
    return turn.book.balances


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


@operation("GET", "positions", "open positions", Nothing)
def _positions(turn: Turn, _: Nothing) -> object:
    return turn.book.positions()


@operation(
    "PUT",
    "positions",
    'set one: {"symbol", "amount" in contracts, "side"?, "entryPrice"?, "leverage"?, "isolated"?,'
    ' "openOrderInitialMargin"?}; amount 0 closes it',
    OpenPosition,
)
def _set_position(turn: Turn, body: OpenPosition) -> object:
    contract = BY_SYMBOL.get(body.symbol)
    if contract is None:
        raise ValueError(f"symbol {body.symbol} is not listed")
    if not body.amount and not body.open_order_initial_margin:
        turn.book.close(body.symbol, body.side)
        return turn.book.positions()
    now_ms = turn.sim.now_ms()
    position = Position(
        symbol=body.symbol,
        side=body.side,
        amount=body.amount,
        entry_price=turn.sim.market.mark(contract, now_ms) if body.entry_price is None else body.entry_price,
        leverage=body.leverage,
        isolated=body.isolated,
        open_order_margin=body.open_order_initial_margin,
        updated_ms=now_ms,
    )
    turn.book.open(position)
    return turn.book.positions()


@operation("DELETE", "positions", 'close one: {"symbol", "side"?}', Row)
def _close_position(turn: Turn, body: Row) -> object:
    turn.book.close(body.symbol, body.side)
    return turn.book.positions()


class NewMode(Form):
    mode: Mode


def _mode_of(book: Book) -> Mode:
    return "hedge" if book.hedge else "one-way"


@operation("GET", "mode", "the position mode", Nothing)
def _mode(turn: Turn, _: Nothing) -> object:
    return {"mode": _mode_of(turn.book)}


@operation("PUT", "mode", 'switch it and carry positions over: {"mode": "one-way" | "hedge"}', NewMode)
def _set_mode(turn: Turn, body: NewMode) -> object:
    turn.book.set_mode(hedge=body.mode == "hedge")
    return _mode(turn, Nothing())


@operation("GET", "options", "how the account is printed", Nothing)
def _options(turn: Turn, _: Nothing) -> object:
    return turn.book.options


@operation(
    "PUT",
    "options",
    'change some: {"assets": 20-50, "notionalValue": "none"|"open"|"all", "isolatedWallet", "breakEvenPrice",'
    ' "extraFields", "keyOrder": "rest"|"ws"}',
    dict[str, object],
)
def _set_options(turn: Turn, body: dict[str, object]) -> object:
    options: Options = patched(turn.book.options, body)
    turn.book.options = options
    return options


@operation("PUT", "raw", "answer /dapi/v1/account with this body, byte for byte", bytes)
def _set_raw(turn: Turn, body: bytes) -> object:
    turn.book.raw = body
    return {"bytes": len(body)}


@operation("DELETE", "raw", "answer it from the book again", Nothing)
def _clear_raw(turn: Turn, _: Nothing) -> object:
    turn.book.raw = None
    return {}


# The exchange


class MarketForm(Form):
    frozen: bool | None = None
    margin_assets: dict[str, str] | None = None


@operation("GET", "market", "whether marks stand still, and overridden margin assets", Nothing)
def _market(turn: Turn, _: Nothing) -> object:
    market = turn.sim.market
    return {"frozen": market.frozen, "marginAssets": market.margin_assets}


@operation("PUT", "market", '{"frozen"?: marks stand still, "marginAssets"?: {symbol: asset}}', MarketForm)
def _set_market(turn: Turn, body: MarketForm) -> object:
    market = turn.sim.market
    if body.frozen is not None:
        market.frozen = body.frozen
    if body.margin_assets is not None:
        unlisted = body.margin_assets.keys() - BY_SYMBOL.keys()
        if unlisted:
            raise ValueError(f"marginAssets names {min(unlisted)}, which is not listed")
        market.margin_assets = body.margin_assets
    return _market(turn, Nothing())


class ClockForm(Form):
    skew_ms: int | None = None
    frozen: bool | None = None
    now_ms: int | None = None
    advance_ms: int | None = None


@operation("GET", "clock", "the exchange's time, its skew, and whether it stands", Nothing)
def _clock(turn: Turn, _: Nothing) -> object:
    clock = turn.sim.clock
    return {"nowMs": clock.now_ms(), "skewMs": clock.skew_ms, "frozen": clock.frozen_at_ms is not None}


@operation("PUT", "clock", '{"skewMs"? from the real time, "frozen"?, "nowMs"?, "advanceMs"?}', ClockForm)
def _set_clock(turn: Turn, body: ClockForm) -> object:
    clock = turn.sim.clock
    if body.skew_ms is not None:
        clock.skew_ms = body.skew_ms
    if body.frozen is not None:
        clock.freeze() if body.frozen else clock.resume()
    if body.now_ms is not None:
        clock.set(body.now_ms)
    clock.advance(body.advance_ms or 0)
    return _clock(turn, Nothing())


class UsedForm(Form):
    address: str
    used: int


class BanForm(Form):
    address: str
    seconds: float = 120


class PardonForm(Form):
    address: str | None = None


@operation("GET", "limits", "the policy, and what each address has used and earned", Nothing)
def _limits(turn: Turn, _: Nothing) -> object:
    limits, now_ms = turn.sim.limits, turn.sim.now_ms()
    addresses = {address: limits.tally(address, now_ms) for address in limits.addresses()}
    return {**msgspec.to_builtins(limits.policy), "addresses": addresses}


@operation("PUT", "limits", 'change some: {"weightLimit", "grace", "retryAfter"}', dict[str, object])
def _set_limits(turn: Turn, body: dict[str, object]) -> object:
    policy: Policy = patched(turn.sim.limits.policy, body)
    turn.sim.limits.policy = policy
    return policy


@operation("PUT", "used", 'a neighbour\'s spending in this minute: {"address", "used"}', UsedForm)
def _set_used(turn: Turn, body: UsedForm) -> object:
    turn.sim.limits.set_used(body.address, body.used, turn.sim.now_ms())
    return _limits(turn, Nothing())


@operation("POST", "bans", 'ban an address: {"address", "seconds"?}', BanForm)
def _ban(turn: Turn, body: BanForm) -> object:
    now_ms = turn.sim.now_ms()
    turn.sim.limits.ban(body.address, now_ms + int(body.seconds * 1000), now_ms)
    return _limits(turn, Nothing())


@operation("DELETE", "bans", 'pardon: {"address"?}, all without one', PardonForm)
def _pardon(turn: Turn, body: PardonForm) -> object:
    turn.sim.limits.pardon(body.address)
    return _limits(turn, Nothing())


class KeyForm(Form):
    """Exactly one of the two secrets."""

    api_key: str
    secret_key: str | None = None
    public_key: str | None = None


class KeyName(Form):
    api_key: str


@operation("GET", "keys", "API keys, without secrets", Nothing)
def _keys(turn: Turn, _: Nothing) -> object:
    return [
        {"apiKey": key.name, "account": key.account, "kind": key.kind, "allowed": key.allowed}
        for key in turn.sim.keys.values()
    ]


@operation("POST", "keys", '{"apiKey", "secretKey" or "publicKey" (PEM)} for the account', KeyForm)
def _add_key(turn: Turn, body: KeyForm) -> object:
    if body.secret_key is not None and body.public_key is None:
        turn.sim.add_secret_key(body.api_key, body.secret_key, turn.book.name)
    elif body.public_key is not None and body.secret_key is None:
        turn.sim.add_public_key(body.api_key, body.public_key.encode(), turn.book.name)
    else:
        raise ValueError("exactly one of secretKey and publicKey must be given")
    return _keys(turn, Nothing())


@operation("DELETE", "keys", 'revoke: {"apiKey"}', KeyName)
def _revoke_key(turn: Turn, body: KeyName) -> object:
    if body.api_key not in turn.sim.keys:
        raise ValueError("apiKey is unknown")
    turn.sim.revoke(body.api_key)
    return _keys(turn, Nothing())


@operation("GET", "restrictions", "what each key may do, as /sapi tells it", Nothing)
def _restrictions(turn: Turn, _: Nothing) -> object:
    return {key.name: key.restrictions for key in turn.sim.keys.values()}


@operation(
    "PUT",
    "restrictions",
    'change some: {"apiKey", "ipRestrict"?, "enableReading"?, "enableWithdrawals"?, "enableFutures"?, …}',
    dict[str, object],
)
def _set_restrictions(turn: Turn, body: dict[str, object]) -> object:
    key = turn.sim.keys.get(str(body.pop("apiKey", "")))
    if key is None:
        raise ValueError("apiKey is unknown")
    turn.sim.restrict(key.name, patched(key.restrictions, body))
    return _restrictions(turn, Nothing())


# Faults and the gate


@operation("GET", "faults", "faults in force, with the counts left", Nothing)
def _faults(turn: Turn, _: Nothing) -> object:
    return turn.sim.faults.active()


@operation(
    "POST",
    "faults",
    'add one: {"name", "path"?: "*" is all, "count"?, "seconds"?}; "custom" takes "status", "headers", "body"',
    Fault,
)
def _add_fault(turn: Turn, body: Fault) -> object:
    turn.sim.faults.add(body)
    return turn.sim.faults.active()


@operation("PUT", "faults", "these and no others: [{…}, …]", list[Fault])
def _set_faults(turn: Turn, body: list[Fault]) -> object:
    turn.sim.faults.set(body)
    return turn.sim.faults.active()


@operation("DELETE", "faults", "no more faults", Nothing)
def _clear_faults(turn: Turn, _: Nothing) -> object:
    turn.sim.faults.clear()
    return []


@operation("GET", "held", "how many answers are held back or hang", Nothing)
def _held(turn: Turn, _: Nothing) -> object:
    return {"held": turn.sim.held}


@operation("POST", "hold", "hold back the answers of account calls", Nothing)
def _hold(turn: Turn, _: Nothing) -> object:
    turn.sim.hold()
    return _held(turn, Nothing())


@operation("POST", "release", "let held and hanging answers go", Nothing)
def _release(turn: Turn, _: Nothing) -> object:
    turn.sim.release()
    return _held(turn, Nothing())
