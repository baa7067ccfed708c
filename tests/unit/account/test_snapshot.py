import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.account.documents import ACCOUNT, DOCUMENTS, SHAPES, Shape
from service.account.parsing import MAX_BODY, parse
from service.account.selection import Selection
from service.account.snapshot import MAX_VIEWS, Snapshot
from tests.unit.account.bodies import ALIAS, ArrayBody, Body, Row, array_bodies, bodies

HEDGE = (
    b'{"assets":[{"asset":"BTC","walletBalance":"1","marginBalance":"0"},{"asset":"ETH","walletBalance":"0.0",'
    b'"marginBalance":"0"},{"asset":"XRP","walletBalance":"0"}], "positions":['
    b'{"symbol":"BTCUSD_PERP","positionSide":"LONG","positionAmt":"1"},'
    b'{"symbol":"BTCUSD_PERP","positionSide":"SHORT","positionAmt":"0"},'
    b'{"symbol":"ETHUSD_PERP","positionSide":"LONG"},'
    b'{"symbol":"MYSTERY","positionSide":"SHORT","positionAmt":"-2"}],"canTrade":true}'
)


def names(*given: str) -> frozenset[str]:
    return frozenset(given)


def array(rows: Iterable[Row]) -> bytes:
    return b"[" + b",".join(row.raw for row in rows) + b"]"


def coin(row: Row) -> str:
    return row.name.removesuffix("USD_PERP")


def kept(body: bytes, selection: Selection) -> list[str]:
    """What identifies each row that a selection keeps."""
    rows = json.loads(parse(ACCOUNT, body, 0, 0, {}).cut(selection) or b"[]")
    return [row.get("asset") or f"{row['symbol']} {row['positionSide']}" for row in rows]


def assert_partition(snapshot: Snapshot, shape: Shape, parts: Iterable[Selection], rows: tuple[Row, ...]) -> None:
    """Each row is in exactly one part, byte for byte; in each part the exchange's order holds."""
    found: Counter[bytes] = Counter()
    place = {row.raw: number for number, row in enumerate(rows)}
    for part in parts:
        cuts = [bytes(raw) for raw in msgspec.json.decode(snapshot.cut(part) or b"", type=list[msgspec.Raw])]
        assert [place[raw] for raw in cuts] == sorted(place[raw] for raw in cuts)
        found.update(cuts)
    assert found == Counter(row.raw for row in rows)
    assert snapshot.cut(Selection(shape)) == array(rows)


@given(bodies())
def test_assets_partition_by_name_and_by_nonzero(body: Body) -> None:
    snapshot, rows = parse(ACCOUNT, body.whole, 0, 0, {}), body.assets.rows
    by_name = [Selection(SHAPES["assets"], assets=names(row.name)) for row in rows]
    assert_partition(snapshot, SHAPES["assets"], by_name, rows)
    assert_partition(
        snapshot, SHAPES["assets"], [Selection(SHAPES["assets"], nonzero=flag) for flag in (True, False)], rows
    )


@given(bodies())
def test_positions_partition_by_margin_asset_symbol_side_and_open(body: Body) -> None:
    snapshot, rows, shape = parse(ACCOUNT, body.whole, 0, 0, {}), body.positions.rows, SHAPES["positions"]
    for parts in (
        [Selection(shape, assets=names(each)) for each in {coin(row) for row in rows}],
        [Selection(shape, symbols=names(each)) for each in {row.name for row in rows}],
        [Selection(shape, sides=names(each)) for each in ("BOTH", "LONG", "SHORT")],
        [Selection(shape, open=flag) for flag in (True, False)],
    ):
        assert_partition(snapshot, shape, parts, rows)


@given(bodies())
def test_the_whole_account_is_the_body_byte_for_byte(body: Body) -> None:
    assert parse(ACCOUNT, body.whole, 0, 0, {}).cut(Selection(SHAPES["account"])) == body.whole


@given(bodies(), st.sets(st.sampled_from(["LONG", "SHORT"])), st.booleans())
def test_a_filtered_account_differs_from_the_body_inside_its_arrays_only(
    body: Body,
    sides: set[str],
    nonzero: bool,  # noqa: FBT001
) -> None:
    selection = Selection(SHAPES["account"], sides=frozenset(sides), nonzero=nonzero)
    found = parse(ACCOUNT, body.whole, 0, 0, {}).cut(selection) or b""
    assets = array(row for row in body.assets.rows if row.zero is not nonzero)
    positions = array(row for row in body.positions.rows if row.side in sides)
    assert found == body.around(assets, positions)
    assert json.loads(found).keys() == json.loads(body.whole).keys()


@given(bodies(), st.sets(st.sampled_from(["LONG", "SHORT"])), st.booleans())
def test_a_narrowed_account_has_the_documented_members_alone_as_they_were_sent(
    body: Body,
    sides: set[str],
    by_asset: bool,  # noqa: FBT001
) -> None:
    coins = names(*(row.name for row in body.assets.rows[::2])) if by_asset else None
    selection = Selection(SHAPES["account"], visible_sides=frozenset(sides), visible_assets=coins)
    found = parse(ACCOUNT, body.whole, 0, 0, {}).cut(selection) or b""
    assets = array(row for row in body.assets.rows if coins is None or row.name in coins)
    seen = (row for row in body.positions.rows if row.side in sides and (coins is None or coin(row) in coins))
    assert found == body.documented(assets, array(seen))
    documented = ACCOUNT.documented | {"assets", "positions"}
    assert list(json.loads(found)) == [name for name in json.loads(body.whole) if name in documented]


@pytest.mark.parametrize(
    "narrowed",
    [{"visible_assets": names("BTC")}, {"visible_sides": names("LONG", "SHORT", "BOTH")}, {"visible_assets": names()}],
)
def test_what_the_exchange_adds_beside_the_rows_is_for_those_who_see_all_of_them(narrowed: dict[str, Any]) -> None:
    sums = b'"totalWalletBalanceUsd":"9","loans":[{"assets":[],"positions":[]}],'
    body = HEDGE.replace(b"{", b"{" + sums, 1).replace(b', "positions"', b',"\\u0073ums":{"canTrade":1}, "positions"')
    assert set(json.loads(parse(ACCOUNT, body, 0, 0, {}).cut(Selection(SHAPES["account"], **narrowed)) or b"")) == {
        *("assets", "positions", "canTrade")
    }
    assert parse(ACCOUNT, body, 0, 0, {}).cut(Selection(SHAPES["account"], open=None)) == body
    assert sums in (parse(ACCOUNT, body, 0, 0, {}).cut(Selection(SHAPES["account"], open=True)) or b"")


@given(bodies())
def test_an_account_grant_on_all_assets_of_a_set_equals_the_list_cuts(body: Body) -> None:
    snapshot, some = parse(ACCOUNT, body.whole, 0, 0, {}), names(*(row.name for row in body.assets.rows[::2]))
    lists = [snapshot.cut(Selection(shape, visible_assets=some)) for shape in (SHAPES["assets"], SHAPES["positions"])]
    found = json.loads(snapshot.cut(Selection(SHAPES["account"], visible_assets=some)) or b"")
    assert [found["assets"], found["positions"]] == [json.loads(each or b"") for each in lists]


@given(bodies())
def test_an_entity_tag_is_the_sha_256_of_the_answer(body: Body) -> None:
    view = parse(ACCOUNT, body.whole, 0, 0, {}).view(Selection(SHAPES["positions"], open=True))
    assert view is not None
    assert view.etag == f'"{hashlib.sha256(view.body).hexdigest()}"'


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        (Selection(SHAPES["assets"], assets=names("ETH", "XRP", "NONE")), ["ETH", "XRP"]),
        (Selection(SHAPES["assets"], assets=names("NONE")), []),
        (Selection(SHAPES["assets"], assets=names()), []),
        (Selection(SHAPES["assets"], nonzero=True), ["BTC", "XRP"]),  # XRP has no marginBalance: unknown is not zero
        (Selection(SHAPES["assets"], nonzero=False), ["ETH"]),
        (Selection(SHAPES["assets"], visible_assets=names("BTC"), assets=names("BTC", "ETH")), ["BTC"]),
        (Selection(SHAPES["assets"], sides=names("LONG"), open=True, symbols=names("X")), ["BTC", "ETH", "XRP"]),
        (Selection(SHAPES["positions"], open=False), ["BTCUSD_PERP SHORT"]),
        (Selection(SHAPES["positions"], symbols=names("BTCUSD_PERP"), sides=names("LONG")), ["BTCUSD_PERP LONG"]),
        (Selection(SHAPES["positions"], assets=names("ETH"), nonzero=True), ["ETHUSD_PERP LONG"]),
        (Selection(SHAPES["positions"], sides=names("SHORT")), ["BTCUSD_PERP SHORT", "MYSTERY SHORT"]),
        (
            Selection(SHAPES["positions"], visible_assets=names("BTC", "MYSTERY"), sides=names("SHORT")),
            ["BTCUSD_PERP SHORT"],
        ),
        (Selection(SHAPES["positions"], assets=names("MYSTERY")), []),
        (
            Selection(SHAPES["symbol"], symbols=names("BTCUSD_PERP"), visible_sides=names("SHORT")),
            ["BTCUSD_PERP SHORT"],
        ),
    ],
)
def test_filters_combine_with_and(selection: Selection, rows: list[str]) -> None:
    assert kept(HEDGE, selection) == rows


def test_a_position_without_its_amount_is_kept_by_open_true() -> None:
    assert "ETHUSD_PERP LONG" in kept(HEDGE, Selection(SHAPES["positions"], open=True))
    assert "ETHUSD_PERP LONG" not in kept(HEDGE, Selection(SHAPES["positions"], open=False))


def test_a_row_of_unknown_margin_asset_is_seen_by_those_who_see_all() -> None:
    assert "MYSTERY SHORT" in kept(HEDGE, Selection(SHAPES["positions"]))
    assert "MYSTERY SHORT" in kept(HEDGE, Selection(SHAPES["positions"], visible_sides=names("SHORT")))


def test_one_row_alone_stands_without_brackets_and_a_missing_one_is_none() -> None:
    snapshot = parse(ACCOUNT, HEDGE, 0, 0, {})
    assert snapshot.cut(Selection(SHAPES["asset"], assets=names("XRP"))) == b'{"asset":"XRP","walletBalance":"0"}'
    assert snapshot.cut(Selection(SHAPES["asset"], assets=names("DOGE"))) is None
    nobody = Selection(SHAPES["position"], symbols=names("ETHUSD_PERP"), sides=names("SHORT"))
    assert snapshot.view(nobody) is None


def test_a_view_is_cut_once_whatever_the_order_of_the_names() -> None:
    views = parse(ACCOUNT, HEDGE, 0, 0, {})
    first = views.view(Selection(SHAPES["assets"], assets=names("BTC", "ETH")))
    assert views.view(Selection(SHAPES["assets"], assets=names("ETH", "BTC"))) is first


def test_no_more_than_256_views_are_remembered() -> None:
    views = parse(ACCOUNT, HEDGE, 0, 0, {})
    selections = [Selection(SHAPES["assets"], assets=names(f"A{number}")) for number in range(MAX_VIEWS + 1)]
    first = [views.view(each) for each in selections]
    again = [views.view(each) for each in selections]
    assert [one is two for one, two in zip(first, again, strict=True)] == [True] * 256 + [False]
    assert again[-1] == first[-1]


def test_the_remembered_views_weigh_8_mebibytes_at_the_most() -> None:
    views = parse(ACCOUNT, b'{"assets":[],"positions":[]}'.ljust(MAX_BODY), 0, 0, {})
    half, other_half = Selection(SHAPES["account"]), Selection(SHAPES["account"], open=True)
    little, nothing = Selection(SHAPES["assets"]), Selection(SHAPES["asset"])
    first = [views.view(each) for each in (half, other_half, little)]
    again = [views.view(each) for each in (half, other_half, little)]
    assert [one is two for one, two in zip(first, again, strict=True)] == [True, True, False]
    assert sum(len(view.body) for view in first[:2] if view) == 8 * 1024 * 1024
    assert views.view(nothing) is None


# Documents that are arrays.


def of_array(body: ArrayBody) -> tuple[Snapshot, Shape]:
    """The snapshot, and the shape that is the whole of it."""
    document = next(each for each in DOCUMENTS if each.name == body.document)
    return parse(document, body.whole, 0, 0, {}), SHAPES[body.document]


@given(array_bodies())
def test_a_whole_array_is_the_body_byte_for_byte(body: ArrayBody) -> None:
    snapshot, shape = of_array(body)
    assert snapshot.cut(Selection(shape)) == body.whole


@given(array_bodies())
def test_the_rows_of_an_array_partition_by_everything_that_selects_them(body: ArrayBody) -> None:
    snapshot, shape = of_array(body)
    rows, (kind,) = body.array.rows, shape.kinds
    parts = [[Selection(shape, assets=names(each)) for each in {coin(row) for row in rows}]]
    if "symbol" in kind.keys:
        parts.append([Selection(shape, symbols=names(each)) for each in {row.name for row in rows}])
        parts.append([Selection(shape, pairs=names(each)) for each in {f"{coin(row)}USD" for row in rows}])
    if "positionSide" in kind.keys:
        parts.append([Selection(shape, sides=names(each)) for each in ("BOTH", "LONG", "SHORT")])
        parts.append([Selection(shape, open=flag) for flag in (True, False)])
    for each in parts:
        found = [
            bytes(raw)
            for part in each
            for raw in msgspec.json.decode(snapshot.cut(part) or b"", type=list[msgspec.Raw])
        ]
        assert Counter(found) == Counter(row.raw for row in rows)


@given(array_bodies(), st.booleans())
def test_whoever_sees_some_coins_gets_their_rows_in_order_without_what_is_private(
    body: ArrayBody,
    all_coins: bool,  # noqa: FBT001
) -> None:
    snapshot, shape = of_array(body)
    coins = names(*(coin(row) for row in (body.array.rows if all_coins else body.array.rows[::2])))
    found = snapshot.cut(Selection(shape, visible_assets=coins)) or b""
    private = shape.kinds[0].private
    expected = [
        {name: value for name, value in json.loads(row.raw).items() if name not in private}
        for row in body.array.rows
        if coin(row) in coins
    ]
    assert [list(row.items()) for row in json.loads(found)] == [list(row.items()) for row in expected]
    aliases = [row.alias for row in body.array.rows if row.alias]
    assert not [alias for alias in aliases if alias in found]
    if not any(row.alias for row in body.array.rows):
        assert found == array(row for row in body.array.rows if coin(row) in coins)


@given(array_bodies(), st.sets(st.sampled_from(["BOTH", "LONG", "SHORT"])))
def test_a_grant_on_some_sides_hides_position_risk_alone_and_no_alias(body: ArrayBody, sides: set[str]) -> None:
    snapshot, shape = of_array(body)
    found = snapshot.cut(Selection(shape, visible_sides=frozenset(sides)))
    assert found == array(row for row in body.array.rows if not row.side or row.side in sides)


@given(array_bodies())
def test_every_row_of_an_array_can_be_named(body: ArrayBody) -> None:
    snapshot, shape = of_array(body)
    of_one = SHAPES["/".join((shape.name, *shape.kinds[0].keys))]
    for row in body.array.rows:
        named = Selection(of_one, assets=names(row.name))
        if "symbol" in of_one.named:
            named = Selection(of_one, symbols=names(row.name), sides=names(row.side) if row.side else None)
        assert snapshot.cut(named) == (row.raw if of_one.one else array([row]))


def test_an_alias_stays_out_of_every_view_of_who_sees_some_coins() -> None:
    body = b'[{"accountAlias":"x","asset":"BTC"},{"asset":"ETH", "accountAlias" : "x"},{"asset":"SOL"}]'
    snapshot = parse(DOCUMENTS[1], body, 0, 0, {})
    lists, one = SHAPES["balance"], SHAPES["balance/asset"]
    all_three = names("BTC", "ETH", "SOL")
    assert (
        snapshot.cut(Selection(lists, visible_assets=all_three)) == b'[{"asset":"BTC"},{"asset":"ETH"},{"asset":"SOL"}]'
    )
    for each in all_three:
        narrow = Selection(one, assets=names(each), visible_assets=names(each))
        assert snapshot.cut(narrow) == b'{"asset":"%s"}' % each.encode()
        wide = snapshot.cut(Selection(one, assets=names(each))) or b""
        assert (ALIAS.encode() in wide) is (each != "SOL")
    assert snapshot.cut(Selection(lists, visible_sides=names("LONG"))) == (
        b'[{"accountAlias":"x","asset":"BTC"},{"asset":"ETH", "accountAlias" : "x"},{"asset":"SOL"}]'
    )
