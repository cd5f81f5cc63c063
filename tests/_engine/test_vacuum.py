"""Vacuum and backup beside running writers, and what their deaths leave."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from logstore._engine import copying, vacuum
from logstore._engine.deferral import HOLD_NS
from logstore._engine.header import COPIES, Copy
from logstore._engine.table import Table
from tests.support.boundary import when_copied
from tests.support.forked import run_in_fork
from tests.support.inside import folded, live

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores


CALLS: dict[str, Callable[[logstore.Store], object]] = {
    "vacuum": logstore.Store.vacuum,
    "backup": lambda store: store.backup(f"{store.path}.copy"),
    "check": logstore.Store.check,
}


@pytest.mark.parametrize("by", COPIES)
def test_compactions_are_put_off_while_a_table_is_copied(
    by: Copy, open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_at=1 << 14)
    header = live(store).header
    before: list[int] = []

    def write() -> None:
        before.append(store.stats().compactions)
        for i in range(60):
            store.set_result(f"task-{i}", bytes(1000))
        before.append(store.stats().compactions)
        assert store.stats().log_bytes > 60_000
        assert [each for each in COPIES if header.held_until_ns(each)] == [by]

    when_copied(monkeypatch, write)
    CALLS[by](store)
    assert before[0] == before[1]
    assert len(list(store.tasks())) == 60
    assert header.held_until_ns(by) == 0
    if by == "backup":
        os.unlink(f"{store.path}.copy")


def test_other_processes_take_over_the_new_file_on_their_next_operation(
    open_store: Stores, start_peer: Callable[..., Peer]
) -> None:
    store = open_store()
    readers = [start_peer(store.path) for _ in range(2)]
    store.set_result("a", 1)
    store.compact()
    for reader in readers:
        assert reader.run("store.get_result('a')") == 1
    store.vacuum()
    assert readers[0].run("store.get_result('a')") == 1
    readers[1].run("store.set_result('b', 2)\nstore.compact()")
    assert store.get_result("b") == 2
    assert readers[0].run("(store.get_result('b'), store.stats().incarnation)") == (2, 2)
    readers[0].run("store.vacuum()")
    assert store.stats().incarnation == 3
    assert readers[1].run("store.get_result('b')") == 2
    for reader in readers:
        reader.run("store.close()")


def test_readers_and_writers_in_threads_go_on_over_vacuums(store: logstore.Store) -> None:
    store.set_result("fixed", "value")
    stop = threading.Event()
    wrong: list[BaseException] = []
    written = [0, 0]

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                assert store.get_result("fixed") == "value"
                store.set_result(f"task-{number}", written[number] + 1)
                written[number] += 1
                assert store.get_result(f"task-{number}") == written[number]
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    count = 0
    while count < 5 or not (all(written) or wrong):
        store.vacuum()
        count += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.stats().vacuums == count


def test_a_reader_and_a_writer_follow_anothers_vacuum_at_once(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    """LMDB refuses to open a file twice in one process."""
    store.set_result("a", 1)
    store.compact()
    peer = start_peer(store.path)
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        meet.wait()
        try:
            call()
        except BaseException as exc:
            errors.append(exc)

    for _ in range(60):
        peer.run("store.vacuum()")
        meet = threading.Barrier(2)
        calls = (lambda: store.get_result("a"), lambda: store.set_result("b", 2))
        threads = [threading.Thread(target=run, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    peer.run("store.close()")


def test_two_vacuums_of_one_process_are_done_one_after_the_other(store: logstore.Store) -> None:
    threads = [threading.Thread(target=store.vacuum) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.stats().vacuums == 2


def test_a_vacuum_overtaken_by_large_results_tries_again(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logstore._engine.deferral.COPY_LOG_FACTOR", 0)
    when_copied(monkeypatch, lambda: store.set_result("large", bytes(1 << 19)))
    store.vacuum()
    assert store.get_result("large") == bytes(1 << 19)
    assert store.stats().vacuums == 1


def test_a_compaction_behind_the_copy_makes_a_vacuum_begin_again(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was folded into the old file then is in no log any more."""
    real = copying.open_copy

    def open_copy(fd: int, path: str) -> Table:
        if store.status("late") == "unknown":
            store.set_result("late", 1)
            store.compact()
        return real(fd, path)

    monkeypatch.setattr(vacuum, "open_copy", open_copy)
    store.vacuum()
    assert store.get_result("late") == 1
    assert store.stats().vacuums == 1


def test_a_vacuum_that_fails_leaves_the_store_as_it_was(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    when_copied(monkeypatch, fail)
    with pytest.raises(logstore.DiskFullError):
        store.vacuum()
    monkeypatch.undo()
    assert not os.path.exists(store.path + "-vacuum")
    assert live(store).header.held_until_ns("vacuum") == 0
    assert store.get_result("a") == 1
    store.vacuum()
    assert store.stats().vacuums == 1


VICTIMS = {
    "while it copies": "Table.copy_to = die",
    "before the rename": "os.rename = die",
    "before the directory is synced": "durability.sync_directory = die",
    "before it is published": "Engine.begin_epoch = die_second",
}


@pytest.mark.parametrize("when", VICTIMS)
@pytest.mark.parametrize("survivor", [True, False], ids=["a peer lives", "no peer lives"])
def test_a_vacuum_that_dies_at_any_point_loses_nothing(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores, when: str, survivor: bool
) -> None:
    peer = start_peer(path)
    store = open_store(path) if survivor else None
    peer.run("for i in range(50): store.set_result(f'task-{i}', i)")
    if store is not None:
        assert store.get_result("task-1") == 1
    peer.run(
        "from logstore._engine.table import Table\n"
        "from logstore._engine.engine import Engine\n"
        "from logstore._engine import durability, files\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "real = Engine.begin_epoch\n"
        "calls = []\n"
        "def die_second(*arguments):\n"
        "    calls.append(1)\n"
        "    return real(*arguments) if len(calls) < 2 else die()\n"
        f"{VICTIMS[when]}"
    )
    with pytest.raises(EOFError):
        peer.run("store.vacuum()")
    if store is None:
        store = open_store(path)
    assert [store.get_result(f"task-{i}") for i in range(50)] == list(range(50))
    store.set_result("after", 1)
    late = start_peer(path)
    assert late.run("store.get_result('after')") == 1
    late.run("store.set_result('late', 2)\nstore.compact()")
    assert store.get_result("late") == 2
    store.vacuum()
    assert store.get_result("task-7") == 7
    assert late.run("store.get_result('late')") == 2
    late.run("store.close()")


PAUSES_BEHIND_ITS_RENAME = """
from logstore._engine import identity
def publish_table(*arguments, real=identity.publish_table):
    with open({renamed!r}, "w"), open({go_on!r}):
        real(*arguments)
identity.publish_table = publish_table
"""


def test_a_reader_does_not_take_over_a_table_before_it_is_published(
    store: logstore.Store, start_peer: Callable[..., Peer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    pipes = tmp_path_factory.mktemp("pipes")
    renamed, go_on = str(pipes / "renamed"), str(pipes / "go_on")
    for pipe in (renamed, go_on):
        os.mkfifo(pipe)
    store.set_result("a", 1)
    peer = start_peer(store.path)
    peer.run("store.vacuum()")  # this process has not followed it yet
    peer.run(PAUSES_BEHIND_ITS_RENAME.format(renamed=renamed, go_on=go_on))
    peer.begin("store.vacuum()")
    with open(renamed):
        pass
    found: list[int] = []
    reader = threading.Thread(target=lambda: found.append(store.get_result("a")))
    reader.start()
    reader.join(0.3)
    with open(go_on, "w"):
        pass
    reader.join(100)
    peer.end()
    assert found == [1]
    store.set_result("b", 2)
    store.compact()
    assert peer.run("store.get_result('b')") == 2
    peer.run("store.close()")


DIES_BEHIND_ITS_RENAME = """
from logstore._engine import durability, table
from logstore._engine.header import SharedHeader
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def die_behind(name):
    field = getattr(SharedHeader, name)
    def store(header, value):
        field.__set__(header, value)
        die()
    setattr(SharedHeader, name, property(field.__get__, store))
def rename(old, new, real=os.rename):
    real(old, new)
    {when}
os.rename = rename
"""
MOMENTS = {
    "before the directory is synced": "durability.sync_directory = die",
    "before its transaction is told": "table.open_environment = die",
    "before its inode is told": "die_behind('table_txn')",
    "before its incarnation is told": "die_behind('table_inode')",
    "before its epoch is told": "die_behind('incarnation')",
}


@pytest.mark.parametrize("when", MOMENTS)
def test_behind_a_dead_vacuum_a_process_joins_one_that_is_stopped(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores, when: str
) -> None:
    stopped, peer = start_peer(path), start_peer(path)
    peer.run("for i in range(50): store.set_result(f'task-{i}', i)")
    stopped.stop()
    peer.run("store.compact()\nstore.set_result('task-0', 'new')")
    peer.run(DIES_BEHIND_ITS_RENAME.replace("{when}", MOMENTS[when]))
    with pytest.raises(EOFError):
        peer.run("store.vacuum()")
    try:
        store = open_store(path, write_timeout_s=5)
        assert [store.get_result(f"task-{i}") for i in range(50)] == ["new", *range(1, 50)]
        assert store.stats().incarnation == 2
        store.set_result("after", 1)
    finally:
        stopped.resume()
    assert stopped.run("store.get_result('after'), store.get_result('task-0')") == (1, "new")
    stopped.run("store.set_result('late', 2)\nstore.close()")
    assert store.get_result("late") == 2


def test_compactions_go_on_when_the_vacuum_that_put_them_off_has_died(
    open_store: Stores, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_at=1 << 14)
    peer = start_peer(store.path)
    peer.die("store.vacuum()", at="logstore._engine.table.Table.copy_to")
    before = store.stats().compactions
    for i in range(30):
        store.set_result(f"task-{i}", bytes(1000))
    assert store.stats().compactions == before
    now_ns = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns() + HOLD_NS)
    store.set_result("after", 1)
    assert folded(store)
    assert store.stats().compactions == before + 1
    assert len(list(store.tasks())) == 31


def test_closing_behind_a_dead_vacuum_goes_over_to_its_file(
    path: Path, start_peer: Callable[..., Peer]
) -> None:
    """The file that it has open has no name any more, and goes with it."""
    peer = start_peer(path)
    with logstore.open(path, sync_interval_s=1e6) as store:
        store.set_result("a", 1)
        peer.die("store.vacuum()", at="logstore._engine.durability.sync_directory")
    with logstore.open(path) as store:
        assert store.get_result("a") == 1


@pytest.mark.parametrize("taker", ["a live process", "one alone"])
def test_a_taker_of_a_vacuums_rename_forces_it_to_the_disk_before_it_writes(
    path: Path, start_peer: Callable[..., Peer], taker: str
) -> None:
    vacuumer = start_peer(path)
    vacuumer.run("store.set_result('a', 1)")
    holder = None if taker == "one alone" else start_peer(path)
    vacuumer.die("store.vacuum()", at="logstore._engine.durability.sync_directory")
    process = holder if holder is not None and taker == "a live process" else start_peer()
    process.run(
        "from logstore._engine import durability, files\n"
        "done = []\n"
        "def noting(name, call):\n"
        "    return lambda *arguments: (done.append(name), call(*arguments))[1]\n"
        "durability.sync_directory = noting('directory', durability.sync_directory)\n"
        "from logstore._engine.table import Table\n"
        "Table.write_meta = noting('table', Table.write_meta)"
    )
    if process is not holder:
        process.open(path)
    process.run("store.set_result('b', 2)\nstore.compact()")
    done = process.run("done")
    assert done[0] == "directory"
    assert "table" in done
    process.run("store.close()")
    if holder is not None and holder is not process:
        assert holder.run("store.get_result('b')") == 2
        holder.run("store.close()")


def test_a_backup_beside_a_writer_has_everything_acked_before_it(
    open_store: Stores, start_peer: Callable[..., Peer], tmp_path: Path
) -> None:
    store = open_store(compact_at=1 << 14)
    peer = start_peer(store.path)
    peer.begin("for i in range(1000): store.set_result(f'task-{i:04}', bytes(200))")
    for number in range(5):
        acked = {info.task_id for info in store.tasks()}
        store.backup(tmp_path / f"copy-{number}.db")
        with logstore.open(tmp_path / f"copy-{number}.db") as copy:
            assert acked <= {info.task_id for info in copy.tasks()}
            assert copy.check().ok
    peer.end()
    peer.run("store.close()")


def test_a_backup_that_fails_leaves_nothing(
    store: logstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    when_copied(monkeypatch, fail)
    with pytest.raises(OSError, match="No space"):
        store.backup(tmp_path / "copy.db")
    assert not [name for name in os.listdir(tmp_path) if name.startswith("copy")]


def test_a_file_that_is_mostly_free_is_due_for_a_vacuum(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vacuum, "AUTO_FILE_BYTES", 1 << 20)
    for i in range(20):
        store.set_result(f"task-{i}", bytes(200_000))
    store.compact()
    assert not vacuum.is_due(live(store))
    for i in range(15):
        store.delete_result(f"task-{i}")
    store.compact()
    assert vacuum.is_due(live(store))
    store.vacuum()
    assert not vacuum.is_due(live(store))


# -- tables that have been replaced by a vacuum ----------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_a_replaced_table_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child cannot close what another thread of the parent has a transaction in.

    It would keep the old file's space taken.
    """

    def in_child() -> None:
        assert store.get_result("a") == 1
        names = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                names.append(os.readlink(f"/proc/self/fd/{fd}"))
        assert f"{path}" in names
        assert f"{path} (deleted)" not in names

    with logstore.open(path) as store:
        store.set_result("a", 1)
        store.compact()
        engine = live(store)
        old = engine.table
        monkeypatch.setattr(engine, "close_retired", lambda: None)
        store.vacuum()
        assert engine.table is not old
        reading, go_on = threading.Event(), threading.Event()

        def read(_: object) -> None:
            reading.set()
            go_on.wait(100)

        thread = threading.Thread(target=lambda: old.read(read))
        thread.start()
        assert reading.wait(100)
        forked: list[int] = []
        forking = threading.Thread(target=lambda: forked.append(run_in_fork(in_child)))
        forking.start()
        forking.join(0.1)
        waits = forking.is_alive()
        go_on.set()
        thread.join()
        forking.join()
        monkeypatch.undo()
        assert waits
        assert forked == [0]


def test_closing_a_replaced_table_keeps_its_inode_until_lmdb_has_forgotten_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logstore.open(path) as store:
        table = live(store).table
        monkeypatch.setattr(live(store), "close_retired", lambda: None)
        links: list[int] = []
        real = table.env.close

        class Spy:
            def close(self) -> None:
                real()
                links.append(os.fstat(table.fd).st_ino)

        inode = table.inode
        store.vacuum()
        monkeypatch.setattr(table, "_env", Spy())
        table.close()
        assert links == [inode]


def test_a_writer_keeps_the_table_that_a_reader_has_just_gone_over_to(
    store: logstore.Store,
) -> None:
    engine, table = live(store), live(store).table
    with engine.view_lock:
        engine._reopen_table()
    assert engine.table is table
    assert table.is_open
