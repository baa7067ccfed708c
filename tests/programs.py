"""Tests that need a program which isn't there are listed as not run, by name; with `CI` set they fail."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = {
    "redis_port": "redis-server",
    "redis_servers": "redis-server",
    "curl": "curl",
    "chromium": "chromium",
    "haproxy": "haproxy",
    "kubectl": "kubectl",
    "node": "node",
    "promtool": "promtool",
    "unshare": "unshare",
}
"""By the fixture that starts it."""

ROOT = Path(__file__).parents[1]
CLIENTS = ROOT / ".venv" / "clients"
JAVASCRIPT = ROOT / "tests" / "process" / "javascript" / "node_modules"
POLICIES = ROOT / ".venv" / "policies"
FOLDERS = {"clients": CLIENTS, "javascript": JAVASCRIPT, "checkov": POLICIES}
"""What make installs beside the environment, by the fixture that looks into it."""

LONGEST = {"test_schemathesis.py"}
"""Files that take minutes: they begin first, so that no worker is alone with one in the end."""

_NOT_RUN = pytest.StashKey[list[str]]()
_TOLD = "not run"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    not_run = [] if os.environ.get("CI") else [item for item in items if missing(item)]
    config.stash[_NOT_RUN] = [f"{item.nodeid} (needs {', '.join(missing(item))})" for item in not_run]
    if not_run:
        config.hook.pytest_deselected(items=not_run)
        items[:] = [item for item in items if item not in not_run]
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its list to the process that reports."""
    told: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told[_TOLD] = session.config.stash.get(_NOT_RUN, [])


class Workers:
    """What the reporting process hears of its workers; each has collected every test."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        node.config.stash[_NOT_RUN] = node.workeroutput.get(_TOLD, []) if hasattr(node, "workeroutput") else []


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Workers())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    names = config.stash.get(_NOT_RUN, [])
    if names:
        terminalreporter.section("not run: a program is missing")
        for name in names:
            terminalreporter.write_line(name)


def missing(item: pytest.Item) -> list[str]:
    """The programs and folders that a test needs and this machine has not."""
    fixtures: Iterable[str] = getattr(item, "fixturenames", ())
    programs = {PROGRAMS[name] for name in fixtures if name in PROGRAMS}
    folders = {FOLDERS[name] for name in fixtures if name in FOLDERS}
    absent = [program for program in programs if shutil.which(program) is None or not _permitted(program)]
    return sorted(absent + [os.path.relpath(folder, ROOT) for folder in folders if not folder.is_dir()])


@cache
def _permitted(program: str) -> bool:
    """Whether this user may do what the tests do with a program: namespaces take privileges."""
    command = [program, "--mount", "--pid", "--fork", "--kill-child", "true"]
    return program != "unshare" or subprocess.run(command, check=False, capture_output=True).returncode == 0


def require(program: str) -> str:
    """The program's path; its absence fails the test."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"{program} is not installed")
    return path


def require_folder(folder: Path) -> Path:
    """The folder; its absence fails the test."""
    if not folder.is_dir():
        pytest.fail(f"{folder} is not installed")
    return folder
