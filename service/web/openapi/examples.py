"""Answers as they are seen: one-way and hedge mode, filtered, empty."""

import service
from service.account.selection import Shape
from service.web.openapi.schemas import Json

_ASSET: Json = {
    "asset": "BTC",
    "walletBalance": "1.25417362",
    "unrealizedProfit": "0.00158395",
    "marginBalance": "1.25575757",
    "maintMargin": "0.00074890",
    "initialMargin": "0.01147333",
    "positionInitialMargin": "0.01147333",
    "openOrderInitialMargin": "0.00000000",
    "maxWithdrawAmount": "1.24428424",
    "crossWalletBalance": "1.25417362",
    "crossUnPnl": "0.00158395",
    "availableBalance": "1.24428424",
    "updateTime": 1790000000000,
}

_OPEN: Json = {
    "positionAmt": "120",
    "initialMargin": "0.00724931",
    "maintMargin": "0.00057994",
    "unrealizedProfit": "0.00133494",
    "positionInitialMargin": "0.00724931",
    "entryPrice": "82011.3",
    "breakEvenPrice": "82044.10452000",
    "notionalValue": "0.14498634",
    "updateTime": 1790000000000,
}
_SHORT: Json = {
    "symbol": "BTCUSD_261225",
    "positionAmt": "-35",
    "initialMargin": "0.00422402",
    "maintMargin": "0.00016896",
    "unrealizedProfit": "0.00024901",
    "positionInitialMargin": "0.00422402",
    "leverage": "10",
    "entryPrice": "83350.7",
    "breakEvenPrice": "83317.35972000",
    "maxQty": "625",
    "notionalValue": "-0.04224026",
    "updateTime": 1790000000000,
}


def _position(side: str, held: Json | None = None) -> Json:
    """A row: flat, but for what is held."""
    return {
        "symbol": "BTCUSD_PERP",
        "positionAmt": "0",
        "initialMargin": "0",
        "maintMargin": "0",
        "unrealizedProfit": "0.00000000",
        "positionInitialMargin": "0",
        "openOrderInitialMargin": "0",
        "leverage": "20",
        "isolated": False,
        "positionSide": side,
        "entryPrice": "0.0",
        "breakEvenPrice": "0.0",
        "maxQty": "312",
        "updateTime": 0,
    } | (held or {})


_FLAGS = {"canDeposit": True, "canTrade": True, "canWithdraw": True, "feeTier": 2, "updateTime": 0}
_ONE_WAY = [_position("BOTH", _OPEN), _position("BOTH", _SHORT)]
_HEDGE = [_position("BOTH"), _position("LONG", _OPEN), _position("SHORT")]


def _said(summary: str, value: object) -> Json:
    return {"summary": summary, "value": value}


_EMPTY = _said("`?positionSide=LONG` in one-way mode: empty, and says nothing of what is open", [])

OF: dict[Shape, Json] = {
    Shape.ACCOUNT: {
        "one-way": _said("One-way mode", {"assets": [_ASSET], "positions": _ONE_WAY} | _FLAGS),
        "hedge": _said("Hedge mode: three rows a symbol", {"assets": [_ASSET], "positions": _HEDGE} | _FLAGS),
        "filtered": _said(
            "`?asset=BTC&open=true` in hedge mode", {"assets": [_ASSET], "positions": _HEDGE[1:2]} | _FLAGS
        ),
        "empty": _said("`?asset=XYZ`, which the account doesn't have", {"assets": [], "positions": []} | _FLAGS),
    },
    Shape.ASSETS: {
        "granted": _said("What the grant and the filters keep", [_ASSET]),
        "empty": _said("`?asset=XYZ`, which the account doesn't have", []),
    },
    Shape.ASSET: {"asset": _said("One row, no array around it", _ASSET)},
    Shape.POSITIONS: {
        "one-way": _said("One-way mode: long 120 contracts of one symbol, short 35 of another", _ONE_WAY),
        "hedge": _said("Hedge mode: three rows a symbol", _HEDGE),
        "filtered": _said("`?positionSide=LONG&open=true` in hedge mode", _HEDGE[1:2]),
        "empty": _EMPTY,
    },
    Shape.SYMBOL: {
        "one-way": _said("One-way mode: one row", _ONE_WAY[:1]),
        "hedge": _said("Hedge mode: three rows", _HEDGE),
    },
    Shape.POSITION: {"long": _said("One row, no array around it", _HEDGE[1])},
}

OF_OURS: dict[str, Json] = {
    "list_accounts": {
        "granted": _said(
            "Of `main` the coin BTC, on every side (`null`: all)",
            [{"account": "main", "environment": "production", "assets": ["BTC"], "positionSides": None}],
        )
    },
    "get_status": {
        "well": _said(
            "All is well",
            {
                "environment": "production",
                "version": service.__version__,
                "redis": "ok",
                "clockOffsetMs": 12,
                "weight": {"used": 35, "ceiling": 1920, "resetsAt": "2026-01-02T03:05:00.000Z", "savedTotal": 4210},
                "notBefore": None,
                "accounts": [
                    {
                        "account": "main",
                        "snapshotTime": "2026-01-02T03:04:05.678Z",
                        "ageMs": 412,
                        "positionMode": "hedge",
                        "lastRefresh": {"at": "2026-01-02T03:04:05.678Z", "outcome": "ok", "detail": None},
                        "credential": "5f2a90c1",
                        "notBefore": None,
                    }
                ],
            },
        )
    },
    "get_health": {"alive": _said("The event loop answers", {"status": "ok"})},
    "get_readiness": {"ready": _said("Settings and secrets are loaded", {"status": "ready"})},
}

DRAINING: Json = {"draining": _said("After SIGTERM", {"status": "draining"})}
