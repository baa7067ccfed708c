"""Answers as they are seen: one-way and hedge mode, filtered, empty."""

from service.account.selection import Shape
from service.web.openapi.schemas import Json

_ASSET: Json = {
    "asset": "BTC",
    "walletBalance": "0.00241969",
    "unrealizedProfit": "0.00000000",
    "marginBalance": "0.00241969",
    "maintMargin": "0.00000000",
    "initialMargin": "0.00000000",
    "positionInitialMargin": "0.00000000",
    "openOrderInitialMargin": "0.00000000",
    "maxWithdrawAmount": "0.00241969",
    "crossWalletBalance": "0.00241969",
    "crossUnPnl": "0.00000000",
    "availableBalance": "0.00241969",
    "updateTime": 1625474304765,
}


def _position(side: str, amount: str = "0") -> Json:
    return {
        "symbol": "BTCUSD_PERP",
        "positionAmt": amount,
        "initialMargin": "0",
        "maintMargin": "0",
        "unrealizedProfit": "0.00000000",
        "positionInitialMargin": "0",
        "openOrderInitialMargin": "0",
        "leverage": "125",
        "isolated": False,
        "positionSide": side,
        "entryPrice": "0.0",
        "breakEvenPrice": "0.0",
        "maxQty": "50",
        "updateTime": 0,
    }


_FLAGS = {"canDeposit": True, "canTrade": True, "canWithdraw": True, "feeTier": 2, "updateTime": 0}
_ONE_WAY = [_position("BOTH", "-10")]
_HEDGE = [_position("BOTH"), _position("LONG", "12"), _position("SHORT")]


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
        "one-way": _said("One-way mode: short 10 contracts", _ONE_WAY),
        "hedge": _said("Hedge mode: three rows a symbol", _HEDGE),
        "filtered": _said("`?positionSide=LONG&open=true` in hedge mode", _HEDGE[1:2]),
        "empty": _EMPTY,
    },
    Shape.SYMBOL: {"one-way": _said("One-way mode: one row", _ONE_WAY), "hedge": _said("Hedge mode: three", _HEDGE)},
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
                "version": "0.1.0",
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
                        "lastRefresh": {"at": "2026-01-02T03:04:05.678Z", "outcome": "ok"},
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
