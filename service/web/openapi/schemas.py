"""The bodies: the exchange's rows, which pass through byte for byte, and the gateway's own.

Meanings and units of the rows: "COIN-M docs, Account Information (USER_DATA)". Only the fields that tell rows apart are
required: an answer without them is refused whole. Fields that the exchange adds later are passed on.
"""

from typing import Any

import msgspec

from service.account.rows import POSITION_SIDES
from service.web.accounts import VisibleAccount
from service.web.binance_errors import BinanceError
from service.web.operations import Status
from service.web.problems import Problem

Json = dict[str, Any]

REF = "#/components/schemas/{name}"


def ref(name: str) -> Json:
    return {"$ref": REF.format(name=name)}


def array_of(name: str) -> Json:
    return {"type": "array", "items": ref(name)}


def schemas() -> Json:
    """Every named schema (JSON Schema 2020-12)."""
    _, ours = msgspec.json.schema_components([VisibleAccount, Status, Problem, BinanceError], ref_template=REF)
    theirs = {"Account": ACCOUNT, "Asset": ASSET, "Position": POSITION, "PositionSide": POSITION_SIDE}
    theirs |= {"ExchangeInfo": EXCHANGE_INFO, "ServerTime": SERVER_TIME, "Empty": EMPTY}
    return theirs | {"Health": HEALTH} | {name: ours[name] for name in sorted(ours)}


def _amount(meaning: str) -> Json:
    """The OpenAPI format registry's `decimal`; no pattern, as the exchange promises none."""
    return {"type": "string", "format": "decimal", "description": meaning}


def _integer(meaning: str, form: str = "int64") -> Json:
    return {"type": "integer", "format": form, "description": meaning}


def _object(description: str, required: list[str], properties: Json) -> Json:
    return {
        "type": "object",
        "description": description,
        "required": required,
        "properties": properties,
        "additionalProperties": True,
    }


ASSET = _object(
    "One coin's balances and margins. Every amount is a decimal string in that coin, exactly as the exchange printed "
    "it: parse it as a decimal, never as a float.",
    ["asset"],
    {
        "asset": {"type": "string", "description": "The coin.", "examples": ["BTC"]},
        "walletBalance": _amount("Wallet balance, cross and isolated together."),
        "unrealizedProfit": _amount("Unrealised profit or loss of all positions margined in the coin, at mark price."),
        "marginBalance": _amount("`walletBalance` + `unrealizedProfit`."),
        "maintMargin": _amount("Maintenance margin."),
        "initialMargin": _amount("`positionInitialMargin` + `openOrderInitialMargin`, at mark price."),
        "positionInitialMargin": _amount("Initial margin that the positions need, at mark price."),
        "openOrderInitialMargin": _amount("Initial margin that the open orders need, at mark price."),
        "maxWithdrawAmount": _amount("What may be transferred out."),
        "crossWalletBalance": _amount("Wallet balance of cross margin."),
        "crossUnPnl": _amount("Unrealised profit or loss of the cross positions."),
        "availableBalance": _amount("Margin that is free for new positions."),
        "updateTime": _integer("Last change of the balance, ms since the epoch; 0: never touched."),
    },
)

POSITION = _object(
    "One symbol's position on one side. A symbol has its rows also where nothing is open: `positionAmt` is then zero, "
    'in whatever form (`"0"`, `"0.0"`). Amounts are decimal strings, exactly as the exchange printed them.',
    ["symbol", "positionSide"],
    {
        "symbol": {
            "type": "string",
            "description": "The contract; the settlement coin comes before `USD_`.",
            "examples": ["BTCUSD_PERP", "BTCUSD_261225"],
        },
        "positionSide": ref("PositionSide"),
        "positionAmt": _amount(
            "Size in **contracts** (not coins), negative when short. One is 100 USD for BTC, 10 USD for other coins."
        ),
        "initialMargin": _amount("Initial margin, in the settlement coin."),
        "maintMargin": _amount("Maintenance margin, in the settlement coin."),
        "unrealizedProfit": _amount("Unrealised profit or loss at mark price, in the settlement coin."),
        "positionInitialMargin": _amount("Initial margin of the position, in the settlement coin."),
        "openOrderInitialMargin": _amount("Initial margin of the symbol's open orders, in the settlement coin."),
        "leverage": _amount("Leverage: a number in a string."),
        "isolated": {"type": "boolean", "description": "Isolated margin; else cross."},
        "entryPrice": _amount("Average entry price, in USD."),
        "breakEvenPrice": _amount("Break-even price, in USD."),
        "maxQty": _amount("Largest position at this leverage; the exchange calls it a quantity of the base asset."),
        "notionalValue": _amount("Notional value, in the settlement coin; may carry the position's sign."),
        "isolatedWallet": _amount("Wallet of an isolated position, in the settlement coin."),
        "updateTime": _integer("Last change of the position, ms since the epoch; 0: never."),
    },
)

POSITION_SIDE = {
    "type": "string",
    "enum": list(POSITION_SIDES),
    "description": "`BOTH` is the only row of one-way mode. In hedge mode `LONG` and `SHORT` hold the positions, and "
    "the `BOTH` row stays at zero.",
}

ACCOUNT = _object(
    "The account, both arrays cut by the caller's grant and filters. COIN-M knows no totals over coins.",
    ["assets", "positions"],
    {
        "assets": array_of("Asset") | {"description": "A row a coin, in the exchange's order."},
        "positions": array_of("Position") | {"description": "A row a symbol and side, in the exchange's order."},
        "canDeposit": {"type": "boolean", "description": "Whether transfers into the account are allowed."},
        "canTrade": {"type": "boolean", "description": "Whether the account may trade."},
        "canWithdraw": {"type": "boolean", "description": "Whether transfers out of it are allowed."},
        "feeTier": _integer("The account's fee tier.", "int32"),
        "updateTime": _integer("Reserved, 0. It says nothing of freshness: the headers do."),
    },
)

EXCHANGE_INFO = _object(
    "The exchange's contracts and limits, as it sent them.",
    ["symbols"],
    {
        "serverTime": _integer("When the exchange wrote it, ms since the epoch: as old as the answer's `Age`."),
        "symbols": {
            "type": "array",
            "description": "A row a contract.",
            "items": _object(
                "One contract; what else there is of it passes through.",
                [],
                {
                    "symbol": {"type": "string", "description": "The contract.", "examples": ["BTCUSD_PERP"]},
                    "marginAsset": {"type": "string", "description": "The settlement coin.", "examples": ["BTC"]},
                },
            ),
        },
    },
)

SERVER_TIME = _object(
    "What time it is at the exchange.",
    ["serverTime"],
    {"serverTime": _integer("Milliseconds since the epoch, by the gateway's measured clock.")},
)

EMPTY = {"type": "object", "description": "Nothing to tell.", "maxProperties": 0}

HEALTH = {
    "type": "object",
    "description": "What a probe reads.",
    "required": ["status"],
    "properties": {"status": {"type": "string", "enum": ["ok", "ready", "draining"], "description": "In one word."}},
}
