"""A stage for every test; after it the canary, and the document held against every answer."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.app.canary import leaks
from tests.app.contract import deviations
from tests.app.harness import Replica, Stage
from tests.conftest import LogText

MakeStage = Callable[..., Stage]


@pytest.fixture
async def make_stage(tmp_path: Path, log_text: LogText) -> AsyncIterator[MakeStage]:
    """Worlds with settings of the test's own; each is searched for secrets when the test is over."""
    stages: list[Stage] = []

    def make(**tables: dict[str, object]) -> Stage:
        folder = tmp_path / str(len(stages))
        folder.mkdir()
        stages.append(Stage(folder, **tables))
        return stages[-1]

    yield make
    for stage in stages:
        await stage.stop()
        secrets = stage.secrets()
        found = [leak async for place, text in stage.traces() for leak in leaks(place, text, secrets)]
        found += leaks("the log", log_text.getvalue(), secrets)
        found += leaks("the log before it is masked", "\n".join(log_text.unmasked()), secrets)
        assert not found
        assert [deviation for answer in stage.answers for deviation in deviations(answer)] == []


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage()


@pytest.fixture
async def gateway(stage: Stage) -> Replica:
    """A replica that has been asked nothing yet."""
    return await stage.start()
