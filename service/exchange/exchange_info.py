"""What the gateway needs of `GET /dapi/v1/exchangeInfo` (margin assets, the live weight limit), and how it is shared.

COIN-M docs: symbols carry `marginAsset`; `rateLimits` carries REQUEST_WEIGHT per minute.
"""

# Read leniently: every member but the list of symbols has a default. What is missing has a substitute (the form of the
# symbol's name, the configured limit), so it doesn't stop reads of accounts.

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from service.exchange.responses import MalformedAnswerError

EXCHANGE_INFO_MAX_AGE = 60 * 60 * 1000
"""Ms after which exchangeInfo is fetched again. Contracts are listed and delivered by the quarter."""


class _RateLimit(msgspec.Struct, rename="camel"):
    rate_limit_type: str = ""
    interval: str = ""
    interval_num: int = 0
    limit: int = 0


class _Symbol(msgspec.Struct, rename="camel"):
    symbol: str = ""
    margin_asset: str = ""


class _ExchangeInfo(msgspec.Struct, rename="camel"):
    symbols: list[_Symbol]
    rate_limits: list[_RateLimit] = []


class ExchangeInfo(msgspec.Struct, frozen=True):
    """exchangeInfo: symbols to margin assets, the exchange's weight limit per minute if any, and the body as sent."""

    margin_assets: Mapping[str, str] = MappingProxyType({})
    weight_limit: int | None = None
    body: bytes = b""

    def __repr__(self) -> str:
        return f"<ExchangeInfo symbols={len(self.margin_assets)} weight_limit={self.weight_limit}>"


class SharedExchangeInfo(msgspec.Struct, frozen=True):
    """exchangeInfo as one replica fetched it for all."""

    body: bytes
    remaining_ms: int
    """Of its `EXCHANGE_INFO_MAX_AGE`."""


class ExchangeInfoStore(Protocol):
    """Shared by every replica of one environment and exchange; without Redis nothing raises, and each has its own."""

    async def get(self) -> SharedExchangeInfo | None: ...

    async def put(self, body: bytes) -> None:
        """Share what this replica has just fetched."""
        ...

    async def acquire_once(self, life_ms: int) -> bool | None:
        """Whether this replica may fetch it for all; no other may for that time. `None`: each for itself."""
        ...


def parse(body: bytes) -> ExchangeInfo:
    """Read exchangeInfo.

    Raises:
        MalformedAnswerError: not the documented shape.
    """
    try:
        info = msgspec.json.decode(body, type=_ExchangeInfo)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswerError("exchangeInfo is not of the documented shape") from None
    margin_assets = {row.symbol: row.margin_asset for row in info.symbols if row.margin_asset}
    limits = [
        row.limit
        for row in info.rate_limits
        if (row.rate_limit_type, row.interval, row.interval_num) == ("REQUEST_WEIGHT", "MINUTE", 1)
    ]
    # Of several, the strictest. Zero or less would stop every call, so it counts as absent.
    weight_limit = min((limit for limit in limits if limit > 0), default=None)
    return ExchangeInfo(MappingProxyType(margin_assets), weight_limit, body)
