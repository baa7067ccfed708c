"""What tests of every kind share."""

import io
from collections.abc import Iterator

import pytest

from service.telemetry import logs
from tests.support import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def log_text() -> Iterator[io.StringIO]:
    """All that a test logs, as JSON lines; complete once the test is over, or after `logging_to` ends."""
    text = io.StringIO()
    with logs.logging_to(text):
        yield text
