"""`coinm-gateway openapi`, and that an installed gateway has what `/docs` serves."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.process.conftest import run_command

ROOT = Path(__file__).parents[2]
COMMITTED = (ROOT / "openapi" / "openapi.yaml").read_bytes()


async def test_without_an_output_it_writes_the_committed_yaml_to_stdout() -> None:
    assert await run_command("openapi") == (0, COMMITTED.decode(), "")


@pytest.mark.parametrize("name", ["document.yaml", "document.yml"])
async def test_it_writes_yaml_by_the_files_ending(tmp_path: Path, name: str) -> None:
    assert await run_command("openapi", "--output", str(tmp_path / name)) == (0, "", "")
    assert (tmp_path / name).read_bytes() == COMMITTED


async def test_it_writes_json_by_the_files_ending(tmp_path: Path) -> None:
    file = tmp_path / "document.json"
    assert await run_command("openapi", "--output", str(file)) == (0, "", "")
    assert json.loads(file.read_bytes()) == yaml.safe_load(COMMITTED)


@pytest.mark.parametrize(
    ("name", "status", "complaint"),
    [
        ("document.txt", 2, "--output: expected a name ending in .yaml, .yml or .json"),
        ("missing/document.yaml", 1, "missing/document.yaml: No such file or directory"),
    ],
)
async def test_what_it_cannot_write_is_one_line(tmp_path: Path, name: str, status: int, complaint: str) -> None:
    found, output, errors = await run_command("openapi", "--output", str(tmp_path / name))
    assert (found, output) == (status, "")
    assert complaint in errors
    assert errors.count("\n") == 1


def test_the_wheel_holds_whatever_the_gateway_reads_and_no_simulator(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for guide in ("callers.md", "clients.md"):
            assert archive.read(f"service/web/{guide}") == (ROOT / "docs" / guide).read_bytes()
    for read in (*(ROOT / "service/store").glob("*.lua"), ROOT / "service/web/openapi/document.yaml"):
        assert str(read.relative_to(ROOT)) in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"service", "coinm_account_gateway"}
