"""A vacuum beside writers, compactions, readers, other vacuums, a backup and a close."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import logstore
from tests.support.boundary import path_of, when_copied
from tests.support.peers import PeerError
from tests.support.victims import Allowed, Victims, verify

from .test_processes import hammer, take_all


@pytest.mark.parametrize("compacting", [False, True])
@pytest.mark.parametrize("count", [20, 300])
def test_writes_during_the_copy_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, compacting: bool
) -> None:
    with logstore.open(tmp_path / "app.db", compact_at=1 << 14) as store:
        for number in range(50):
            store.set_result(f"t{number}", "old")
        store.set_progress("gone", logstore.TaskProgress())

        def work() -> None:
            for number in range(count):
                store.set_result(f"t{number}", number)
            store.delete_result("t7")
            store.delete_result("gone")
            store.set_result("large", bytes(300_000))
            if compacting:
                store.compact()
            store.set_result("t8", "newest")
            store.set_progress("running", logstore.TaskProgress(0.5))

        when_copied(monkeypatch, work)
        store.vacuum()
        assert store.stats().incarnation == 2

        def everything(store: logstore.Store) -> None:
            assert all(store.get_result(f"t{n}") == n for n in range(count) if n not in (7, 8))
            assert store.get_result("t8") == "newest"
            assert store.status("t7") == "deleted"
            assert store.get_progress("gone") is None
            assert store.status("gone") == "unknown"
            assert store.status("running") == "running"
            assert store.get_result("large") == bytes(300_000)
            assert store.check().ok

        everything(store)
    with logstore.open(tmp_path / "app.db") as store:
        everything(store)


def test_a_vacuum_that_is_always_overtaken_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logstore.open(tmp_path / "app.db") as store:
        store.set_result("a", 0)

        def work() -> None:
            store.set_result("a", store.get_result("a") + 1)
            store.compact()

        when_copied(monkeypatch, work, times=99)
        with pytest.raises(logstore.StoreBusyError, match="overtaken"):
            store.vacuum()
        assert store.get_result("a") == 3
        assert store.stats().incarnation == 1
        monkeypatch.undo()
        store.vacuum()
        assert store.stats().incarnation == 2
    assert os.listdir(tmp_path) == ["app.db"]


def test_one_vacuum_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_peer: Callable[..., Any]
) -> None:
    path = tmp_path / "app.db"
    with logstore.open(path) as store:
        store.set_result("a", 1)
        peer = start_peer(path)
        answers: list[Any] = []

        def work() -> None:
            with pytest.raises(PeerError) as caught:
                peer.run("store.vacuum()")
            answers.append((caught.value.kind, "another vacuum is running" in str(caught.value)))

        when_copied(monkeypatch, work)
        store.vacuum()
        assert answers == [("StoreBusyError", True)]
        peer.run("store.vacuum()")
        assert store.stats().incarnation == 3
        assert store.get_result("a") == 1
        assert peer.run("store.get_result('a')") == 1
        peer.run("store.close()")
    assert os.listdir(tmp_path) == ["app.db"]


def test_readers_of_the_old_file_end_well(tmp_path: Path, start_peer: Callable[..., Any]) -> None:
    """A reader in the middle of a long read keeps its snapshot; the next read has the new file."""
    path = tmp_path / "app.db"
    with logstore.open(path) as store:
        for number in range(600):
            store.set_result(f"t{number:03}", number)
        store.compact()
        peer = start_peer(path)
        peer.run("listing = iter(store.tasks(newest_first=False))")
        assert peer.run("next(listing).task_id") == "t000"
        store.vacuum()
        store.delete_result("t599")
        store.vacuum()
        assert peer.run("len(list(listing))") in (598, 599)
        assert peer.run("store.status('t599')") == "deleted"
        peer.run("store.close()")
        assert store.check().ok


def test_closing_beside_a_copy_ends_the_copy_and_leaves_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has a descriptor of its own: it reads nothing else when the table is closed."""
    store = logstore.open(tmp_path / "app.db")
    store.set_result("a", bytes(500_000))
    store.compact()
    begun, go_on = threading.Event(), threading.Event()
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if "backup.db" in path_of(fd):
            begun.set()
            go_on.wait(100)
        return real(fd, data, offset)

    errors: list[BaseException] = []

    def copy() -> None:
        try:
            store.backup(tmp_path / "backup.db")
        except logstore.StoreClosedError as exc:
            errors.append(exc)

    monkeypatch.setattr(os, "pwrite", pwrite)
    copying = threading.Thread(target=copy)
    copying.start()
    assert begun.wait(100)
    store.close()
    go_on.set()
    copying.join()
    assert len(errors) == 1
    assert os.listdir(tmp_path) == ["app.db"]
    with logstore.open(tmp_path / "app.db") as again:
        assert again.get_result("a") == bytes(500_000)
        assert again.check().ok


def test_four_processes_vacuum_all_the_time(victims: Victims) -> None:
    path = victims.new_path()
    weights = (40, 1, 5, 5, 10, 30, 0, 5)
    started = [
        victims.start(path, hammer(worker, 4, seed=9, steps=250, weights=weights))
        for worker in range(4)
    ]
    outcomes = [victims.wait(process) for process in started]
    allowed = Allowed()
    take_all(allowed, outcomes, {0})
    verify(path, allowed)
