from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from logstore.taskiq.results import atomic


class Disk:
    """Records what is made durable, and in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        fsync, replace, unlink = os.fsync, os.replace, os.unlink

        def recording_fsync(descriptor: int) -> None:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            self.steps.append("sync directory" if os.path.isdir(target) else "sync file")
            fsync(descriptor)

        def recording_replace(source: Path, target: Path) -> None:
            self.steps.append("rename")
            replace(source, target)

        def recording_unlink(path: Path) -> None:
            self.steps.append("unlink")
            unlink(path)

        monkeypatch.setattr(atomic.os, "fsync", recording_fsync)  # type: ignore[attr-defined]
        monkeypatch.setattr(atomic.os, "replace", recording_replace)  # type: ignore[attr-defined]
        monkeypatch.setattr(atomic.os, "unlink", recording_unlink)  # type: ignore[attr-defined]


def test_a_file_is_synced_before_its_name_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    atomic.write_file(tmp_path / "a", b"data")
    assert disk.steps == ["sync file", "rename", "sync directory"]
    assert (tmp_path / "a").read_bytes() == b"data"


def test_a_removal_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"")
    disk = Disk(monkeypatch)
    assert atomic.remove_file(tmp_path / "a") is True
    assert disk.steps == ["unlink", "sync directory"]
    assert atomic.remove_file(tmp_path / "a") is False


def test_new_directories_are_synced_from_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    atomic.make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert disk.steps == ["sync directory", "sync directory"]
    disk.steps.clear()
    atomic.make_directory(tmp_path / "a" / "b")
    assert disk.steps == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    atomic.write_file(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, failing, fail)  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="No space left"):
            atomic.write_file(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("failing", [None, "fsync", "replace", "unlink"])
def test_no_descriptor_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str | None
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    atomic.write_file(tmp_path / "a", b"x")
    (tmp_path / ".writing-left").touch()
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        if failing is not None:
            patch.setattr(os, failing, fail)
        for call in (
            lambda: atomic.write_file(tmp_path / "a", b"y"),
            lambda: atomic.make_directory(tmp_path / "b"),
            lambda: atomic.remove_leftovers(tmp_path),
            lambda: atomic.remove_file(tmp_path / "a"),
        ):
            with contextlib.suppress(OSError):
                call()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_tells_its_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        raise error("the first")

    def fail_too(*_: object) -> None:
        raise PermissionError("the second")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        patch.setattr(os, "unlink", fail_too)
        with pytest.raises(error, match="the first"):
            atomic.write_file(tmp_path / "a", b"new")


def test_an_interrupt_of_the_tidying_of_a_failed_write_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def interrupt(*_: object) -> None:
        raise RuntimeError("raised by a signal handler")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        patch.setattr(os, "unlink", interrupt)
        with pytest.raises(RuntimeError, match="signal handler"):
            atomic.write_file(tmp_path / "a", b"new")


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    atomic.write_file(tmp_path / "new" / "dir" / "a", b"x")
    assert (tmp_path / "new" / "dir" / "a").read_bytes() == b"x"


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    atomic.write_file(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


_DIES_WHILE_WRITING = """
import os, sys
from pathlib import Path
from logstore.taskiq.results import atomic
atomic.os.fsync = lambda descriptor: os._exit(9)
atomic.write_file(Path(sys.argv[1]) / "a", b"half")
"""


def test_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _DIES_WHILE_WRITING, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "other").write_bytes(b"")
    assert atomic.remove_leftovers(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_is_being_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = []
    replace = os.replace

    def clean_up_first(source: Path, target: Path) -> None:
        removed.append(atomic.remove_leftovers(tmp_path))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", clean_up_first)  # type: ignore[attr-defined]
    atomic.write_file(tmp_path / "a", b"x")
    assert removed == [0]
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_writer_whose_file_is_cleaned_up_before_its_lock_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    stolen: list[str] = []

    def steal_once(descriptor: int, operation: int) -> None:
        if not stolen:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            stolen.append(path)
            os.unlink(path)
        flock(descriptor, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", steal_once)  # type: ignore[attr-defined]
    atomic.write_file(tmp_path / "a", b"x")
    assert stolen
    assert (tmp_path / "a").read_bytes() == b"x"
