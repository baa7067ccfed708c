"""A Secret as kubelet mounts it: links to a folder behind one more link, which is swapped as a whole."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


class MountedSecret:
    """One volume. Replaces whatever lies in its folder.

    Args:
        folder: where it is mounted.
        files: names to contents.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self._folder = folder
        self._versions = 0
        for old in folder.iterdir():
            old.unlink()
        self.publish(files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def publish(self, files: Mapping[str, str]) -> None:
        """A new version, all files at once: as kubelet's atomic writer does it."""
        data = self._folder / "..data"
        before = data.resolve() if data.is_symlink() else None
        self._versions += 1
        version = self._folder / f"..version_{self._versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_text(content)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, data)  # noqa: PTH105 - over a link to a folder
        if before is not None:
            shutil.rmtree(before)
