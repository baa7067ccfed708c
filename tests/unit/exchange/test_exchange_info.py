import pytest

from service.exchange.exchange_info import parse

LIMITS = (
    b'{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":2400},'
    b'{"rateLimitType":"ORDERS","interval":"MINUTE","intervalNum":1,"limit":1200},'
    b'{"rateLimitType":"REQUEST_WEIGHT","interval":"SECOND","intervalNum":10,"limit":300}'
)


def test_symbols_lead_to_their_margin_assets_and_limits_to_the_minutes_weight() -> None:
    symbols = b'{"symbol":"BTCUSD_PERP","marginAsset":"BTC","new":[1]},{"symbol":"ODD","marginAsset":""},{"symbol":"X"}'
    listing = parse(b'{"rateLimits":[%s],"symbols":[%s],"timezone":"UTC"}' % (LIMITS, symbols))
    assert dict(listing.margin_assets) == {"BTCUSD_PERP": "BTC"}
    assert listing.weight_limit == 2400


@pytest.mark.parametrize("limits", [b"", b'{"rateLimitType":"ORDERS","limit":5}', LIMITS.replace(b"2400", b"0")])
def test_without_a_usable_weight_limit_there_is_none(limits: bytes) -> None:
    assert parse(b'{"rateLimits":[%s],"symbols":[]}' % limits).weight_limit is None


def test_limits_may_be_missing_altogether() -> None:
    assert parse(b'{"symbols":[]}').weight_limit is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>canary</html>",
        b"[]",
        b"{}",
        b'{"symbols":null}',
        b'{"symbols":[1]}',
        b'{"symbols":[{"symbol":1}]}',
        b'{"symbols":[{"symbol":"\xff"}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_exchange_info_is_refused_without_its_text(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^exchangeInfo is not of the documented shape$"):
        parse(body)
