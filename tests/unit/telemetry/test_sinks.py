import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.telemetry.sinks import File, Stdout, fault, sink_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def sink(path: Path) -> Iterator[File]:
    file = File(path)
    file.open()
    yield file
    file.close()


def test_a_file_is_created_for_its_owner_alone(sink: File, path: Path) -> None:
    assert sink.write(b"a\n") == b""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_stands_in_a_file_stays(path: Path) -> None:
    path.write_bytes(b"before\n")
    path.chmod(0o640)
    file = File(path)
    file.open()
    file.write(b"after\n")
    file.close()
    assert path.read_bytes() == b"before\nafter\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # a group that was let in


@pytest.mark.parametrize("created", [True, False], ids=["created anew", "missing"])
def test_a_file_that_is_moved_away_is_begun_anew(sink: File, path: Path, *, created: bool) -> None:
    sink.write(b"old\n")
    rotated = path.rename(path.with_suffix(".1"))
    if created:
        path.touch(0o600)
    sink.write(b"new\n")
    assert (rotated.read_bytes(), path.read_bytes()) == (b"old\n", b"new\n")


def test_a_file_that_is_truncated_is_gone_on_with_at_its_beginning(sink: File, path: Path) -> None:
    sink.write(b"old\n")
    os.truncate(path, 0)
    sink.write(b"new\n")
    assert path.read_bytes() == b"new\n"


def test_a_file_that_cannot_be_begun_anew_is_told_and_goes_on_once_it_can(sink: File, path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        sink.write(b"line\n")
    path.rmdir()
    assert sink.write(b"line\n") == b""
    assert path.read_bytes() == b"line\n"


def test_a_full_disk_is_told() -> None:
    file = File(Path("/dev/full"))
    file.open()
    with pytest.raises(OSError, match="No space left"):
        file.write(b"line\n")
    file.close()


@pytest.fixture
def narrow(path: Path) -> Iterator[tuple[File, int]]:
    """A sink that takes 64 KiB and no more, and its other end."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = File(path)
    file.open()
    yield file, reader
    file.close()
    os.close(reader)


LINES = b"".join(b"%06d\n" % number for number in range(10_000))
HELD = 65_536


def test_a_line_that_was_begun_is_ended_where_it_was_begun(narrow: tuple[File, int]) -> None:
    file, reader = narrow
    left = file.write(LINES)
    assert left == LINES[HELD:]
    seen = os.read(reader, HELD)
    assert file.write(left) == b""
    assert seen + os.read(reader, HELD) == LINES


def test_a_line_that_was_begun_is_whole_in_the_next_file(narrow: tuple[File, int], path: Path) -> None:
    file, _ = narrow
    left = file.write(LINES)
    assert not LINES[:HELD].endswith(b"\n")
    path.unlink()
    path.touch()
    assert file.write(left) == b""
    assert path.read_bytes() == LINES[HELD // 7 * 7 :]


def test_it_is_whole_there_however_often_that_fails_first(narrow: tuple[File, int], path: Path) -> None:
    file, _ = narrow
    left = file.write(LINES)
    path.unlink()
    path.symlink_to("/dev/full")
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            file.write(left)
    path.unlink()
    path.touch()
    assert file.write(left) == b""
    assert path.read_bytes() == LINES[HELD // 7 * 7 :]


def test_a_pipe_that_nobody_reads_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert fault(path) == "cannot be written: No such device or address"


def test_stdout_takes_lines(capfd: pytest.CaptureFixture[str]) -> None:
    sink = sink_of(None)
    sink.open()
    assert sink.write(b"line\n") == b""
    sink.close()
    assert capfd.readouterr().out == "line\n"
    assert str(sink) == "stdout"
    assert isinstance(sink, Stdout)


def test_asking_whether_a_file_can_be_written_creates_none(path: Path) -> None:
    assert fault(path) is None
    assert not path.exists()
    path.touch()
    assert fault(path) is None


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert fault(tmp_path) == "cannot be written: Is a directory"
    assert fault(tmp_path / "none" / "audit.jsonl") == "cannot be created in its folder"
