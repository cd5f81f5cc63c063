"""Compactions are put off while a copy gets on, within bounds; copies of several processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

import logstore
from logstore._engine import copying, files, vacuum
from logstore._engine.deferral import COPY_LOG_FACTOR, HOLD_NS
from logstore._engine.table import Table
from tests.support.inside import folded, live

if TYPE_CHECKING:
    from tests.support.peers import Peer, PeerError
    from tests.support.stores import Stores

COMPACT_AT = 1 << 14


@pytest.fixture
def store(open_store: Stores) -> logstore.Store:
    return open_store(compact_at=COMPACT_AT)


def compactions_after(store: logstore.Store, log_bytes: int) -> int:
    """How many compactions there are until so much has been logged."""
    before = store.stats().compactions
    for _ in range(log_bytes // 1000):
        store.set_result("task", bytes(1000))
        assert folded(store)
    return store.stats().compactions - before


# -- putting compactions off ------------------------------------------------------------------


def test_a_copy_that_gets_on_puts_compactions_off_until_the_log_is_at_its_bound(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logstore._engine.deferral.HOLD_NS", 10**15)  # also on a slow disk
    engine = live(store)
    engine.hold_compactions("vacuum")
    bound = COMPACT_AT * COPY_LOG_FACTOR
    while engine.header.held_until_ns("vacuum"):
        log_bytes = engine.log_state().committed
        compactions = compactions_after(store, 1000)
    assert compactions == 1
    assert bound - 2000 < log_bytes <= bound
    assert compactions_after(store, 3 * COMPACT_AT) >= 2  # it has lost: all is as usual
    engine.hold_compactions("vacuum")
    assert compactions_after(store, 3 * COMPACT_AT) == 0  # it gets on all the same
    engine.deferral.let_go_on("vacuum")
    assert compactions_after(store, 3 * COMPACT_AT) >= 2


def test_a_copy_that_has_stopped_puts_nothing_off(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(store).hold_compactions("vacuum")
    now_ns = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns() + HOLD_NS)
    assert compactions_after(store, 3 * COMPACT_AT) >= 2


@pytest.mark.parametrize("word", [1, 1 << 62, (1 << 64) - 1])
def test_a_header_that_is_damaged_puts_nothing_off(store: logstore.Store, word: int) -> None:
    live(store).header.hold_until("vacuum", word)
    assert compactions_after(store, 3 * COMPACT_AT) >= 2


def test_a_large_result_goes_through_the_log_while_a_copy_gets_on(store: logstore.Store) -> None:
    live(store).hold_compactions("vacuum")
    before = store.stats().compactions
    store.set_result("large", bytes(300_000))
    assert store.stats().compactions == before
    store.set_result("larger", bytes(1_000_000))  # more than the log may still take
    assert store.stats().compactions == before + 1
    assert store.get_result("large") == bytes(300_000)


# -- a copy beside another --------------------------------------------------------------------


STOP_ONCE = """
from logstore._engine.table import Table
def copy_to(table, fd, pulse, real=Table.copy_to):
    Table.copy_to = real
    def stop(written, left=[1]):
        pulse(written)
        if left:
            left.clear()
            signal.raise_signal(signal.SIGSTOP)
    real(table, fd, stop)
Table.copy_to = copy_to
"""


def stop_in(peer: Peer, call: str) -> None:
    """Let a process begin a call, which stops it while it copies."""
    peer.run(STOP_ONCE)
    peer.begin(call)
    peer.wait_until_stopped()


def test_a_vacuum_takes_the_place_of_one_that_is_stopped(
    store: logstore.Store, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    peer = start_peer(store.path)
    stop_in(peer, "store.vacuum()")
    with pytest.raises(logstore.StoreBusyError, match="another vacuum is running"):
        store.vacuum()
    now_ns = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns() + HOLD_NS)
    store.vacuum()
    assert store.stats().incarnation == 2
    monkeypatch.undo()
    store.set_result("b", 2)
    peer.resume()
    peer.end()  # it has begun again
    assert peer.run("(store.get_result('a'), store.get_result('b'))") == (1, 2)
    assert store.stats().incarnation == 3
    assert not os.path.exists(store.path + "-vacuum")
    peer.run("store.close()")


def test_a_vacuum_that_goes_on_leaves_the_file_of_another_one_alone(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    store.set_result("a", 1)
    first, second = start_peer(store.path), start_peer(store.path)
    stop_in(first, "store.vacuum()")
    live(store).header.hold_until("vacuum", 0)  # the first one does not get on
    stop_in(second, "store.vacuum()")
    first.resume()
    with pytest.raises(Exception, match="another vacuum is running") as refused:
        first.end()
    error: PeerError = refused.value  # type: ignore[assignment]
    assert error.kind == "StoreBusyError"
    second.resume()
    second.end()
    assert store.stats().incarnation == 2
    for peer in (first, second):
        assert peer.run("store.get_result('a')") == 1
        peer.run("store.close()")


def test_a_check_waits_for_the_copy_of_another_ones_and_passes_one_that_is_stopped(
    store: logstore.Store, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    store.compact()
    peer = start_peer(store.path)
    stop_in(peer, "store.check().ok")
    engine = live(store)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "options", engine.options._replace(write_timeout_s=0.05))
        with pytest.raises(logstore.StoreBusyError, match="copying it for checks for more than"):
            store.check()
    now_ns = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns() + HOLD_NS)
    assert store.check().ok
    peer.resume()
    assert peer.end() is True
    assert not os.path.exists(store.path + "-check")
    peer.run("store.close()")


def test_a_check_waits_for_one_that_was_faster_by_a_moment(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    store.compact()
    others = Path(f"{store.path}-check")
    left = [True]
    remove = files.remove

    def remove_and_lose(path: str) -> None:
        remove(path)
        if path == str(others) and left:
            left.clear()
            others.touch()  # another process has removed it too, and made its own

    monkeypatch.setattr(files, "remove", remove_and_lose)
    assert store.check().ok
    assert not left
    assert not others.exists()


def test_checks_backups_and_vacuums_of_several_processes_at_once(
    store: logstore.Store, start_peer: Callable[..., Peer], tmp_path: Path
) -> None:
    peers = [start_peer(store.path, compact_at=COMPACT_AT, sync_interval_s=1e6) for _ in range(3)]
    for number, peer in enumerate(peers):
        template = str(tmp_path / f"copy-{number}-%d.db")
        peer.run(
            "def hammer():\n"
            "    for n in range(8):\n"
            f"        store.set_result(f'task-{number}-{{n}}', bytes(2000))\n"
            "        while True:\n"
            "            try: assert store.check().ok\n"
            "            except logstore.StoreBusyError: continue\n"
            "            break\n"
            "        while True:\n"
            f"            try: store.backup({template!r} % n)\n"
            "            except logstore.StoreBusyError: continue\n"
            "            break\n"
            "        try: store.vacuum()\n"
            "        except logstore.StoreBusyError: pass\n"
        )
        peer.begin("hammer()")
    for peer in peers:
        peer.end()
    assert len(list(store.tasks())) == 24
    for number in range(3):
        for n in range(8):
            with logstore.open(tmp_path / f"copy-{number}-{n}.db") as copy:
                assert copy.get_result(f"task-{number}-{n}") == bytes(2000)
                assert copy.check().ok
    for peer in peers:
        peer.run("store.close()")


# -- checks -----------------------------------------------------------------------------------


def during_the_check(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Do something once a check has made its copy and verifies it."""
    real = Table.read

    def read(table: Table, visit: Callable[..., object]) -> object:
        def working(txn: object) -> object:
            monkeypatch.undo()
            work()
            return visit(txn)

        return real(table, working if table.fd < 0 else visit)

    monkeypatch.setattr(Table, "read", read)


def test_reads_and_compactions_go_on_while_a_check_verifies(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    store.compact()
    done: list[object] = []

    def work() -> None:
        thread = threading.Thread(target=lambda: done.append(store.get_result("a")))
        thread.start()
        thread.join(60)
        done.append(compactions_after(store, 3 * COMPACT_AT) >= 2)
        done.append(store.stats().oldest_reader)
        done.append(os.path.exists(store.path + "-check"))

    during_the_check(monkeypatch, work)
    report = store.check()
    assert report.ok
    assert report.results == 1  # not what has come since
    assert done == [1, True, None, False]


def test_damage_in_the_pages_of_an_open_store_is_told_by_a_check(tmp_path: Path) -> None:
    store = logstore.open(tmp_path / "app.db")
    for number in range(500):
        store.set_result(f"task-{number}", bytes(100))
    store.compact()
    with open(store.path, "r+b") as file:
        data = file.read()
        leaf = next(at for at in range(8192, len(data), 4096) if data[at + 10] == 2)
        last = max(at for at in range(leaf, len(data), 4096) if data[at + 10] == 2)
        file.seek(last)
        file.write(b"\xff" * 8)
    report = store.check()
    assert not report.ok
    assert f"{store.path}: damaged: page {last // 4096} " in report.problems[0]
    with pytest.raises(logstore.CorruptTableError, match="damaged: page"):
        store.vacuum()
    with pytest.raises(logstore.CorruptTableError, match="damaged: page"):
        store.backup(tmp_path / "copy.db")
    assert sorted(os.listdir(tmp_path)) == ["app.db", "app.db-log", "app.db-log2", "app.db-shm"]
    store.close()


def test_a_check_without_space_for_its_copy_says_so_and_leaves_nothing(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)

    def copy_to(table: Table, fd: int, pulse: Callable[[int], None]) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Table, "copy_to", copy_to)
        with pytest.raises(logstore.DiskFullError):
            store.check()
    assert not os.path.exists(store.path + "-check")
    assert not live(store).deferral.is_held()
    assert store.check().ok


def test_no_vacuum_is_due_while_a_thread_copies(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait, and with it the thread that flushes progress."""
    monkeypatch.setattr(vacuum, "AUTO_FILE_BYTES", 0)
    for number in range(100):
        store.set_result(f"task-{number}", bytes(10_000))
    store.compact()
    for number in range(95):
        store.delete_result(f"task-{number}")
    store.compact()
    assert vacuum.is_due(live(store))
    with live(store).copy_lock:
        assert not vacuum.is_due(live(store))


def test_a_copys_file_that_this_process_may_not_open_is_another_users(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)
    path = store.path + "-vacuum"
    assert not copying.is_taken(engine, "vacuum", path)
    engine.hold_compactions("vacuum")
    assert not copying.is_taken(engine, "vacuum", path)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("logstore._engine.files.open_file", refuse)
        assert copying.is_taken(engine, "vacuum", path)
