from collections.abc import Awaitable, Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any

from simulator.exchange import Exchange, Settings
from simulator.market import BY_SYMBOL, CONTRACTS, STEP_MS, Market
from simulator.statement import statement
from tests.simulator.conftest import NOW

BITCOIN = BY_SYMBOL["BTCUSD_PERP"]


def test_a_mark_is_a_function_of_seed_and_time() -> None:
    marks = [Market(seed).mark(BITCOIN, NOW) for seed in (7, 7, 8)]

    assert marks[0] == marks[1] != marks[2]


def test_there_is_a_new_mark_each_quarter_of_a_second_for_every_contract() -> None:
    market = Market(1)
    for contract in CONTRACTS:
        marks = [market.mark(contract, NOW + step * STEP_MS) for step in range(40)]

        assert market.mark(contract, NOW + STEP_MS - 1) == marks[0]
        assert all(here != there for here, there in pairwise(marks))


def test_marks_wander_without_jumping_or_leaving() -> None:
    market = Market(1)
    marks = [market.mark(BITCOIN, NOW + step * STEP_MS) for step in range(0, 400_000, 97)]
    next_to = [market.mark(BITCOIN, NOW + step * STEP_MS) for step in range(1, 400_001, 97)]

    assert max(abs(b - a) / a for a, b in zip(marks, next_to, strict=True)) < Decimal("0.0001")
    assert all(abs(mark / BITCOIN.reference - 1) < Decimal("0.007") for mark in marks)
    assert max(marks) / min(marks) > Decimal("1.001")


async def test_the_account_moves_when_the_clock_does(exchange: Exchange, account: Callable[[], Awaitable[Any]]) -> None:
    before = await account()
    again = await account()
    exchange.clock.advance(STEP_MS)
    after = await account()
    moved = {key for key in before["assets"][0] if before["assets"][0][key] != after["assets"][0][key]}

    assert before == again
    assert {"unrealizedProfit", "marginBalance", "availableBalance"} <= moved
    assert not moved & {"walletBalance", "updateTime"}
    assert before["assets"][-1] == after["assets"][-1]


def test_two_exchanges_of_one_seed_answer_the_same_bytes() -> None:
    bodies = [
        statement(exchange.book(), exchange.market, NOW)
        for exchange in (Exchange(Settings(seed=3)), Exchange(Settings(seed=3)), Exchange(Settings(seed=4)))
    ]

    assert bodies[0] == bodies[1] != bodies[2]


def test_a_frozen_market_stands_still() -> None:
    exchange = Exchange()
    exchange.market.frozen = True

    assert statement(exchange.book(), exchange.market, NOW) == statement(exchange.book(), exchange.market, 2 * NOW)
