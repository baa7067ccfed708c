"""A fleet: gateway processes with one Redis and one simulated exchange between them."""

import pytest

from tests.process.conftest import exchange, exchange_url, redis_port
from tests.programs import require

__all__ = ["exchange", "exchange_url", "redis_port"]


@pytest.fixture
def haproxy() -> str:
    return require("haproxy")
