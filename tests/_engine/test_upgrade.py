"""Stores of format version 1: read without a change, upgraded by a process that is alone."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import logstore
from logstore._engine import recovery
from logstore._engine.log import Log
from tests.support import fileformat
from tests.support.fileformat import log_of, log_version, meta_of
from tests.support.peers import Peer
from tests.support.stores import names_in

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


@pytest.fixture(params=["closed", "crashed"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a store of version 1."""
    return copy_of(request.param, tmp_path)


def copy_of(state: str, directory: Path) -> Path:
    shutil.copytree(GOLDEN / state, directory, dirs_exist_ok=True)
    return directory / "app.db"


def contents(path: Path) -> dict[str, bytes]:
    return {name: path.with_name(name).read_bytes() for name in names_in(path.parent)}


def meta_of_open(path: Path) -> fileformat.Meta:
    """Return the meta record of a store that this process has open, of a copy of its table."""
    copy = Path(shutil.copyfile(path, path.with_name("copy-of-table")))
    try:
        return meta_of(copy)
    finally:
        copy.unlink()


def shown(store: logstore.Store) -> list[object]:
    """Return all that a store shows, but for what a day ends."""
    ids = sorted(info.task_id for info in store.tasks())
    values = [
        store.get_result(task_id) if store.is_result_ready(task_id) else None for task_id in ids
    ]
    return [ids, [repr(value) for value in values], [store.get_progress(each) for each in ids]]


def first_version_reads(path: Path) -> str:
    """Return what code of version 1 says of a store, by its rules: of the table, then of the log.

    It takes a meta record of 60 bytes with a right checksum, and reads the version in its first 4.
    """
    raw = fileformat.get(path, b"meta", b"header")
    if len(raw) != 60 or zlib.crc32(raw[:-4]) != struct.unpack("<I", raw[-4:])[0]:
        return "damaged"
    version, data_format = struct.unpack_from("<II", raw)
    if (version, data_format) != (1, 0):
        return f"format {version}.{data_format}, this version of logstore reads 1.0"
    if meta_of(path).clean:
        return "opens"
    if not log_of(path).exists():
        return "the log is missing"
    page = log_of(path).read_bytes()[:44]
    magic, version = struct.unpack_from("<8sI", page)
    if magic != b"LOGSTORE" or zlib.crc32(page[:40]) != struct.unpack("<I", page[40:])[0]:
        return "damaged"
    return "opens" if version == 1 else f"log format {version}, this version reads 1"


REFUSED = "format 2.0, this version of logstore reads 1.0"


@pytest.mark.parametrize("look", ["open", "check"])
def test_reading_an_old_store_changes_nothing(old: Path, look: str) -> None:
    before = contents(old)
    if look == "open":
        with logstore.open(old, mode="r") as store:
            assert store.get_result("bool") == [True, False]
            assert store.check().ok
    else:
        report = logstore.check(old)
        assert report.ok, report.problems
    assert contents(old) == before
    assert meta_of(old).version == 1
    assert first_version_reads(old) == "opens"


def test_opening_an_old_store_alone_upgrades_it(old: Path) -> None:
    with logstore.open(old, mode="r") as reader:
        before = shown(reader)
    with logstore.open(old) as store:
        assert (meta_of_open(old).version, log_version(old)) == (2, 2)
        assert shown(store) == before
        store.set_result("new", "written")
        assert store.check().ok
    assert names_in(old.parent) == ["app.db"]
    assert (meta_of(old).version, meta_of(old).features) == (2, 0)
    assert first_version_reads(old) == REFUSED
    with logstore.open(old) as store:
        assert store.get_result("new") == "written"
        store.delete_result("new")
        assert shown(store) == before


def test_what_is_in_the_log_of_an_old_store_is_in_the_table_at_once(tmp_path: Path) -> None:
    path = copy_of("crashed", tmp_path)
    frames = len(fileformat.frames_in(path))
    with logstore.open(path) as store:
        assert store.stats().recovered_frames == frames > 100
        assert store.get_result("in-the-log") == "new"


def test_an_upgrade_that_cannot_make_a_new_log_leaves_the_new_table_and_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of("crashed", tmp_path)

    def full(*_: object, **__: object) -> Log:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Log, "create", full)
    with pytest.raises(logstore.LogstoreError):
        logstore.open(path)
    monkeypatch.undo()
    assert (meta_of(path).version, log_version(path)) == (2, 1)
    assert first_version_reads(path) == REFUSED
    for mode in ("r", "rw"):
        with logstore.open(path, mode=mode) as store:
            assert store.get_result("in-the-log") == "new"
            assert store.check().ok
    assert names_in(tmp_path) == ["app.db"]


def test_an_old_store_whose_fold_fails_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of("crashed", tmp_path)

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recovery, "fold_into", full)
    with pytest.raises(logstore.LogstoreError):
        logstore.open(path)
    assert (meta_of(path).version, log_version(path)) == (1, 1)
    assert first_version_reads(path) == "opens"


def test_an_old_store_with_a_damaged_log_is_refused_and_not_upgraded(tmp_path: Path) -> None:
    path = copy_of("crashed", tmp_path)
    data = bytearray(log_of(path).read_bytes())
    third = fileformat.frames_in(path)[2]
    data[third.offset + 5] ^= 1
    log_of(path).write_bytes(data)
    before = contents(path)
    for mode in ("r", "rw"):
        with pytest.raises(logstore.CorruptLogError, match=f"at offset {third.offset}"):
            logstore.open(path, mode=mode)
        left = contents(path)
        left.pop("app.db-shm", None)
        assert left == before
    os.unlink(f"{path}-shm")
    report = logstore.check(path, salvage=True)
    assert report.ok, report.problems
    assert report.lost_bytes == third.end - third.offset
    assert meta_of(path).version == 2
    with logstore.open(path) as store:
        assert store.get_result("in-the-log") == "new"


def test_an_old_store_with_a_torn_log_is_upgraded_without_the_torn_frame(tmp_path: Path) -> None:
    path = copy_of("crashed", tmp_path)
    last = fileformat.frames_in(path)[-1]
    data = bytearray(log_of(path).read_bytes())
    data[last.end - 1] ^= 1
    log_of(path).write_bytes(data)
    with logstore.open(path) as store:
        assert store.get_result("in-the-log") == "old"
        assert store.stats().torn_tails == 1
    assert meta_of(path).version == 2


def test_an_old_store_without_its_log_is_upgraded_if_the_loss_is_accepted(tmp_path: Path) -> None:
    path = copy_of("crashed", tmp_path)
    log_of(path).unlink()
    with pytest.raises(logstore.MissingLogError):
        logstore.open(path)
    assert meta_of(path).version == 1
    with logstore.open(path, accept_log_loss=True) as store:
        assert store.get_result("in-the-log") == "old"
    assert meta_of(path).version == 2


def test_a_reader_of_an_old_store_that_is_upgraded_beside_it_is_told(old: Path) -> None:
    with logstore.open(old, mode="r") as reader:
        assert reader.get_result("bool") == [True, False]
        peer = Peer()
        try:
            peer.open(old)
            with pytest.raises(logstore.StoreBusyError, match="open it again"):
                reader.get_result("bool")
        finally:
            peer.kill()


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_store_that_an_older_version_has_open_is_not_joined(
    path: Path, start_peer: Callable[..., Peer], mode: str
) -> None:
    peer = start_peer()
    peer.run("from logstore._engine import compaction; compaction.FORMAT_VERSION = 1")
    peer.open(path)
    with pytest.raises(logstore.FormatVersionError, match="format 1, in use by a process of an"):
        logstore.open(path, mode=mode)  # type: ignore[arg-type]
    assert meta_of(path).version == 1
    peer.kill()


def test_a_backup_of_an_upgraded_store_is_of_the_new_version(tmp_path: Path) -> None:
    path = copy_of("closed", tmp_path)
    with logstore.open(path) as store:
        store.backup(tmp_path / "copy.db")
        store.vacuum()
        before = shown(store)
    assert (meta_of(path).version, meta_of(tmp_path / "copy.db").version) == (2, 2)
    with logstore.open(tmp_path / "copy.db") as copy:
        assert shown(copy) == before
