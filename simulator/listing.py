"""/dapi/v1/exchangeInfo ("COIN-M docs, exchange information")."""

from decimal import Decimal

from simulator.market import CONTRACTS, Contract, Market

LISTED_MS = 1_597_042_800_000  # BTCUSD_PERP's onboard date; one for all is enough here


def exchange_info(market: Market, weight_limit: int, now_ms: int) -> dict[str, object]:
    """The whole answer; limits and margin assets as they are set at this moment."""
    return {
        "exchangeFilters": [],
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_limit},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 1200},
        ],
        "serverTime": now_ms,
        "symbols": [_symbol(contract, market.margin_asset(contract)) for contract in CONTRACTS],
        "timezone": "UTC",
    }


def _symbol(contract: Contract, margin_asset: str) -> dict[str, object]:
    return {
        "symbol": contract.symbol,
        "pair": contract.pair,
        "contractType": contract.kind,
        "deliveryDate": contract.delivery_ms,
        "onboardDate": LISTED_MS,
        "contractStatus": "TRADING",
        "contractSize": contract.size,
        "marginAsset": margin_asset,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": contract.base,
        "quoteAsset": "USD",
        "pricePrecision": 5,
        "quantityPrecision": 0,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "equalQtyPrecision": 4,
        "maxMoveOrderLimit": 10000,
        "triggerProtect": "0.0500",
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "liquidationFee": "0.015000",
        "marketTakeBound": "0.05",
        "filters": _filters(contract),
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def _filters(contract: Contract) -> list[dict[str, object]]:
    exponent = contract.reference.as_tuple().exponent
    tick = f"{Decimal(1).scaleb(int(exponent)):f}"  # the last decimal of the reference price
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "4520958", "tickSize": tick},
        {"filterType": "LOT_SIZE", "stepSize": "1", "maxQty": "1000000", "minQty": "1"},
        {"filterType": "MARKET_LOT_SIZE", "stepSize": "1", "maxQty": "60000", "minQty": "1"},
        {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 20},
        {
            "filterType": "PERCENT_PRICE",
            "multiplierDown": "0.9500",
            "multiplierUp": "1.0500",
            "multiplierDecimal": "4",
        },
    ]
