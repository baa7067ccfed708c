import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.account.documents import ACCOUNT, DOCUMENTS, WHOLE
from service.account.parsing import MAX_BODY, MAX_DEPTH, MAX_MEMBERS, MAX_VALUES, MalformedDocumentError, is_zero, parse
from service.account.rows import POSITION_SIDES, margin_asset, without
from service.account.selection import Selection
from tests.unit.account.bodies import (
    ALIAS,
    AMOUNTS,
    ONE_ROW,
    ZEROS,
    ArrayBody,
    Body,
    array_bodies,
    bodies,
    hostile_arrays,
)

ASSETS, POSITIONS = ACCOUNT.kinds
ASSET = b'{"asset":"BTC"}'
LONG = b'{"symbol":"BTCUSD_PERP","positionSide":"LONG"}'


def account(assets: bytes = b"", positions: bytes = b"", extra: bytes = b"") -> bytes:
    return b'{"assets":[%s],"positions":[%s]%s}' % (assets, positions, extra)


@given(bodies())
def test_rows_are_the_exchanges_bytes_in_its_order(body: Body) -> None:
    snapshot = parse(ACCOUNT, body.whole, 7, 0, {})
    assert [bytes(row.raw) for row in snapshot.rows[ASSETS]] == [row.raw for row in body.assets.rows]
    assert [bytes(row.raw) for row in snapshot.rows[POSITIONS]] == [row.raw for row in body.positions.rows]
    assert (snapshot.body, snapshot.request_time) == (body.whole, 7)


@given(bodies())
def test_rows_are_indexed_by_what_their_bytes_mean(body: Body) -> None:
    snapshot = parse(ACCOUNT, body.whole, 0, 0, {})
    assert [(row.asset, row.zero) for row in snapshot.rows[ASSETS]] == [
        (row.name, row.zero) for row in body.assets.rows
    ]
    assert [(row.symbol, row.side, row.zero) for row in snapshot.rows[POSITIONS]] == [
        (row.name, row.side, row.zero) for row in body.positions.rows
    ]
    assert sum(map(len, snapshot.named("symbol").values())) == len(body.positions.rows)


@given(bodies())
def test_spans_are_the_arrays_places_brackets_included(body: Body) -> None:
    spans = parse(ACCOUNT, body.whole, 0, 0, {}).spans
    assert spans is not None
    assert body.whole[slice(*spans.arrays[ASSETS])] == body.assets.text
    assert body.whole[slice(*spans.arrays[POSITIONS])] == body.positions.text


@given(bodies(), st.data())
def test_a_truncated_answer_is_refused_wherever_it_ends(body: Body, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(body.whole.rstrip()) - 1))
    with pytest.raises(MalformedDocumentError):
        parse(ACCOUNT, body.whole[:end], 0, 0, {})


@given(bodies(), st.data())
def test_a_damaged_byte_is_refused_or_means_what_a_second_parser_reads(body: Body, data: st.DataObject) -> None:
    damaged = bytearray(body.whole)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        snapshot = parse(ACCOUNT, bytes(damaged), 0, 0, {})
    except MalformedDocumentError:
        return
    assert [json.loads(bytes(row.raw)) for row in snapshot.rows[ASSETS]] == json.loads(damaged)["assets"]


ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(["asset", "walletBalance", "marginBalance", "x", "é", ","]),
        st.sampled_from(["0", "1.50", "A", ",", "", 0, 1, None, True, [], [1], [1, 2], {}, {"y": 1}, {"y": 1, "z": 2}]),
    ),
    max_size=3,
)
"""Rows as they come from few words, so that names are there or not, and separators where they might mislead."""


def outcome(body: bytes) -> object:
    """What `parse` makes of the assets: by their bytes, or nothing."""
    try:
        return [(bytes(row.raw), row.asset, row.zero) for row in parse(ACCOUNT, body, 0, 0, {}).rows[ASSETS]]
    except MalformedDocumentError:
        return None


@given(ROWS)
def test_rows_are_judged_alike_with_and_without_a_text_that_only_the_strict_parser_reads(rows: list[object]) -> None:
    assets = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()[1:-1]
    assert outcome(account(assets)) == outcome(account(assets, extra=b',"note":","'))


@given(ROWS.filter(any), st.data())
def test_a_key_that_is_there_twice_is_refused_wherever_it_is(
    rows: list[dict[str, object]], data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from([row for row in rows if row]))
    pairs = [*row.items(), data.draw(st.sampled_from(list(row.items())))]
    twice = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in data.draw(st.permutations(pairs)))
    texts = [f"{{{twice}}}" if each is row else json.dumps(each) for each in rows]
    assert outcome(account(",".join(texts).encode())) is None


REFUSED = {
    "no document": [b"", b"null", b"[]", b"{}", account() + b"x", account() + account()],
    "a byte order mark, another encoding": [b"\xef\xbb\xbf" + account(), account().decode().encode("utf-16")],
    "no arrays": [b'{"assets":[]}', b'{"assets":null,"positions":[]}', b'{"assets":{},"positions":[]}'],
    "a text in an array's place, half a surrogate pair": [b'{"assets":"\\udc00","positions":[]}'],
    "invalid UTF-8, half a surrogate pair": [b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\n"'],
    "no JSON": [b"NaN", b"-Infinity", b"01", b"1.", b"", b"1,", b"{x:1}", b"'x'"],
    "a key twice": [b'1,"assets":[]', b'1,"\\u0061ssets":[]', b'{"y":[{"z":1,"z":1}]}', b'1,"x":2'],
    "an asset that is none": [b"1", b"null", b"[]", b'"BTC"', b'"\\ud800"', b"{}", ASSET + b"," + ASSET],
    "an asset without its name": [b'{"asset":""}', b'{"asset":null}', b'{"asset":1}', b'{"asset":1.5}'],
    "an asset with a key twice": [b'{"asset":"BTC","asset":"BTC"}', b'{"asset":"BTC","x":{"y":1,"y":2}}'],
    "a position without its key": [
        b'{"symbol":"A"}',
        b'{"positionSide":"LONG"}',
        b'{"symbol":5,"positionSide":"LONG"}',
    ],
    "a position of an unknown side": [LONG.replace(b"LONG", b"long"), LONG.replace(b"LONG", b"SIDEWAYS")],
    "a position twice": [LONG + b"," + LONG],
}
EXTRAS = ("invalid UTF-8, half a surrogate pair", "no JSON", "a key twice")


def refused(fault: str, piece: bytes) -> bytes:
    """The whole body of a fault."""
    if fault in EXTRAS:
        return account(extra=b',"x":' + piece)
    return account(piece) if " asset " in fault else account(b"", piece) if " position " in fault else piece


@pytest.mark.parametrize(("fault", "piece"), [(fault, each) for fault, pieces in REFUSED.items() for each in pieces])
def test_what_is_not_the_documented_account_is_refused_whole(fault: str, piece: bytes) -> None:
    with pytest.raises(MalformedDocumentError):
        parse(ACCOUNT, refused(fault, piece), 0, 0, {})


@pytest.mark.parametrize("opening", [b"[", b'{"x":'])
def test_deep_nesting_is_refused_also_where_nobody_looks(opening: bytes) -> None:
    """Where the parsers give up differs between Python's versions: none comes near this depth."""
    depth = 100_000
    closing = {b"[": b"]", b'{"x":': b"1}"}[opening]
    deep = opening * depth + closing[:-1] + closing[-1:] * depth
    for body in (account(extra=b',"x":' + deep), account(b'{"asset":"BTC","x":' + deep + b"}"), deep):
        with pytest.raises(MalformedDocumentError):
            parse(ACCOUNT, body, 0, 0, {})


@pytest.mark.parametrize(("levels", "taken"), [(MAX_DEPTH - 2, True), (MAX_DEPTH - 1, False)])
def test_rows_are_nested_so_deep_and_no_deeper(levels: int, *, taken: bool) -> None:
    """A view looks into rows again, wherever the stack is by then."""
    body = b'[{"asset":"BTC","x":' + b"[" * levels + b"]" * levels + b"}]"
    if taken:
        assert parse(ARRAYS["balance"], body, 0, 0, {}).body == body
    else:
        with pytest.raises(MalformedDocumentError, match="nested more than 64 levels deep"):
            parse(ARRAYS["balance"], body, 0, 0, {})


def test_no_depth_at_all_raises_anything_but_the_refusal() -> None:
    refused = 0
    for depth in range(1_100):  # the parsers give up at depths of their own
        try:
            parse(ACCOUNT, account(extra=b',"x":' + b"[" * depth + b"]" * depth), 0, 0, {})
        except MalformedDocumentError:
            refused += 1
    assert 0 < refused < 1_100


@pytest.mark.parametrize(
    "body",
    [
        b"canary",
        account(extra=b',"canary":1,"canary":2'),
        account(b'{"asset":{"canary":1}}'),
        account(positions=b'{"symbol":"canary","positionSide":"canary"}'),
        account(extra=b',"x":"canary\xff"'),
    ],
)
def test_a_refusal_never_shows_the_content(body: bytes) -> None:
    with pytest.raises(MalformedDocumentError) as refusal:
        parse(ACCOUNT, body, 0, 0, {})
    assert "canary" not in str(refusal.value)


def test_four_mebibytes_are_accepted_and_one_byte_more_is_not() -> None:
    body = account()
    assert len(parse(ACCOUNT, body.ljust(MAX_BODY), 0, 0, {}).body) == 4 * 1024 * 1024
    with pytest.raises(MalformedDocumentError, match="larger than 4 MiB"):
        parse(ACCOUNT, body.ljust(MAX_BODY + 1), 0, 0, {})


@pytest.mark.parametrize(
    "body",
    [
        account(extra="".join(f',"{number:x}":1' for number in range(MAX_MEMBERS - 1)).encode()),
        account(extra="".join(f',"{number:x}":1' for number in range(MAX_VALUES)).encode()),
        account(assets=b",".join(b'{"asset":"%x"}' % number for number in range(MAX_VALUES // 2))),
        account(assets=ASSET[:-1] + "".join(f',"{number:x}":1' for number in range(MAX_VALUES)).encode() + b"}"),
        account(extra=b',"x":[' + b",".join([b"[" * 300 + b"]" * 300] * 300) + b"]"),
        account(extra=b',"x":[' + b",".join([b'{"a":' * 300 + b"1" + b"}" * 300] * 300) + b"]"),
        account(extra=b',"x":[%s1]' % (b"1," * MAX_VALUES)),
    ],
    ids=["members", "many members", "rows", "members of a row", "arrays", "objects", "elements"],
)
def test_more_than_any_account_has_is_refused_whole(body: bytes) -> None:
    with pytest.raises(MalformedDocumentError, match="the answer has more than"):
        parse(ACCOUNT, body, 0, 0, {})


def test_a_thousand_symbols_on_three_sides_are_accepted_and_so_are_all_the_members_there_may_be() -> None:
    row = {f"member{number}": "0.00000000" for number in range(15)}
    rows = [row | {"symbol": f"S{number}", "positionSide": side} for number in range(1_000) for side in POSITION_SIDES]
    extra = {f"x{number}": 1 for number in range(MAX_MEMBERS - 2)}
    body = json.dumps({"assets": [], "positions": rows} | extra).encode()
    assert len(parse(ACCOUNT, body, 0, 0, {}).rows[POSITIONS]) == 3_000


def test_integers_of_thousands_of_digits_are_not_computed() -> None:
    """A power of the length would be: a thousand of 4,290 digits take 0.1 s, and texts as long 0.01 s."""
    took = dict[str, float]()
    for kind, value in {"numbers": b"1" * 4_290, "texts": b'"%s"' % (b"1" * 4_288)}.items():
        body = account(b",".join(b'{"asset":"%x","x":%s}' % (number, value) for number in range(900)))
        times = list[float]()
        for _ in range(5):
            began = time.process_time()
            parse(ACCOUNT, body, 0, 0, {})
            times.append(time.process_time() - began)
        took[kind] = min(times)
    assert took["numbers"] < 4 * took["texts"]


def test_the_same_symbol_on_three_sides_is_no_twin() -> None:
    rows = [LONG.replace(b"LONG", side) for side in (b"SHORT", b"BOTH", b"LONG")]
    snapshot = parse(ACCOUNT, account(positions=b",".join(rows)), 0, 0, {})
    assert [row.side for row in snapshot.named("symbol")["BTCUSD_PERP"]] == ["SHORT", "BOTH", "LONG"]


@pytest.mark.parametrize(
    ("sides", "mode"),
    [
        ([], None),
        (["BOTH"], "one-way"),
        (["BOTH", "BOTH"], "one-way"),
        (["BOTH", "LONG", "SHORT"], "hedge"),
        (["LONG"], "hedge"),
    ],
)
def test_the_rows_tell_the_position_mode(sides: list[str], mode: str | None) -> None:
    rows = [b'{"symbol":"S%d","positionSide":"%s"}' % (number, side.encode()) for number, side in enumerate(sides)]
    assert parse(ACCOUNT, account(positions=b",".join(rows)), 0, 0, {}).mode == mode


@pytest.mark.parametrize(
    ("symbol", "asset"),
    [
        ("BTCUSD_PERP", "BTC"),
        ("BTCUSD_261225", "BTC"),
        ("BUSDUSD_PERP", "BUSD"),
        ("ODDUSD_PERP", "BTC"),  # exchangeInfo's word goes before the form
        ("NEWCONTRACT", "ETH"),
        ("BTCUSDT", None),
        ("USD_PERP", None),  # nothing before it
        ("BTCUSD", None),
        ("", None),
    ],
)
def test_a_symbols_margin_asset_is_the_listings_else_what_stands_before_usd(symbol: str, asset: str | None) -> None:
    assert margin_asset(symbol, {"ODDUSD_PERP": "BTC", "NEWCONTRACT": "ETH"}) == asset


@pytest.mark.parametrize("amount", [*ZEROS, "000", "-0", "0.0e9"])
def test_every_spelling_of_zero_is_zero(amount: str) -> None:
    assert is_zero(amount)


@pytest.mark.parametrize("amount", [*AMOUNTS, "", ".", "-", " 0", "0\n", "0x0", "\u0660", "0,0", None, 0, False])
def test_what_is_no_decimal_zero_is_not_known_to_be_zero(amount: object) -> None:
    assert not is_zero(amount)


def test_an_amount_sent_as_a_number_keeps_its_bytes_and_its_meaning() -> None:
    row = b'{"symbol":"A","positionSide":"BOTH","positionAmt":-0.000}'
    snapshot = parse(ACCOUNT, account(positions=row), 0, 0, {})
    (found,) = snapshot.rows[POSITIONS]
    assert (bytes(found.raw), found.zero) == (row, True)


# Documents that are arrays.

ARRAYS = {document.name: document for document in DOCUMENTS[1:]}


@given(array_bodies())
def test_the_rows_of_an_array_are_the_exchanges_bytes_in_its_order_and_mean_what_they_say(body: ArrayBody) -> None:
    document = ARRAYS[body.document]
    snapshot = parse(document, body.whole, 7, 0, {})
    (rows,) = snapshot.rows.values()
    assert [bytes(row.raw) for row in rows] == [row.raw for row in body.array.rows]
    assert [(row.symbol or row.asset, row.side or "") for row in rows] == [
        (row.name, row.side) for row in body.array.rows
    ]
    assert [row.asset for row in rows] == [row.name.removesuffix("USD_PERP") for row in body.array.rows]
    if document.kinds[0].flag:
        assert [row.zero for row in rows] == [row.zero for row in body.array.rows]
    assert (snapshot.body, snapshot.spans, snapshot.request_time) == (body.whole, None, 7)


@given(array_bodies())
def test_a_balance_is_cut_without_its_alias_for_those_who_do_not_see_all_assets(body: ArrayBody) -> None:
    document = ARRAYS[body.document]
    snapshot = parse(document, body.whole, 0, 0, {})
    everything = frozenset(row.asset or "" for rows in snapshot.rows.values() for row in rows)
    cut = snapshot.cut(Selection(WHOLE[document], visible_assets=everything)) or b""
    sent = [row for row in body.array.rows if body.document == "balance"]
    for mine, row in zip(msgspec.json.decode(cut, type=list[msgspec.Raw]), sent, strict=bool(sent)):
        members = json.loads(row.raw)
        members.pop(ALIAS, None)
        assert list(json.loads(bytes(mine)).items()) == list(members.items())
        assert not row.alias or row.alias not in bytes(mine)


@given(array_bodies(), st.data())
def test_a_truncated_array_is_refused_wherever_it_ends(body: ArrayBody, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(body.whole.rstrip()) - 1))
    with pytest.raises(MalformedDocumentError):
        parse(ARRAYS[body.document], body.whole[:end], 0, 0, {})


@given(array_bodies(), st.data())
def test_a_damaged_array_is_refused_or_means_what_a_second_parser_reads(body: ArrayBody, data: st.DataObject) -> None:
    damaged = bytearray(body.whole)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        snapshot = parse(ARRAYS[body.document], bytes(damaged), 0, 0, {})
    except MalformedDocumentError:
        return
    (rows,) = snapshot.rows.values()
    second = json.loads(damaged)
    assert [json.loads(bytes(row.raw)) for row in rows] == second
    private = frozenset({ALIAS} if body.document == "balance" else ())
    public = [json.loads(without(bytes(row.raw), private)) for row in rows]
    assert public == [{name: value for name, value in row.items() if name not in private} for row in second]


HOSTILE = [(each, fault) for each in ARRAYS for fault in hostile_arrays(ARRAYS[each])]


@pytest.mark.parametrize(("name", "fault"), HOSTILE)
def test_what_is_not_the_documented_array_is_refused_whole(name: str, fault: str) -> None:
    document = ARRAYS[name]
    assert len(parse(document, b"[%s]" % ONE_ROW[name], 0, 0, {}).rows[document.kinds[0]]) == 1
    with pytest.raises(MalformedDocumentError) as refusal:
        parse(document, hostile_arrays(document)[fault], 0, 0, {})
    assert "BTC" not in str(refusal.value)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_without_rows_is_an_answer(name: str) -> None:
    snapshot = parse(ARRAYS[name], b" [ ]\n", 0, 0, {})
    assert (list(snapshot.rows.values()), snapshot.mode) == ([()], None)
