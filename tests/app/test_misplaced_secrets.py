"""A secret at a wrong place of the settings shows nowhere: not at the start, not in a command, not at a reload.

`COINM_TEST_MISPLACED` is how many files each test tries, the same at every run, of some fifty thousand.
"""

import os
import random
import tomllib
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner

from service.app import create_app
from service.cli import main
from service.reload import read
from service.settings import effective
from service.settings_file import SettingsError
from tests.app.harness import Stage
from tests.conftest import LogText
from tests.misplaced import MARK, SECRETS, keys, misplaced, mistyped, toml
from tests.process.conftest import run_command
from tests.support import write_settings

T = TypeVar("T")

TRIED = int(os.environ.get("COINM_TEST_MISPLACED", "40"))
KEYS = list(keys())


def sample(files: Iterable[T]) -> list[T]:
    files = list(files)
    return random.Random(0).sample(files, min(TRIED, len(files)))


def all_files(folder: Path) -> list[str]:
    text = write_settings(folder).read_text()
    whole = tomllib.loads(text)
    return [toml(document) for key in KEYS for document in misplaced(whole, key)] + list(mistyped(text))


def shown_at_the_start(file: Path) -> str:
    """Whatever there is to see of settings, good or bad."""
    try:
        settings = read(file).settings
        return f"{settings!r}{effective(settings)}{create_app(settings).gateway!r}"
    except SettingsError as exc:
        return f"{exc}{exc!r}" + "".join(traceback.format_exception(exc))


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_a_secret_at_a_key_shows_nowhere(tmp_path: Path, key: tuple[str, ...]) -> None:
    file = write_settings(tmp_path)
    whole = tomllib.loads(file.read_text())
    for document in sample(misplaced(whole, key)):
        file.write_text(toml(document))
        assert MARK.lower() not in shown_at_the_start(file).lower(), document


def test_a_secret_in_a_syntax_error_shows_nowhere(tmp_path: Path) -> None:
    file = write_settings(tmp_path)
    for text in sample(mistyped(file.read_text())):
        file.write_text(text)
        assert MARK.lower() not in shown_at_the_start(file).lower(), text


@pytest.mark.parametrize("name", ["api_key", "secret_key"])
def test_a_secret_of_another_form_in_its_own_file_shows_nowhere(tmp_path: Path, name: str) -> None:
    file = write_settings(tmp_path)
    for secret in SECRETS.values():
        for content in (secret, f"{secret} {secret}", f"-----BEGIN {secret}", secret * 5_000):
            (tmp_path / "secrets" / name).write_bytes(content.encode())
            assert MARK not in shown_at_the_start(file)


@pytest.mark.parametrize("command", ["check", "resume"])
def test_a_command_that_refuses_its_settings_says_so_in_one_line(tmp_path: Path, command: str) -> None:
    file = tmp_path / "gateway.toml"
    for text in sample(all_files(tmp_path)):
        file.write_text(text)
        try:
            create_app(read(file).settings)
        except SettingsError:
            result = CliRunner().invoke(main, [command, "--config", str(file)])
            assert (result.exit_code, result.output.count("\n")) == (2, 1), text
            assert MARK.lower() not in result.output.lower(), text


async def test_a_secret_at_a_wrong_place_is_not_logged_by_a_running_gateway(stage: Stage, log_text: LogText) -> None:
    gateway, reloader = await stage.start_watched()
    whole = stage.file.read_text()
    for text in sample(all_files(stage.folder)):
        stage.file.write_text(text)
        await reloader.check_now()
        metrics = gateway.metrics()
        assert MARK.lower() not in f"{metrics}{gateway.gateway!r}".lower(), text
    stage.file.write_text(whole)
    await reloader.check_now()
    assert 'settings_refused"' in log_text.getvalue()
    assert "settings_fault" not in log_text.getvalue()
    assert MARK.lower() not in f"{log_text.getvalue()}{log_text.unmasked()}".lower()


@pytest.mark.parametrize(
    "arguments",
    [
        [SECRETS["token"]],
        ["serve", "--port", SECRETS["token"]],
        ["serve", SECRETS["token"]],
        [f"--{SECRETS['word']}"],
        ["check", f"--config={SECRETS['word']}", f"--{SECRETS['word']}=1"],
        ["token", SECRETS["token"]],
        ["token", "a", SECRETS["token"]],
        ["openapi", "--output", f"a.{SECRETS['word']}"],
    ],
)
def test_a_secret_in_a_wrong_argument_is_not_shown(tmp_path: Path, arguments: list[str]) -> None:
    config = {"COINM_GATEWAY_CONFIG": str(write_settings(tmp_path))}
    result = CliRunner().invoke(main, arguments, env=config)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert result.output.startswith("coinm-gateway: ")
    assert MARK.lower() not in result.output.lower()


@pytest.mark.parametrize("name", ["accounts.main.api_key_file", "redis.sentinels", "audit.file"])
async def test_a_process_shows_no_secret_that_stands_at_a_wrong_place(tmp_path: Path, name: str) -> None:
    file = write_settings(tmp_path)
    value = f":{SECRETS['word']}@host:26379"
    document = tomllib.loads(file.read_text())
    table = document
    *tables, key = name.split(".")
    for each in tables:
        table = table.setdefault(each, {})
    table |= {key: [value], "master": "m"} if key == "sentinels" else {key: f"{value}/{value}"}
    file.write_text(toml(document))
    for command in ("resume", "check"):
        assert MARK not in str((await run_command(command, "--config", str(file)))[1:])
    status, output, errors = await run_command("serve", "--config", str(file))
    assert MARK not in output + errors
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"coinm-gateway: {file}: {name}"), errors
