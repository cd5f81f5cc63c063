"""Moments that seldom come: what raises in the middle, what another process does just then."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import lmdb
import pytest

import logstore
from logstore._engine import commitqueue, durability, identity, joining, locks, presence
from logstore._engine.frames import RESULT, Entry
from logstore._engine.overlay import Overlay
from logstore._engine.table import Table
from logstore._engine.writes import Pop, Write
from tests.support.boundary import A_WRITE_WHOSE_FLUSH_FAILS
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores


class Alarm(TimeoutError):
    """What a handler of SIGALRM raises: no error of the system's, which have a number."""


def ring(*_: object, **__: object) -> NoReturn:
    raise Alarm


# -- a handler's exception is no write error ----------------------------------------------------


def test_a_handlers_error_in_a_flush_passes_and_the_log_is_not_replaced(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_id = live(store).logs.log_id
    with monkeypatch.context() as patch:
        patch.setattr(durability, "sync_data", ring)
        with pytest.raises(Alarm):
            store.set_result("a", 1)
    store.set_result("b", 2)
    assert store.get_result("b") == 2
    assert live(store).logs.log_id == log_id


def test_a_handlers_error_while_a_pop_looks_passes(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Pop, "resolve", ring)
        with pytest.raises(Alarm):
            store.pop_result("a")
    assert store.pop_result("a") == 1


def test_the_same_error_in_a_thread_is_the_writes(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No handler runs there."""

    def fail(*_: object) -> NoReturn:
        raise ZeroDivisionError

    errors: list[BaseException] = []

    def pop() -> None:
        try:
            store.pop_result("a")
        except ZeroDivisionError as exc:
            errors.append(exc)

    with monkeypatch.context() as patch:
        patch.setattr(Pop, "resolve", fail)
        thread = threading.Thread(target=pop)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_a_follower_that_is_woken_twice_is_woken() -> None:
    class Lock:
        def locked(self) -> bool:
            return True

        def release(self) -> None:
            raise RuntimeError("release unlocked lock")

    batch: Any = commitqueue._Batch([])
    batch.wake = Lock()
    commitqueue._wake(batch)


def test_a_batch_that_an_interrupted_leader_had_taken_is_not_committed_again() -> None:
    committed: list[list[Write]] = []
    taken, go_on = threading.Event(), threading.Event()

    def commit_first(group: list[Write], ack: Callable[[], None]) -> None:
        committed.append(group)
        if len(committed) == 1:
            taken.set()
            go_on.wait(100)
            raise Alarm
        ack()

    queue = commitqueue.CommitQueue(commit_first, 100.0)
    first = Write(b"first", Entry(RESULT, 0, 0, 0, b""), sync=True)

    def lead() -> None:
        with pytest.raises(Alarm):
            queue.run([first])

    thread = threading.Thread(target=lead)
    thread.start()
    assert taken.wait(100)
    second = Write(b"second", Entry(RESULT, 0, 0, 0, b""), sync=True)
    following = threading.Thread(target=queue.run, args=([second],))
    following.start()
    go_on.set()
    thread.join()
    following.join()
    assert [[write.key for write in group] for group in committed] == [[b"first"], [b"second"]]
    assert "interrupted" in str(first.error)


# -- calls within calls -------------------------------------------------------------------------


def test_a_read_within_a_catching_up_of_the_same_thread_is_refused(store: logstore.Store) -> None:
    store.set_result("a", 1)
    engine = live(store)
    with engine.view_lock:
        engine.logview.overlay = Overlay(engine.overlay.epoch)
        with pytest.raises(logstore.WriteError, match="within another call"):
            store.get_result("a")
    assert store.get_result("a") == 1


def test_exclusive_work_within_exclusive_work_is_refused(store: logstore.Store) -> None:
    engine = live(store)
    with pytest.raises(logstore.WriteError, match="within another call"):
        engine.exclusively(lambda: engine.exclusively(lambda: None))
    store.set_result("a", 1)


@pytest.mark.parametrize("verb", ["compact", "vacuum", "check", "close"])
def test_maintenance_within_a_read_of_the_same_thread_is_refused(
    store: logstore.Store, verb: str
) -> None:
    """It would wait for the read, which waits for it."""
    with pytest.raises(logstore.WriteError, match="within another call"):
        live(store).table.read(lambda _: getattr(store, verb)())
    assert not store.closed


# -- reading the table --------------------------------------------------------------------------


def test_an_error_of_the_reads_own_passes(store: logstore.Store) -> None:
    def read(_: Table) -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        live(store).from_table(read)


def test_a_read_of_a_table_that_is_closed_meanwhile_says_that_the_store_is(path: Path) -> None:
    store = logstore.open(path)
    engine = live(store)

    def read(_: Table) -> None:
        engine.closed = True
        raise logstore.StoreClosedError("the table is closed")

    with pytest.raises(logstore.StoreClosedError, match="the store is closed"):
        engine.from_table(read)
    engine.closed = False
    store.close()


def test_what_is_no_error_of_the_system_passes_an_opening(store: logstore.Store) -> None:
    with pytest.raises(Alarm):
        live(store).sheltered_write(ring)


def test_a_log_that_a_peer_has_replaced_is_opened_by_the_next_write(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(store.path)
    peer.run(A_WRITE_WHOSE_FLUSH_FAILS)
    store.set_result("a", 1)
    assert peer.run("store.get_result('a')") == 1
    peer.run("store.close()")


def test_a_table_that_could_not_be_opened_again_is_opened_by_the_next_write(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(24, "Too many open files")

    store.set_result("a", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "write_meta", fail)
        patch.setattr("logstore._engine.table.open_environment", refuse)
        with pytest.raises(logstore.WriteError):
            store.compact()
    store.set_result("b", 2)
    assert [store.get_result(key) for key in "ab"] == [1, 2]


@pytest.mark.parametrize("moved", [True, False])
def test_a_vacuumed_table_that_cannot_be_opened_is_tried_again_if_there_is_a_newer_one(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    engine = live(store)

    def fail(*_: object, **__: object) -> NoReturn:
        engine.header.incarnation += moved
        raise logstore.OpenError("no table")

    with monkeypatch.context() as patch:
        patch.setattr("logstore._engine.identity.Table", fail)
        if moved:
            engine._follow_table()
            engine.header.incarnation -= 1
        else:
            with pytest.raises(logstore.OpenError, match="no table"):
                engine._follow_table()


def test_a_read_behind_two_vacuums_of_which_the_second_died_goes_over_to_its_table(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    """The table that is published is gone, and the one that is there is not published."""
    store.set_result("a", 1)
    peer = start_peer(store.path)
    peer.run("store.vacuum()")
    peer.die("store.vacuum()", at="logstore._engine.durability.sync_directory")
    assert store.get_result("a") == 1
    assert store.stats().incarnation == 3


def test_another_store_in_the_place_of_a_vacuumed_table_is_not_taken_for_it(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    with logstore.open(path.with_name("other.db")) as other:
        other.set_result("other", 1)
    store = logstore.open(path)
    store.set_result("a", 1)
    peer = start_peer(path)
    peer.run("store.vacuum()")
    os.rename(path.with_name("other.db"), path)
    with pytest.raises(logstore.StoreReplacedError):
        store.set_result("b", 2)
    with pytest.raises(Exception, match="StoreReplacedError"):
        peer.run("store.close()")
    with pytest.raises(logstore.StoreReplacedError):
        store.close()
    with logstore.open(path) as other:
        assert [info.task_id for info in other.tasks()] == ["other"]


# -- joining beside a dead vacuum ---------------------------------------------------------------


def joined(store: logstore.Store) -> tuple[str, Any]:
    engine = live(store)
    return store.path, engine.header


def test_a_process_joins_no_table_but_the_published_one(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not even opened: LMDB would show an older snapshot."""
    opened: list[str] = []
    monkeypatch.setattr(identity, "open_published", lambda path, _: opened.append(path))
    header = live(store).header
    assert joining._open_published(store.path, header) is None
    assert opened == [store.path]
    header.table_inode += 1
    assert joining._open_published(store.path, header) is None
    header.table_inode -= 1
    assert opened == [store.path]


def test_a_joiner_publishes_no_table_while_a_process_is_at_work_or_if_there_is_none(
    path: Path, store: logstore.Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store_path, header = joined(store)
    other = tmp_path_factory.mktemp("other") / "app.db"
    logstore.open(other).close()
    header.writing = 1
    before = list(header.words)
    mine, theirs = (os.open(store_path + "-shm", os.O_RDWR) for _ in range(2))
    assert locks.try_lock_byte(theirs, locks.WRITER)
    joining._publish_vacuumed(store_path, header, mine, header.log_id)
    os.close(theirs)
    joining._publish_vacuumed(store_path + "-none", header, mine, header.log_id)
    joining._publish_vacuumed(str(other), header, mine, header.log_id)
    assert joining._inode(store_path + "-none") == 0
    os.close(mine)
    assert list(header.words) == before
    header.writing = 0


def test_a_lock_that_cannot_be_had_leaves_no_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logstore.open(path).close()
    before = sorted(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(locks, "try_lock", ring)
        with pytest.raises(Alarm):
            presence.open_table_alone(str(path))
    assert sorted(os.listdir("/proc/self/fd")) == before


# -- ending -------------------------------------------------------------------------------------


def test_a_copy_of_a_closed_store_holds_nothing(open_store: Stores) -> None:
    store = open_store()
    engine = live(store)
    store.close()
    with pytest.raises(logstore.StoreClosedError):
        engine.hold_compactions("check")
    engine.deferral.let_go_on("check")


def test_a_thread_that_looks_at_the_header_of_a_store_that_is_closed_meets_no_unmapped_page(
    path: Path,
) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count(f"{path}-shm")

    store = logstore.open(path)
    header = live(store).header
    sequence = header.sequence
    assert mappings() == 1
    store.close()
    assert mappings() == 0
    assert header.state == 0
    header.state = 1  # which no other process sees
    sequence.wait(1, 0)
    with logstore.open(path) as again:
        assert live(again).header.state > 1


def test_progress_alone_over_the_limit_is_kept(open_store: Stores) -> None:
    """Only results are evicted."""
    store = open_store(max_bytes=100)
    store.set_progress("a", logstore.TaskProgress(status="x" * 1000))
    store.compact()
    assert store.get_progress("a") is not None


def test_a_table_that_another_process_keeps_locked_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last process out waits for one that is just leaving, and no longer."""
    monkeypatch.setattr(presence, "_LEAVING_S", 0.01)
    logstore.open(path).close()
    fds = [os.open(path, os.O_RDONLY) for _ in range(2)]
    assert locks.try_lock(fds[0], shared=True)
    assert not presence.wait_for_table(fds[1])
    os.close(fds[0])
    assert presence.wait_for_table(fds[1])
    os.close(fds[1])


def test_what_is_no_table_beside_a_live_header_is_an_error_and_leaves_no_descriptor(
    store: logstore.Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    junk = tmp_path_factory.mktemp("junk") / "app.db"
    junk.write_bytes(b"not a store" * 1000)
    header = live(store).header
    mine = os.open(store.path + "-shm", os.O_RDWR)
    before = sorted(os.listdir("/proc/self/fd"))
    header.writing = 1
    with pytest.raises(logstore.NotAStoreError):
        joining._publish_vacuumed(str(junk), header, mine, header.log_id)
    header.writing = 0
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.close(mine)
