"""A fleet: gateway processes with one Redis and one simulated exchange between them."""

from tests.process.conftest import exchange, exchange_url, redis_port

__all__ = ["exchange", "exchange_url", "redis_port"]
