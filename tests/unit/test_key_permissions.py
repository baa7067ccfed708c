import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.key_permissions import FUTURES, MAX_NAMES, MOVES, READS, TRADES, Judgement, key_permissions, parse

READER = {
    "ipRestrict": True,
    "createTime": 1_698_645_219_000,
    "enableReading": True,
    "enableWithdrawals": False,
    "enableInternalTransfer": False,
    "enableMargin": False,
    "enableFutures": False,
    "permitsUniversalTransfer": False,
    "enableVanillaOptions": False,
    "enableFixApiTrade": False,
    "enableFixReadOnly": True,
    "enableSpotAndMarginTrading": False,
    "enablePortfolioMarginTrading": False,
}
"""Such a key as the gateway should have, in the form of the wallet docs' example."""


def judged(**members: object) -> list[Judgement]:
    return key_permissions(parse(msgspec.json.encode(READER | members)))


def test_a_key_that_can_only_read_from_listed_addresses_is_as_it_should_be() -> None:
    ((verdict, text),) = judged()
    assert (verdict, text) == ("ok", "the key can only read, and only from the addresses it is bound to")


@pytest.mark.parametrize(
    ("members", "verdict", "named"),
    [
        *(({name: True}, "fail", name) for name in MOVES),
        *(({name: True}, "warn", name) for name in (FUTURES, *TRADES)),
        ({"enableReading": False}, "fail", "enableReading"),
        ({"ipRestrict": False}, "warn", "isn't bound to an address"),
        ({"enableTeleport": True}, "warn", "enableTeleport"),
        ({"permitsEverything": True}, "warn", "permitsEverything"),
        ({"canDoMore": True}, "warn", "canDoMore"),
        ({"enableTeleport": "yes"}, "warn", "enableTeleport"),
        ({"enableTeleport": None}, "warn", "enableTeleport"),
    ],
)
def test_each_permission_beside_reading_is_named_with_its_verdict(
    members: dict[str, object], verdict: str, named: str
) -> None:
    ((found, text),) = judged(**members)
    assert found == verdict
    assert named in text


@pytest.mark.parametrize(
    "members", [{"enableTeleport": False}, {"tradingAuthorityExpirationTime": 1_628_985_600_000}, {"note": "enable"}]
)
def test_what_is_off_or_no_permission_is_not_spoken_of(members: dict[str, object]) -> None:
    assert judged(**members) == judged()


def test_permissions_of_one_kind_are_one_sentence_and_the_worst_comes_first() -> None:
    everything = judged(**dict.fromkeys((*MOVES, *TRADES, FUTURES), True), ipRestrict=False, enableReading=False)
    assert [verdict for verdict, _ in everything] == ["fail", "fail", "warn", "warn", "warn"]
    assert all(name in everything[0][1] for name in MOVES)
    assert all(name in everything[2][1] for name in TRADES)


@given(st.text(min_size=1, max_size=80).filter(lambda name: name not in READER))
def test_no_permission_of_tomorrow_passes_in_silence(name: str) -> None:
    for value in (True, {"enable": 1}) if name.startswith(("enable", "permits")) else (True,):
        ((verdict, _),) = judged(**{name: value})
        assert verdict == "warn"


@given(st.sets(st.text(max_size=60).filter(lambda name: f"enable{name}" not in READER), min_size=1, max_size=40))
def test_names_of_the_exchanges_making_are_printed_bounded_and_only_where_they_are_names(names: set[str]) -> None:
    ((_, text),) = judged(**{f"enable{name}": True for name in names})
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 60 + (MAX_NAMES + 1) * 50


def test_names_that_cannot_be_printed_or_do_not_fit_are_counted() -> None:
    names = [*(f"enableX{number}" for number in range(MAX_NAMES + 1)), "enable\x1b[31m", "enable" + "x" * 100]
    ((_, text),) = judged(**dict.fromkeys(names, True))
    assert text.endswith(f"enableX{MAX_NAMES - 1}, 3 more")


def test_what_is_needed_to_read_is_not_held_against_a_key() -> None:
    assert judged(**dict.fromkeys(READS, True)) == judged()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>canary</html>",
        b"[]",
        b"null",
        b'{"ipRestrict":"\xff"}',
        b'{"canary":' + b"[" * 100_000,
    ],
)
def test_what_is_no_object_is_refused_without_its_text(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the key's permissions are not a JSON object$"):
        parse(body)


@pytest.mark.parametrize("name", ["ipRestrict", "enableReading", *MOVES, FUTURES, TRADES[0]])
def test_what_is_not_told_is_not_taken_for_off(name: str) -> None:
    untold = {key: value for key, value in READER.items() if key != name}
    with pytest.raises(ValueError, match=rf"^the key's permissions don't say {name}$"):
        parse(msgspec.json.encode(untold))


@pytest.mark.parametrize("value", ["canary", 1, None, {}])
def test_a_known_permission_that_is_neither_true_nor_false_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^the key's permissions don't say enableMargin$"):
        judged(enableMargin=value)
