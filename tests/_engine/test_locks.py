"""What several threads use is used under its lock.

A race that a missing lock allows is rarely met; that something is called without its lock is seen
each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import logstore
from logstore._engine import copying, files, lmdbfile, locks, registry, salvage
from logstore._engine import table as table_module
from logstore._engine.engine import Engine
from logstore._engine.frames import RESULT, Entry
from logstore._engine.header import SharedHeader
from logstore._engine.logview import LogView
from logstore._engine.overlay import Overlay, Unpublished
from logstore._engine.presence import open_presence
from logstore._engine.table import Table
from logstore._handle import Handle
from logstore._loops.waiters import Waiters
from logstore._watch import PendingEvents
from tests.support.boundary import A_WRITE_WHOSE_FLUSH_FAILS
from tests.support.forked import run_in_fork
from tests.support.guarded import touched_without
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores

UUID = bytes(range(16))
FORK = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def is_held(lock: Any) -> bool:
    """Return whether any thread holds an RLock."""
    if lock._is_owned():
        return True
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


# -- the view lock -----------------------------------------------------------------------------

UNDER_THE_VIEW_LOCK: list[tuple[type, str]] = [
    (LogView, "catch_up"),
    (LogView, "look_ahead"),
    (LogView, "reopen"),
    (Overlay, "apply"),
    (Unpublished, "move_to"),
    (Unpublished, "clear"),
    (LogView, "_publish"),
    (SharedHeader, "begin_epoch"),
    (Engine, "_follow_table"),
    (Engine, "_reopen_table"),
    (Engine, "replace_table"),
    (Table, "ensure_open"),
]


@contextlib.contextmanager
def watching(engine: Engine, seen: dict[str, bool]) -> Iterator[None]:
    """Note which functions are called, and whether the view lock was held each time."""

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen[name] = is_held(engine.view_lock) and seen.get(name, True)
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in UNDER_THE_VIEW_LOCK:
            whole = f"{owner.__name__}.{name}"
            patch.setattr(owner, name, watched(whole, getattr(owner, name)))
        yield


def test_whatever_changes_what_readers_see_does_so_under_the_view_lock(
    open_store: Stores, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    seen: dict[str, bool] = {}
    peer = start_peer(store.path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def fail(*_: object, **__: object) -> None:
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    with watching(live(store), seen):
        store.set_result("a", 1)
        peer.run("store.set_result('b', 2)")
        store.set_result("c", 3)
        peer.run("store.set_result('d', 4)")
        assert store.get_result("d") == 4
        peer.run("store.compact()")
        assert store.get_result("d") == 4
        peer.run("store.vacuum()")
        assert store.get_result("d") == 4
        store.set_result("e", 5)
        store.vacuum()
        peer.run("store.vacuum()")
        store.set_result("j", 5)
        peer.run("store.set_result('f', 6)")
        store.compact()
        peer.run(A_WRITE_WHOSE_FLUSH_FAILS)
        peer.run("store.set_result('g', 7)")
        store.set_result("h", 8)
        peer.run(A_WRITE_WHOSE_FLUSH_FAILS)
        peer.run("store.set_result('i', 9)")
        assert store.get_result("i") == 9
        with monkeypatch.context() as patch:
            patch.setattr(Table, "write_meta", fail)
            patch.setattr(table_module, "open_environment", refuse)
            with pytest.raises(logstore.WriteError):
                store.compact()
        assert store.get_result("a") == 1
    assert [name for name, held in seen.items() if not held] == []
    assert seen.keys() == {f"{owner.__name__}.{name}" for owner, name in UNDER_THE_VIEW_LOCK}
    peer.run("store.close()")


@pytest.mark.parametrize(("word", "change"), [("log_id", "a new log"), ("incarnation", "a vacuum")])
def test_which_file_a_reader_opens_is_published_under_the_view_lock(
    word: str, change: str, store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)
    held: list[bool] = []

    def watched(header: SharedHeader, name: str, value: int) -> None:
        if name == word:
            held.append(is_held(engine.view_lock))
        put(header, name, value)

    put = SharedHeader.__setattr__

    store.set_result("a", 1)
    with monkeypatch.context() as patch:
        patch.setattr(SharedHeader, "__setattr__", watched)
        if change == "a vacuum":
            store.vacuum()
        else:
            engine.header.log_failed = 1
            store.set_result("b", 2)
    assert held == [True]
    assert store.get_result("a") == 1


def test_a_table_that_a_dead_vacuum_has_left_is_opened_by_a_recovery_under_the_view_lock(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    store.set_result("a", 1)
    peer = start_peer(store.path)
    with pytest.raises(EOFError):
        peer.run("boundary.die_at('logstore._engine.durability.sync_directory'); store.vacuum()")
    seen: dict[str, bool] = {}
    with watching(live(store), seen):
        store.set_result("b", 2)
    assert seen["Engine._reopen_table"]
    assert store.get_result("a") == 1


def test_a_view_that_lags_behind_is_caught_up_under_the_view_lock(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    engine = live(store)
    engine.logview.overlay = Overlay(engine.header.epoch)
    seen: dict[str, bool] = {}
    with watching(engine, seen), monkeypatch.context() as patch:
        patch.setattr(Engine, "_prepare", lambda _: None)
        engine.exclusively(lambda: None)
    assert seen["LogView.catch_up"]
    assert store.get_result("a") == 1


def test_an_engine_is_stopped_under_the_view_lock(path: Path) -> None:
    store = logstore.open(path)
    engine = live(store)
    held: list[bool] = []

    class Watched(type(engine)):  # type: ignore[misc]
        def __setattr__(self, name: str, value: object) -> None:
            if name == "closed":
                held.append(is_held(self.view_lock))
            super().__setattr__(name, value)

    engine.__class__ = Watched
    store.close()
    assert held == [True]


# -- the locks of a table ----------------------------------------------------------------------


class WatchedEnvironment:
    """LMDB's handle; notes what is called without the locks that it needs."""

    GATE = ("stat",)
    EITHER = ("info",)
    BOTH = ("close", "set_mapsize")

    def __init__(self, env: Any, table: Table, wrong: list[str], seen: set[str]) -> None:
        self._env, self._table, self._wrong, self._seen = env, table, wrong, seen

    def __getattr__(self, name: str) -> Any:
        writes, reads = self._table._writing.locked(), self._table.is_read_here()
        self._seen.add(name)
        if (
            (name in self.GATE and not reads)
            or (name in self.EITHER and not (reads or writes))
            or (name in self.BOTH and not (reads and writes))
        ):
            self._wrong.append(name)
        return getattr(self._env, name)

    def begin(self, *, write: bool = False, **options: Any) -> Any:
        if not (self._table._writing.locked() if write else self._table.is_read_here()):
            self._wrong.append(f"begin, write={write}")
        return self._env.begin(write=write, **options)


def test_lmdbs_handle_is_used_under_the_locks_of_its_table(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Table.create(str(path), UUID)
    table = Table(str(path))
    wrong: list[str] = []
    seen: set[str] = set()

    def watch() -> None:
        table._env = WatchedEnvironment(table._env, table, wrong, seen)  # type: ignore[assignment]

    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: table.get_result(b"a"), "begin"),
        (table.counts, "stat"),
        (lambda: table.write(lambda txn: None), "begin"),
        (table.grow_map, "set_mapsize"),
        (table.adopt_map_size, "info"),
        (table.reopen, "close"),
        (table.leave, "close"),
        (table.close, "close"),
    ]
    for call, name in calls:
        table.ensure_open()
        watch()
        seen.clear()
        call()
        assert name in seen | {"begin"}
        assert wrong == [], call
    real = files.duplicate
    table = Table(str(path), fd=files.open_file(str(path), os.O_RDONLY))
    held: list[bool] = []

    def duplicate(fd: int) -> int:
        held.append(table.is_read_here())
        return real(fd)

    monkeypatch.setattr(files, "duplicate", duplicate)
    with open(path.parent / "copy", "wb") as copy:
        table.copy_to(copy.fileno())
    table.close()
    assert held == [True]


def test_a_map_that_cannot_grow_is_closed_under_the_locks_of_its_table(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Table.create(str(path), UUID)
    table = Table(str(path))
    wrong: list[str] = []
    table._env = WatchedEnvironment(table._env, table, wrong, set())  # type: ignore[assignment]

    def fail(*_: object) -> None:
        raise lmdb.MemoryError("mdb_env_set_mapsize: Cannot allocate memory")

    monkeypatch.setattr(table_module, "grow_map", fail)
    with pytest.raises(logstore.LogstoreError):
        table.grow_map()
    assert not table.is_open
    assert wrong == []
    table.close()


def test_an_environment_is_closed_while_no_other_is_opened(path: Path) -> None:
    Table.create(str(path), UUID)
    table = Table(str(path))
    held: list[bool] = []

    env = table.env

    class Environment:
        def close(self) -> None:
            held.append(table_module.environments.locked())
            env.close()

    table._env = Environment()  # type: ignore[assignment]
    table.close()
    assert held == [True]


# -- others ------------------------------------------------------------------------------------


def test_a_process_makes_one_copy_of_a_table_at_a_time(store: logstore.Store) -> None:
    engine = live(store)
    assert copying.make_copy(engine, "backup", engine.copy_lock.locked)
    assert not engine.copy_lock.locked()


@FORK
def test_a_handle_is_opened_again_and_closed_under_its_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = logstore.open(path)
    held: list[bool] = []
    real = registry.Lease.release

    def release(lease: registry.Lease) -> None:
        held.append(store._handle._closing.locked())
        real(lease)

    def child() -> None:
        handle = store._handle
        opened: list[bool] = []
        open_lease = handle._open_lease

        def watched() -> registry.Lease:
            opened.append(handle._closing.locked())
            return open_lease()

        handle._open_lease = watched
        store.status("a")
        assert opened == [True]
        store.close()

    assert run_in_fork(child) == 0
    monkeypatch.setattr(registry.Lease, "release", release)
    store.close()
    assert held == [True]


def test_the_events_of_a_watch_are_added_and_taken_under_their_lock() -> None:
    pending = PendingEvents()
    found = touched_without(pending._lock, pending, "_events")
    pending.add([(b"a", Entry(RESULT, 0, 1, 0, b""))])
    event = pending.first()
    assert event is not None
    pending.drop(event)
    assert pending.first() is None
    assert found == []


def test_waiters_subscribe_under_their_lock(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        waiters = Waiters(asyncio.get_running_loop(), store._handle)
        held: list[bool] = []
        monkeypatch.setattr(Handle, "subscribe", lambda *_: held.append(waiters._lock.locked()))
        assert waiters.check([]) == []
        assert held == [True]

    asyncio.run(main())


def test_a_store_at_rest_is_salvaged_while_no_process_can_open_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logstore.open(path).close()
    alone: list[bool] = []
    real = lmdbfile.verify_pages

    def verify(place: str) -> None:
        fd = open_presence(place)
        alone.append(not locks.try_lock(fd, shared=True))
        files.close(fd)
        real(place)

    monkeypatch.setattr(salvage, "verify_pages", verify)
    salvage.salvage_at_rest(str(path))
    assert alone == [True]
