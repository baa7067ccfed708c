"""How the threads of a real process take their turns."""

import os
from pathlib import Path

import pytest

from tests.process.conftest import gateway_process, tables


@pytest.mark.parametrize(("setting", "policy"), [(None, os.SCHED_OTHER), ("batch", os.SCHED_BATCH)])
async def test_the_threads_that_serve_are_scheduled_as_the_settings_say(
    tmp_path: Path, redis_port: int, exchange_url: str, setting: str | None, policy: int
) -> None:
    settings = tables(redis_port, exchange_url)
    if setting is not None:
        settings["server"]["scheduling"] = setting
    async with gateway_process(tmp_path, settings) as gateway:
        assert gateway.process is not None
        threads = {thread: os.sched_getscheduler(thread) for thread in threads_of(gateway.process.pid)}
    assert threads.pop(gateway.process.pid) == policy
    assert list(threads.values()).count(policy) >= 2  # the metrics' and the server's own


def threads_of(process: int) -> list[int]:
    return [int(each.name) for each in Path(f"/proc/{process}/task").iterdir()]
