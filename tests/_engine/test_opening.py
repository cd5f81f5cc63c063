"""Opening and closing: alone, beside others, after a death at each point, and one file at rest."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import logstore
from logstore._engine import durability, files, joining, locks, opening, presence, recovery
from logstore._engine.compaction import fold_into
from logstore._engine.header import SharedHeader
from logstore._engine.log import Log
from logstore._engine.logview import LogView
from logstore._engine.overlay import Overlay
from logstore._engine.table import Table
from tests.support.boundary import A_WRITE_WHOSE_FLUSH_FAILS
from tests.support.inside import is_log_sealed, live, no_background_fold
from tests.support.stores import names_in

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores

CrashCopy = Callable[[logstore.Store], Path]


def test_the_last_of_several_processes_to_close_leaves_one_file(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peers = [start_peer(path) for _ in range(3)]
    for i, peer in enumerate(peers):
        peer.run(f"store.set_result('task-{i}', {i})")
    for peer in peers[:-1]:
        peer.run("store.close()")
        assert "app.db-log" in names_in(path.parent)
    peers[-1].run("store.close()")
    assert names_in(path.parent) == ["app.db"]
    with logstore.open(path, mode="r") as store:
        assert [store.get_result(f"task-{i}") for i in range(3)] == [0, 1, 2]


def test_a_process_that_ends_without_closing_leaves_one_file(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(path)
    peer.run("store.set_result('a', 1)")
    assert peer.close() == 0
    assert names_in(path.parent) == ["app.db"]


def test_many_processes_that_open_and_close_at_once_get_in_and_out(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peers = [start_peer() for _ in range(4)]
    for number, peer in enumerate(peers):
        peer.begin(
            f"for i in range(15):\n"
            f"    with logstore.open({str(path)!r}) as store:\n"
            f"        store.set_result(f'task-{number}-{{i}}', i)\n"
        )
    for peer in peers:
        peer.end()
    assert names_in(path.parent) == ["app.db"]
    with logstore.open(path) as store:
        assert len(list(store.tasks())) == 60
        assert store.check().ok


@pytest.mark.parametrize("last", [True, False])
def test_a_killed_process_takes_no_acked_write_with_it(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores, last: bool
) -> None:
    other = None if last else open_store(path)
    peer = start_peer(path, sync_interval_s=1000)
    peer.run(
        "for i in range(100): store.set_result(f'task-{i}', i)\n"
        "store.set_progress('p', logstore.TaskProgress(0.5))"
    )
    peer.kill()
    store = open_store(path) if other is None else other
    assert [store.get_result(f"task-{i}") for i in range(100)] == list(range(100))
    assert store.get_progress("p") == logstore.TaskProgress(0.5)
    assert store.stats().recovered_frames == (101 if last else 0)


def test_a_store_opened_again_begins_a_new_epoch_and_is_not_clean(open_store: Stores) -> None:
    store = open_store()
    epoch = store.stats().epoch
    assert not live(store).table.read_meta().clean
    store.close()
    again = open_store()
    assert again.stats().epoch > epoch
    assert not live(again).table.read_meta().clean


def test_a_clean_table_does_not_look_at_a_log_left_beside_it(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    """As when the process dies between the last compaction and the removal of the log."""
    store.set_result("a", "from the log")
    crashed = crash_copy(store)
    table = Table(str(crashed))
    fold_into(
        table, [], None, now_us=0, last_time_us=0, epoch=table.meta.epoch + 1, incarnation=1,
        clean=True,
    )  # fmt: skip
    table.close()
    with logstore.open(crashed) as opened:
        assert opened.status("a") == "unknown"
        assert opened.stats().recovered_frames == 0
    assert names_in(crashed.parent) == ["app.db"]


def test_frames_of_an_epoch_that_the_table_has_passed_are_not_folded_again(
    store: logstore.Store, crash_copy: CrashCopy, tmp_path: Path
) -> None:
    """As when power fails after a compaction's commit, with the old frames still in the log."""
    store.set_result("a", "old")
    old = live(store).logs.of(live(store).header.epoch).path
    shutil.copyfile(old, tmp_path / "old")
    store.set_result("a", "new")
    store.compact()
    crashed = crash_copy(store)
    shutil.copyfile(tmp_path / "old", crashed.parent / os.path.basename(old))
    with logstore.open(crashed) as opened:
        assert opened.get_result("a") == "new"
        assert opened.stats().recovered_frames == 0


@pytest.mark.parametrize("opens", [1, 2, 3])
def test_a_recovery_that_dies_is_done_again(
    store: logstore.Store, crash_copy: CrashCopy, start_peer: Callable[..., Peer], opens: int
) -> None:
    store.set_result("a", 1)
    crashed = crash_copy(store)
    for number in range(opens):
        peer = start_peer()
        victim = ("table.Table.write_meta", "header.SharedHeader.end_rebuild", "log.Logs.create")
        peer.die(f"logstore.open({str(crashed)!r})", at=f"logstore._engine.{victim[number]}")
    with logstore.open(crashed) as opened:
        assert opened.get_result("a") == 1
        assert opened.check().ok
    assert names_in(crashed.parent) == ["app.db"]


@pytest.mark.parametrize(
    "victim", ["table.Table.create", "log.Log.create", "header.SharedHeader.end_rebuild"]
)
def test_a_creation_that_dies_leaves_nothing_that_hinders(
    path: Path, start_peer: Callable[..., Peer], victim: str
) -> None:
    start_peer().die(f"logstore.open({str(path)!r})", at=f"logstore._engine.{victim}")
    with logstore.open(path) as store:
        store.set_result("a", 1)
    assert names_in(path.parent) == ["app.db"]


@pytest.mark.parametrize("next_one", [True, False])
def test_a_lock_counts_only_on_the_file_that_is_at_the_path(path: Path, next_one: bool) -> None:
    """An opener that locked a file somebody has just removed begins again with the new one."""
    tries: list[int] = []
    real = locks.try_lock

    def lock(fd: int, *, shared: bool = False) -> bool:
        got = real(fd, shared=shared)
        if not tries:
            os.unlink(f"{path}-shm")  # as the last process out does at this moment,
            if next_one:  # and the next one in
                os.close(os.open(f"{path}-shm", os.O_RDWR | os.O_CREAT, 0o600))
        tries.append(fd)
        return got

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "try_lock", lock)
        store = logstore.open(path)
    assert len(tries) > 1
    assert os.fstat(live(store).presence_fd).st_ino == os.stat(f"{path}-shm").st_ino
    store.set_result("a", 1)
    store.close()
    assert names_in(path.parent) == ["app.db"]


def test_a_lock_lost_while_it_is_made_a_shared_one_begins_the_opening_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives the lock up for a moment: somebody else may have been alone meanwhile."""
    real = locks.try_lock
    conversions: list[int] = []

    def lock(fd: int, *, shared: bool = False) -> bool:
        if shared:
            conversions.append(fd)
            if len(conversions) == 1:
                return False
        return real(fd, shared=shared)

    monkeypatch.setattr(locks, "try_lock", lock)
    with logstore.open(path) as store:
        assert len(conversions) == 3
        store.set_result("a", 1)
    assert names_in(path.parent) == ["app.db"]


@pytest.mark.parametrize("shared", [True, False], ids=["opening", "closing"])
def test_opening_beside_one_that_does_not_come_in_or_out_ends_with_its_time_out(
    path: Path, shared: bool
) -> None:
    fd = os.open(f"{path}-shm", os.O_RDWR | os.O_CREAT, 0o600)
    assert locks.try_lock(fd, shared=shared)
    with pytest.raises(logstore.StoreBusyError, match="opening or closing the store"):
        logstore.open(path, write_timeout_s=0.02)
    os.close(fd)
    with logstore.open(path) as store:
        store.set_result("a", 1)


def test_a_process_on_its_way_out_that_holds_the_writer_lock_is_waited_for(
    store: logstore.Store, crash_copy: CrashCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    crashed = crash_copy(store)
    leaving = os.open(f"{crashed}-shm", os.O_RDWR)
    assert locks.try_lock_byte(leaving, locks.WRITER)
    real = locks.is_byte_locked
    refused: list[int] = []

    def is_locked(fd: int, byte: locks.ByteLock) -> bool:
        held = real(fd, byte)
        if held:
            refused.append(fd)
            os.close(leaving)
        return held

    monkeypatch.setattr(locks, "is_byte_locked", is_locked)
    with logstore.open(crashed) as opened:
        assert len(refused) == 1
        assert opened.get_result("a") == 1
        assert opened.stats().recovered_frames == 1


@pytest.mark.parametrize(
    ("victim", "left"),
    [
        ("SharedHeader", ["app.db"]),
        ("Log.create", ["app.db"]),
        ("fold_into", ["app.db", "app.db-log", "app.db-log2", "app.db-shm"]),
        ("end_rebuild", ["app.db", "app.db-log", "app.db-log2", "app.db-shm"]),
    ],
)
def test_an_opening_that_fails_is_an_error_and_the_next_one_succeeds(
    path: Path, monkeypatch: pytest.MonkeyPatch, victim: str, left: list[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    places = {
        "SharedHeader": opening,
        "Log.create": Log,
        "fold_into": recovery,
        "end_rebuild": SharedHeader,
    }
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(places[victim], victim.rpartition(".")[2], fail)
        with pytest.raises(logstore.DiskFullError):
            logstore.open(path)
    assert names_in(path.parent) == left
    assert os.listdir("/proc/self/fd") == before
    with logstore.open(path) as store:
        store.set_result("a", 1)
    assert names_in(path.parent) == ["app.db"]


def test_a_directory_in_the_place_of_a_side_file_is_told(path: Path) -> None:
    os.mkdir(f"{path}-shm")
    with pytest.raises(logstore.OpenError, match=r"app\.db-shm: cannot be .*Is a directory"):
        logstore.open(path)
    assert names_in(path.parent) == ["app.db-shm"]


def test_a_newcomer_who_cannot_ask_for_blocks_takes_back_no_publication(
    path: Path, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not write what it has read a moment ago into the header that all share."""
    peer = start_peer(path)
    peer.run("store.set_result('before', 1)")
    real = durability.pwrite_all
    names = iter(f"published-{n}" for n in range(10))
    published = []

    def publish() -> None:
        published.append(next(names))
        peer.run(f"store.set_result({published[-1]!r}, 2)")

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def publish_first(fd: int, data: bytes | memoryview, offset: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("-shm"):
            publish()
        real(fd, data, offset)

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(durability, "pwrite_all", publish_first)
    with logstore.open(path) as store:
        assert all(store.status(name) == "ready" for name in published)
        publish()
        for name in published:
            assert store.get_result(name) == peer.run(f"store.get_result({name!r})") == 2
        assert store.check().ok


@pytest.mark.parametrize("damage", ["page 0", "missing"])
def test_a_log_damaged_beside_a_live_process_is_refused_to_those_who_join(
    path: Path, start_peer: Callable[..., Peer], tmp_path: Path, damage: str
) -> None:
    peer = start_peer(path)
    peer.run("store.set_result('a', 1)")
    log = path.with_name("app.db-log")
    page = log.read_bytes()[:100]
    before = os.listdir("/proc/self/fd")
    if damage == "missing":  # as for the moment in which the last one out takes it away
        os.rename(log, tmp_path / "kept-log")
        with pytest.raises(logstore.StoreBusyError, match="opening or closing"):
            logstore.open(path, write_timeout_s=0.02)
        os.rename(tmp_path / "kept-log", log)
    else:
        with log.open("r+b") as file:
            file.write(bytes(100))
        with pytest.raises(logstore.CorruptLogError, match="expected the header page"):
            logstore.open(path)
        with log.open("r+b") as file:
            file.write(page)
    assert os.listdir("/proc/self/fd") == before
    with logstore.open(path) as store:
        assert store.get_result("a") == 1
    peer.run("store.close()")


def test_a_log_replaced_while_it_is_opened_is_opened_again(
    path: Path, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = start_peer(path)
    peer.run("store.set_result('a', 1)")
    real = Log.open
    opened: list[int] = []

    def open_log(path: str, uuid: bytes, *, writable: bool = True) -> Log:
        log = real(path, uuid, writable=writable)
        opened.append(log.log_id)
        if len(opened) == 1:
            peer.run(A_WRITE_WHOSE_FLUSH_FAILS)
        return log

    monkeypatch.setattr(Log, "open", open_log)
    with logstore.open(path) as store:
        assert len(set(opened)) == 2
        store.set_result("b", 2)
        assert peer.run("(store.get_result('a'), store.get_result('b'))") == (1, 2)
    peer.run("store.close()")


def test_joining_that_fails_at_the_end_leaves_no_descriptor(
    path: Path, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_peer(path)

    def fail(*_: object) -> NoReturn:
        raise MemoryError

    before = sorted(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(joining, "Engine", fail)
        with pytest.raises(MemoryError):
            logstore.open(path)
    assert sorted(os.listdir("/proc/self/fd")) == before
    logstore.open(path).close()


def test_a_header_that_is_not_live_is_not_joined(path: Path, open_store: Stores) -> None:
    store = open_store(path)
    header = live(store).header
    header.ready = 0
    fd = os.open(f"{path}-shm", os.O_RDWR)
    assert locks.try_lock(fd, shared=True)
    assert joining.join(str(path), fd, live(store).options) is None
    header.ready = 1
    os.close(fd)


def test_opening_in_many_threads_makes_one_engine(path: Path) -> None:
    stores: list[logstore.Store] = []
    barrier = threading.Barrier(8)

    def open_one() -> None:
        barrier.wait()
        stores.append(logstore.open(path))

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(store._handle.engine) for store in stores}) == 1
    for store in stores:
        store.close()
    assert names_in(path.parent) == ["app.db"]


def test_no_descriptor_or_thread_is_left_by_opening_and_closing(path: Path) -> None:
    others = set(threading.enumerate())  # which may end meanwhile

    def held() -> tuple[list[str], int]:
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        threads = set(threading.enumerate()) - others
        return [link for link in links if link.startswith(str(path))], len(threads)

    before = held()
    for mode in ("rw", "r", "rw"):
        with logstore.open(path, mode=mode) as store, store.watch():
            assert held() != before
    with pytest.raises(logstore.OpenError):
        logstore.open(path.with_name("nowhere") / "app.db")
    assert held() == before


def test_closing_when_the_last_compaction_fails_keeps_the_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Table, "write_meta", fail)
    with pytest.raises(logstore.WriteError):
        store.close()
    monkeypatch.undo()
    assert "app.db-log" in names_in(path.parent)
    with logstore.open(path) as again:
        assert again.get_result("a") == 1
    assert names_in(path.parent) == ["app.db"]


def test_closing_when_the_side_files_cannot_be_removed_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = logstore.open(path)
    store.set_result("a", 1)

    def fail(path: str) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(files, "remove", fail)
        store.close()
    assert len(names_in(path.parent)) > 1
    with logstore.open(path) as again:
        assert again.get_result("a") == 1
        assert again.stats().recovered_frames == 0
    assert names_in(path.parent) == ["app.db"]


@pytest.mark.parametrize("others", [0, 1])
def test_an_opener_that_is_overtaken_begins_again(
    path: Path,
    start_peer: Callable[..., Peer],
    monkeypatch: pytest.MonkeyPatch,
    others: int,
) -> None:
    """Between opening the presence file and locking it the last process leaves, others come.

    With a presence file that has gone, nothing else is touched.
    """
    last = start_peer(path)
    last.run("store.set_result('a', 1)")
    newcomer = start_peer()
    real = presence.open_presence
    opened: list[int] = []

    def open_presence(path: str) -> int:
        opened.append(real(path))
        if len(opened) == 1:
            last.run("store.close()")
            if others:
                newcomer.open(path)
                newcomer.run("store.set_result('b', 2)")
        return opened[-1]

    alone: list[int] = []
    real_alone = opening._open_alone

    def open_alone(path: str, fd: int, *arguments: Any, **options: Any) -> Any:
        alone.append(os.fstat(fd).st_nlink)
        return real_alone(path, fd, *arguments, **options)

    monkeypatch.setattr(opening, "open_presence", open_presence)
    monkeypatch.setattr(opening, "_open_alone", open_alone)
    with logstore.open(path) as store:
        assert len(opened) > 1
        assert 0 not in alone
        assert os.path.samestat(os.fstat(live(store).presence_fd), os.stat(f"{path}-shm"))
        store.set_result("c", 3)
        if others:
            assert newcomer.run("store.get_result('c')") == 3
            assert store.get_result("b") == 2
            newcomer.run("store.close()")
    assert os.listdir(path.parent) == ["app.db"]
    with logstore.open(path) as store:
        assert [store.get_result(key) for key in "ac"] == [1, 3]
        assert store.status("b") == ("ready" if others else "unknown")
        assert store.check().ok


def test_one_who_catches_up_under_the_writer_lock_lets_another_fold_the_sealed_log(
    path: Path, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, real = start_peer(), LogView._read
    with no_background_fold(), logstore.open(path, compact_at=1 << 14) as store:
        while not is_log_sealed(store):
            store.set_result("a", "x" * 1000)
        store.set_result("b", 2)
        engine = live(store)
        engine.logview.overlay = Overlay(0)  # as of one who has just opened the store

        def read(view: LogView, *arguments: Any) -> Any:
            if is_log_sealed(store):
                peer.open(path)
                peer.run(
                    "import time; from logstore._engine import sealing; "
                    "sealing.fold_sealed(store._handle.engine, time.monotonic() + 60)"
                )
                assert not is_log_sealed(store)
            return real(view, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(LogView, "_read", read)
            engine.exclusively(lambda: None)
        assert (store.get_result("a"), store.get_result("b")) == ("x" * 1000, 2)
        peer.run("store.close()")
