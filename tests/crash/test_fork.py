"""Forking while threads of the parent commit and read: neither side is harmed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import logstore
from tests.support.forked import run_in_fork

FORKS = 40


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_while_threads_commit_read_and_compact(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "app.db", compact_at=1 << 14) as store:
        store.set_result("constant", 1)
        store.compact()
        stop = threading.Event()
        acked = [0, 0]

        def write(number: int) -> None:
            while not stop.is_set():
                store.set_result(f"parent {number} {acked[number]}", acked[number])
                acked[number] += 1

        def read() -> None:
            while not stop.is_set():
                assert store.get_result("constant") == 1
                store.compact()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        threads.append(threading.Thread(target=read))
        for thread in threads:
            thread.start()

        def child(number: int) -> None:
            assert store.get_result("constant") == 1
            before = acked[0] - 1
            if before >= 0:
                assert store.get_result(f"parent 0 {before}") == before
            store.set_result(f"child {number}", number)
            if number % 2:
                store.close()

        try:
            statuses = [run_in_fork(lambda number=n: child(number)) for n in range(FORKS)]  # type: ignore[misc]
            while not all(acked):
                assert all(thread.is_alive() for thread in threads)
                time.sleep(0.001)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert statuses == [0] * FORKS
        for number in range(FORKS):
            assert store.get_result(f"child {number}") == number
        for thread_number, count in enumerate(acked):
            for number in range(count):
                assert store.get_result(f"parent {thread_number} {number}") == number
        assert store.check().ok
    assert os.listdir(tmp_path) == ["app.db"]


def test_a_closed_handle_in_the_child_leaves_the_parents_locks(tmp_path: Path) -> None:
    """The child shares the parent's open files: it must not unlock what they have locked."""
    path = tmp_path / "app.db"
    with logstore.open(path) as store:
        store.set_result("a", 1)
        assert run_in_fork(store.close) == 0

        def tidy_up() -> None:
            with logstore.open(path) as other:
                other.set_result("b", 2)

        assert run_in_fork(tidy_up) == 0
        assert os.path.exists(f"{path}-log"), "the child took itself for the last one out"
        store.set_result("c", 3)
        assert [store.get_result(key) for key in "abc"] == [1, 2, 3]
    assert os.listdir(tmp_path) == ["app.db"]


def test_the_child_waits_for_the_parents_writer_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer lock that the parent holds keeps the child out as it does any process."""
    with logstore.open(tmp_path / "app.db", write_timeout_s=0.3) as store:
        store.set_result("a", 1)
        assert run_in_fork(lambda: store.set_result("b", 2)) == 0
        statuses: list[int] = []

        def fdatasync(_fd: int) -> None:
            statuses.append(run_in_fork(lambda: expect_timeout(store)))

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        store.set_result("d", 4)
        monkeypatch.undo()
        assert statuses == [0]
        assert store.get_result("b") == 2


def expect_timeout(store: logstore.Store) -> None:
    """In another process: the writer lock is taken, which stops writes and nothing else."""
    assert store.get_result("b") == 2
    with pytest.raises(logstore.WriteTimeoutError):
        store.set_result("c", 3)


def store_one(path: str, number: int) -> None:
    """In another process: one result."""
    with logstore.open(path) as store:
        store.set_result(f"process {number}", number)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    path = str(tmp_path / "app.db")
    context: Any = multiprocessing.get_context(method)
    with logstore.open(path) as store:
        store.set_result("parent", 0)
        processes = [context.Process(target=store_one, args=(path, n)) for n in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert [store.get_result(f"process {n}") for n in range(3)] == [0, 1, 2]
        assert store.get_result("parent") == 0
    assert os.listdir(tmp_path) == ["app.db"]
