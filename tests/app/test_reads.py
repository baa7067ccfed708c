"""Every path under /v1/accounts and every filter, compared with what the exchange itself sent."""

import hashlib

import msgspec
import pytest

from service.account import documents
from simulator.book import Options
from simulator.exchange import BALANCE_PATH
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, ASSETS, BALANCE, ITEMS, PATHS, POSITIONS, Json, Replica, Stage, problem
from tests.support import TOKENS


def names(rows: Json) -> list[str]:
    """Rows in a word each, in their order: `BTC`, `BTCUSD_PERP BOTH`."""
    return [row["asset"] if "asset" in row else f"{row['symbol']} {row['positionSide']}" for row in rows]


def both(symbols: str) -> list[str]:
    return [f"{symbol} BOTH" for symbol in symbols.split()]


async def test_the_account_is_the_exchanges_answer_byte_for_byte(stage: Stage, gateway: Replica) -> None:
    stage.exchange.book().options = Options(extra_fields=True, isolated_wallet=True, key_order="ws")
    answer = await gateway.get(ACCOUNT)
    assert answer.content == stage.raw()
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("document", documents.DOCUMENTS, ids=lambda document: document.name)
async def test_every_document_is_the_exchanges_answer_byte_for_byte(
    stage: Stage, gateway: Replica, document: documents.Document
) -> None:
    stage.exchange.book().options = Options(extra_fields=True)
    answer = await gateway.get(PATHS[documents.WHOLE[document]])
    by_key = await gateway.get(f"/binance/main{document.path}", client=None, x_mbx_apikey=TOKENS["risk"])
    assert answer.content == by_key.content == stage.raw(document.path)
    assert answer.headers["etag"] == by_key.headers["etag"]


@pytest.mark.parametrize("path", ITEMS[3:])
async def test_rows_of_a_further_document_are_cut_out_byte_for_byte(stage: Stage, gateway: Replica, path: str) -> None:
    stage.exchange.book().options = Options(extra_fields=True)
    answer = await gateway.get(path)
    (document,) = {shape.document for shape, each in PATHS.items() if each == path}
    assert answer.content.removeprefix(b"[").removesuffix(b"]") in stage.raw(document.path)
    assert b"caf\\u00e9" in answer.content


async def test_an_alias_is_cut_out_of_its_row_and_every_other_byte_stays(stage: Stage, gateway: Replica) -> None:
    rows = (
        b'{"accountAlias":"SgsR", "asset" : "BTC","balance":"0.0","n":1.0e-7}',
        b'{ "asset":"ETH" ,"account\\u0041lias" : "SgsR","x":{"accountAlias":"of another"} }',
        b'{"asset":"SOL","accountAlias":"SgsR"}',
    )
    stage.exchange.book().raw_by_path[BALANCE_PATH] = b"\n[%s ,\t%s, %s]" % rows
    assert (await gateway.get(BALANCE)).content == b"\n[%s ,\t%s, %s]" % rows
    btc = b'{"asset" : "BTC","balance":"0.0","n":1.0e-7}'
    eth = b'{ "asset":"ETH","x":{"accountAlias":"of another"} }'
    assert (await gateway.get(BALANCE, "treasury")).content == b"[%s,%s]" % (btc, eth)
    assert (await gateway.get(f"{BALANCE}/ETH", "treasury")).content == eth
    assert (await gateway.get(f"{BALANCE}/ETH")).content == rows[1]


@pytest.mark.parametrize("path", [ASSETS, POSITIONS, f"{ASSETS}/BTC", f"{POSITIONS}/BTCUSD_PERP/BOTH"])
async def test_rows_are_cut_out_byte_for_byte(stage: Stage, gateway: Replica, path: str) -> None:
    stage.exchange.book().options = Options(extra_fields=True)
    answer = await gateway.get(path)
    assert answer.content in stage.raw()
    assert b"caf\\u00e9" in answer.content


async def test_rows_left_in_are_joined_as_they_were(stage: Stage, gateway: Replica) -> None:
    rows = [b'{"asset":"%s", "walletBalance" : "0.0","n":1.0e-7}' % name for name in (b"AA", b"BB", b"CC")]
    stage.exchange.book().raw = b'{"x": 1,"assets": [ %s ,\n%s\t, %s ],"positions":[]}' % tuple(rows)
    answer = await gateway.get(f"{ASSETS}?asset=AA,CC")
    assert answer.content == b"[%s,%s]" % (rows[0], rows[2])
    assert (await gateway.get(f"{ACCOUNT}?asset=BB")).content == b'{"x": 1,"assets": [%s],"positions":[]}' % rows[1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("asset=BTC", both("BTCUSD_PERP BTCUSD_261225 BTCUSD_270326")),
        ("asset=SOL,BTC&open=true", both("BTCUSD_PERP SOLUSD_PERP BTCUSD_261225")),
        ("asset=SOL&asset=BTC&open=true", both("BTCUSD_PERP SOLUSD_PERP BTCUSD_261225")),
        ("symbol=ETHUSD_PERP", both("ETHUSD_PERP")),
        ("symbol=SOLUSD_PERP,BTCUSD_PERP", both("BTCUSD_PERP SOLUSD_PERP")),
        ("symbol=SOLUSD_PERP&symbol=BTCUSD_PERP,SOLUSD_PERP", both("BTCUSD_PERP SOLUSD_PERP")),
        ("symbol=BTCUSD%5FPERP", both("BTCUSD_PERP")),
        ("open=true", both("BTCUSD_PERP ETHUSD_PERP SOLUSD_PERP BTCUSD_261225")),
        ("open=false&asset=BTC", both("BTCUSD_270326")),
        ("open=true&asset=BTC", both("BTCUSD_PERP BTCUSD_261225")),
        ("positionSide=BOTH&symbol=ADAUSD_PERP", both("ADAUSD_PERP")),
        ("positionSide=LONG,BOTH&symbol=ADAUSD_PERP", both("ADAUSD_PERP")),
        ("positionSide=LONG", []),  # legitimately: one-way accounts have only BOTH
        ("positionSide=SHORT&open=true", []),
        ("symbol=BTCUSD_PERP&asset=ETH", []),
        ("symbol=BTCUSD_201225", []),  # a contract whose day has passed
    ],
)
async def test_positions_are_filtered_in_the_exchanges_order(
    stage: Stage, gateway: Replica, query: str, expected: list[str]
) -> None:
    answer = await gateway.get(f"{POSITIONS}?{query}")
    assert names(answer.json()) == expected
    by_name = dict(zip(names(rows := stage.statement()["positions"]), rows, strict=True))
    assert answer.content == msgspec.json.encode([by_name[name] for name in expected])
    assert answer.headers["gateway-position-mode"] == "one-way"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("symbol=BTCUSD_PERP", ["BTCUSD_PERP BOTH", "BTCUSD_PERP LONG", "BTCUSD_PERP SHORT"]),
        ("symbol=BTCUSD_PERP&positionSide=LONG,SHORT", ["BTCUSD_PERP LONG", "BTCUSD_PERP SHORT"]),
        ("open=true&positionSide=LONG", ["BTCUSD_PERP LONG", "SOLUSD_PERP LONG"]),
        ("open=true&positionSide=SHORT", ["ETHUSD_PERP SHORT", "BTCUSD_261225 SHORT"]),
        ("open=true&positionSide=BOTH", []),
    ],
)
async def test_in_hedge_mode_sides_are_told_apart(
    stage: Stage, gateway: Replica, query: str, expected: list[str]
) -> None:
    stage.exchange.book().set_mode(hedge=True)
    answer = await gateway.get(f"{POSITIONS}?{query}")
    assert names(answer.json()) == expected
    assert answer.headers["gateway-position-mode"] == "hedge"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("asset=BTC", ["BTC"]),
        ("asset=ETH,BTC", ["BTC", "ETH"]),
        ("asset=ETH&asset=BTC", ["BTC", "ETH"]),
        ("nonzero=true", ["BTC", "ETH", "SOL", "XRP"]),
        ("nonzero=true&asset=BTC,ADA", ["BTC"]),
        ("nonzero=false&asset=BTC,ADA", ["ADA"]),
    ],
)
async def test_assets_are_filtered_in_the_exchanges_order(gateway: Replica, query: str, expected: list[str]) -> None:
    answer = await gateway.get(f"{ASSETS}?{query}")
    assert names(answer.json()) == expected
    assert "gateway-position-mode" not in answer.headers


@pytest.mark.parametrize(
    ("query", "assets", "positions"),
    [
        ("", 20, 30),
        ("asset=BTC", 1, 3),
        ("symbol=BTCUSD_PERP", 20, 1),
        ("positionSide=LONG", 20, 0),
        ("open=true", 20, 4),
        ("nonzero=true", 4, 30),
        ("asset=BTC,ADA&nonzero=true&open=true&positionSide=BOTH&symbol=BTCUSD_PERP,ETHUSD_PERP", 1, 1),
    ],
)
async def test_one_read_of_the_account_filters_both_arrays_and_leaves_the_rest(
    stage: Stage, gateway: Replica, query: str, assets: int, positions: int
) -> None:
    answer = (await gateway.get(f"{ACCOUNT}?{query}")).json()
    assert (len(answer["assets"]), len(answer["positions"])) == (assets, positions)
    rest: Json = {"assets": [], "positions": []}
    assert answer | rest == stage.statement() | rest
    assert list(answer) == list(stage.statement())


async def test_an_amount_that_is_missing_is_not_zero(stage: Stage, gateway: Replica) -> None:
    zeros = ["0", "0.0", "-0.00000000", "0E-8", ".0"]
    rows = [{"symbol": f"S{i}USD_PERP", "positionSide": "BOTH", "positionAmt": zero} for i, zero in enumerate(zeros)]
    stage.answer_with(
        positions=[*rows, {"symbol": "XUSD_PERP", "positionSide": "BOTH"}],
        assets=[{"asset": "A", "walletBalance": "0"}, {"asset": "B", "walletBalance": "0", "marginBalance": "0.00"}],
    )
    assert names((await gateway.get(f"{POSITIONS}?open=true")).json()) == ["XUSD_PERP BOTH"]
    assert len((await gateway.get(f"{POSITIONS}?open=false")).json()) == len(zeros)
    assert names((await gateway.get(f"{ASSETS}?nonzero=true")).json()) == ["A"]
    assert names((await gateway.get(f"{ASSETS}?nonzero=false")).json()) == ["B"]


async def test_either_balance_makes_an_asset_nonzero(stage: Stage, gateway: Replica) -> None:
    balances = {"A": ("1", "0"), "B": ("0", "-0.1"), "C": ("0", "0")}
    stage.answer_with(
        assets=[{"asset": name, "walletBalance": w, "marginBalance": m} for name, (w, m) in balances.items()]
    )
    assert names((await gateway.get(f"{ASSETS}?nonzero=true")).json()) == ["A", "B"]


# Items.


@pytest.mark.parametrize(
    ("hedge", "path", "expected"),
    [
        (False, "assets/BTC", "BTC"),
        (False, "positions/BTCUSD_PERP", ["BTCUSD_PERP BOTH"]),
        (False, "positions/BTCUSD_PERP/BOTH", "BTCUSD_PERP BOTH"),
        (True, "positions/BTCUSD_PERP", ["BTCUSD_PERP BOTH", "BTCUSD_PERP LONG", "BTCUSD_PERP SHORT"]),
        (True, "positions/BTCUSD_PERP/LONG", "BTCUSD_PERP LONG"),
        (True, "positions/BTCUSD_PERP/BOTH", "BTCUSD_PERP BOTH"),
    ],
)
async def test_an_item_is_one_row_and_a_symbol_an_array_of_its_rows(
    make_stage: MakeStage, *, hedge: bool, path: str, expected: str | list[str]
) -> None:
    stage = make_stage()
    stage.exchange.book().set_mode(hedge=hedge)
    found = (await (await stage.start()).get(f"{ACCOUNT}/{path}")).json()
    assert (names(found) if isinstance(found, list) else names([found])[0]) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("assets/NONESUCH", "unknown-asset"),
        ("positions/NONESUCH", "unknown-symbol"),
        ("positions/NONESUCH/BOTH", "unknown-symbol"),
        ("positions/BTCUSD_PERP/LONG", "no-such-position-side"),
    ],
)
async def test_what_the_account_does_not_have_is_a_404_as_a_path(gateway: Replica, path: str, expected: str) -> None:
    answer = await gateway.get(f"{ACCOUNT}/{path}")
    assert (answer.status_code, problem(answer)) == (404, expected)


@pytest.mark.parametrize("side", ["LONG", "SHORT"])
async def test_a_side_that_one_way_accounts_do_not_have_is_explained(gateway: Replica, side: str) -> None:
    answer = await gateway.get(f"{POSITIONS}/BTCUSD_PERP/{side}")
    assert "one-way mode" in answer.json()["detail"]


async def test_an_account_without_positions_has_no_mode(stage: Stage, gateway: Replica) -> None:
    stage.answer_with(positions=[])
    answer = await gateway.get(POSITIONS)
    assert (answer.content, answer.headers.get("gateway-position-mode")) == (b"[]", None)
    assert (await gateway.status())["accounts"][0]["positionMode"] is None


async def test_a_switch_of_mode_shows_with_the_next_snapshot(stage: Stage, gateway: Replica) -> None:
    assert (await gateway.get(POSITIONS)).headers["gateway-position-mode"] == "one-way"
    stage.exchange.book().set_mode(hedge=True)
    await stage.advance(10_000)
    assert (await gateway.get(POSITIONS)).headers["gateway-position-mode"] == "hedge"


# Margin assets.


async def test_the_listing_says_what_a_symbol_is_margined_in(stage: Stage, gateway: Replica) -> None:
    stage.exchange.market.margin_assets["SOLUSD_PERP"] = "ETH"
    rows = names((await gateway.get(f"{POSITIONS}?asset=ETH&open=true")).json())
    assert rows == ["ETHUSD_PERP BOTH", "SOLUSD_PERP BOTH"]
    assert (await gateway.get(f"{POSITIONS}?asset=SOL&open=true")).content == b"[]"


@pytest.mark.parametrize("symbol", ["WEIRD", "USD_PERP"])
async def test_a_symbol_of_unknown_margin_asset_is_seen_by_those_alone_who_see_all(
    stage: Stage, gateway: Replica, symbol: str
) -> None:
    rows = [{"symbol": name, "positionSide": "BOTH", "positionAmt": "1"} for name in (symbol, "BTCUSD_PERP")]
    stage.answer_with(positions=rows)
    assert names((await gateway.get(POSITIONS)).json()) == [f"{symbol} BOTH", "BTCUSD_PERP BOTH"]
    assert names((await gateway.get(POSITIONS, "treasury")).json()) == ["BTCUSD_PERP BOTH"]
    assert names((await gateway.get(f"{POSITIONS}?asset=BTC")).json()) == ["BTCUSD_PERP BOTH"]
    assert (await gateway.get(f"{POSITIONS}/{symbol}")).status_code == 200
    assert problem(await gateway.get(f"{POSITIONS}/{symbol}", "treasury")) == "forbidden"


# Entity tags.


@pytest.mark.parametrize("path", [*PATHS.values(), f"{POSITIONS}?open=true"])
async def test_an_entity_tag_is_the_digest_of_the_body(gateway: Replica, path: str) -> None:
    answer = await gateway.get(path)
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'


async def test_an_entity_tag_lives_as_long_as_its_rows_stay_the_same(stage: Stage) -> None:
    stage.exchange.market.frozen = True
    one, other = await stage.start(), await stage.start()
    eth, btc = [(await one.get(f"{ASSETS}/{name}")).headers["etag"] for name in ("ETH", "BTC")]
    await stage.advance(10_000)
    stage.exchange.set_balance("BTC", "7")
    assert (await one.get(f"{ASSETS}/ETH", if_none_match=eth)).status_code == 304
    assert (await other.get(f"{ASSETS}/ETH", if_none_match=eth)).status_code == 304
    assert (await one.get(f"{ASSETS}/BTC", if_none_match=btc)).status_code == 200
    assert stage.account_calls == 2


@pytest.mark.parametrize(
    ("form", "status"),
    [("{}", 304), ("W/{}", 304), ('"a", {}', 304), ('{},"b"', 304), ("*", 304), ('"a"', 200), ("", 200)],
)
async def test_if_none_match_is_read_as_the_rfc_says(gateway: Replica, form: str, status: int) -> None:
    etag = (await gateway.get()).headers["etag"]
    answer = await gateway.get(if_none_match=form.format(etag))
    assert (answer.status_code, bool(answer.content)) == (status, status == 200)
