"""What tests of every kind share."""

import io
import logging
from collections.abc import Iterator, Sequence

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


class _Unmasked(logs.Redactor):
    """Keeps every text as it was before it is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def lines(self, texts: Sequence[str]) -> str:
        self.texts += texts
        return super().lines(texts)


class LogText(io.StringIO):
    """What has been logged so far, whole: reading it waits for the lines that are still queued."""

    def __init__(self) -> None:
        super().__init__()
        self.redactor = _Unmasked()

    def getvalue(self) -> str:
        for handler in logging.getLogger().handlers:
            handler.flush()
        return super().getvalue()

    def unmasked(self) -> list[str]:
        """The lines before they were masked."""
        self.getvalue()
        return self.redactor.texts


@pytest.fixture(autouse=True)
def log_text() -> Iterator[LogText]:
    """All that a test logs, as JSON lines."""
    text = LogText()
    with logs.logging_to(text, redactor=text.redactor):
        yield text
