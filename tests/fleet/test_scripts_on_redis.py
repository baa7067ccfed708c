"""The lease and store scripts against their reference model, on a real Redis."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis.asyncio import Redis

from tests.unit.store.lease_model import LeaseMachine


@pytest.mark.timeout(180)
def test_whatever_replicas_do_lease_and_store_are_as_the_model_says(redis_port: int) -> None:
    class OnRedis(LeaseMachine):
        def connect(self) -> Redis:
            return Redis(port=redis_port)

    run_state_machine_as_test(
        OnRedis,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
