"""The log's file: made whole, opened with suspicion, grown in steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logstore import CorruptLogError, FormatVersionError, MissingLogError, StorePermissionError
from logstore._engine import durability, frames
from logstore._engine.log import FIRST_OFFSET, GROW_BYTES, Log

UUID = bytes(range(16))
SIZE = FIRST_OFFSET + 10_000


@pytest.fixture
def log_path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db-log")


@pytest.fixture
def log(log_path: str) -> Iterator[Log]:
    log = Log.create(log_path, UUID, 5, SIZE)
    yield log
    log.close()


def test_a_new_log_is_locked_zero_filled_and_private(log: Log, log_path: str) -> None:
    info = os.stat(log_path)
    assert (info.st_size, info.st_mode & 0o777) == (SIZE, 0o600)
    assert log.read_all() == bytes(SIZE - FIRST_OFFSET)
    other = Log.open(log_path, UUID)
    assert not other.try_lock()
    log.unlock()
    assert other.try_lock()
    other.close()


def test_creating_a_log_that_cannot_be_synced_leaves_the_old_one_in_place(
    log: Log, log_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durability, "sync_file", fail)
    with pytest.raises(OSError, match="Input/output"):
        Log.create(log_path, UUID, 6, SIZE)
    assert os.listdir(os.path.dirname(log_path)) == ["app.db-log"]
    reopened = Log.open(log_path, UUID)
    assert reopened.log_id == 5
    reopened.close()


def test_a_new_log_is_on_the_disk_before_it_gets_its_name_and_its_name_after(
    log_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noting(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            done.append(name)
            function(*arguments)

        return call

    monkeypatch.setattr(durability, "sync_file", noting("file", durability.sync_file))
    monkeypatch.setattr(os, "rename", noting("rename", os.rename))
    directory = noting("directory", durability.sync_directory)
    monkeypatch.setattr(durability, "sync_directory", directory)
    Log.create(log_path, UUID, 5, SIZE).close()
    assert done == ["file", "rename", "directory"]


def test_opening_a_log_that_is_not_there_says_what_is_lost(log_path: str) -> None:
    with pytest.raises(MissingLogError, match="accept_log_loss"):
        Log.open(log_path, UUID)


def test_opening_a_log_without_permission_says_so(
    log: Log, log_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as patch:  # root may open any file
        patch.setattr(os, "open", refuse)
        with pytest.raises(StorePermissionError, match=r"app\.db-log: .*no permission"):
            Log.open(log_path, UUID)


def test_opening_the_log_of_another_store_names_both(log: Log, log_path: str) -> None:
    with pytest.raises(CorruptLogError) as caught:
        Log.open(log_path, bytes(16))
    assert UUID.hex() in str(caught.value)
    assert bytes(16).hex() in str(caught.value)


def test_opening_a_log_whose_page_0_is_damaged_names_what_was_found(
    log: Log, log_path: str
) -> None:
    durability.pwrite_all(log.fd, b"garbage!", 0)
    with pytest.raises(CorruptLogError, match="found b'garbage!"):
        Log.open(log_path, UUID)


def test_opening_a_log_of_a_later_format_names_both_versions(
    log: Log, log_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "FORMAT_VERSION", 3)
    page = frames.encode_log_header(UUID, 5)
    monkeypatch.undo()
    durability.pwrite_all(log.fd, page, 0)
    with pytest.raises(FormatVersionError, match="log format 3, this version reads 1 to 2"):
        Log.open(log_path, UUID)


def test_a_refused_log_leaves_no_descriptor_open(log: Log, log_path: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CorruptLogError):
        Log.open(log_path, bytes(16))
    assert os.listdir("/proc/self/fd") == before


def test_reserving_what_is_there_changes_nothing(log: Log, log_path: str) -> None:
    log.reserve(SIZE)
    assert os.stat(log_path).st_size == SIZE


def test_reserving_more_grows_the_arena_by_whole_steps(log: Log, log_path: str) -> None:
    log.reserve(SIZE + 1)
    assert os.stat(log_path).st_size == GROW_BYTES
    log.reserve(GROW_BYTES + 1)
    assert os.stat(log_path).st_size == 2 * GROW_BYTES
    assert not any(log.read_all())


def test_reserving_after_another_process_grew_the_file_writes_no_zeros_over_its_frames(
    log: Log, log_path: str
) -> None:
    other = Log.open(log_path, UUID)
    other.reserve(GROW_BYTES)
    other.write(b"frames", SIZE + 10)
    log.reserve(GROW_BYTES)
    assert log.read(SIZE + 10, SIZE + 16) == b"frames"
    other.close()


def test_reading_stops_at_the_end_of_the_file(log: Log) -> None:
    assert len(log.read(FIRST_OFFSET, SIZE + 5000)) == SIZE - FIRST_OFFSET
    assert log.read(SIZE + 1, SIZE + 2) == b""


def test_closing_twice_closes_one_descriptor(log: Log) -> None:
    log.close()
    log.close()
    assert log.fd == -1
