"""What tests of every kind share."""

import io
import logging
import queue
from collections.abc import Iterator
from logging.handlers import QueueHandler
from typing import cast

import pytest

from service.telemetry import logs
from tests.programs import (
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from tests.support import FakeClock

__all__ = ["pytest_collection_modifyitems", "pytest_configure", "pytest_sessionfinish", "pytest_terminal_summary"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class LogText(io.StringIO):
    """What has been logged so far, whole: reading it waits for the lines that are still queued."""

    def getvalue(self) -> str:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, QueueHandler):
                cast("queue.Queue[object]", handler.queue).join()
        return super().getvalue()


@pytest.fixture(autouse=True)
def log_text() -> Iterator[io.StringIO]:
    """All that a test logs, as JSON lines."""
    text = LogText()
    with logs.logging_to(text):
        yield text
