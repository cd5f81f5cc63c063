"""The engine's view, its locks and its recovery, where processes and threads meet."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from unittest import mock

import lmdb
import pytest

import logstore
from logstore._codec.values import encode_value
from logstore._engine import durability, frames, locks, table
from logstore._engine.frames import RESULT, Entry
from logstore._engine.log import Log
from logstore._engine.overlay import Overlay
from logstore._engine.table import Table
from tests.support.boundary import A_WRITE_WHOSE_FLUSH_FAILS
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores

LONG_S = 100.0


# -- the view ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["compact", "vacuum"])
def test_a_reader_overtaken_by_a_new_epoch_starts_again(
    open_store: Stores,
    start_peer: Callable[..., Peer],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    """What it has read of the log may be the new epoch's by then."""
    store = open_store()
    peer = start_peer(store.path)
    peer.run("store.set_result('a', 1)")
    real = Log.read
    reads: list[int] = []

    def read(log: Log, start: int, end: int) -> bytes:
        reads.append(start)
        if len(reads) == 1:
            peer.run(f"store.{ending}()\nstore.set_result('b', 'in the new epoch')")
        return real(log, start, end)

    monkeypatch.setattr(Log, "read", read)
    assert store.get_result("a") == 1
    assert store.get_result("b") == "in the new epoch"
    assert len(reads) > 1
    monkeypatch.undo()
    peer.run("store.close()")


def test_a_read_of_a_table_that_is_replaced_meanwhile_is_done_on_the_new_one(
    store: logstore.Store,
) -> None:
    store.set_result("a", 1)
    store.compact()
    asked: list[Table] = []

    def read(table: Table) -> object:
        asked.append(table)
        if len(asked) == 1:
            store.vacuum()
            live(store).close_retired()
        return table.get_result(b"a")

    assert live(store).from_table(read) is not None
    assert len(set(asked)) == 2


def test_a_table_that_could_not_be_opened_again_is_opened_by_the_next_read_that_can(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    store.compact()
    store.set_result("b", 2)

    def fail(*_: object, **__: object) -> None:
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Table, "write_meta", fail)
        patch.setattr(table, "open_environment", refuse)
        with pytest.raises(logstore.WriteError):
            store.compact()
        with pytest.raises(logstore.WriteError, match=os.strerror(errno.EMFILE)):
            store.get_result("a")
    assert store.get_result("a") == 1
    assert store.get_result("b") == 2
    store.set_result("c", 3)
    assert store.get_result("c") == 3


def test_what_is_in_memory_is_read_without_a_lock(store: logstore.Store) -> None:
    store.set_result("a", 1)
    engine = live(store)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.view_lock:
            held.set()
            assert go_on.wait(LONG_S)

    holder, found = threading.Thread(target=hold), list[object]()
    reader = threading.Thread(target=lambda: found.append(store.get_result("a")))
    holder.start()
    assert held.wait(LONG_S)
    reader.start()
    reader.join(5)
    go_on.set()
    waits = reader.is_alive()
    for thread in (holder, reader):
        thread.join()
    assert not waits
    assert found == [1]


def test_of_many_results_only_a_damaged_one_is_an_error_by_itself(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)
    store.set_progress("b", logstore.TaskProgress())
    store.set_result("a", 1)
    store.delete_result("b")  # whose mark in the table has to be looked at
    for error, expected in (
        (logstore.CorruptRecordError("damaged"), None),
        (logstore.CorruptTableError("damaged"), logstore.CorruptTableError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Table, "get_result", mock.Mock(side_effect=error))
            if expected is None:
                found = engine.find_traces([b"a", b"b"])
                assert isinstance(found[0], Entry)
                assert found[1] is error
            else:
                with pytest.raises(expected):
                    engine.find_traces([b"a", b"b"])


@pytest.mark.parametrize("call", ["view", "log_state", "compact"], ids=lambda name: name)
def test_a_thread_that_comes_to_a_closed_engine_is_told_so(open_store: Stores, call: str) -> None:
    store = open_store()
    engine = live(store)
    store.close()
    with pytest.raises(logstore.StoreClosedError, match="the store is closed"):
        getattr(engine, call)()
    with pytest.raises(logstore.StoreClosedError, match="the store is closed"):
        engine.from_table(Table.newest_time_us)


def test_a_reader_that_has_to_catch_up_with_a_store_that_is_being_closed_is_told_so(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    engine = live(store)
    peer = start_peer(store.path)
    peer.run("store.set_result('a', 1)")
    engine.stop()
    with pytest.raises(logstore.StoreClosedError):
        engine.view()
    engine.closed = False
    assert store.get_result("a") == 1
    peer.run("store.close()")


def test_a_group_published_beside_a_view_that_lags_behind_leaves_no_gap_in_it(
    store: logstore.Store,
) -> None:
    engine = live(store)
    store.set_result("a", 1)

    def append() -> None:
        engine.logview.overlay = Overlay(engine.overlay.epoch)
        entry = Entry(RESULT, 0, time.time_ns() // 1000, 0, encode_value(2))
        engine.append([(b"b", entry)], sync=True, deadline=time.monotonic() + LONG_S)
        engine.flush()

    engine.exclusively(append)
    assert (store.get_result("a"), store.get_result("b")) == (1, 2)


# -- the locks ---------------------------------------------------------------------------------


class Holder:
    """A thread that holds the writer lock until it is told to let go."""

    def __init__(self, store: logstore.Store) -> None:
        self._engine = live(store)
        self._holds, self.let_go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self._engine.exclusively(self._hold)

    def _hold(self) -> None:
        self._holds.set()
        self.let_go.wait(LONG_S)

    def __enter__(self) -> Holder:
        self._thread.start()
        assert self._holds.wait(LONG_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self._thread.join()


def test_a_thread_that_holds_the_lock_too_long_is_a_time_out_and_leaves_no_lock_behind(
    open_store: Stores,
) -> None:
    store = open_store(write_timeout_s=0.05)
    with Holder(store):
        with pytest.raises(logstore.WriteTimeoutError, match="thread has held") as caught:
            store.compact()
        assert caught.value.__cause__ is None  # not the error itself, which would be a circle
        with pytest.raises(logstore.WriteTimeoutError):
            store.set_result("a", 1)
    store.set_result("a", 2)
    assert store.get_result("a") == 2


def test_a_writer_that_gets_the_lock_of_a_store_closed_meanwhile_is_told_so(
    open_store: Stores,
) -> None:
    store = open_store()
    engine = live(store)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            engine.compact()
        except logstore.StoreClosedError as exc:
            errors.append(exc)

    with Holder(store) as holder:
        thread = threading.Thread(target=write)
        thread.start()
        engine.stop()
        holder.let_go.set()
        thread.join()
    assert len(errors) == 1
    engine.closed = False
    store.set_result("a", 1)
    assert store.get_result("a") == 1


# -- recovery ----------------------------------------------------------------------------------


def test_a_log_that_a_peer_has_replaced_is_opened_again(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    store.set_result("a", 1)
    before = live(store).log.log_id
    peer = start_peer(store.path)
    peer.run(A_WRITE_WHOSE_FLUSH_FAILS)
    peer.run("store.set_result('b', 2)")
    assert store.get_result("b") == 2
    store.set_result("c", 3)
    assert live(store).log.log_id != before
    assert peer.run("(store.get_result('a'), store.get_result('c'))") == (1, 3)
    assert store.status("lost") == "unknown"
    peer.run("store.close()")


@pytest.mark.parametrize("failing", ["a large result", "a recovery", "a compaction"])
def test_an_error_keeps_no_file_open_once_its_store_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Not until the garbage collector comes either: a disk could not be unmounted."""
    gc.collect()
    gc.disable()
    try:
        with logstore.open(path) as store:
            engine = live(store)
            calls = {
                "a large result": lambda: store.set_result("a", bytes(300_000)),
                "a recovery": lambda: store.set_result("a", 1),
                "a compaction": store.compact,
            }
            store.set_result("b", 1)
            if failing == "a recovery":
                engine.header.writing = 1
            with monkeypatch.context() as patch:
                patch.setattr(Table, "write", fail_to_write)
                with contextlib.suppress(logstore.WriteError):
                    calls[failing]()
        del engine, calls
        deadline = time.monotonic() + 10.0  # the thread of the last call may just be ending
        while f"{path}-shm" in Path("/proc/self/maps").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        gc.enable()


def fail_to_write(*_: object, **__: object) -> NoReturn:
    raise lmdb.DiskError("mdb_txn_commit: Input/output error")


def test_a_recovery_that_fails_is_an_error_for_the_writer_and_done_by_the_next(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("before", 1)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(durability, "sync_data", fail)
        patch.setattr(durability, "sync_file", fail)  # nor can the log be replaced
        with pytest.raises(logstore.WriteError):
            store.set_result("a", 1)
        with pytest.raises(logstore.WriteError):
            store.compact()
    assert store.stats().last_error is not None
    store.set_result("a", 2)
    assert (store.get_result("before"), store.get_result("a")) == (1, 2)


def test_a_store_without_epochs_left_says_so_and_keeps_what_it_has(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "EPOCH_MAX", store.stats().epoch)
        with pytest.raises(logstore.WriteError, match="no epochs are left"):
            store.compact()
        assert store.get_result("a") == 1
    store.compact()
    assert store.get_result("a") == 1


def test_exclusive_work_that_raises_keeps_no_lock(store: logstore.Store) -> None:
    engine = live(store)
    fd = os.open(engine.log.path, os.O_RDWR)  # as another process has it
    taken: list[bool] = []

    def work() -> None:
        taken.append(locks.try_lock(fd))
        raise KeyError(1)

    with pytest.raises(KeyError):
        engine.exclusively(work)
    taken.append(locks.try_lock(fd))
    os.close(fd)
    assert taken == [False, True]
    thread = threading.Thread(target=lambda: store.set_result("a", 1))
    thread.start()
    thread.join(LONG_S)
    assert store.get_result("a") == 1
