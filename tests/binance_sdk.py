"""Binance's own client for COIN-M, made and closed again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from binance_common.configuration import ConfigurationRestAPI
from binance_sdk_derivatives_trading_coin_futures.rest_api import DerivativesTradingCoinFuturesRestAPI

Client = DerivativesTradingCoinFuturesRestAPI


@contextmanager
def clients() -> Iterator[Callable[[ConfigurationRestAPI], Client]]:
    """Makes clients, whose connections the end of the block closes: they have no method for that."""
    made: list[Client] = []

    def make(configuration: ConfigurationRestAPI) -> Client:
        made.append(DerivativesTradingCoinFuturesRestAPI(configuration))
        return made[-1]

    yield make
    for client in made:
        for session in [value for value in vars(client).values() if hasattr(value, "close")]:
            session.close()
