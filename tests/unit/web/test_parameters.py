import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.account.selection import Selection, Shape
from service.web.parameters import MAX_VALUES, filtered, no_filters, path_value
from service.web.problems import InvalidParameterError


def names(*given: str) -> frozenset[str]:
    return frozenset(given)


@pytest.mark.parametrize(
    ("shape", "query", "selection"),
    [
        (Shape.ACCOUNT, b"", Selection(Shape.ACCOUNT)),
        (Shape.ASSETS, b"asset=BTC,ETH&nonzero=true", Selection(Shape.ASSETS, names("BTC", "ETH"), nonzero=True)),
        (Shape.ASSETS, b"asset=ETH&asset=BTC&asset=ETH", Selection(Shape.ASSETS, names("BTC", "ETH"))),
        (Shape.ASSETS, b"asset=BTC%2CETH", Selection(Shape.ASSETS, names("BTC", "ETH"))),
        (Shape.ASSETS, b"%61sset=1INCH", Selection(Shape.ASSETS, names("1INCH"))),
        (Shape.POSITIONS, b"open=false", Selection(Shape.POSITIONS, open=False)),
        (
            Shape.POSITIONS,
            b"symbol=BTCUSD_PERP&positionSide=LONG,SHORT&asset=BTC",
            Selection(Shape.POSITIONS, names("BTC"), names("BTCUSD_PERP"), names("LONG", "SHORT")),
        ),
        (
            Shape.ACCOUNT,
            b"nonzero=false&open=true&positionSide=BOTH",
            Selection(Shape.ACCOUNT, sides=names("BOTH"), open=True, nonzero=False),
        ),
    ],
)
def test_a_query_becomes_its_canonical_selection(shape: Shape, query: bytes, selection: Selection) -> None:
    assert filtered(shape, query) == selection


REFUSED = {
    "parameter asset: expected": [b"asset=btc", b"asset=", b"asset=BTC,", b"asset=BTC, ETH", b"asset=BTC%0A"],
    "parameter asset: expected upper-case": [b"asset=" + b"A" * 21, b"asset=BTC;open=true"],
    "parameter symbol: expected": [b"symbol=btcusd_perp", b"symbol=BTC-USD", b"symbol=" + b"A" * 41],
    "parameter positionSide: expected BOTH, LONG or SHORT": [b"positionSide=long", b"positionSide=LONGS"],
    "parameter positionside: unknown": [b"positionside=LONG"],
    "parameter open: expected true or false": [b"open=yes", b"open=True", b"open=true,false", b"open="],
    "parameter open: given more than once": [b"open=true&open=true", b"open=true&open=false"],
    "parameter nonzero: unknown; this path takes asset, open, ": [b"nonzero=true"],
    "parameter with a malformed name: unknown": [b"%3Cscript%3E=1", b"=1"],  # never echoed
    "the query is not of the form": [
        b"asset",
        b"asset=BTC&",
        b"asset=%ff",
        b"asset=\xff",
        b"asset=A&" * 1_000 + b"open=true",
    ],
}


@pytest.mark.parametrize(
    ("query", "named"), [(query, named) for named, queries in REFUSED.items() for query in queries]
)
def test_a_misspelt_filter_is_refused_and_named(query: bytes, named: str) -> None:
    with pytest.raises(InvalidParameterError) as refusal:
        filtered(Shape.POSITIONS, query)
    assert refusal.value.detail.startswith(named)


@pytest.mark.parametrize("name", ["open", "symbol", "positionSide"])
def test_filters_of_positions_are_unknown_to_assets(name: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"parameter {name}: unknown; this path takes asset, nonzero"):
        filtered(Shape.ASSETS, f"{name}=true".encode())


@pytest.mark.parametrize("joined", [b",", b"&asset="])
def test_a_hundred_values_are_taken_and_one_more_is_not(joined: bytes) -> None:
    values = [b"A%d" % number for number in range(MAX_VALUES + 1)]
    assert len(filtered(Shape.ASSETS, b"asset=" + joined.join(values[:100])).assets or ()) == 100
    with pytest.raises(InvalidParameterError, match="parameter asset: at most 100 values"):
        filtered(Shape.ASSETS, b"asset=" + joined.join(values))


def test_item_paths_take_no_filters() -> None:
    no_filters(b"")
    with pytest.raises(InvalidParameterError, match="parameter asset: unknown; this path takes no parameters"):
        no_filters(b"asset=BTC")


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("asset", "BTC", True),
        ("symbol", "BTCUSD_PERP", True),
        ("positionSide", "SHORT", True),
        ("asset", "BTC,ETH", False),
        ("asset", "BTC\x00", False),
        ("asset", "\udcff", False),
        ("symbol", "btcusd_perp", False),
        ("symbol", "A" * 41, False),
        ("positionSide", "long", False),
        ("positionSide", "", False),
    ],
)
def test_a_name_in_the_path_is_checked_like_the_filter(name: str, value: str, *, taken: bool) -> None:
    if taken:
        assert path_value(name, value) == {value}
    else:
        with pytest.raises(InvalidParameterError, match=f"parameter {name}: expected"):
            path_value(name, value)


@given(st.binary(max_size=60) | st.text("asetBTC=&,%25+;openru", max_size=40).map(str.encode))
def test_any_query_is_a_selection_that_says_all_of_it_or_a_refusal(query: bytes) -> None:
    try:
        selection = filtered(Shape.ACCOUNT, query)
    except InvalidParameterError:
        return
    assert selection.whole == (query == b"")
