"""The synchronous store: each method where the model of test_store_model.py does not reach."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore import TaskProgress
from tests.support.forked import run_in_fork
from tests.support.inside import in_one_group

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Clock, Stores

HALF = TaskProgress(0.5, "half-way")
LONG_S = 30  # what must happen happens long before


def ids_of(store: logstore.Store, **options: Any) -> list[str]:
    return [info.task_id for info in store.tasks(**options)]


# -- handles ---------------------------------------------------------------------------------


def test_a_store_is_a_context_manager_that_closes_it(path: Path) -> None:
    with logstore.open(path) as store:
        assert not store.closed
        assert repr(store) == f"<logstore.Store {str(path)!r} open>"
    assert store.closed
    assert repr(store).endswith("closed>")
    assert os.listdir(path.parent) == ["app.db"]


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_a_path_may_be_text_bytes_or_path_like(path: Path, kind: Callable[[Any], Any]) -> None:
    with logstore.open(kind(path)) as store:
        assert store.path == str(path)


def test_two_names_of_one_file_share_one_engine(open_store: Stores, tmp_path: Path) -> None:
    store = open_store()
    (tmp_path / "link.db").symlink_to(store.path)
    other = open_store(tmp_path / "link.db")
    store.set_result("a", 1)
    assert other.get_result("a") == 1
    assert other.stats().writes == 1  # of the engine, whichever handle wrote


def test_one_of_two_handles_may_close_first(open_store: Stores) -> None:
    one, two = open_store(), open_store()
    one.set_result("a", 1)
    one.close()
    assert two.get_result("a") == 1
    two.set_result("b", 2)


def test_a_handle_without_references_is_closed(path: Path) -> None:
    logstore.open(path).set_result("a", 1)
    gc.collect()
    deadline = time.monotonic() + LONG_S
    while os.listdir(path.parent) != ["app.db"]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with logstore.open(path) as store:
        assert store.get_result("a") == 1
        other = logstore.open(path)
        del other
        gc.collect()
        store.set_result("b", 2)


def test_a_handle_that_reads_keeps_the_store_open(open_store: Stores) -> None:
    writer = open_store()
    writer.set_result("a", 1)
    reader = open_store(mode="r")
    writer.close()
    assert reader.get_result("a") == 1


def test_a_store_read_at_rest_must_be_closed_before_the_process_writes_it(path: Path) -> None:
    logstore.open(path).close()
    reading = logstore.open(path, mode="r")
    with reading, pytest.raises(logstore.StoreBusyError, match="close that handle"):
        logstore.open(path)
    with logstore.open(path) as store:
        store.set_result("a", 1)


def test_a_store_read_at_rest_says_so_when_another_process_has_written_it(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
    with logstore.open(path, mode="r") as reader:
        assert reader.get_result("a") == 1
        peer = start_peer(path)
        peer.run("store.set_result('a', 2)")
        for read in (reader.get_result, reader.get_progress, reader.status):
            with pytest.raises(logstore.StoreBusyError, match="open it again"):
                read("a")
        peer.run("store.close()")
        with pytest.raises(logstore.StoreBusyError, match="open it again"):
            reader.get_result("a")
    with logstore.open(path, mode="r") as reader:
        assert reader.get_result("a") == 2


def test_a_crashed_store_read_at_rest_says_so_when_another_process_has_written_it(
    store: logstore.Store,
    crash_copy: Callable[[logstore.Store], Path],
    start_peer: Callable[..., Peer],
) -> None:
    store.set_result("a", 1)
    crashed = crash_copy(store)
    with logstore.open(crashed, mode="r") as reader:
        assert reader.get_result("a") == 1
        peer = start_peer(crashed)
        peer.run("store.set_result('a', 2)")
        with pytest.raises(logstore.StoreBusyError, match="open it again"):
            reader.get_result("a")
        peer.run("store.close()")


def test_reading_at_rest_writes_nothing(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
    before = path.stat()
    with logstore.open(path, mode="r") as reader:
        assert reader.get_result("a") == 1
        assert os.listdir(path.parent) == ["app.db"]
        assert reader.check().ok
        assert reader.stats().results == 1
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


# -- results and progress --------------------------------------------------------------------


def test_progress_without_a_result_is_running_and_with_one_ready(store: logstore.Store) -> None:
    assert store.status("a") == "unknown"
    assert store.get_progress("a") is None
    store.set_progress("a", HALF)
    assert store.status("a") == "running"
    store.set_result("a", 1)
    assert store.status("a") == "ready"
    assert store.get_progress("a") == HALF


def test_deleting_clears_progress_and_is_idempotent(store: logstore.Store) -> None:
    store.set_progress("a", HALF)
    store.set_result("a", 1)
    assert store.delete_result("a") is True
    assert store.get_progress("a") is None
    writes = store.stats().writes
    assert store.delete_result("a") is False
    assert store.stats().writes == writes
    assert store.status("a") == "deleted"


def test_deleting_a_task_that_only_runs_leaves_it_unknown(store: logstore.Store) -> None:
    store.set_progress("a", HALF)
    assert store.delete_result("a") is False
    assert store.get_progress("a") is None
    assert store.status("a") == "unknown"


@pytest.mark.parametrize("between", [lambda store: None, lambda store: store.compact()])
def test_a_deleted_task_that_ran_again_and_was_deleted_again_stays_deleted(
    store: logstore.Store, between: Callable[[logstore.Store], None]
) -> None:
    store.set_result("a", 1)
    between(store)
    store.delete_result("a")
    between(store)
    store.set_progress("a", HALF)
    assert store.status("a") == "running"
    between(store)
    store.delete_result("a")
    between(store)
    assert store.status("a") == "deleted"
    with pytest.raises(logstore.ResultDeletedError):
        store.wait_result("a", timeout_s=0)


def test_of_many_poppers_exactly_one_gets_the_value(store: logstore.Store) -> None:
    store.set_result("a", "value")
    got: list[object] = []
    barrier = threading.Barrier(8)

    def pop() -> None:
        barrier.wait()
        try:
            got.append(store.pop_result("a"))
        except logstore.ResultDeletedError:
            got.append(None)

    threads = [threading.Thread(target=pop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=str) == [None] * 7 + ["value"]


def test_a_large_value_over_a_small_one_is_seen_by_all_and_survives(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    peer = start_peer(store.path)
    store.set_result("a", "small")
    assert peer.run("store.get_result('a')") == "small"
    store.set_result("a", b"x" * 1_000_000)
    assert peer.run("len(store.get_result('a'))") == 1_000_000
    assert store.get_result("a") == b"x" * 1_000_000
    store.set_result("a", "small again")
    assert peer.run("store.get_result('a')") == "small again"
    peer.run("store.close()")


def test_sync_interval_gives_up_the_flush_of_each_result(open_store: Stores) -> None:
    store = open_store(sync="interval", sync_interval_s=1000)
    before = store.stats().flushes
    for i in range(10):
        store.set_result(f"task-{i}", i)
    stats = store.stats()
    assert stats.flushes == before
    assert stats.log_unsynced_bytes == stats.log_bytes > 0
    store.sync()
    stats = store.stats()
    assert (stats.flushes, stats.log_unsynced_bytes) == (before + 1, 0)
    store.sync()
    assert store.stats().flushes == before + 1


def test_each_result_costs_one_flush_and_progress_none(open_store: Stores) -> None:
    store = open_store(sync_interval_s=1000)
    before = store.stats().flushes
    for i in range(10):
        store.set_result(f"task-{i}", i)
        store.set_progress(f"task-{i}", HALF)
    assert store.stats().flushes == before + 10


# -- times to live ---------------------------------------------------------------------------


def test_an_expired_result_disappears_at_once_and_from_the_disk_at_compaction(
    store: logstore.Store, clock: Clock
) -> None:
    store.set_result("a", 1, ttl_s=100)
    store.set_result("b", 2)
    store.compact()
    clock.advance(99)
    assert store.get_result("a") == 1
    clock.advance(2)
    with pytest.raises(logstore.ResultExpiredError):
        store.get_result("a")
    assert not store.is_result_ready("a")
    assert store.status("a") == "expired"
    assert ids_of(store) == ["b"]
    assert store.stats().results == 2
    store.compact()
    stats = store.stats()
    assert (stats.results, stats.gone) == (1, 1)
    assert store.status("a") == "expired"
    assert ids_of(store, status="expired") == ["a"]
    with pytest.raises(logstore.ResultExpiredError):
        store.wait_result("a", timeout_s=0)


def test_the_times_to_live_of_a_store_hold_unless_the_write_says_otherwise(
    open_store: Stores, clock: Clock
) -> None:
    store = open_store(result_ttl_s=100, failure_ttl_s=10, progress_ttl_s=50)
    store.set_result("result", 1)
    store.set_result("failure", 1, failed=True)
    store.set_result("own", 1, ttl_s=1000)
    store.set_result("own-failure", 1, failed=True, ttl_s=1000)
    store.set_progress("progress", HALF)
    store.set_progress("own-progress", HALF, ttl_s=1000)
    clock.advance(11)
    assert store.status("failure") == "expired"
    assert sorted(ids_of(store, status="ready")) == ["own", "own-failure", "result"]
    clock.advance(40)
    assert store.status("progress") == "unknown"
    assert store.get_progress("progress") is None
    assert ids_of(store, status="running") == ["own-progress"]
    clock.advance(50)
    assert store.status("result") == "expired"
    assert sorted(ids_of(store, status="ready")) == ["own", "own-failure"]


def test_failures_live_as_long_as_results_if_nothing_else_is_said(
    open_store: Stores, clock: Clock
) -> None:
    store = open_store(result_ttl_s=100)
    store.set_result("failure", 1, failed=True)
    clock.advance(99)
    assert store.status("failure") == "ready"
    clock.advance(2)
    assert store.status("failure") == "expired"


def test_a_task_that_runs_again_after_its_result_expired_is_running_also_after_compaction(
    store: logstore.Store, clock: Clock
) -> None:
    store.set_result("a", 1, ttl_s=100)
    clock.advance(101)
    store.set_progress("a", HALF)
    for _ in range(2):
        assert store.status("a") == "running"
        assert store.get_progress("a") == HALF
        assert ids_of(store) == ["a"]
        assert ids_of(store, status="running") == ["a"]
        store.compact()


def test_a_task_whose_result_expired_is_not_listed_as_running(
    store: logstore.Store, clock: Clock
) -> None:
    store.set_progress("a", HALF)
    store.set_result("a", 1, ttl_s=100)
    clock.advance(101)
    for _ in range(2):
        assert store.status("a") == "expired"
        assert ids_of(store, status="running") == []
        store.compact()


def test_gone_ids_are_forgotten_after_a_day(store: logstore.Store, clock: Clock) -> None:
    store.set_result("deleted", 1)
    store.set_result("expired", 1, ttl_s=10)
    store.delete_result("deleted")
    clock.advance(11)
    store.compact()
    clock.advance(86_000)
    store.set_result("other", 1)
    store.compact()
    assert (store.status("deleted"), store.status("expired")) == ("deleted", "expired")
    assert store.stats().gone == 2
    clock.advance(500)
    store.set_result("other", 1)
    store.compact()
    assert (store.status("deleted"), store.status("expired")) == ("unknown", "unknown")
    assert store.stats().gone == 0


def test_times_grow_when_the_clock_is_set_back(open_store: Stores, clock: Clock) -> None:
    store = open_store()
    store.set_result("a", 1)
    clock.advance(-3600)
    store.set_result("b", 2)
    store.compact()
    store.set_result("c", 3)
    store.close()
    store = open_store()
    store.set_result("d", 4)
    assert ids_of(store) == ["d", "c", "b", "a"]
    times = [info.time for info in store.tasks(newest_first=False)]
    assert times == sorted(set(times))


# -- retention -------------------------------------------------------------------------------


def test_max_results_lets_the_oldest_go_at_compaction(open_store: Stores) -> None:
    store = open_store(max_results=3)
    for i in range(6):
        store.set_result(f"task-{i}", i)
    assert len(ids_of(store)) == 6
    store.set_result("task-0", "again")
    store.compact()
    assert ids_of(store) == ["task-0", "task-5", "task-4"]
    assert store.status("task-1") == "expired"
    with pytest.raises(logstore.ResultExpiredError):
        store.get_result("task-1")


def test_max_bytes_lets_the_oldest_go_at_compaction(open_store: Stores) -> None:
    store = open_store(max_bytes=3000)
    for i in range(6):
        store.set_result(f"task-{i}", bytes(900))
    store.compact()
    assert ids_of(store) == ["task-5", "task-4", "task-3"]
    assert store.stats().data_bytes <= 3000


def test_progress_newer_than_an_evicted_result_stays(open_store: Stores) -> None:
    store = open_store(max_results=1)
    store.set_result("a", 1)
    store.set_result("b", 2)
    store.compact()
    assert store.status("a") == "expired"
    store.set_progress("a", HALF)
    store.compact()
    assert store.status("a") == "running"


# -- lists -----------------------------------------------------------------------------------


@pytest.fixture
def mixed(store: logstore.Store) -> logstore.Store:
    """Tasks of all statuses, some in the table, some in the log, their times interleaved."""
    for i in range(4):
        store.set_result(f"r{i}", i, failed=i == 1)
        store.set_progress(f"p{i}", TaskProgress(i / 4))
        store.set_result(f"d{i}", i)
        store.delete_result(f"d{i}")
        if i == 1:
            store.compact()
    store.set_result("r0", "again")
    store.set_progress("p0", HALF)
    return store


def test_tasks_are_merged_from_log_and_table_by_time(mixed: logstore.Store) -> None:
    expected = ["r1", "p1", "r2", "p2", "r3", "p3", "r0", "p0"]
    assert ids_of(mixed, newest_first=False) == expected
    assert ids_of(mixed) == expected[::-1]


def test_tasks_of_one_status_are_listed_alone(mixed: logstore.Store) -> None:
    assert ids_of(mixed, status="ready") == ["r0", "r3", "r2", "r1"]
    assert ids_of(mixed, status="running") == ["p0", "p3", "p2", "p1"]
    assert ids_of(mixed, status="deleted") == ["d3", "d2", "d1", "d0"]
    assert ids_of(mixed, status="expired") == []


@pytest.mark.parametrize("limit", [0, 1, 3, 8, 100])
def test_tasks_end_at_the_limit(mixed: logstore.Store, limit: int) -> None:
    assert ids_of(mixed, limit=limit) == ids_of(mixed)[:limit]


def test_a_listed_task_says_what_is_known_of_it(mixed: logstore.Store) -> None:
    listed = {info.task_id: info for info in mixed.tasks()}
    assert listed["r1"].failed
    assert not listed["r2"].failed
    assert listed["p0"].progress == HALF
    assert listed["r1"].progress is None
    assert listed["r1"].size_bytes == 1
    assert listed["r1"].expires_at is None
    assert abs(listed["p0"].time.timestamp() - time.time()) < LONG_S
    mixed.set_result("x", 1, ttl_s=100)
    (info,) = mixed.tasks(limit=1)
    assert info.expires_at is not None
    assert 100 - LONG_S < (info.expires_at - info.time).total_seconds() <= 100


def test_a_list_begun_before_a_compaction_neither_doubles_nor_loses_a_task(
    store: logstore.Store,
) -> None:
    for i in range(600):
        store.set_result(f"task-{i:03}", i)
        if i == 400:
            store.compact()
    listing = store.tasks()
    seen = [next(listing).task_id for _ in range(300)]
    store.compact()
    store.set_result("later", 1)
    seen += [info.task_id for info in listing]
    assert seen == [f"task-{i:03}" for i in reversed(range(600))]


# -- stats, check, backup, vacuum ------------------------------------------------------------


def test_stats_count_what_was_done(open_store: Stores) -> None:
    store = open_store(sync_interval_s=1000)
    fresh = store.stats()
    assert (fresh.results, fresh.progress, fresh.gone, fresh.writes) == (0, 0, 0, 0)
    assert (fresh.log_bytes, fresh.data_bytes) == (0, 0)
    store.set_result("a", 1)
    store.set_result("a", 2)
    store.set_progress("b", HALF)
    store.set_result("c", 3)
    store.delete_result("c")
    stats = store.stats()
    assert (stats.results, stats.progress) == (1, 1)
    assert (stats.writes, stats.commits) == (5, 5)
    assert stats.log_bytes > 0
    assert stats.log_file_bytes > stats.log_bytes
    store.compact()
    after = store.stats()
    assert (after.results, after.progress, after.gone) == (1, 1, 1)
    assert (after.log_bytes, after.log_unsynced_bytes) == (0, 0)
    assert after.epoch == stats.epoch + 1
    assert after.compactions == stats.compactions + 1
    assert 0 < after.compaction_pause_max_s <= after.compaction_pause_total_s
    assert after.data_bytes > 0
    assert after.file_bytes == os.stat(store.path).st_size
    assert after.oldest_reader is None
    assert after.last_error is None


def test_stats_of_a_group_tell_its_size(store: logstore.Store) -> None:
    in_one_group(store, *(("result", f"task-{i}", i) for i in range(7)))
    stats = store.stats()
    assert (stats.commits, stats.writes, stats.group_size_max) == (1, 7, 7)
    assert stats.group_size_mean == 7


def test_a_backup_opens_as_a_closed_store_with_everything_acked(
    store: logstore.Store, tmp_path: Path
) -> None:
    store.set_result("in-table", 1)
    store.compact()
    store.set_result("in-log", 2)
    store.set_progress("running", HALF)
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    store.backup(copy)
    assert os.listdir(copy.parent) == ["copy.db"]
    assert copy.stat().st_mode & 0o777 == 0o600
    with logstore.open(copy, mode="r") as reader:
        assert (reader.get_result("in-table"), reader.get_result("in-log")) == (1, 2)
        assert reader.get_progress("running") == HALF
    store.set_result("in-log", "later")
    with logstore.open(copy) as other:
        assert other.get_result("in-log") == 2
        other.set_result("in-log", "other")
    assert store.get_result("in-log") == "later"
    assert logstore.check(copy).ok


def test_a_backup_never_overwrites(store: logstore.Store, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("precious")
    with pytest.raises(FileExistsError, match="never overwrites"):
        store.backup(there)
    with pytest.raises(FileExistsError):
        store.backup(store.path)
    assert there.read_text() == "precious"
    left = [name for name in os.listdir(tmp_path) if not name.startswith("app.db")]
    assert left == ["there"]


def test_a_backup_into_a_directory_that_is_not_there_is_an_error(
    store: logstore.Store, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"nowhere.*there is no backup, and the store is as it was$"):
        store.backup(tmp_path / "nowhere" / "copy.db")


def test_a_vacuum_gives_the_space_back_and_keeps_everything(store: logstore.Store) -> None:
    for i in range(200):
        store.set_result(f"task-{i}", bytes(10_000))
    store.compact()
    for i in range(190):
        store.delete_result(f"task-{i}")
    store.compact()
    before = store.stats()
    report = store.vacuum()
    stats = store.stats()
    assert report.bytes_before == before.file_bytes
    assert report.bytes_after == stats.file_bytes < before.file_bytes / 4
    assert (stats.vacuums, stats.incarnation) == (1, before.incarnation + 1)
    assert store.get_result("task-195") == bytes(10_000)
    assert store.status("task-5") == "deleted"
    store.set_result("after", 1)
    assert store.check().ok


# -- waiting and watching --------------------------------------------------------------------


def test_waiting_for_a_result_that_does_not_come_ends_with_its_time_out(
    store: logstore.Store,
) -> None:
    with pytest.raises(logstore.WaitTimeoutError, match=r"no result for task 'a' within 0\.01 s"):
        store.wait_result("a", timeout_s=0.01)
    assert not store.wait_ready("a", timeout_s=0)


@pytest.mark.parametrize("end", ["delete", "close"])
def test_a_waiter_learns_that_there_will_be_no_result(open_store: Stores, end: str) -> None:
    store, other = open_store(), open_store()
    raised: list[Exception] = []

    def wait() -> None:
        try:
            store.wait_result("a", timeout_s=LONG_S)
        except Exception as exc:
            raised.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    if end == "delete":
        in_one_group(other, ("result", "a", 1), ("delete", "a"))
    else:
        store.close()
        other.close()
    thread.join(LONG_S)
    expected = logstore.ResultDeletedError if end == "delete" else logstore.StoreClosedError
    assert [type(exc) for exc in raised] == [expected]


def test_many_threads_waiting_for_one_result_all_get_it(store: logstore.Store) -> None:
    got: list[object] = []
    threads = [
        threading.Thread(target=lambda: got.append(store.wait_result("a", timeout_s=LONG_S)))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    store.set_result("a", "value")
    for thread in threads:
        thread.join()
    assert got == ["value"] * 10


def collect(watch: logstore.Watch, last: str) -> list[tuple[str, str]]:
    """Events up to the result of ``last``."""
    events: list[tuple[str, str]] = []
    for event in watch:
        events.append((event.task_id, event.kind))
        if event.task_id == last and event.kind == "result":
            break
    return events


def test_a_watch_tells_each_change_once_in_order(store: logstore.Store) -> None:
    store.set_result("before", 0)
    with store.watch() as watch:
        store.set_result("a", 1)
        store.set_result("a", 2)
        store.set_progress("b", HALF)
        store.delete_result("a")
        store.set_result("a", 3, failed=True)
        store.set_result("end", 4)
        assert collect(watch, "end") == [
            ("a", "result"),
            ("a", "result"),
            ("b", "progress"),
            ("a", "deleted"),
            ("a", "result"),
            ("end", "result"),
        ]


def test_changes_of_one_task_in_one_group_are_all_reported(store: logstore.Store) -> None:
    with store.watch() as watch:
        in_one_group(store, ("result", "a", 1), ("delete", "a"), ("result", "a", 2))
        store.set_result("end", 1)
        assert collect(watch, "end") == [
            ("a", "result"),
            ("a", "deleted"),
            ("a", "result"),
            ("end", "result"),
        ]


def test_a_watch_of_one_task_tells_of_no_other(store: logstore.Store) -> None:
    with store.watch("a") as watch:
        store.set_result("b", 1)
        store.set_result("a", 1, failed=True)
        event = next(watch)
        assert (event.task_id, event.kind, event.failed) == ("a", "result", True)


def test_a_watch_ends_when_it_is_closed_from_another_thread(store: logstore.Store) -> None:
    watch = store.watch()
    events: list[object] = []
    thread = threading.Thread(target=lambda: events.extend(watch))
    thread.start()
    watch.close()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert events == []


def test_a_watch_ends_when_the_store_is_closed(open_store: Stores) -> None:
    store = open_store()
    watch = store.watch()
    thread = threading.Thread(target=lambda: list(watch))
    thread.start()
    store.close()
    thread.join(LONG_S)
    assert not thread.is_alive()


# -- threads and forks -----------------------------------------------------------------------


def test_threads_that_write_together_share_flushes_and_lose_nothing(store: logstore.Store) -> None:
    count, each = 8, 30
    before = store.stats()

    def write(number: int) -> None:
        for i in range(each):
            store.set_result(f"task-{number}-{i}", (number, i))
            assert store.get_result(f"task-{number}-{i}") == (number, i)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = store.stats()
    assert stats.results == count * each
    assert stats.writes - before.writes == count * each
    assert stats.flushes - before.flushes <= stats.commits - before.commits


@pytest.mark.parametrize("attempt", range(5))
def test_closing_beside_other_threads_gives_them_results_or_a_typed_error(
    store: logstore.Store, attempt: int
) -> None:
    wrong: list[BaseException] = []
    started = threading.Barrier(7)

    def work(call: Callable[[], object]) -> None:
        started.wait()
        try:
            while True:
                with contextlib.suppress(logstore.StoreBusyError):  # a check was overtaken
                    call()
        except logstore.StoreClosedError:
            pass
        except BaseException as exc:
            wrong.append(exc)

    calls: list[Callable[[], object]] = [
        lambda: store.set_result("a", attempt),
        lambda: store.set_progress("a", HALF),
        lambda: store.status("a"),
        lambda: store.stats(),
        lambda: list(store.tasks()),
        lambda: store.check(),
    ]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    started.wait()
    store.set_result("b", 2)
    store.close()
    for thread in threads:
        thread.join(LONG_S)
    assert wrong == []


FORK_WARNING = "ignore:This process .* is multi-threaded:DeprecationWarning"


@pytest.mark.filterwarnings(FORK_WARNING)
def test_a_forked_child_reads_and_writes_beside_its_parent(store: logstore.Store) -> None:
    store.set_result("before", 1)

    def child() -> None:
        assert store.get_result("before") == 1
        store.set_result("child", 2)
        store.close()

    assert run_in_fork(child) == 0
    assert store.get_result("child") == 2
    store.set_result("after", 3)


@pytest.mark.filterwarnings(FORK_WARNING)
def test_a_child_that_never_uses_the_store_does_not_disturb_it(store: logstore.Store) -> None:
    store.set_result("before", 1)
    assert run_in_fork(lambda: None) == 0
    store.set_result("after", 2)
    assert store.get_result("after") == 2


@pytest.mark.filterwarnings(FORK_WARNING)
def test_a_child_that_dies_with_the_store_open_takes_nothing_from_its_parent(
    store: logstore.Store,
) -> None:
    assert run_in_fork(lambda: store.set_result("child", 1)) == 0  # and os._exit, not closed
    assert store.get_result("child") == 1
    store.set_result("after", 2)


@pytest.mark.filterwarnings(FORK_WARNING)
def test_forking_while_threads_write_harms_neither_side(store: logstore.Store) -> None:
    stop = threading.Event()
    wrong: list[BaseException] = []

    def write(number: int) -> None:
        i = 0
        try:
            while not stop.is_set():
                store.set_result(f"task-{number}-{i % 50}", i)
                store.get_result(f"task-{number}-{i % 50}")
                i += 1
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for i in range(8):
            assert run_in_fork(partial(store.set_result, f"child-{i}", i)) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert [store.get_result(f"child-{i}") for i in range(8)] == list(range(8))


@pytest.mark.parametrize(
    "name",
    ["sync_interval_s", "write_timeout_s", "result_ttl_s", "failure_ttl_s", "progress_ttl_s"],
)
@pytest.mark.parametrize("seconds", [0, 1e10])
def test_a_time_beyond_its_bounds_is_refused_by_the_name_of_its_option(
    path: Path, name: str, seconds: float
) -> None:
    options: Any = {name: seconds}
    with pytest.raises(ValueError, match=f"^{name} must be above zero and below 1e10 seconds"):
        logstore.open(path, **options)
    assert not path.exists()
