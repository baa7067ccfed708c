"""Which paths decide what a file is, and that nothing else has the files read again."""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.cache.flight import cancel_and_wait
from service.reload import Reloader, read, watch_paths
from tests.fleet.mounted import MountedVolume
from tests.support import World, until, write_settings


def test_a_files_own_path_decides_what_it_is(tmp_path: Path) -> None:
    assert watch_paths(tmp_path / "a" / ".." / "file") == {tmp_path.resolve() / "file"}


def test_every_link_on_the_way_decides_what_a_file_is(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    volume = folder / "volume"
    volume.mkdir()
    MountedVolume(volume, {"secrets/key": "x"})
    (folder / "key").symlink_to("volume/secrets/key")
    expected = {folder / "key", volume / "secrets", volume / "..data", volume / "..version_1" / "secrets" / "key"}
    assert watch_paths(folder / "key") == expected


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert {path.name for path in watch_paths(tmp_path / "a")} >= {"a", "b"}


class Counting(Reloader):
    """Counts its checks."""

    checks = 0

    async def check_now(self) -> None:
        await super().check_now()
        self.checks += 1


@asynccontextmanager
async def watched(file: Path) -> AsyncIterator[Counting]:
    """A gateway that follows a settings file, and has checked it for the first time."""
    (file.parent / "world").mkdir()
    reloader = Counting(World(file.parent / "world").app().gateway, file, read(file))
    watching = asyncio.create_task(reloader.watch())
    await until(lambda: reloader.checks == 1, 10, "it has checked once")
    try:
        yield reloader
    finally:
        await cancel_and_wait(watching)


async def quiet(reloader: Counting) -> int:
    """How often it has checked, once it has had the time to see all that happened."""
    await asyncio.sleep(0.5)
    return reloader.checks


def grown(path: Path) -> None:
    path.write_text(path.read_text() + "# more\n")


def replaced(path: Path) -> None:
    (path.parent / ".saved").write_text(path.read_text() + "# more\n")
    os.replace(path.parent / ".saved", path)  # noqa: PTH105 - as an editor does


@pytest.mark.parametrize("change", [grown, replaced])
@pytest.mark.parametrize("name", ["gateway.toml", "secrets/api_key"])
async def test_a_named_file_that_changes_is_looked_at(
    tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    file = write_settings(tmp_path)
    async with watched(file) as reloader:
        change(tmp_path / name)
        await until(lambda: reloader.checks > 1, 10, "it has checked again")


async def test_a_log_beside_the_settings_has_nothing_read_again(tmp_path: Path, log_text: io.StringIO) -> None:
    async with watched(write_settings(tmp_path)) as reloader:
        for number in range(10):
            for folder in (tmp_path, tmp_path / "secrets"):
                with (folder / "nohup.out").open("a") as log:
                    log.write(f"{number}\n")
                (folder / "other").write_text("x")
                (folder / "other").unlink()
            await asyncio.sleep(0.06)
        assert await quiet(reloader) == 1
    assert "watchfiles" not in log_text.getvalue()


async def test_a_link_whose_target_changes_in_place_is_looked_at(tmp_path: Path) -> None:
    file = write_settings(tmp_path)
    target = (tmp_path / "elsewhere") / "key"
    target.parent.mkdir()
    (tmp_path / "secrets" / "api_key").rename(target)
    (tmp_path / "secrets" / "api_key").symlink_to(target)
    async with watched(file) as reloader:
        target.write_text("another")
        await until(lambda: reloader.checks > 1, 10, "it has checked again")


async def test_a_volume_that_is_swapped_is_looked_at_once(tmp_path: Path) -> None:
    write_settings(tmp_path)
    files = {name: (tmp_path / name).read_text() for name in ("gateway.toml", "secrets/api_key", "secrets/secret_key")}
    (tmp_path / "mount").mkdir()
    volume = MountedVolume(tmp_path / "mount", files)
    async with watched(tmp_path / "mount" / "gateway.toml") as reloader:
        for checks in (2, 3):
            volume.publish(files | {"gateway.toml": files["gateway.toml"] + f"# {checks}\n"})
            await until(lambda checks=checks: reloader.checks == checks, 10, "it has checked again")  # type: ignore[misc]
            assert await quiet(reloader) == checks


async def test_files_that_the_settings_name_anew_are_followed(tmp_path: Path) -> None:
    file = write_settings(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "key").write_text("another")
    async with watched(file) as reloader:
        file.write_text(file.read_text().replace("secrets/api_key", "new/key"))
        await until(
            lambda: reloader.checks > 2, 10, "it has checked again"
        )  # once more, now that the new folder is watched
        (tmp_path / "new" / "key").write_text("a third")
        await until(lambda: reloader.checks > 3, 10, "it has checked again")
