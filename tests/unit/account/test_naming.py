"""A name that nobody knows is told from one of which there is nothing."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.account.documents import ACCOUNT, SHAPES
from service.account.naming import unknown_parameter, was_delivered
from service.account.parsing import parse
from service.account.selection import Selection

NOW = int(datetime(2026, 9, 25, 8, tzinfo=UTC).timestamp() * 1000)
LISTED = {"BTCUSD_PERP": "BTC", "ETHUSD_PERP": "ETH", "ETHUSD_261225": "ETH", "\u5e01USD_PERP": "\u5e01"}
BODY = msgspec.json.encode(
    {"assets": [{"asset": "BTC"}, {"asset": "OWN"}], "positions": [{"symbol": "ODDUSD_PERP", "positionSide": "BOTH"}]}
)


def unknown(listed: dict[str, str], assets: str = "", symbols: str = "") -> str | None:
    given = Selection(SHAPES["account"], frozenset(assets.split()), frozenset(symbols.split()))
    return unknown_parameter(given, parse(ACCOUNT, BODY, NOW, 0, listed))


@pytest.mark.parametrize(
    ("assets", "symbols", "parameter"),
    [
        ("", "", None),
        ("BTC OWN", "ODDUSD_PERP", None),  # the account's
        ("ETH \u5e01", "BTCUSD_PERP ETHUSD_261225", None),  # the listing's
        ("ODD", "", None),  # a position of the account's is margined in it
        ("btc", "", "asset"),
        ("BTC XBT", "", "asset"),
        ("", "BTCUSDPERP", "symbol"),
        ("", "BTCUSD_PERP ETHUSD_PREP", "symbol"),
        ("XBT", "BTCUSDPERP", "asset"),
        ("", "BTCUSD_201225 ETHUSD_260925", None),  # delivered
        ("", "ODDUSD_201225", "symbol"),  # of a pair that isn't listed
    ],
)
def test_a_name_is_known_to_the_account_or_to_the_listing(assets: str, symbols: str, parameter: str | None) -> None:
    assert unknown(LISTED, assets, symbols) == parameter


def test_without_a_listing_the_account_alone_decides() -> None:
    assert unknown({}, "BTC OWN ODD", "ODDUSD_PERP") is None
    assert unknown({}, "ETH") == "asset"
    assert unknown({}, "", "BTCUSD_PERP") == unknown({}, "", "BTCUSD_201225") == "symbol"


@pytest.mark.parametrize(
    ("symbol", "delivered"),
    [
        ("BTCUSD_260925", True),  # to the millisecond
        ("BTCUSD_260926", False),
        ("BTCUSD_200101", True),
        ("BTCUSD_261301", False),
        ("BTCUSD_260230", False),
        ("BTCUSD_000000", False),
        ("BTCUSD_2609", False),
        ("BTCUSD_0260925", False),
        ("BTCUSD_\u0662\u0660\u0661\u0662\u0662\u0665", False),
        ("BTCUSD_260925\n", False),
        ("BTCUSDT_200925", False),
        ("_200925", False),
        ("btcusd_200925", False),
    ],
)
def test_a_delivery_contract_is_known_once_its_day_has_passed(symbol: str, *, delivered: bool) -> None:
    assert was_delivered(symbol, {"BTCUSD"}, NOW) is delivered


def test_a_delivery_has_not_happened_before_eight_o_clock() -> None:
    assert not was_delivered("BTCUSD_260925", {"BTCUSD"}, NOW - 1)


@given(st.text(st.sampled_from("BTCUSD_0123456789"), max_size=20), st.integers(0, 2**45))
def test_any_name_at_any_time_was_delivered_or_not(symbol: str, now: int) -> None:
    assert was_delivered(symbol, {"BTCUSD", "B", ""}, now) in (True, False)
