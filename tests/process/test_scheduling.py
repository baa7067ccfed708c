"""How the threads of a real process take their turns."""

import os
from pathlib import Path

import pytest

from tests.process.conftest import gateway_process, tables


@pytest.mark.parametrize(("setting", "policy"), [(None, os.SCHED_BATCH), ("normal", os.SCHED_OTHER)])
async def test_all_threads_of_a_serving_process_are_scheduled_as_the_settings_say(
    tmp_path: Path, redis_port: int, exchange_url: str, setting: str | None, policy: int
) -> None:
    settings = tables(redis_port, exchange_url)
    if setting is not None:
        settings["server"]["scheduling"] = setting
    async with gateway_process(tmp_path, settings) as gateway:
        assert gateway.process is not None
        threads = threads_of(gateway.process.pid)
        assert len(threads) > 3  # the loop's, the log's, the metrics', and the server's own
        assert {os.sched_getscheduler(thread) for thread in threads} == {policy}


def threads_of(process: int) -> list[int]:
    return [int(each.name) for each in Path(f"/proc/{process}/task").iterdir()]
