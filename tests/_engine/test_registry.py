"""One engine per file and process; forks; the interpreter's end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logstore
from logstore import _handle as handle_module
from logstore._engine import compaction, files, locks, registry
from logstore._engine import table as table_module
from logstore._handle import Mode
from tests.support.forked import run_in_fork
from tests.support.guarded import touched_without
from tests.support.inside import live
from tests.support.peers import run_child

if TYPE_CHECKING:
    from tests.support.stores import Stores

FORK = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_a_store_is_opened_once_however_many_handles_there_are(open_store: Stores) -> None:
    handles = [open_store() for _ in range(5)]
    assert len({id(handle._handle.engine) for handle in handles}) == 1
    engine = live(handles[0])
    for handle in handles[:-1]:
        handle.close()
        assert not engine.closed
    handles[-1].close()
    assert engine.closed


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_an_opening_that_can_start_no_thread_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)

    def failing(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "Maintenance" if mode == "rw" else "Notifier", failing)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            logstore.open(path, mode=mode)
    assert os.listdir(path.parent) == ["app.db"]
    with logstore.open(path) as store:
        assert store.get_result("a") == 1


def test_a_failed_opening_leaves_nothing_behind(path: Path) -> None:
    path.write_text("not a store" * 100)
    with pytest.raises(logstore.NotAStoreError):
        logstore.open(path)
    assert not registry._slots
    path.unlink()
    with logstore.open(path) as store:
        store.set_result("a", 1)


def test_closing_all_goes_on_behind_a_store_that_cannot_be_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the interpreter ends."""
    broken = logstore.open(path.with_name("broken.db"))
    broken.set_result("a", 1)
    other = logstore.open(path)
    other.set_result("a", 1)
    real = compaction.Fold.write_meta
    table = live(broken).table

    def write_meta(fold: compaction.Fold, epoch: int, incarnation: int, clean: bool) -> None:
        if fold._table is table:
            raise OSError(5, "Input/output error")
        real(fold, epoch, incarnation, clean)

    with monkeypatch.context() as patch:
        patch.setattr(compaction.Fold, "write_meta", write_meta)
        registry._close_all()
    assert "app.db-log" not in os.listdir(path.parent)
    assert "broken.db-log" in os.listdir(path.parent)
    with logstore.open(path.with_name("broken.db")) as again:
        assert again.get_result("a") == 1


def test_stores_still_open_when_the_interpreter_ends_are_closed(path: Path) -> None:
    run_child(
        "import sys, logstore\n"
        "a, b = logstore.open(sys.argv[1]), logstore.open(sys.argv[1])\n"
        "a.set_result('a', 1)\n"
        "watch = a.watch()\n",
        path,
    )
    assert os.listdir(path.parent) == ["app.db"]
    with logstore.open(path, mode="r") as store:
        assert store.get_result("a") == 1


def test_a_child_that_forks_and_exits_in_good_order_does_not_close_its_parents_store(
    path: Path,
) -> None:
    run_child(
        "import os, sys, warnings, logstore\n"
        "warnings.simplefilter('ignore')\n"
        "store = logstore.open(sys.argv[1])\n"
        "store.set_result('a', 1)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    store.set_result('b', 2)\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "store.set_result('c', 3)\n"
        "assert [store.get_result(k) for k in 'abc'] == [1, 2, 3]\n"
        "store.close()\n",
        path,
    )
    assert os.listdir(path.parent) == ["app.db"]


def test_children_of_multiprocessing_use_the_inherited_store(path: Path) -> None:
    run_child(
        "import multiprocessing, sys, warnings, logstore\n"
        "warnings.simplefilter('ignore')\n"
        "store = logstore.open(sys.argv[1])\n"
        "def work(i):\n"
        "    store.set_result(f'task-{i}', i)\n"
        "    return store.get_result('first')\n"
        "store.set_result('first', 'value')\n"
        "with multiprocessing.get_context('fork').Pool(3) as pool:\n"
        "    assert pool.map(work, range(30)) == ['value'] * 30\n"
        "    pool.close()\n"
        "    pool.join()\n"
        "assert [store.get_result(f'task-{i}') for i in range(30)] == list(range(30))\n"
        "store.close()\n",
        path,
    )
    assert os.listdir(path.parent) == ["app.db"]


@FORK
def test_a_child_does_not_hold_the_parents_locks(store: logstore.Store) -> None:
    """A child that lives on idle keeps neither the writer lock nor the presence."""
    go_on, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        os.read(go_on, 1)
        os._exit(0)
    try:
        store.set_result("a", 1)
        store.close()
        assert os.listdir(os.path.dirname(store.path)) == ["app.db"]
    finally:
        os.close(told)
        os.close(go_on)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_what_a_child_inherits_is_closed_and_its_locks_are_not_given_back(
    path: Path, mode: Mode
) -> None:
    """What happens in a child, done here: other descriptors stand for the parent's."""
    logstore.open(path).close()
    store = logstore.open(path, mode=mode)
    inherited_lease = store._handle._lease
    inherited, parents = [], []
    if mode == "rw":
        store.set_result("a", 1)
        maintenance = inherited_lease._shared._maintenance
        assert maintenance is not None
        maintenance.stop()  # a child has no threads
        engine = live(store)
        inherited = [engine.presence_fd, *(log.fd for log in engine.logs.both)]
        parents = [os.dup(engine.presence_fd)]
        assert locks.try_lock_byte(parents[0], locks.WRITER)
    registry._lock.acquire()
    table_module._before_fork()
    for hook in (
        files.close_inherited,
        table_module._after_fork_in_child,
        registry._after_fork_in_child,
        handle_module._after_fork_in_child,
    ):
        hook()
    for fd in inherited:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for fd in parents:
        other = os.open(f"{path}-shm", os.O_RDWR)
        assert not locks.try_lock(other)
        assert not locks.try_lock_byte(other, locks.WRITER)
        os.close(other)
        os.close(fd)
    assert store.status("a") == ("ready" if mode == "rw" else "unknown")
    assert store._handle._lease is not inherited_lease
    inherited_lease.release()  # is not the child's to close
    store.close()
    assert os.listdir(path.parent) == ["app.db"]


@FORK
def test_a_reader_at_rest_forks_too(path: Path) -> None:
    with logstore.open(path) as store:
        store.set_result("a", 1)
    with logstore.open(path, mode="r") as reader:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if reader.get_result("a") == 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert reader.get_result("a") == 1


def test_a_handle_is_closed_under_its_lock(open_store: Stores) -> None:
    store = open_store()
    handle = store._handle
    touched = touched_without(handle._closing, handle, "_lease")
    store.close()
    assert touched
    assert "_close touches _lease" not in touched
    assert store.closed


@FORK
def test_of_the_threads_of_a_forked_child_one_opens_the_store_again(store: logstore.Store) -> None:
    def child() -> None:
        open_handle = store._handle._open_lease

        def open_once() -> registry.Lease:
            assert store._handle._closing.locked()
            return open_handle()

        store._handle._open_lease = open_once
        assert store.status("a") == "unknown"
        store.close()

    assert run_in_fork(child) == 0
