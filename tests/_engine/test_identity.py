"""Where a process looks whether the files are those of its store, and what it holds on them.

The maintenance thread does not look in these tests: the operation itself has to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore._engine import locks
from logstore._engine.engine import Engine
from logstore._engine.table import Table
from tests.support.inside import files_looked_at_every, live

if TYPE_CHECKING:
    from tests.support.peers import Peer

NEVER_S = 1e9
STILL = f"inside.files_looked_at_every({NEVER_S}).start()"


@pytest.fixture(autouse=True)
def unwatched() -> Iterator[None]:
    """The maintenance thread of this process does not look."""
    with files_looked_at_every(NEVER_S):
        yield


@pytest.fixture
def other(path: Path) -> Path:
    """A file that is put in the table's place."""
    other = path.with_name("other.db")
    with logstore.open(other) as store:
        store.set_result("other", 1)
    return other


def quietly(path: Path) -> logstore.Store:
    return logstore.open(path, sync_interval_s=NEVER_S)


# -- the identity --------------------------------------------------------------------------------


def test_a_compaction_finds_that_the_table_was_replaced(path: Path, other: Path) -> None:
    store = quietly(path)
    store.set_result("a", 1)
    os.rename(other, path)
    with pytest.raises(logstore.StoreReplacedError):
        store.compact()
    with pytest.raises(logstore.StoreReplacedError):
        store.close()


@pytest.mark.parametrize("suffix", ["-shm"])
def test_a_compaction_finds_that_a_side_file_was_removed(path: Path, suffix: str) -> None:
    store = quietly(path)
    store.set_result("a", 1)
    os.unlink(f"{path}{suffix}")
    with pytest.raises(logstore.StoreReplacedError):
        store.compact()
    store.close()
    with logstore.open(path) as found:
        assert found.get_result("a") == 1


def test_a_recovery_finds_that_the_table_was_replaced(path: Path, other: Path) -> None:
    store = quietly(path)
    store.set_result("a", 1)
    os.rename(other, path)
    with pytest.raises(logstore.StoreReplacedError) as caught:
        live(store).exclusively(live(store).recover)
    assert caught.value.rescued is not None
    with logstore.open(caught.value.rescued) as rescued:
        assert rescued.get_result("a") == 1
    with pytest.raises(logstore.StoreReplacedError):
        store.close()


def test_a_vacuum_puts_its_file_over_the_own_table_only(
    path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = quietly(path)
    store.set_result("a", 1)
    real = Table.copy_to

    def copy_to(table: Table, fd: int, *pulse: Callable[[int], None]) -> None:
        real(table, fd, *pulse)
        if other.exists():
            os.rename(other, path)

    monkeypatch.setattr(Table, "copy_to", copy_to)
    with pytest.raises(logstore.StoreReplacedError):
        store.vacuum()
    with pytest.raises(logstore.StoreReplacedError) as caught:
        store.close()
    assert caught.value.rescued is not None
    for name, key in ((path, "other"), (caught.value.rescued, "a")):
        with logstore.open(name) as found:
            assert found.get_result(key) == 1


def test_closing_beside_another_process_finds_that_the_table_was_replaced(
    path: Path, other: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer()
    peer.run(STILL)
    peer.open(path, sync_interval_s=NEVER_S)
    store = quietly(path)
    store.set_result("a", 1)
    os.rename(other, path)
    with pytest.raises(logstore.StoreReplacedError) as caught:
        store.close()
    peer.run("try: store.close()\nexcept logstore.StoreReplacedError: pass")
    assert caught.value.rescued is not None
    with logstore.open(caught.value.rescued) as rescued:
        assert rescued.get_result("a") == 1


def test_a_read_that_goes_past_the_log_says_that_the_table_was_replaced(
    path: Path, other: Path
) -> None:
    store = quietly(path)
    store.set_result("a", 1)
    os.rename(other, path)
    with pytest.raises(logstore.StoreReplacedError):
        store.compact()
    with pytest.raises(logstore.StoreReplacedError):
        live(store).from_table(Table.read_meta)
    with pytest.raises(logstore.StoreReplacedError):
        store.close()


@pytest.mark.parametrize("suffix", ["", "-shm"])
def test_a_process_that_lost_a_file_lets_others_open_the_path(
    path: Path, start_peer: Callable[..., Peer], suffix: str
) -> None:
    """It still has its own handle: the presence locks are given back before that is closed."""
    store = quietly(path)
    store.set_result("a", 1)
    os.unlink(f"{path}{suffix}")
    with pytest.raises(logstore.StoreReplacedError):
        store.compact()
    peer = start_peer(path)
    assert peer.run("store.status('a')") == ("ready" if suffix else "unknown")
    peer.run("store.close()")
    try:
        store.close()
    except logstore.StoreReplacedError:
        assert not suffix


def test_a_backup_put_back_beside_a_log_that_went_on_is_refused(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    """Also if no compaction has come between: log and backup are of one epoch then."""
    peer = start_peer()
    peer.run(STILL)
    peer.open(path)
    backup = path.with_name("backup.db")
    peer.run(f"store.set_result('a', 1)\nstore.backup({str(backup)!r})\nstore.set_result('b', 2)")
    peer.kill()
    os.rename(backup, path)
    with pytest.raises(logstore.StaleTableError):
        logstore.open(path)


# -- the presence lock on the table --------------------------------------------------------------


def comes_alone(_peer: Peer, _store: logstore.Store) -> None:
    """The peer has opened the store first."""


def vacuums(peer: Peer, _store: logstore.Store) -> None:
    peer.run("store.vacuum()")


def follows_to_read(peer: Peer, store: logstore.Store) -> None:
    store.vacuum()
    peer.run("store.get_result('a')")


def follows_to_write(peer: Peer, store: logstore.Store) -> None:
    store.vacuum()
    peer.run("store.set_result('b', 2)")


@pytest.mark.parametrize("first", [True, False], ids=["alone", "joined"])
@pytest.mark.parametrize("how", [comes_alone, vacuums, follows_to_read, follows_to_write])
def test_a_process_that_has_the_table_open_is_present_on_it(
    path: Path,
    start_peer: Callable[..., Peer],
    how: Callable[[Peer, logstore.Store], None],
    first: bool,
) -> None:
    """However it has come to its table: the lock on a header that was removed counts no more."""
    peer = start_peer()
    peer.run(STILL)
    if first:
        peer.open(path, sync_interval_s=NEVER_S)
    store = quietly(path)
    store.set_result("a", 1)
    if not first:
        peer.open(path, sync_interval_s=NEVER_S)
    how(peer, store)
    store.close()
    os.unlink(f"{path}-shm")
    with pytest.raises(logstore.StoreBusyError, match="removed or replaced"):
        logstore.open(path, write_timeout_s=0.05)
    peer.run("store.close()")
    with logstore.open(path) as found:
        assert found.get_result("a") == 1


def test_a_vacuumed_file_is_locked_from_the_moment_it_is_the_table(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[bool] = []
    real = os.rename

    def rename(source: str, destination: str) -> None:
        real(source, destination)
        fd = os.open(destination, os.O_RDONLY)
        free.append(locks.try_lock(fd))
        os.close(fd)

    with quietly(path) as store:
        store.set_result("a", 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            store.vacuum()
    assert free == [False]


def test_a_process_that_closes_beside_one_on_the_table_alone_is_not_the_last(path: Path) -> None:
    with quietly(path) as store:
        store.set_result("a", 1)
        fd = os.open(path, os.O_RDONLY)  # of a process whose header was removed
        assert locks.try_lock(fd, shared=True)
    assert os.path.exists(f"{path}-log")
    os.close(fd)
    logstore.open(path).close()
    assert os.listdir(path.parent) == ["app.db"]


def test_of_two_processes_that_close_at_the_same_time_one_is_the_last(
    path: Path, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engine.release

    def release(engine: Engine) -> None:
        monkeypatch.undo()
        peer.run("store.close()")
        real(engine)

    with quietly(path) as store:
        store.set_result("a", 1)
        peer = start_peer(path)
        monkeypatch.setattr(Engine, "release", release)
    assert os.listdir(path.parent) == ["app.db"]


def test_a_process_does_not_join_while_another_is_alone_with_the_table(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer()
    peer.open(path)
    peer.run(
        "from logstore._engine import durability, locks\n"
        "fd = store._handle.writable_engine.table.fd\n"
        "assert locks.try_lock(fd)"
    )
    with pytest.raises(logstore.StoreBusyError):
        logstore.open(path, write_timeout_s=0.02)
    peer.run("assert locks.try_lock(fd, shared=True)")
    logstore.open(path).close()
    peer.run("store.close()")


# -- incarnations --------------------------------------------------------------------------------


def test_a_table_that_is_vacuumed_while_a_process_joins_is_opened_again(
    path: Path, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = start_peer(path)
    peer.run("store.set_result('a', 1)")
    real = Table.__init__
    opened: list[int] = []

    def open_table(table: Table, path: str, **options: Any) -> None:
        real(table, path, **options)
        opened.append(table.inode)
        if len(opened) == 1:
            peer.run("store.set_result('b', 2)\nstore.vacuum()")

    monkeypatch.setattr(Table, "__init__", open_table)
    with quietly(path) as store:
        assert store.get_result("b") == 2
        assert len(set(opened)) == 2
    peer.run("store.close()")


def test_a_reader_does_not_take_over_a_table_that_is_not_published(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    """It is two vacuums behind, and the second one died before it could publish its file."""
    peer = start_peer(path)
    peer.run("store.set_result('a', 1)")
    with quietly(path) as store:
        engine = live(store)
        peer.run("store.vacuum()")
        peer.die("store.vacuum()", at="logstore._engine.durability.sync_directory")
        table = engine.table
        engine._follow_table()
        assert (engine.incarnation, engine.table) == (1, table)
        store.set_result("b", 2)
        assert (engine.incarnation, store.get_result("a")) == (3, 1)


def test_a_copy_of_the_table_in_its_place_is_no_vacuum_of_it(path: Path) -> None:
    store = quietly(path)
    store.set_result("a", 1)
    shutil.copyfile(path, f"{path}.copy")
    os.rename(f"{path}.copy", path)
    with pytest.raises(logstore.StoreReplacedError):
        store.compact()
    with pytest.raises(logstore.StoreReplacedError):
        store.close()
