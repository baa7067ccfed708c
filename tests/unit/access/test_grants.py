import pytest

from service.access.grants import Grant, grant_on
from service.account.selection import Selection, Shape

LISTING = {"ODD": "BTC", "ETHUSD_PERP": "ETH"}


def names(*given: str) -> frozenset[str]:
    return frozenset(given)


ALL = Grant("main", None)
BTC = Grant("main", names("BTC"))
BTC_LONGS = Grant("main", names("BTC"), names("LONG"))


@pytest.mark.parametrize(
    ("grant", "selection", "reason"),
    [
        (ALL, Selection(Shape.POSITION, assets=names("X"), symbols=names("MYSTERY"), sides=names("SHORT")), None),
        (BTC, Selection(Shape.ACCOUNT), None),
        (BTC, Selection(Shape.ASSETS, assets=names()), None),
        (BTC, Selection(Shape.ASSET, assets=names("BTC")), None),
        (BTC, Selection(Shape.ASSET, assets=names("ETH")), "asset ETH is not granted on account main"),
        (BTC, Selection(Shape.ASSETS, assets=names("BTC", "ETH")), "asset ETH is not granted on account main"),
        (BTC, Selection(Shape.SYMBOL, symbols=names("BTCUSD_PERP")), None),
        (BTC, Selection(Shape.SYMBOL, symbols=names("ODD")), None),  # by exchangeInfo
        (BTC, Selection(Shape.SYMBOL, symbols=names("ETHUSD_PERP")), "symbol ETHUSD_PERP is not granted on account main"),
        (BTC, Selection(Shape.SYMBOL, symbols=names("MYSTERY")), "symbol MYSTERY is not granted on account main"),
        (BTC, Selection(Shape.POSITIONS, sides=names("SHORT")), None),
        (BTC_LONGS, Selection(Shape.POSITIONS, sides=names("LONG")), None),
        (BTC_LONGS, Selection(Shape.POSITIONS, sides=names("LONG", "SHORT")), "position side SHORT is not granted on account main"),
        (BTC_LONGS, Selection(Shape.POSITIONS, sides=names("BOTH")), "position side BOTH is not granted on account main"),
    ],
)  # fmt: skip
def test_naming_what_is_not_granted_is_refused_with_its_reason(
    grant: Grant, selection: Selection, reason: str | None
) -> None:
    assert grant.refusal(selection, LISTING) == reason


@pytest.mark.parametrize(
    ("grant", "asset", "seen"),
    [(ALL, "BTC", True), (ALL, None, True), (BTC, "BTC", True), (BTC, "ETH", False), (BTC, None, False)],
)
def test_an_unknown_margin_asset_is_seen_by_a_grant_on_all_alone(grant: Grant, asset: str | None, *, seen: bool) -> None:
    assert grant.sees_asset(asset) is seen


def test_narrowing_adds_what_is_granted_and_keeps_what_was_asked() -> None:
    asked = Selection(Shape.POSITIONS, assets=names("BTC"), open=True)
    narrowed = BTC_LONGS.narrow(asked)
    assert (narrowed.visible_assets, narrowed.visible_sides) == (names("BTC"), names("LONG"))
    assert (narrowed.assets, narrowed.open) == (names("BTC"), True)
    assert ALL.narrow(asked) == asked


def test_without_a_grant_an_account_is_denied() -> None:
    assert grant_on("main", {}) is None
    assert grant_on("main", {"other": ALL}) is None


def test_a_table_of_its_own_is_not_widened_by_the_general_one() -> None:
    grants = {"*": Grant("*", None), "main": BTC}
    assert grant_on("main", grants) is BTC
    assert grant_on("other", grants) == Grant("other", None)
