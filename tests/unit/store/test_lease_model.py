"""The lease and store scripts against a reference model, on the embedded Redis.

`fleet/test_scripts_on_redis.py` does so on a real one, which is quicker, with three times the examples.
"""

from typing import cast

from fakeredis import FakeAsyncRedis, FakeServer
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis

from tests.unit.store.lease_model import LeaseMachine


class OnFakeRedis(LeaseMachine):
    def connect(self) -> Redis:
        return cast("Redis", FakeAsyncRedis(server=FakeServer()))


TestOnFakeRedis = OnFakeRedis.TestCase
TestOnFakeRedis.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
