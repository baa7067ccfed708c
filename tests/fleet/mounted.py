"""A volume of Secrets and ConfigMaps as kubelet mounts it: links through one more link, which is swapped as a whole."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


class MountedVolume:
    """One volume. Replaces whatever lies in its folder.

    Args:
        folder: where it is mounted.
        files: paths below it to contents. Kubelet links the first part of each path; so a folder is one link.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self._folder = folder
        self._versions = 0
        for old in folder.iterdir():
            old.unlink()
        self.publish(files)

    def publish(self, files: Mapping[str, str]) -> None:
        """A new version, all files at once but for the links to new ones: as kubelet's atomic writer does it."""
        data = self._folder / "..data"
        before = data.resolve() if data.is_symlink() else None
        self._versions += 1
        version = self._folder / f"..version_{self._versions}"
        for path, content in files.items():
            file = version / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, data)  # noqa: PTH105 - over a link to a folder
        for name in {Path(path).parts[0] for path in files}:
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(Path("..data") / name)
        if before is not None:
            shutil.rmtree(before)
