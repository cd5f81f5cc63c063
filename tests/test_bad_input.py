"""Bad input and trouble: what a user meets when the files, the arguments or the host are wrong.

What the errors say is in docs/troubleshooting.md.  A store that is damaged here on
purpose is opened with ``logstore.open``, not with the fixture that verifies it afterwards.
"""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import logstore
from logstore import TaskProgress
from tests.support import boundary, fileformat
from tests.support.fileformat import FIRST_OFFSET, Frame, frames_in, log_of, logs_of, meta_of
from tests.support.forked import run_in_fork
from tests.support.inside import in_one_group
from tests.support.peers import CHILD_S, run_child
from tests.support.stores import names_in

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores


def fill(path: Path, count: int = 20) -> None:
    with logstore.open(path) as store:
        for i in range(count):
            store.set_result(f"task-{i}", {"n": i, "text": "x" * 100})


def expect_refused(path: Path, kind: type[Exception], match: str) -> None:
    """Opening fails in both modes, says where and what, and leaves the directory as it was."""
    before = path.read_bytes() if path.is_file() else None
    for mode in ("rw", "r"):
        with pytest.raises(kind, match=match) as caught:
            logstore.open(path, mode=mode)
        assert str(path) in str(caught.value)
    assert names_in(path.parent) == [path.name]
    if before is not None:
        assert path.read_bytes() == before


# -- not a logstore file ---------------------------------------------------------------------


def test_a_sqlite_file_is_refused_and_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table t (x)")
    expect_refused(path, logstore.NotAStoreError, "it begins b'SQLite format 3")


@pytest.mark.parametrize("size", [20, 151, 152, 4096, 100_000])
def test_random_bytes_are_refused_and_untouched(path: Path, size: int) -> None:
    path.write_bytes(random.Random(size).randbytes(size))
    expect_refused(path, logstore.NotAStoreError, "not a logstore file")


def test_a_text_file_is_refused_and_untouched(path: Path) -> None:
    path.write_text("hello, world\n" * 1000)
    expect_refused(path, logstore.NotAStoreError, "it begins b'hello, world")


@pytest.mark.parametrize("size", [0, 1, 19])
def test_a_file_too_short_to_be_anything_is_refused_and_untouched(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)
    expect_refused(path, logstore.TruncatedFileError, f"{size} bytes, expected at least")


def test_a_directory_is_refused(path: Path) -> None:
    path.mkdir()
    expect_refused(path, logstore.NotAStoreError, "a directory, expected a logstore file")


def test_a_named_pipe_is_refused_and_does_not_block(path: Path) -> None:
    os.mkfifo(path)
    expect_refused(path, logstore.NotAStoreError, "not a regular file")


def test_an_lmdb_file_of_another_program_is_refused_and_untouched(path: Path) -> None:
    env = lmdb.open(str(path), subdir=False, lock=False, max_dbs=4, lib_version=0)
    with env.begin(write=True) as txn:
        txn.put(b"key", b"value")
    env.close()
    expect_refused(path, logstore.NotAStoreError, "an LMDB file, but not a logstore one")


def test_a_path_in_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(logstore.OpenError, match="no such directory"):
        logstore.open(tmp_path / "nowhere" / "app.db")


def test_reading_a_store_that_is_not_there_creates_nothing(path: Path) -> None:
    with pytest.raises(logstore.OpenError, match="no such store"):
        logstore.open(path, mode="r")
    assert names_in(path.parent) == []


# -- another format version ------------------------------------------------------------------


def test_a_table_of_a_later_format_is_refused_and_untouched(path: Path) -> None:
    fill(path)
    fileformat.put_meta(path, meta_of(path)._replace(version=3))
    expected = r"format 3\.0, this version of logstore reads 1\.0 to 2\.0"
    expect_refused(path, logstore.FormatVersionError, expected)


def test_a_table_with_features_that_are_not_known_is_refused_and_untouched(path: Path) -> None:
    fill(path)
    fileformat.put_meta(path, meta_of(path)._replace(features=1 << 31 | 1 << 4))
    expected = r"features that this version of logstore does not know \(bit 4, 31\); use a newer"
    expect_refused(path, logstore.FormatVersionError, expected)


def test_a_table_in_another_lmdb_data_format_is_refused_and_untouched(path: Path) -> None:
    fill(path)
    data = bytearray(path.read_bytes())
    for page in (0, 4096):
        data[page + 20 : page + 24] = struct.pack("<I", 2)
    path.write_bytes(data)
    expect_refused(path, logstore.FormatVersionError, "LMDB data format 2, expected 1")


def test_a_table_with_a_damaged_header_is_refused_and_untouched(path: Path) -> None:
    fill(path)
    fileformat.put(path, b"meta", b"header", b"nonsense")
    expect_refused(path, logstore.CorruptTableError, "the table's header is damaged")


def test_a_log_of_a_later_format_is_refused_and_untouched(
    store: logstore.Store, crash_copy: Callable[[logstore.Store], Path]
) -> None:
    store.set_result("a", 1)
    path = crash_copy(store)
    log = log_of(path)
    data = log.read_bytes()
    page = fileformat.log_header(meta_of(path).uuid, version=3)
    log.write_bytes(page + data[len(page) :])
    for mode in ("rw", "r"):
        with pytest.raises(
            logstore.FormatVersionError, match="log format 3, this version reads 1 to 2"
        ):
            logstore.open(path, mode=mode)
    assert log.read_bytes() == page + data[len(page) :]
    before = {name: path.with_name(name).read_bytes() for name in names_in(path.parent)}
    for salvage in (False, True):
        with pytest.raises(
            logstore.FormatVersionError, match="log format 3, this version reads 1 to 2"
        ):
            logstore.check(path, salvage=salvage)
        assert before == {name: path.with_name(name).read_bytes() for name in names_in(path.parent)}


def test_a_table_of_a_later_format_is_not_salvaged(crashed: Path) -> None:
    os.unlink(f"{crashed}-shm")
    fileformat.put_meta(crashed, meta_of(crashed)._replace(version=3))
    before = {name: crashed.with_name(name).read_bytes() for name in names_in(crashed.parent)}
    with pytest.raises(logstore.FormatVersionError, match=r"format 3\.0, this version"):
        logstore.check(crashed, salvage=True)
    after = {name: crashed.with_name(name).read_bytes() for name in names_in(crashed.parent)}
    assert after == before


# -- truncated -------------------------------------------------------------------------------

TRUNCATION = """
import hashlib, os, sys
import logstore

path = sys.argv[1]
for size in map(int, sys.argv[2:]):
    os.truncate(path, size)
    before = open(path, "rb").read()
    for mode in ("r", "rw"):
        try:
            with logstore.open(path, mode=mode) as store:
                for task in list(store.tasks()):
                    store.get_result(task.task_id)
                assert store.check().ok
            outcome = "whole"
        except logstore.LogstoreError as exc:
            assert path in str(exc), exc
            assert open(path, "rb").read() == before
            assert os.listdir(os.path.dirname(path)) == ["app.db"]
            outcome = type(exc).__name__
        print(size, outcome, flush=True)
        if outcome == "whole":
            sys.exit(3)
"""


def test_a_table_truncated_anywhere_is_refused_untouched_and_never_a_signal(path: Path) -> None:
    fill(path, 500)
    size = path.stat().st_size
    assert size > 60_000
    page_ends = list(range(size - 4096, 0, -4096 * 3))
    ragged = [end - 1 for end in page_ends[1:8]] + [end + 100 for end in page_ends[1:8]]
    sizes = sorted({*page_ends, *ragged, 8192, 8191, 4096, 152, 151, 20, 1, 0}, reverse=True)
    outcomes = [line.split() for line in run_child(TRUNCATION, path, *sizes)]
    assert len(outcomes) == 2 * len(sizes)
    assert {kind for _, kind in outcomes} <= {"TruncatedFileError", "CorruptTableError"}


def test_a_table_whose_free_pages_at_the_end_were_never_written_is_whole(path: Path) -> None:
    fill(path)
    os.truncate(path, path.stat().st_size + 3 * 4096)
    with logstore.open(path) as store:
        assert store.get_result("task-3")["n"] == 3


# -- the log's tail, torn by a crash ---------------------------------------------------------


FILES = ("app.db", "app.db-log", "app.db-log2")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.fixture
def crashed(store: logstore.Store, crash_copy: Callable[[logstore.Store], Path]) -> Path:
    """A store that died with five results in its log, each flushed by itself."""
    store.set_result("in-table", "old")
    store.compact()
    for i in range(5):
        store.set_result(f"task-{i}", {"n": i})
    return crash_copy(store)


@pytest.mark.parametrize("cut", [1, 4, 20, 30])
def test_a_torn_tail_is_dropped_in_silence_and_counted(crashed: Path, cut: int) -> None:
    last = frames_in(crashed)[-1]
    overwrite(log_of(crashed), last.end - cut, bytes(cut))
    with logstore.open(crashed) as store:
        assert [store.get_result(f"task-{i}")["n"] for i in range(4)] == [0, 1, 2, 3]
        assert store.status("task-4") == "unknown"
        stats = store.stats()
        assert (stats.recovered_frames, stats.torn_tails) == (4, 1)
        assert store.check().ok
    assert names_in(crashed.parent) == ["app.db"]


def test_a_whole_log_is_recovered_and_no_torn_tail_is_counted(crashed: Path) -> None:
    with logstore.open(crashed) as store:
        assert store.get_result("task-4") == {"n": 4}
        stats = store.stats()
        assert (stats.recovered_frames, stats.torn_tails) == (5, 0)


def test_a_torn_tail_is_read_past_with_mode_r_without_writing(crashed: Path) -> None:
    last = frames_in(crashed)[-1]
    overwrite(log_of(crashed), last.end - 2, b"\xff\xff")
    before = {name: crashed.with_name(name).read_bytes() for name in names_in(crashed.parent)}
    with logstore.open(crashed, mode="r") as store:
        assert store.get_result("task-3") == {"n": 3}
        assert store.status("task-4") == "unknown"
        assert store.stats().torn_tails == 1
    assert before == {
        name: crashed.with_name(name).read_bytes() for name in names_in(crashed.parent)
    }


# -- the log damaged below what had been synced ----------------------------------------------


def damage_frame(path: Path, index: int) -> Frame:
    frame = frames_in(path)[index]
    byte = log_of(path).read_bytes()[frame.end - 1]
    overwrite(log_of(path), frame.end - 1, bytes((byte ^ 1,)))
    return frame


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_damage_below_what_was_synced_is_refused_naming_the_offset(
    crashed: Path, mode: str
) -> None:
    damaged = damage_frame(crashed, 1)
    before = {name: crashed.with_name(name).read_bytes() for name in FILES}
    with pytest.raises(logstore.CorruptLogError, match=f"damaged at offset {damaged.offset}:") as c:
        logstore.open(crashed, mode=mode)  # type: ignore[arg-type]
    assert str(log_of(crashed)) in str(c.value)
    assert "salvage" in str(c.value)
    assert before == {name: crashed.with_name(name).read_bytes() for name in before}


def test_salvage_recovers_every_whole_frame_and_reports_what_was_lost(crashed: Path) -> None:
    damaged = damage_frame(crashed, 1)
    report = logstore.check(crashed, salvage=True)
    assert report.ok, report.problems
    assert report.salvaged_frames == 4
    assert report.lost_bytes == damaged.end - damaged.offset
    assert all(Path(kept).read_bytes()[: FIRST_OFFSET + 10] for kept in report.kept_logs)
    with logstore.open(crashed) as store:
        assert [store.get_result(f"task-{i}")["n"] for i in (0, 2, 3, 4)] == [0, 2, 3, 4]
        assert store.get_result("in-table") == "old"
        assert store.status("task-1") == "unknown"


def test_salvage_keeps_the_damaged_log_as_it_was(crashed: Path) -> None:
    damage_frame(crashed, 1)
    before = [log.read_bytes() for log in logs_of(crashed)]
    kept = logstore.check(crashed, salvage=True).kept_logs
    assert sorted(Path(each).read_bytes() for each in kept) == sorted(before)


def test_salvage_with_a_damaged_page_0_recovers_all_frames(crashed: Path) -> None:
    overwrite(log_of(crashed), 0, b"\xff" * 44)
    with pytest.raises(logstore.CorruptLogError, match="expected the header page of a log"):
        logstore.open(crashed)
    assert logstore.check(crashed, salvage=True).salvaged_frames == 5
    with logstore.open(crashed) as store:
        assert store.get_result("task-4") == {"n": 4}


@pytest.mark.parametrize("below", [False, True], ids=["all pages", "all below the roots"])
def test_salvage_beside_a_damaged_table_touches_nothing(crashed: Path, below: bool) -> None:
    """LMDB, let near it, might end the process."""
    damage_frame(crashed, 1)
    roots = fileformat.tree_roots(crashed) if below else set()
    for page in range(2, crashed.stat().st_size // 4096):
        if page not in roots:
            overwrite(crashed, page * 4096, b"\xff" * 4096)
    before = {name: crashed.with_name(name).read_bytes() for name in names_in(crashed.parent)}
    report = logstore.check(crashed, salvage=True)
    assert ("damaged pages" if below else "app.db: damaged: a root") in report.problems[0]
    after = {name: crashed.with_name(name).read_bytes() for name in names_in(crashed.parent)}
    assert after == before


def test_a_salvage_that_cannot_be_written_says_so_and_can_be_tried_again(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage_frame(crashed, 1)

    def fsync(fd: int) -> None:
        if boundary.is_directory(fd):
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(logstore.WriteError, match=r"app\.db: writing failed"):
            logstore.check(crashed, salvage=True)
    assert logstore.check(crashed, salvage=True).salvaged_frames == 4


def test_salvage_takes_no_frame_of_another_store(crashed: Path) -> None:
    damage_frame(crashed, 1)
    epoch = meta_of(crashed).epoch
    foreign = fileformat.frame(b"another store...", epoch, b"foreign", b"\0")
    overwrite(log_of(crashed), log_of(crashed).stat().st_size - 1000, foreign)
    assert logstore.check(crashed, salvage=True).salvaged_frames == 4


def test_check_of_a_damaged_log_reports_and_changes_nothing(crashed: Path) -> None:
    damaged = damage_frame(crashed, 1)
    before = log_of(crashed).read_bytes()
    report = logstore.check(crashed)
    assert not report.ok
    assert f"offset {damaged.offset}" in report.problems[0]
    assert log_of(crashed).read_bytes() == before


def test_salvage_of_a_store_that_is_open_elsewhere_is_refused(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(path)
    with pytest.raises(logstore.StoreBusyError, match="in use"):
        logstore.check(path, salvage=True)
    peer.run("store.set_result('a', 1)")
    peer.run("store.close()")


@pytest.mark.parametrize("number", [0, 1])
def test_a_log_of_another_store_is_refused(crashed: Path, tmp_path: Path, number: int) -> None:
    log = logs_of(crashed)[number]
    other = tmp_path / "other" / "app.db"
    other.parent.mkdir()
    with logstore.open(other) as opened:
        opened.set_result("x", 1)
        shutil.copyfile(log_of(other), log)
    with pytest.raises(logstore.CorruptLogError, match="put the right log beside the table"):
        logstore.open(crashed)
    before = {name: crashed.with_name(name).read_bytes() for name in FILES}
    for salvage in (False, True):
        report = logstore.check(crashed, salvage=salvage)
        assert "put the right log beside the table" in report.problems[0]
        assert report == logstore.CheckReport(report.path, 0, 0, 0, 0, report.problems, 0, 0, ())
    assert before == {name: crashed.with_name(name).read_bytes() for name in before}


# -- one damaged record ----------------------------------------------------------------------


def flip_bit_in_file(path: Path, needle: bytes, at: int = 0) -> None:
    data = path.read_bytes()
    assert data.count(needle) == 1
    place = data.index(needle) + at
    overwrite(path, place, bytes((data[place] ^ 0x10,)))


def test_a_flipped_bit_in_a_record_is_an_error_for_that_id_only(path: Path) -> None:
    with logstore.open(path) as store:
        for i in range(20):
            store.set_result(f"task-{i:02}", f"the value of number {i:02}")
    flip_bit_in_file(path, b"the value of number 07", 5)
    with logstore.open(path) as store:
        with pytest.raises(logstore.CorruptRecordError, match="task-07") as caught:
            store.get_result("task-07")
        assert str(path) in str(caught.value)
        for i in range(20):
            if i != 7:
                assert store.get_result(f"task-{i:02}") == f"the value of number {i:02}"
        report = store.check()
        assert len(report.problems) == 1
        assert "task-07" in report.problems[0]
        store.set_result("task-07", "again")
        assert store.get_result("task-07") == "again"
    assert logstore.check(path).ok


def record_place(path: Path, task_id: str) -> int:
    """Where in the file the record of a task's result begins."""
    time_us = fileformat.result_time(path, task_id.encode())
    raw = fileformat.get(path, b"results", fileformat.time_key(time_us))
    data = path.read_bytes()
    assert data.count(raw) == 1
    return data.index(raw)


@pytest.mark.parametrize("at", range(0, 40, 3))
def test_a_record_damaged_in_any_field_is_an_error_and_can_be_overwritten(
    path: Path, at: int
) -> None:
    with logstore.open(path) as store:
        for i in range(5):
            store.set_result(f"task-{i}", f"value {i} with some text behind it", ttl_s=1e6)
    place = record_place(path, "task-2") + at
    overwrite(path, place, bytes((path.read_bytes()[place] ^ 4,)))
    with logstore.open(path) as store:
        with pytest.raises(logstore.CorruptRecordError):
            store.get_result("task-2")
        for i in (0, 1, 3, 4):
            assert store.is_result_ready(f"task-{i}")
        store.set_result("task-2", "again")
        store.compact()
        assert store.get_result("task-2") == "again"
        assert len(list(store.tasks())) == 5


def test_a_damaged_record_can_be_deleted(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("damaged", "a recognizable value")
        store.set_result("other", 1)
    flip_bit_in_file(path, b"a recognizable value")
    with logstore.open(path) as store:
        assert store.delete_result("damaged")
        assert store.status("damaged") == "deleted"
        assert store.get_result("other") == 1
    assert logstore.check(path).ok


def test_a_write_in_one_group_with_a_damaged_record_is_not_refused_for_it(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("damaged", "a recognizable value")
    flip_bit_in_file(path, b"a recognizable value")
    with logstore.open(path) as store:
        bad, good = in_one_group(store, ("pop", "damaged"), ("result", "good", 1))
        assert isinstance(bad, logstore.CorruptRecordError)
        assert good is None
        assert store.get_result("good") == 1


def mark_place(path: Path, task_id: str) -> int:
    """Where in the file the mark of a task begins."""
    raw = fileformat.get(path, b"ids", task_id.encode())
    data = path.read_bytes()
    assert data.count(raw) == 1
    return data.index(raw)


@pytest.mark.parametrize("at", [0, 4, 5, 12])
@pytest.mark.parametrize("limits", [{}, {"max_results": 3}, {"max_bytes": 40}])
def test_a_task_whose_mark_is_damaged_can_be_overwritten_and_holds_nothing_up(
    path: Path, at: int, limits: dict[str, int]
) -> None:
    with logstore.open(path) as store:
        for i in range(5):
            store.set_result(f"task-{i}", i)
    place = mark_place(path, "task-0") + at
    overwrite(path, place, bytes((path.read_bytes()[place] ^ 4,)))
    with logstore.open(path, **limits) as store:  # type: ignore[arg-type]
        with pytest.raises(logstore.CorruptRecordError, match="the mark of task b'task-0'"):
            store.get_result("task-0")
        assert store.get_result("task-4") == 4
        store.set_result("task-0", "again")
        store.compact()
        assert store.get_result("task-0") == "again"
        listed = [task.task_id for task in store.tasks()]
        assert len(listed) == len(set(listed))


# -- task ids --------------------------------------------------------------------------------

BAD_IDS: list[tuple[object, str]] = [
    ("", "from 1 to 480 bytes in UTF-8, not 0"),
    ("x" * 481, "from 1 to 480 bytes in UTF-8, not 481"),
    ("\u00e9" * 241, "from 1 to 480 bytes in UTF-8, not 482"),
    ("half \ud800", "must be encodable in UTF-8"),
    (b"bytes", "must be a str, not bytes"),
    (None, "must be a str, not NoneType"),
    (7, "must be a str, not int"),
]


@pytest.mark.parametrize(
    ("task_id", "message"), BAD_IDS, ids=[repr(bad)[:20] for bad, _ in BAD_IDS]
)
def test_a_task_id_that_cannot_be_stored_is_a_value_error_and_writes_nothing(
    store: logstore.Store, task_id: str, message: str
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.set_result(task_id, 1),
        lambda: store.set_progress(task_id, TaskProgress()),
        lambda: store.get_result(task_id),
        lambda: store.get_progress(task_id),
        lambda: store.is_result_ready(task_id),
        lambda: store.delete_result(task_id),
        lambda: store.pop_result(task_id),
        lambda: store.status(task_id),
        lambda: store.wait_result(task_id, timeout_s=0),
    ]
    if task_id is not None:
        calls.append(lambda: store.watch(task_id))
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert store.stats().writes == 0


@pytest.mark.parametrize("task_id", ["x", "x" * 480, "\u00e9" * 240, "a/b\0c", "\U0001f600" * 120])
def test_a_task_id_up_to_the_limit_is_kept_in_log_and_table(
    store: logstore.Store, task_id: str
) -> None:
    store.set_result(task_id, 1, ttl_s=1e6)
    assert store.get_result(task_id) == 1
    store.compact()
    assert store.get_result(task_id) == 1
    assert [task.task_id for task in store.tasks()] == [task_id]


# -- values ----------------------------------------------------------------------------------


def test_a_value_over_the_limit_names_both_sizes_and_writes_nothing(open_store: Stores) -> None:
    store = open_store(max_value_bytes=1000)
    store.set_result("fits", b"x" * 997)
    with pytest.raises(logstore.ValueTooLargeError) as caught:
        store.set_result("too-large", b"x" * 998)
    assert isinstance(caught.value, ValueError)
    assert "1001" in str(caught.value)
    assert "1000" in str(caught.value)
    assert store.status("too-large") == "unknown"
    assert store.stats().writes == 1


def test_a_progress_over_the_limit_is_refused_and_writes_nothing(open_store: Stores) -> None:
    store = open_store(max_value_bytes=1000)
    with pytest.raises(logstore.ValueTooLargeError):
        store.set_progress("a", TaskProgress(meta={"text": "x" * 1000}))
    assert store.stats().writes == 0


def test_a_value_of_another_type_names_its_place_and_writes_nothing(store: logstore.Store) -> None:
    with pytest.raises(logstore.UnserializableValueError, match=r"result\['rows'\]\[1\]") as caught:
        store.set_result("a", {"rows": [1, object()]})
    assert isinstance(caught.value, TypeError)
    with pytest.raises(logstore.UnserializableValueError, match=r"progress\.meta\['x'\]"):
        store.set_progress("a", TaskProgress(meta={"x": object()}))
    assert store.stats().writes == 0


def test_progress_that_is_not_a_task_progress_is_a_type_error(store: logstore.Store) -> None:
    with pytest.raises(TypeError, match="must be a TaskProgress, not float"):
        store.set_progress("a", 0.5)  # type: ignore[arg-type]


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mode", "w"),
        ("sync", "never"),
        ("sync_interval_s", 0),
        ("sync_interval_s", float("nan")),
        ("write_timeout_s", -1),
        ("compact_at", 1),
        ("compact_at", 1 << 40),
        ("compact_at", "1048576"),
        ("result_ttl_s", 0),
        ("failure_ttl_s", "1"),
        ("progress_ttl_s", True),
        ("max_results", 0),
        ("max_bytes", -1),
        ("max_bytes", 1.5),
        ("max_results", True),
        ("max_value_bytes", 0),
        ("max_value_bytes", None),
    ],
)
def test_an_option_out_of_its_range_is_named_and_nothing_is_created(
    path: Path, option: str, value: object
) -> None:
    with pytest.raises(ValueError, match=option):
        logstore.open(path, **{option: value})  # type: ignore[arg-type]
    assert names_in(path.parent) == []


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), True, "1"])
def test_a_ttl_that_is_no_time_is_a_value_error_and_writes_nothing(
    store: logstore.Store, ttl_s: float
) -> None:
    with pytest.raises(ValueError, match="ttl_s must be"):
        store.set_result("a", 1, ttl_s=ttl_s)
    with pytest.raises(ValueError, match="ttl_s must be"):
        store.set_progress("a", TaskProgress(), ttl_s=ttl_s)
    assert store.stats().writes == 0


def test_tasks_of_an_unknown_status_or_a_negative_limit_are_value_errors(
    store: logstore.Store,
) -> None:
    with pytest.raises(ValueError, match="status must be"):
        store.tasks(status="done")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit must not be negative"):
        store.tasks(limit=-1)


# -- read only, closed -----------------------------------------------------------------------

WRITES: dict[str, Callable[[logstore.Store], object]] = {
    "set_result": lambda store: store.set_result("a", 1),
    "delete_result": lambda store: store.delete_result("a"),
    "pop_result": lambda store: store.pop_result("a"),
    "set_progress": lambda store: store.set_progress("a", TaskProgress()),
    "compact": lambda store: store.compact(),
    "vacuum": lambda store: store.vacuum(),
    "backup": lambda store: store.backup(store.path + ".copy"),
    "salvage": lambda store: store.check(salvage=True),
    "sync": lambda store: store.sync(),
}
READS: dict[str, Callable[[logstore.Store], object]] = {
    "get_result": lambda store: store.get_result("a"),
    "is_result_ready": lambda store: store.is_result_ready("a"),
    "get_progress": lambda store: store.get_progress("a"),
    "status": lambda store: store.status("a"),
    "wait_result": lambda store: store.wait_result("a", timeout_s=1),
    "watch": lambda store: store.watch(),
    "tasks": lambda store: list(store.tasks()),
    "check": lambda store: store.check(),
    "stats": lambda store: store.stats(),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("beside", [True, False], ids=["beside a writer", "at rest"])
def test_a_write_on_a_store_opened_to_read_is_refused_and_changes_nothing(
    path: Path, name: str, beside: bool
) -> None:
    fill(path, 1)
    before = path.read_bytes()
    if beside:
        with logstore.open(path), logstore.open(path, mode="r") as reader:
            with pytest.raises(logstore.ReadOnlyError, match="mode='r'"):
                WRITES[name](reader)
            assert reader.get_result("task-0")["n"] == 0
    else:
        with (
            logstore.open(path, mode="r") as reader,
            pytest.raises(logstore.ReadOnlyError, match="mode='r'"),
        ):
            WRITES[name](reader)
        assert path.read_bytes() == before
    assert names_in(path.parent) == ["app.db"]


@pytest.mark.parametrize("name", [*WRITES, *READS])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_any_call_after_close_is_a_typed_error(path: Path, name: str, mode: str) -> None:
    fill(path, 1)
    store = logstore.open(path, mode=mode)  # type: ignore[arg-type]
    store.close()
    expected = logstore.StoreClosedError
    if mode == "r" and name in WRITES:
        expected = logstore.ReadOnlyError  # type: ignore[assignment]
    with pytest.raises(expected, match=r"app\.db"):
        {**WRITES, **READS}[name](store)


def test_closing_twice_does_nothing(store: logstore.Store) -> None:
    store.close()
    store.close()
    assert store.closed


# -- the log is missing ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_log_is_refused_and_says_what_is_lost(
    crashed: Path, mode: str, number: int
) -> None:
    logs_of(crashed)[number].unlink()
    before = crashed.read_bytes()
    with pytest.raises(logstore.MissingLogError, match="writes since the last compaction"):
        logstore.open(crashed, mode=mode)  # type: ignore[arg-type]
    assert crashed.read_bytes() == before


def test_accepting_the_loss_of_a_log_opens_what_the_table_has(crashed: Path) -> None:
    log_of(crashed).unlink()
    with logstore.open(crashed, accept_log_loss=True) as store:
        assert store.get_result("in-table") == "old"
        assert store.status("task-0") == "unknown"
        store.set_result("task-0", "new")
    with logstore.open(crashed) as store:
        assert store.get_result("task-0") == "new"
        assert store.check().ok


def test_accepting_a_loss_that_did_not_happen_loses_nothing(crashed: Path) -> None:
    with logstore.open(crashed, accept_log_loss=True) as store:
        assert store.get_result("task-4") == {"n": 4}


def test_a_log_without_its_table_is_not_taken_for_a_new_store(crashed: Path) -> None:
    before = [log.read_bytes() for log in logs_of(crashed)]
    crashed.unlink()
    with pytest.raises(logstore.CorruptTableError, match=r"remove .*-log and .*-log2 to begin"):
        logstore.open(crashed)
    assert [log.read_bytes() for log in logs_of(crashed)] == before
    assert not crashed.exists()


@pytest.mark.parametrize("left", ["-shm", "-lock", "-new", "-vacuum", "-log-new", "-log2-new"])
def test_garbage_in_a_side_file_that_means_nothing_is_ignored(crashed: Path, left: str) -> None:
    crashed.with_name("app.db" + left).write_bytes(b"garbage" * 1000)
    with logstore.open(crashed) as store:
        assert store.get_result("task-4") == {"n": 4}
    assert names_in(crashed.parent) == ["app.db"]


def test_no_shared_header_after_a_crash_loses_nothing(crashed: Path) -> None:
    crashed.with_name("app.db-shm").unlink()
    with logstore.open(crashed) as store:
        assert store.get_result("task-4") == {"n": 4}


def test_a_shared_header_of_an_earlier_boot_is_not_believed(crashed: Path) -> None:
    shm = crashed.with_name("app.db-shm")
    data = bytearray(shm.read_bytes())
    data[5 * 8 : 6 * 8] = struct.pack("<Q", 99 << 32 | 99_999)  # epoch and committed offset
    shm.write_bytes(data)
    with logstore.open(crashed) as store:
        assert store.get_result("task-4") == {"n": 4}
        assert store.stats().epoch < 99


# -- permissions -----------------------------------------------------------------------------

OPEN = """
import os, sys
import logstore
path, mode, user = sys.argv[1:4]
if user:
    os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
try:
    with logstore.open(path, mode=mode) as store:
        print("value", store.get_result("task-0")["n"])
except logstore.LogstoreError as exc:
    print(type(exc).__name__, exc)
"""


@pytest.fixture
def as_nobody() -> Callable[[Path, str], str]:
    """Opens a store as a user who owns nothing; what it says."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    return lambda path, mode: run_child(OPEN, path, mode, 65534)[0]


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_file_that_may_not_be_read_is_a_permission_error(
    shared_directory: Path, as_nobody: Callable[[Path, str], str], mode: str
) -> None:
    path = shared_directory / "app.db"
    fill(path, 1)
    shared_directory.chmod(0o777)
    said = as_nobody(path, mode)
    assert said.startswith("StorePermissionError")
    assert str(path) in said
    assert names_in(shared_directory) == ["app.db"]


def test_a_readable_file_in_a_directory_of_others_can_be_read_and_not_written(
    shared_directory: Path, as_nobody: Callable[[Path, str], str]
) -> None:
    path = shared_directory / "app.db"
    fill(path, 1)
    path.chmod(0o644)
    shared_directory.chmod(0o755)
    said = as_nobody(path, "rw")
    assert said.startswith("StorePermissionError")
    assert "use mode='r' to read only" in said
    assert as_nobody(path, "r") == "value 0"
    assert names_in(shared_directory) == ["app.db"]


def test_a_file_that_may_be_read_and_not_written_is_a_permission_error_for_writers(
    shared_directory: Path, as_nobody: Callable[[Path, str], str]
) -> None:
    path = shared_directory / "app.db"
    fill(path, 1)
    path.chmod(0o644)
    shared_directory.chmod(0o777)
    assert as_nobody(path, "rw").startswith("StorePermissionError")
    assert as_nobody(path, "r") == "value 0"
    assert names_in(shared_directory) == ["app.db"]


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_log_that_may_not_be_read_is_a_permission_error(
    crashed: Path,
    shared_directory: Path,
    as_nobody: Callable[[Path, str], str],
    mode: str,
    number: int,
) -> None:
    path = shared_directory / "app.db"
    for name in FILES:
        shutil.copyfile(crashed.with_name(name), path.with_name(name))
        path.with_name(name).chmod(0o666)
    log = logs_of(path)[number]
    log.chmod(0o600)
    shared_directory.chmod(0o777)
    said = as_nobody(path, mode)
    assert said.startswith("StorePermissionError")
    assert str(log) in said


def test_all_files_of_an_open_store_are_private(store: logstore.Store) -> None:
    store.set_result("a", 1)
    directory = Path(store.path).parent
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in directory.iterdir()}
    assert modes == dict.fromkeys((*FILES, "app.db-shm"), 0o600)


READ_ONLY_MOUNT = """
set -e
mount --bind "$1" "$1"
mount -o remount,ro,bind "$1"
exec "$2" -c "$3" "$1/app.db" "$4" ""
"""


def on_read_only_medium(directory: Path, mode: str) -> str:
    child = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", READ_ONLY_MOUNT, "sh"),
            *(str(directory), sys.executable, OPEN, mode),
        ],
        capture_output=True,
        text=True,
        timeout=CHILD_S,
    )
    if child.returncode:
        pytest.skip(f"no mounts here: {child.stderr.strip()[-200:]}")
    return child.stdout.strip()


def test_a_store_on_a_read_only_medium_can_be_read_and_not_written(shared_directory: Path) -> None:
    fill(shared_directory / "app.db", 1)
    said = on_read_only_medium(shared_directory, "rw")
    assert said.startswith("StorePermissionError")
    assert "use mode='r' to read only" in said
    assert on_read_only_medium(shared_directory, "r") == "value 0"


def test_a_crashed_store_on_a_read_only_medium_can_be_read(
    store: logstore.Store, crash_copy: Callable[[logstore.Store], Path]
) -> None:
    store.set_result("task-0", {"n": 0})
    assert on_read_only_medium(crash_copy(store).parent, "r") == "value 0"


# -- the host --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused_unless_forced(
    path: Path, kind: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, 1)
    mounts = re.sub(r" - \S+ ", f" - {kind} ", Path("/proc/self/mountinfo").read_text())
    real = open

    def mounted(file: object, *arguments: Any, **options: Any) -> Any:
        if file == "/proc/self/mountinfo":
            return io.StringIO(mounts)
        return real(file, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", mounted)
    with pytest.raises(logstore.NetworkFilesystemError, match=rf"\({kind}\).*force=True"):
        logstore.open(path, mode=mode)  # type: ignore[arg-type]
    with logstore.open(path, mode=mode, force=True) as store:  # type: ignore[arg-type]
        assert store.get_result("task-0")["n"] == 0


# -- the writer lock is held -----------------------------------------------------------------


def test_a_writer_lock_held_too_long_is_a_time_out_that_says_the_outcome_is_unknown(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store(write_timeout_s=0.2)
    store.set_result("before", 1)
    peer = start_peer()
    peer.open(store.path)
    peer.stop_with_the_writer_lock()
    with pytest.raises(logstore.WriteTimeoutError, match="outcome of this write is unknown") as c:
        store.set_result("during", 1)
    assert isinstance(c.value, TimeoutError)
    assert "0.2 s" in str(c.value)
    assert store.get_result("before") == 1  # readers do not wait
    with pytest.raises(logstore.WriteTimeoutError):
        store.compact()
    peer.kill()
    store.set_result("after", 1)
    assert store.get_result("after") == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_stopped_writer_stops_writes_and_nothing_else(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    """Neither reads nor an opening nor another store nor a fork waits for it."""
    peer = start_peer(path)
    peer.run("store.set_result('before', 1)")
    peer.stop_with_the_writer_lock()
    store = logstore.open(path, write_timeout_s=100)
    assert store.get_result("before") == 1
    waiting: list[threading.Thread] = []
    for work in (store.compact, store.close):
        waiting.append(threading.Thread(target=work))
        waiting[-1].start()
        with logstore.open(path.with_name("other.db")) as other:
            other.set_result("a", 1)
        assert run_in_fork(lambda: None) == 0
    assert all(thread.is_alive() for thread in waiting)
    peer.resume_and_unlock()
    for thread in waiting:
        thread.join()
    peer.run("store.close()")
    assert logstore.check(path).ok


def test_closing_beside_a_stopped_writer_ends_with_one_time_out(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(path)
    peer.run("store.set_result('before', 1)")
    store = logstore.open(path, write_timeout_s=0.2)
    store.set_result("a", 1)
    peer.stop_with_the_writer_lock()
    with pytest.raises(logstore.WriteTimeoutError):
        store.close()
    store.close()
    peer.resume_and_unlock()
    peer.run("store.close()")
    with logstore.open(path) as store:
        assert (store.get_result("before"), store.get_result("a")) == (1, 1)


def test_a_read_behind_a_peers_vacuum_does_not_wait_for_a_stopped_writer(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    with logstore.open(path, write_timeout_s=0.2) as store:
        store.set_result("a", 1)
        peer = start_peer(path)
        peer.run("store.vacuum()")
        peer.run("store.set_result('b', 2)")
        peer.stop_with_the_writer_lock()
        assert [store.get_result(key) for key in "ab"] == [1, 2]
        with pytest.raises(logstore.WriteTimeoutError):
            store.set_result("c", 3)
        peer.resume_and_unlock()
        peer.run("store.close()")
        store.set_result("c", 3)
        assert [store.get_result(key) for key in "abc"] == [1, 2, 3]
