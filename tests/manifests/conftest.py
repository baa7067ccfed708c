"""Manifests, rendered by kubectl; no cluster."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.app.harness import Stage
from tests.manifests.rendered import OVERLAYS, Manifests, rendered
from tests.process.conftest import exchange, exchange_url, redis_port
from tests.programs import POLICIES, require, require_folder

__all__ = ["exchange", "exchange_url", "redis_port"]


@pytest.fixture
def kubectl() -> str:
    return require("kubectl")


@pytest.fixture
def promtool() -> str:
    return require("promtool")


@pytest.fixture
def checkov() -> Path:
    """The environment of the program that knows the policies."""
    return require_folder(POLICIES)


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, kubectl: str) -> Manifests:
    """Each overlay's."""
    return rendered(kubectl, request.param)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A world for a gateway that runs."""
    stage = Stage(tmp_path)
    yield stage
    await stage.stop()
