import json
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest

from simulator.book import Book, Options, Position, margins
from simulator.exchange import Exchange, Settings
from simulator.market import BY_SYMBOL, Market
from simulator.statement import statement
from tests.simulator.conftest import NOW

Account = Callable[[], Awaitable[Any]]

ASSET_KEYS = [
    "asset", "walletBalance", "unrealizedProfit", "marginBalance", "maintMargin", "initialMargin",
    "positionInitialMargin", "openOrderInitialMargin", "maxWithdrawAmount", "crossWalletBalance", "crossUnPnl",
    "availableBalance", "updateTime",
]  # fmt: skip
POSITION_KEYS = [
    "symbol", "positionAmt", "initialMargin", "maintMargin", "unrealizedProfit", "positionInitialMargin",
    "openOrderInitialMargin", "leverage", "isolated", "positionSide", "entryPrice", "breakEvenPrice", "maxQty",
    "updateTime",
]  # fmt: skip


def demo(*, hedge: bool = False, **options: Any) -> Any:
    exchange = Exchange(Settings(hedge=hedge))
    exchange.book().options = Options(**options)
    return json.loads(statement(exchange.book(), exchange.market, NOW))


async def test_one_way_mode_has_a_row_a_symbol(account: Account) -> None:
    rows = (await account())["positions"]

    assert len(rows) == len({row["symbol"] for row in rows}) == 30
    assert {row["positionSide"] for row in rows} == {"BOTH"}
    assert Counter(row["symbol"].partition("_")[2] for row in rows) == {"PERP": 20, "261225": 5, "270326": 5}


def test_hedge_mode_has_three_and_the_both_rows_stay_at_zero() -> None:
    rows = demo(hedge=True)["positions"]

    assert Counter(row["positionSide"] for row in rows) == {"BOTH": 30, "LONG": 30, "SHORT": 30}
    assert {row["positionAmt"] for row in rows if row["positionSide"] == "BOTH"} == {"0"}
    assert all(int(row["positionAmt"]) <= 0 for row in rows if row["positionSide"] == "SHORT")
    assert sum(row["positionAmt"] != "0" for row in rows) == 4


def test_another_demo_account_can_be_opened_in_the_other_mode() -> None:
    exchange = Exchange()
    exchange.add_demo_book("hedged", hedge=True)

    assert [len(book.positions()) for book in exchange.books()] == [4, 4]
    assert [book.hedge for book in exchange.books()] == [False, True]


@pytest.mark.parametrize("assets", [20, 50])
def test_assets_are_as_many_as_wanted_and_mostly_zero(assets: int) -> None:
    rows = demo(assets=assets)["assets"]

    assert len(rows) == len({row["asset"] for row in rows}) == assets
    assert sum(row["walletBalance"] != "0.00000000" for row in rows) == 4


@pytest.mark.parametrize("assets", [19, 51])
def test_other_numbers_of_assets_are_refused(assets: int) -> None:
    with pytest.raises(ValueError, match="assets must be from 20 to 50"):
        Options(assets=assets)


async def test_keys_types_and_order_are_the_documented_ones(account: Account) -> None:
    body = await account()
    zero = body["positions"][1]

    assert list(body) == ["assets", "positions", "canDeposit", "canTrade", "canWithdraw", "feeTier", "updateTime"]
    assert (body["feeTier"], body["updateTime"]) == (2, 0)
    assert [list(row) for row in body["assets"]] == [ASSET_KEYS] * 20
    assert list(zero) == POSITION_KEYS
    assert (zero["leverage"], zero["isolated"], zero["updateTime"]) == ("20", False, 0)


async def test_one_body_prints_zero_in_three_ways(account: Account) -> None:
    zero = (await account())["positions"][1]

    assert (zero["positionAmt"], zero["entryPrice"], zero["unrealizedProfit"]) == ("0", "0.0", "0.00000000")


@pytest.mark.parametrize("hedge", [False, True])
def test_the_numbers_agree_with_each_other(*, hedge: bool) -> None:
    body = demo(hedge=hedge, isolated_wallet=True)
    for row in body["assets"]:
        held = {key: Decimal(row[key]) for key in ASSET_KEYS[1:-1]}
        owned = [it for it in body["positions"] if it["symbol"].startswith(row["asset"] + "USD_")]
        cross = [it for it in owned if not it["isolated"]]

        def total(key: str, rows: list[Any]) -> Decimal:
            return sum((Decimal(it[key]) for it in rows), Decimal(0))

        assert held["marginBalance"] == held["walletBalance"] + held["unrealizedProfit"]
        assert held["initialMargin"] == held["positionInitialMargin"] + held["openOrderInitialMargin"]
        assert held["unrealizedProfit"] == total("unrealizedProfit", owned)
        assert held["maintMargin"] == total("maintMargin", owned)
        assert held["initialMargin"] == total("initialMargin", owned)
        assert held["crossUnPnl"] == total("unrealizedProfit", cross)
        assert held["crossWalletBalance"] == held["walletBalance"] - total("isolatedWallet", owned)
        free = held["crossWalletBalance"] + held["crossUnPnl"] - total("initialMargin", cross)
        assert held["availableBalance"] == max(Decimal(0), free)
        assert held["maxWithdrawAmount"] <= held["availableBalance"]


def test_a_real_trade_comes_out_to_its_last_decimal() -> None:
    # One contract bought at 82945.2 showed -0.00000012 on demo trading: a mark 0.01 % below the entry.
    position = Position(symbol="BTCUSD_PERP", side="BOTH", amount=1, entry_price=Decimal("82945.2"), leverage=20)
    figures = margins(position, Decimal("82936.9"))

    assert figures.unrealized == Decimal("-0.00000012")
    assert figures.notional == Decimal("0.00120573")
    assert figures.position_initial == Decimal("0.00006028")
    assert figures.maintenance == Decimal("0.00000482")


def test_available_balance_is_never_negative() -> None:
    book = Book("poor")
    book.open(Position(symbol="ETHUSD_PERP", side="BOTH", amount=1000, entry_price=Decimal(3000), leverage=1))
    row = next(it for it in json.loads(statement(book, Market(1), NOW))["assets"] if it["asset"] == "ETH")

    assert row["availableBalance"] == row["maxWithdrawAmount"] == "0.00000000"
    assert row["marginBalance"] == row["unrealizedProfit"]


def test_leverage_one_prints_the_largest_long() -> None:
    book = Book("slow")
    book.open(Position(symbol="BTCUSD_PERP", side="BOTH", amount=-1, entry_price=Decimal(80000), leverage=1))
    row = json.loads(statement(book, Market(1), NOW))["positions"][0]

    assert (row["maxQty"], row["positionAmt"], row["breakEvenPrice"]) == (str(2**63 - 1), "-1", "79968.00000000")


def test_optional_fields_come_and_go() -> None:
    few = demo(notional_value="none", break_even_price=False)["positions"]
    some = demo()["positions"]
    many = demo(notional_value="all", isolated_wallet=True)["positions"]

    assert not any("notionalValue" in row or "breakEvenPrice" in row for row in few)
    assert [row["symbol"] for row in some if "notionalValue" in row] == [
        row["symbol"] for row in some if row["positionAmt"] != "0"
    ]
    assert all("notionalValue" in row and "isolatedWallet" in row for row in many)


def test_the_ws_key_order_is_the_other_documented_one() -> None:
    body = demo(key_order="ws", notional_value="all", isolated_wallet=True)

    assert list(body) == ["feeTier", "canTrade", "canDeposit", "canWithdraw", "updateTime", "assets", "positions"]
    assert list(body["positions"][0])[-3:] == ["updateTime", "positionAmt", "breakEvenPrice"]


def test_extra_fields_are_awkward_but_valid() -> None:
    body = demo(extra_fields=True)

    assert body["futureField"] == "🚀 } ] 倉"
    assert body["positions"][0]["futureField"]["note"] == 'café "symbol":"X" ₿ /'
    assert {"futureField"} == {*body["assets"][0]} - {*ASSET_KEYS}


async def test_a_raw_body_is_answered_byte_for_byte(
    exchange: Exchange, client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    exchange.book().raw = b' {\t"assets" :\r\n[ ] , "positions":[{"symbol":"\\u0042TC", "x":1.50E+3}]}\n'

    assert (await client.get(signed())).content == exchange.book().raw


async def test_an_overridden_margin_asset_moves_the_position(exchange: Exchange, account: Account) -> None:
    exchange.market.margin_assets["BTCUSD_PERP"] = "XBT"
    rows = {row["asset"]: row for row in (await account())["assets"]}

    assert list(rows)[-1] == "XBT"
    assert Decimal(rows["XBT"]["maintMargin"]) > Decimal(rows["BTC"]["maintMargin"]) > 0


def test_switching_the_mode_carries_positions_over() -> None:
    book = Exchange().book()
    book.set_mode(hedge=True)
    sides = {(it.symbol, it.side): it.amount for it in book.positions()}
    book.open(Position(symbol="BTCUSD_PERP", side="SHORT", amount=-120, entry_price=Decimal(80000)))
    book.open(Position(symbol="ETHUSD_PERP", side="LONG", amount=50, entry_price=Decimal(3000)))
    book.set_mode(hedge=False)

    assert sides["BTCUSD_PERP", "LONG"] == 120
    assert sides["ETHUSD_PERP", "SHORT"] == -450
    assert {it.symbol: it.amount for it in book.positions()} == {
        "BTCUSD_261225": -35,
        "ETHUSD_PERP": -400,
        "SOLUSD_PERP": 80,
    }


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"symbol": "NOUSD_PERP"}, "symbol NOUSD_PERP is not listed"),
        ({"side": "LONG"}, "side LONG doesn't exist in one-way mode"),
        ({"entry_price": Decimal(0)}, "entryPrice and leverage must be positive"),
    ],
)
def test_a_position_that_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    sound = Position(symbol="BTCUSD_PERP", side="BOTH", amount=1, entry_price=Decimal(1))
    with pytest.raises(ValueError, match=text):
        Book("strict").open(msgspec.structs.replace(sound, **changes))
    with pytest.raises(ValueError, match="amount must be positive in a LONG"):
        Book("hedged", hedge=True).open(msgspec.structs.replace(sound, side="SHORT"))


async def test_exchange_info_lists_every_contract_with_every_documented_key(
    exchange: Exchange, client: httpx.AsyncClient
) -> None:
    exchange.market.margin_assets["ETHUSD_PERP"] = "BTC"
    body = (await client.get("/dapi/v1/exchangeInfo")).json()
    symbols = {row["symbol"]: row for row in body["symbols"]}

    assert set(body) == {"exchangeFilters", "rateLimits", "serverTime", "symbols", "timezone"}
    assert [(it["rateLimitType"], it["limit"]) for it in body["rateLimits"]] == [
        ("REQUEST_WEIGHT", 2400),
        ("ORDERS", 1200),
    ]
    assert symbols.keys() == BY_SYMBOL.keys()
    assert (symbols["BTCUSD_261225"]["contractSize"], symbols["XRPUSD_PERP"]["contractSize"]) == (100, 10)
    assert (symbols["ETHUSD_PERP"]["marginAsset"], symbols["SOLUSD_PERP"]["marginAsset"]) == ("BTC", "SOL")
    assert {row["contractStatus"] for row in symbols.values()} == {"TRADING"}
    assert symbols["BTCUSD_PERP"]["filters"][0]["tickSize"] == "0.1"
