"""Balance, position risk and leverage brackets say what the account says."""

import asyncio
import hashlib
import hmac
import json
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from simulator.book import Book, Options, Position, margins
from simulator.documents import liquidation_price, position_risk
from simulator.exchange import BALANCE_PATH, LEVERAGE_BRACKET_PATH, POSITION_RISK_PATH, Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from simulator.market import BY_SYMBOL, Market
from simulator.signature import DEMO_SECRET_KEY
from tests.simulator.conftest import NOW

USED = "x-mbx-used-weight-1m"


async def answer(client: httpx.AsyncClient, path: str, **parameters: str) -> httpx.Response:
    query = urlencode(parameters | {"timestamp": f"{NOW}"})
    signature = hmac.digest(DEMO_SECRET_KEY.encode(), query.encode(), hashlib.sha256).hex()
    return await client.get(f"{path}?{query}&signature={signature}")


async def rows(client: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    return json.loads((await answer(client, path, **parameters)).content, parse_float=Decimal)


@pytest.mark.parametrize("hedge", [False, True])
async def test_position_risk_has_the_accounts_positions_in_its_order(
    exchange: Exchange, client: httpx.AsyncClient, *, hedge: bool
) -> None:
    exchange.book().set_mode(hedge=hedge)
    account, risk = await rows(client, ACCOUNT_PATH), await rows(client, POSITION_RISK_PATH)
    same = ("symbol", "positionSide", "positionAmt", "entryPrice", "breakEvenPrice", "leverage", "maxQty", "updateTime")
    assert [[row[name] for name in same] for row in risk] == [
        [row[name] for name in same] for row in account["positions"]
    ]
    assert [row["unRealizedProfit"] for row in risk] == [row["unrealizedProfit"] for row in account["positions"]]
    assert [row["marginType"] == "isolated" for row in risk] == [row["isolated"] for row in account["positions"]]


async def test_position_risk_says_the_mark_by_which_the_account_reckons(client: httpx.AsyncClient) -> None:
    for row in await rows(client, POSITION_RISK_PATH):
        amount, mark = Decimal(row["positionAmt"]), Decimal(row["markPrice"])
        assert mark > 0
        if amount:
            value = amount * BY_SYMBOL[row["symbol"]].size
            profit = value / Decimal(row["entryPrice"]) - value / mark
            assert abs(profit - Decimal(row["unRealizedProfit"])) < Decimal("2E-8")


async def test_balance_has_the_accounts_assets_in_its_order(client: httpx.AsyncClient) -> None:
    account, balances = await rows(client, ACCOUNT_PATH), await rows(client, BALANCE_PATH)
    names = {
        "asset": "asset",
        "balance": "walletBalance",
        "withdrawAvailable": "maxWithdrawAmount",
        "crossWalletBalance": "crossWalletBalance",
        "crossUnPnl": "crossUnPnl",
        "availableBalance": "availableBalance",
        "updateTime": "updateTime",
    }
    own = [[row[name] for name in names] for row in balances]
    assert own == [[row[name] for name in names.values()] for row in account["assets"]]
    assert len({row["accountAlias"] for row in balances}) == 1


@pytest.mark.parametrize("amount", [120, -120])
@pytest.mark.parametrize("isolated", [False, True])
def test_at_its_liquidation_price_a_positions_coins_are_its_maintenance_margin(amount: int, *, isolated: bool) -> None:
    book, market = Book("main"), Market(1)
    market.frozen = True
    book.set_balance("BTC", Decimal("0.05"))
    position = Position(
        symbol="BTCUSD_PERP", side="BOTH", amount=amount, entry_price=Decimal(80_000), isolated=isolated
    )
    book.open(position)
    now = margins(position, market.mark(position.contract, NOW))
    price = liquidation_price(position, now, book.holdings(market, NOW)["BTC"])
    then = margins(position, price)
    behind = position.isolated_wallet if isolated else Decimal("0.05")
    assert (price < 80_000) is (amount > 0)
    assert abs(behind + then.unrealized - then.maintenance) < Decimal("1E-7")


def test_a_short_that_its_coins_cover_is_never_liquidated() -> None:
    book, market = Book("main"), Market(1)
    book.set_balance("BTC", Decimal(5))
    book.open(Position(symbol="BTCUSD_PERP", side="BOTH", amount=-1, entry_price=Decimal(80_000)))
    risk = json.loads(position_risk(book, market, NOW, lambda contract: contract.symbol == "BTCUSD_PERP"))
    assert [row["liquidationPrice"] for row in risk] == ["0"]


async def test_every_symbol_has_brackets_and_their_first_rate_is_that_of_the_account(client: httpx.AsyncClient) -> None:
    brackets = {row["symbol"]: row["brackets"] for row in await rows(client, LEVERAGE_BRACKET_PATH)}
    assert brackets.keys() == BY_SYMBOL.keys()
    assert {name: each[0]["maintMarginRatio"] for name, each in brackets.items()} == {
        name: contract.maintenance_rate for name, contract in BY_SYMBOL.items()
    }


@pytest.mark.parametrize(
    ("path", "parameters", "symbols"),
    [
        (POSITION_RISK_PATH, {"pair": "ETHUSD"}, {"ETHUSD_PERP", "ETHUSD_261225", "ETHUSD_270326"}),
        (POSITION_RISK_PATH, {"marginAsset": "ADA"}, {"ADAUSD_PERP"}),
        (LEVERAGE_BRACKET_PATH, {"symbol": "BTCUSD_PERP"}, {"BTCUSD_PERP"}),
    ],
)
async def test_a_parameter_chooses_among_the_contracts(
    client: httpx.AsyncClient, path: str, parameters: dict[str, str], symbols: set[str]
) -> None:
    assert {row["symbol"] for row in await rows(client, path, **parameters)} == symbols


@pytest.mark.parametrize(
    ("path", "parameters", "code"),
    [
        (POSITION_RISK_PATH, {"pair": "ETHUSD", "marginAsset": "ETH"}, -1128),
        (POSITION_RISK_PATH, {"pair": "NONE"}, -1121),
        (POSITION_RISK_PATH, {"symbol": "BTCUSD_PERP"}, -1104),
        (LEVERAGE_BRACKET_PATH, {"symbol": "NONE"}, -1121),
        (BALANCE_PATH, {"asset": "BTC"}, -1104),
    ],
)
async def test_a_parameter_that_is_wrong_is_an_error(
    client: httpx.AsyncClient, path: str, parameters: dict[str, str], code: int
) -> None:
    assert (await rows(client, path, **parameters))["code"] == code


@pytest.mark.parametrize(
    ("path", "parameters", "weight"),
    [
        (BALANCE_PATH, {}, 1),
        (POSITION_RISK_PATH, {}, 1),
        (LEVERAGE_BRACKET_PATH, {}, 2),
        (LEVERAGE_BRACKET_PATH, {"symbol": "BTCUSD_PERP"}, 1),
    ],
)
async def test_a_document_costs_what_the_exchange_documents(
    client: httpx.AsyncClient, path: str, parameters: dict[str, str], weight: int
) -> None:
    answered = await answer(client, path, **parameters)
    assert (answered.status_code, answered.headers[USED]) == (200, str(weight))


async def test_what_no_client_knows_is_in_every_row_where_the_account_has_it(
    exchange: Exchange, client: httpx.AsyncClient
) -> None:
    exchange.book().options = Options(extra_fields=True)
    for path in (BALANCE_PATH, POSITION_RISK_PATH, LEVERAGE_BRACKET_PATH):
        assert all("futureField" in row for row in await rows(client, path))


async def test_answers_of_every_document_are_held_back(exchange: Exchange, client: httpx.AsyncClient) -> None:
    exchange.hold()
    async with asyncio.TaskGroup() as group:
        for path in (BALANCE_PATH, POSITION_RISK_PATH, LEVERAGE_BRACKET_PATH):
            group.create_task(rows(client, path))
        await exchange.wait_held(3)
        exchange.release()


@pytest.mark.parametrize("path", [ACCOUNT_PATH, BALANCE_PATH, POSITION_RISK_PATH, LEVERAGE_BRACKET_PATH])
async def test_one_document_fails_or_is_late_while_the_others_are_answered(
    exchange: Exchange, client: httpx.AsyncClient, path: str
) -> None:
    others = {ACCOUNT_PATH, BALANCE_PATH, POSITION_RISK_PATH, LEVERAGE_BRACKET_PATH} - {path}
    exchange.faults.set([Fault("404-path", path=path, count=1), Fault("not-json", path=path, count=1)])
    exchange.faults.add(Fault("hang", path=path))
    assert await rows(client, path) == {"code": -5000, "msg": f"Path {path}, Method GET is invalid"}
    assert (await answer(client, path)).text == "<html>OK</html>"
    held = [asyncio.create_task(answer(client, path)) for _ in range(2)]
    await exchange.wait_held(2)
    assert [(await answer(client, other)).status_code for other in others] == [200] * 3
    exchange.faults.set([Fault("slow", path=path, seconds=0.001)])
    exchange.release()
    assert [(await each).status_code for each in (*held, asyncio.create_task(answer(client, path)))] == [200] * 3


@pytest.mark.parametrize("path", [BALANCE_PATH, POSITION_RISK_PATH, LEVERAGE_BRACKET_PATH])
async def test_a_raw_body_is_answered_byte_for_byte_at_its_path_alone(
    exchange: Exchange, client: httpx.AsyncClient, path: str
) -> None:
    before = {each: (await answer(client, each)).content for each in (ACCOUNT_PATH, BALANCE_PATH, POSITION_RISK_PATH)}
    exchange.book().raw_by_path[path] = b' [ {"x" :1.50E+3}\r\n] '
    assert (await answer(client, path)).content == b' [ {"x" :1.50E+3}\r\n] '
    assert all([(await answer(client, each)).content == before[each] for each in before if each != path])
