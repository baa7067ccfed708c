from typing import Any

import pytest

from service.access.grants import Grant
from service.account.documents import SHAPES
from service.account.selection import Selection

LISTING = {"ODD": "BTC", "ETHUSD_PERP": "ETH", "OWN_PERP": "ETH", "OWN_261225": "BTC"}


def names(*given: str) -> frozenset[str]:
    return frozenset(given)


ALL = Grant("main", None)
BTC = Grant("main", names("BTC"))
BTC_LONGS = Grant("main", names("BTC"), names("LONG"))


def of(**named: str) -> Selection:
    kinds: Any = {kind: names(*given.split()) for kind, given in named.items()}
    return Selection(SHAPES["account"], **kinds)


@pytest.mark.parametrize(
    ("grant", "selection", "refused"),
    [
        (ALL, of(assets="X", symbols="MYSTERY", sides="SHORT"), None),
        (BTC, of(), None),
        (BTC, of(assets=""), None),
        (BTC, of(assets="BTC"), None),
        (BTC, of(assets="ETH"), "asset"),
        (BTC, of(assets="BTC ETH"), "asset"),
        (BTC, of(symbols="BTCUSD_PERP"), None),
        (BTC, of(symbols="ODD"), None),  # BTC by exchangeInfo
        (BTC, of(symbols="ETHUSD_PERP"), "symbol"),
        (BTC, of(symbols="MYSTERY"), "symbol"),  # its margin asset is unknown
        (BTC, of(pairs="OWN"), None),  # one of its contracts is granted
        (BTC, of(pairs="ETHUSD"), "pair"),
        (BTC, of(pairs="BTCUSD"), None),  # not listed: by its form
        (BTC, of(pairs="BTCUSD ETHUSD"), "pair"),
        (BTC, of(sides="SHORT"), None),
        (BTC_LONGS, of(assets="BTC", symbols="BTCUSD_PERP", sides="LONG"), None),
        (BTC_LONGS, of(sides="LONG SHORT"), "positionSide"),
        (BTC_LONGS, of(sides="BOTH"), "positionSide"),
    ],
)
def test_naming_what_is_not_granted_is_refused_by_its_parameter_alone(
    grant: Grant, selection: Selection, refused: str | None
) -> None:
    reason = grant.refusal(selection, LISTING)
    assert reason == (refused and f"parameter {refused}: not granted on this account")


def test_while_the_listing_is_unknown_a_symbol_of_unknown_form_is_left_for_later() -> None:
    assert BTC.refusal(of(symbols="ODD"), None) is None
    assert BTC.refusal(of(symbols="BTCUSD_PERP"), None) is None
    assert BTC.refusal(of(symbols="ETHUSD_PERP"), None) is not None


@pytest.mark.parametrize(
    ("grant", "asset", "seen"),
    [(ALL, "BTC", True), (ALL, None, True), (BTC, "BTC", True), (BTC, "ETH", False), (BTC, None, False)],
)
def test_an_unknown_margin_asset_is_seen_by_a_grant_on_all_alone(
    grant: Grant, asset: str | None, *, seen: bool
) -> None:
    assert grant.sees_asset(asset) is seen


def test_narrowing_adds_what_is_granted_and_keeps_what_was_asked() -> None:
    asked = Selection(SHAPES["positions"], assets=names("BTC"), open=True)
    narrowed = BTC_LONGS.narrow(asked)
    assert (narrowed.visible_assets, narrowed.visible_sides) == (names("BTC"), names("LONG"))
    assert (narrowed.assets, narrowed.open) == (names("BTC"), True)
    assert ALL.narrow(asked) == asked
