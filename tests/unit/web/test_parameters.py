import re
from urllib.parse import quote, urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.account.documents import DOCUMENTS, SHAPES, Shape
from service.account.parsing import parse
from service.account.selection import Selection
from service.settings import ClientGrant
from service.telemetry.audit import Filters
from service.web.parameters import FILTERS, MAX_VALUES, accept_only, require_readable, selected
from service.web.problems import InvalidParameterError

NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/,"), min_size=1, max_size=64)
"""What may be an asset or a symbol."""


def names(*given: str) -> frozenset[str]:
    return frozenset(given)


@pytest.mark.parametrize(
    ("shape", "query", "selection"),
    [
        (SHAPES["account"], b"", Selection(SHAPES["account"])),
        (
            SHAPES["assets"],
            b"asset=BTC,ETH&nonzero=true",
            Selection(SHAPES["assets"], names("BTC", "ETH"), nonzero=True),
        ),
        (SHAPES["assets"], b"asset=ETH&asset=BTC&asset=ETH", Selection(SHAPES["assets"], names("BTC", "ETH"))),
        (SHAPES["assets"], b"asset=BTC%2CETH", Selection(SHAPES["assets"], names("BTC", "ETH"))),
        (SHAPES["assets"], b"%61sset=1INCH", Selection(SHAPES["assets"], names("1INCH"))),
        (SHAPES["positions"], b"open=false", Selection(SHAPES["positions"], open=False)),
        (
            SHAPES["positions"],
            b"symbol=BTCUSD_PERP&positionSide=LONG,SHORT&asset=BTC",
            Selection(SHAPES["positions"], names("BTC"), names("BTCUSD_PERP"), sides=names("LONG", "SHORT")),
        ),
        (
            SHAPES["account"],
            b"nonzero=false&open=true&positionSide=BOTH",
            Selection(SHAPES["account"], sides=names("BOTH"), open=True, nonzero=False),
        ),
    ],
)
def test_a_query_becomes_its_canonical_selection(shape: Shape, query: bytes, selection: Selection) -> None:
    assert selected(shape, {}, query) == selection


NAME = "expected a name of 1 to 64 characters"
REFUSED = {
    f"parameter asset: {NAME}": [
        b"asset=",
        b"asset=BTC,",
        b"asset=,BTC",
        b"asset=BTC%0A",
        b"asset=B%2FC",
        b"asset=%00",
    ],
    f"parameter symbol: {NAME}": [b"symbol=" + b"A" * 65, b"symbol=%7F", b"symbol=%C2%85", b"symbol=A%2FB"],
    "parameter positionSide: expected BOTH, LONG or SHORT": [b"positionSide=long", b"positionSide=LONGS"],
    "parameter open: expected true or false": [b"open=yes", b"open=True", b"open=true,false", b"open="],
    "parameter open: given more than once": [b"open=true&open=true", b"open=true&open=false"],
    "a parameter is unknown, did you mean positionSide? this path takes asset, open, ": [b"positionside=LONG"],
    "a parameter is unknown, did you mean asset?": [b"assets=BTC", b"Asset=BTC", b"asset%00=BTC"],
    "a parameter is unknown: this path takes asset, open, ": [b"nonzero=true", b"%3Cscript%3E=1", b"a" * 41 + b"=1"],
    "the query is not of the form": [
        *(b"asset", b"=1", b"=", b"asset=A&=1", b"asset=%ff", b"%ff=BTC", b"asset=\xff", "asset=\u5e01".encode()),
        *(b"asset=%zz", b"asset=%", b"asset=%4", b"as%zzet=BTC", b"asset=%ED%A0%80", b"asset=%C0%80"),
    ],
    "the query is too long": [b"asset=A&" * 1_000 + b"open=true", b"asset=" + b"A" * 70_000],
}


@pytest.mark.parametrize(
    ("query", "named"), [(query, named) for named, queries in REFUSED.items() for query in queries]
)
def test_a_misspelt_filter_is_refused_and_named(query: bytes, named: str) -> None:
    with pytest.raises(InvalidParameterError) as refusal:
        selected(SHAPES["positions"], {}, query)
    assert refusal.value.detail.startswith(named)


@pytest.mark.parametrize("name", ["open", "symbol", "positionSide"])
def test_filters_of_positions_are_unknown_to_assets(name: str) -> None:
    with pytest.raises(InvalidParameterError, match="a parameter is unknown: this path takes asset, nonzero"):
        selected(SHAPES["assets"], {}, f"{name}=true".encode())


@given(st.text(min_size=1).filter(lambda name: name not in FILTERS[SHAPES["account"]]), st.text())
def test_what_a_caller_sends_is_never_repeated(name: str, value: str) -> None:
    for shape in (*FILTERS, None):
        query = urlencode({name: value}).encode()
        with pytest.raises(InvalidParameterError) as refusal:
            selected(shape, {}, query) if shape else accept_only((), query)
        rest = re.sub(r"did you mean \w+\?", "", refusal.value.detail)
        assert rest == "a parameter is unknown: this path takes no parameters" or re.fullmatch(
            r"a parameter is unknown[:,] *this path takes [A-Za-z, ]+", rest
        )


@given(NAMES)
def test_any_name_of_the_exchange_can_be_asked_for_and_granted(name: str) -> None:
    assert selected(SHAPES["assets"], {}, urlencode({"asset": name}).encode()).assets == frozenset({name})
    assert selected(SHAPES["symbol"], {"symbol": name}, b"").symbols == frozenset({name})
    assert msgspec.convert({"assets": [name]}, ClientGrant).assets == [name]
    require_readable(b"/v1/accounts/main/assets/" + quote(name, safe="").encode())


@pytest.mark.parametrize("query", [b"asset=BTC&", b"&asset=BTC", b"&&asset=BTC&&&asset=BTC&"])
def test_an_ampersand_too_many_says_nothing(query: bytes) -> None:
    assert selected(SHAPES["assets"], {}, query) == Selection(SHAPES["assets"], names("BTC"))
    assert selected(SHAPES["assets"], {}, b"&&").whole


@pytest.mark.parametrize("path", [b"/%ff", b"/%E5%B8", b"/%zz", b"/%", b"/a%4", b"/%ED%A0%80", b"/\xff"])
def test_a_path_that_is_not_escaped_utf_8_is_refused(path: bytes) -> None:
    with pytest.raises(InvalidParameterError, match=r"^the path is not percent-encoded UTF-8$"):
        require_readable(path)


@pytest.mark.parametrize("joined", [b",", b"&asset="])
def test_a_hundred_values_are_taken_and_one_more_is_not(joined: bytes) -> None:
    values = [b"A%d" % number for number in range(MAX_VALUES + 1)]
    assert len(selected(SHAPES["assets"], {}, b"asset=" + joined.join(values[:100])).assets or ()) == 100
    with pytest.raises(InvalidParameterError, match="parameter asset: at most 100 values"):
        selected(SHAPES["assets"], {}, b"asset=" + joined.join(values))


def test_paths_without_filters_take_no_query() -> None:
    accept_only((), b"")
    with pytest.raises(InvalidParameterError, match=r"^a parameter is unknown: this path takes no parameters$"):
        accept_only((), b"asset=BTC")


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("asset", "BTC", True),
        ("symbol", "BTCUSD_PERP", True),
        ("positionSide", "SHORT", True),
        ("asset", "BTC,ETH", False),
        ("asset", "BTC\x00", False),
        ("asset", "\udcff", False),
        ("asset", "币安人生", True),
        ("asset", "BTC.e", True),
        ("asset", "BNSOL-W", True),
        ("asset", "lower", True),
        ("asset", "💰" * 64, True),
        ("symbol", "", False),
        ("symbol", "A" * 65, False),
        ("symbol", "A/B", False),
        ("symbol", "A\x85", False),
        ("positionSide", "long", False),
        ("positionSide", "", False),
    ],
)
def test_a_name_in_the_path_is_checked_like_the_filter(name: str, value: str, *, taken: bool) -> None:
    path = {"asset": "BTC", "symbol": "BTCUSD_PERP", "positionSide": "LONG"} | {name: value}
    shape, field = {
        "asset": (SHAPES["asset"], "assets"),
        "symbol": (SHAPES["symbol"], "symbols"),
        "positionSide": (SHAPES["position"], "sides"),
    }[name]
    if taken:
        assert getattr(selected(shape, path, b""), field) == {value}
    else:
        with pytest.raises(InvalidParameterError, match=f"parameter {name}: expected"):
            selected(shape, path, b"")


BODIES = {
    "account": (
        b'{"assets":[{"asset":"BTC","walletBalance":"1"},{"asset":"ADA","walletBalance":"0","marginBalance":"0"}],'
        b'"positions":[{"symbol":"BTCUSD_PERP","positionSide":"LONG","positionAmt":"1"},'
        b'{"symbol":"ADAUSD_PERP","positionSide":"SHORT","positionAmt":"0"}]}'
    ),
    "balance": b'[{"asset":"BTC"},{"asset":"ADA"}]',
    "leverage-brackets": b'[{"symbol":"BTCUSD_PERP","brackets":[{"cum":0.0}]},{"symbol":"ADAUSD_PERP"}]',
    "position-risk": (
        b'[{"symbol":"BTCUSD_PERP","positionSide":"LONG","positionAmt":"1"},'
        b'{"symbol":"ADAUSD_PERP","positionSide":"SHORT","positionAmt":"0"}]'
    ),
}
"""Of each array one row that a filter's example keeps, and one that it leaves out."""


@pytest.mark.parametrize(("shape", "name"), [(shape, name) for shape in FILTERS for name in sorted(FILTERS[shape])])
def test_a_filter_that_a_list_takes_leaves_rows_out(shape: Shape, name: str) -> None:
    """One that was taken and dropped would answer with every row."""
    snapshot = parse(shape.document, BODIES[shape.document.name], 0, 0, {})
    value = (FILTERS[shape][name].examples or ("true",))[0]
    whole, kept = (snapshot.cut(selected(shape, {}, query)) for query in (b"", f"{name}={value}".encode()))
    assert whole is not None
    assert kept is not None
    assert 0 < kept.count(b"{") < whole.count(b"{")


def test_the_audit_log_records_every_filter() -> None:
    fields = {each.field for filters in FILTERS.values() for each in filters.values()}
    fields |= {field for document in DOCUMENTS for field in document.parameters.values()}
    assert set(Filters.__struct_fields__) == fields


@given(st.binary(max_size=60) | st.text("asetBTC=&,%25+;openru", max_size=40).map(str.encode))
def test_any_query_is_a_selection_that_says_all_of_it_or_a_refusal(query: bytes) -> None:
    try:
        selection = selected(SHAPES["account"], {}, query)
    except InvalidParameterError:
        return
    assert selection.whole == (query.strip(b"&") == b"")
