"""Two logs: one is folded into the table while the other is written.

A fold is held up by the fold lock, as a process that is stopped in one holds it up.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import checking, compaction, durability, files, locks, logview, sealing
from logstore._engine.foldlock import FoldLock
from logstore._engine.header import SharedHeader, split
from logstore._engine.log import FIRST_OFFSET, Log, Logs, log_paths
from logstore._engine.options import LARGE_BYTES
from logstore._engine.overlay import Overlay
from logstore._engine.readers import OldReadersError
from logstore._engine.sealing import BOTH_FULL
from logstore._engine.table import Table
from tests.support import boundary
from tests.support.inside import folded, live, no_background_fold
from tests.support.stores import names_in

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Stores

CrashCopy = Callable[[logstore.Store], Path]
Values = dict[str, Any]

COMPACT_AT = 1 << 14
NEVER_S = 1e6
LONG_S = 100.0
OPTIONS: dict[str, Any] = {"compact_at": COMPACT_AT, "sync_interval_s": NEVER_S}

pytestmark = pytest.mark.usefixtures("no_idle_compaction")


@pytest.fixture
def store(open_store: Stores) -> logstore.Store:
    """A store that folds nothing unless a log is full."""
    return open_store(**OPTIONS)


@contextmanager
def folds_held(path: Path | str) -> Iterator[None]:
    """Hold the fold lock, as another process does that is stopped."""
    fd = os.open(f"{path}-shm", os.O_RDWR)
    try:
        while not locks.try_lock_byte(fd, locks.FOLD):
            time.sleep(0.001)  # a fold is under way
        yield
    finally:
        os.close(fd)


def seal(store: logstore.Store) -> Values:
    """Write until a log is sealed; return the results.  Folds are held."""
    values: Values = {}
    while not live(store).header.sealed:
        values[f"sealed-{len(values)}"] = value = os.urandom(1000)
        store.set_result(f"sealed-{len(values) - 1}", value)
    return values


def fill_both(store: logstore.Store) -> Values:
    """Return the results in a sealed log and in the one behind it, some of which replace others."""
    values = seal(store)
    for name in ("sealed-0", "open-0", "open-1"):
        values[name] = os.urandom(100)
        store.set_result(name, values[name])
    assert store.delete_result("sealed-1")
    del values["sealed-1"]
    return values


def read(store: logstore.Store) -> Values:
    """Return all results, read one by one and checked against the list."""
    found = {info.task_id: store.get_result(info.task_id) for info in store.tasks(status="ready")}
    assert store.stats().results == len(found)
    return found


def sealed_path(store: logstore.Store) -> str:
    """Return the path of the sealed log."""
    return log_paths(store.path)[split(live(store).header.sealed)[0] & 1]


def open_path(store: logstore.Store) -> str:
    """Return the path of the log that is written."""
    return log_paths(store.path)[live(store).header.epoch & 1]


def moved(path: str, crashed: Path) -> Path:
    """Return where a crash copy has a file."""
    return crashed.with_name(os.path.basename(path))


def flip(path: Path, at: int) -> None:
    """Change a byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


# -- writers beside a fold ---------------------------------------------------------------------


class Midway:
    """Folds that stop in their transaction, in the thread that makes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        real = Table.write_meta

        def stop(table: Table, *arguments: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                self.entered.set()
                assert self.go_on.wait(LONG_S)
            real(table, *arguments)

        monkeypatch.setattr(Table, "write_meta", stop)


def waits_for_folds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note for how long the main thread is ready to wait for the fold lock."""
    waits: list[float] = []
    real = FoldLock.hold

    def hold(lock: FoldLock, work: Callable[[], Any], deadline: float) -> Any:
        if threading.current_thread() is threading.main_thread():
            waits.append(deadline - time.monotonic())
        return real(lock, work, deadline)

    monkeypatch.setattr(FoldLock, "hold", hold)
    return waits


def test_writes_and_reads_go_on_beside_a_fold(
    store: logstore.Store, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    midway, waits = Midway(monkeypatch), waits_for_folds(monkeypatch)
    values = fill_both(store)
    assert midway.entered.wait(LONG_S)
    store.set_result("beside", 1)
    values["beside"] = 1
    store.set_progress("running", TaskProgress(0.5))
    assert read(store) == values
    peer = start_peer(store.path, **OPTIONS)
    assert peer.run("len(list(store.tasks(status='ready')))") == len(values)
    assert peer.run("store.get_result('sealed-0')") == values["sealed-0"]
    assert peer.run("store.get_result('sealed-2')") == values["sealed-2"]
    peer.run("store.set_result('theirs', 2)")
    values["theirs"] = 2
    assert read(store) == values
    assert (waits, store.stats().compactions, live(store).header.sealed != 0) == ([], 0, True)
    midway.go_on.set()
    assert folded(store)
    assert (store.stats().compactions, store.stats().compaction_pause_max_s) == (1, 0)
    assert read(store) == values
    assert store.get_progress("running") == TaskProgress(0.5)
    assert peer.run("store.get_result('sealed-0')") == values["sealed-0"]
    assert peer.run("store.status('sealed-1')") == store.status("sealed-1") == "deleted"
    peer.run("store.close()")


def test_a_writer_waits_for_a_fold_only_where_both_logs_are_full_and_not_for_long(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "FOLD_WAIT_S", 0.01)
    waits = waits_for_folds(monkeypatch)
    with folds_held(store.path):
        values = seal(store)
        ends = []
        for i in range(8 * COMPACT_AT // 1000):
            before = len(waits)
            store.set_result(f"task-{i}", bytes(1000))
            values[f"task-{i}"] = bytes(1000)
            if len(waits) > before:
                ends.append(live(store).header.committed)
        assert min(ends) >= BOTH_FULL * COMPACT_AT
        assert 1 <= len(ends) <= 4
        assert max(waits) <= 0.01
        assert read(store) == values
    store.set_result("after", 1)
    values["after"] = 1
    assert folded(store)
    assert store.stats().compactions >= 1
    assert read(store) == values


@pytest.mark.parametrize("is_full", [False, True])
def test_a_fold_gives_way_to_writers_until_the_other_log_is_full(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    fold, sleep, pauses = sealing.fold_sealed, time.sleep, []

    def note(seconds: float) -> None:
        pauses.append(seconds)
        sleep(seconds)

    with no_background_fold():
        values = seal(store)
        sealed = len(values)
        while is_full and live(store).header.committed < COMPACT_AT:
            store.set_result("open", bytes(1000))
            values["open"] = bytes(1000)
        monkeypatch.setattr(compaction, "STEP", 1)
        monkeypatch.setattr(time, "sleep", note)
        assert fold(live(store), time.monotonic() + LONG_S)
    assert pauses.count(sealing.GIVE_WAY_S) == (0 if is_full else 2 * sealed)
    assert read(store) == values


def test_a_fold_looks_again_when_another_thread_was_faster(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, fold, view, left = live(store), sealing.fold_sealed, live(store).view, [True]

    def view_and_wait() -> Overlay:
        found = view()
        with open(f"{store.path}-shm", "r+b") as beside:
            # The look may wait for writers, so no thread has the fold lock.
            assert not locks.is_byte_locked(beside.fileno(), locks.FOLD)
        if left:
            left.clear()
            assert fold(engine, time.monotonic() + LONG_S)
            seal(store)
        return found

    with no_background_fold():
        seal(store)
        monkeypatch.setattr(engine, "view", view_and_wait)
        assert fold(engine, time.monotonic() + LONG_S)
        assert not left
        assert not engine.header.sealed


def test_a_log_is_sealed_as_soon_as_the_other_is_in_the_table(store: logstore.Store) -> None:
    for i in range(200):
        store.set_result(f"task-{i}", bytes(1000))
        assert folded(store)
        assert live(store).header.committed < COMPACT_AT + 2000
    assert store.stats().compactions >= 10
    assert store.stats().recoveries == 0


def test_a_fold_of_the_sealed_log_takes_nothing_away(open_store: Stores) -> None:
    """Readers would not be told."""
    store = open_store(max_results=5, **OPTIONS)
    live(store).on_sealed = lambda: None  # the thread that folds would go on with evictions
    with folds_held(store.path):
        values = seal(store)
    assert folded(store)
    assert len(values) > 5
    assert read(store) == values
    store.compact()
    assert len(read(store)) == 5


def test_where_a_copy_puts_compactions_off_no_log_is_sealed_or_folded(
    store: logstore.Store,
) -> None:
    engine = live(store)
    with folds_held(store.path):
        seal(store)
        engine.hold_compactions("backup")
    assert not folded(store, 0.01)
    engine.deferral.let_go_on("backup")
    assert folded(store)
    engine.hold_compactions("backup")
    for i in range(2 * COMPACT_AT // 1000):
        store.set_result(f"task-{i}", bytes(1000))
    assert engine.header.sealed == 0
    engine.deferral.let_go_on("backup")


def test_a_log_is_not_sealed_while_the_other_one_is(store: logstore.Store) -> None:
    """As a writer would that another process has overtaken."""
    engine = live(store)

    def try_to_seal(deadline: float) -> None:
        engine.appending(lambda: sealing._seal_if_full(engine, deadline), deadline)

    with folds_held(store.path):
        values = seal(store)
        before = engine.header.sealed
        while engine.header.committed < COMPACT_AT:
            store.set_result("open", bytes(1000))
        engine.in_turn(try_to_seal)
        assert engine.header.sealed == before
    assert folded(store)
    values["open"] = bytes(1000)
    assert read(store) == values


def test_a_compaction_waits_for_a_fold(open_store: Stores) -> None:
    store = open_store(write_timeout_s=0.1, **OPTIONS)
    store.set_result("a", 1)
    with folds_held(store.path), pytest.raises(logstore.WriteTimeoutError):
        store.compact()
    store.compact()
    assert store.stats().log_bytes == 0


def test_one_thread_at_a_time_holds_the_fold_lock(store: logstore.Store) -> None:
    lock = live(store).fold_lock
    held, ends = threading.Event(), threading.Event()

    def hold() -> bool:
        held.set()
        return ends.wait(LONG_S)

    def work() -> None:
        lock.hold(hold, time.monotonic() + LONG_S)

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(LONG_S)
    found = lock.hold(lambda: 1, time.monotonic())
    ends.set()
    thread.join()
    assert found is None
    assert lock.hold(lambda: 1, time.monotonic()) == (1,)


def test_an_idle_store_has_an_empty_log_also_just_after_it_was_sealed(
    store: logstore.Store,
) -> None:
    seal_and_fold(store)
    assert live(store).header.committed > FIRST_OFFSET
    store.compact()
    assert live(store).header.committed == FIRST_OFFSET
    assert store.stats().log_bytes == 0
    epoch = store.stats().epoch
    store.compact()
    assert store.stats().epoch == epoch


def seal_and_fold(store: logstore.Store) -> Values:
    """Return the results of a log that was sealed and folded; the next one is empty."""
    with folds_held(store.path):
        values = seal(store)
    assert folded(store)
    return values


# -- readers -------------------------------------------------------------------------------------


def test_who_joins_beside_a_sealed_log_reads_it(
    store: logstore.Store, start_peer: Callable[..., Peer], open_store: Stores
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
        peer = start_peer(store.path, **OPTIONS)
        keys = sorted(values)
        peer.run("store.set_result('theirs', 1)")
        values["theirs"] = 1
        assert peer.run(f"[store.get_result(key) for key in {keys}]") == [values[k] for k in keys]
        assert peer.run("store.status('sealed-1')") == "deleted"
        assert peer.run("store.stats().results") == len(values)
    assert peer.run("inside.folded(store)")
    assert live(store).header.sealed == 0
    assert read(store) == values
    peer.run("store.close()")


@pytest.mark.parametrize("dies", [False, True])
def test_a_large_result_is_seen_by_who_still_has_the_older_one_of_a_sealed_log(
    store: logstore.Store, start_peer: Callable[..., Peer], dies: bool
) -> None:
    """That one is in the table by now, and the large one goes there past the log."""
    peer, late = start_peer(store.path, **OPTIONS), start_peer()
    peer.run("store.set_result('theirs', 1)")
    with folds_held(store.path):
        values = seal(store)
        assert peer.run("store.get_result('sealed-3')") == values["sealed-3"]
        assert live(store).view().sealed is not None
    assert peer.run("inside.folded(store)")
    if dies:
        assert peer.run("store.status('nothing')") == "unknown"  # it looks into no sealed log now
        peer.die(
            "store.set_result('sealed-3', bytes(300_000))",
            at="logstore._engine.engine.Engine.begin_epoch",
        )
    else:
        peer.run("store.set_result('sealed-3', bytes(300_000))")
    late.open(store.path, **OPTIONS)
    found = late.run("len(store.get_result('sealed-3'))")
    assert len(store.get_result("sealed-3")) == found == 300_000
    late.run("store.close()")


@pytest.mark.parametrize("is_folded", [False, True])
def test_a_large_result_replaces_one_in_the_sealed_log(
    store: logstore.Store, start_peer: Callable[..., Peer], is_folded: bool
) -> None:
    peer = start_peer(store.path, **OPTIONS)
    with folds_held(store.path):
        values = seal(store)
        assert peer.run("store.get_result('sealed-3')") == values["sealed-3"]
    if is_folded:
        assert folded(store)
    store.set_result("sealed-3", bytes(300_000))
    values["sealed-3"] = bytes(300_000)
    assert peer.run("store.get_result('sealed-3')") == bytes(300_000)
    assert read(store) == values
    peer.run("store.close()")


def test_a_list_that_begins_while_the_sealed_log_gets_into_the_table_is_whole(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
        view = live(store).view()
    real = type(view).parts

    def parts(overlay: Any) -> Any:
        found = real(overlay)
        overlay.sealed = None  # another thread has found that it is in the table
        return found

    assert folded(store)
    assert live(store).overlay is view
    view.sealed = None
    with folds_held(store.path):
        values |= {f"more-{name}": value for name, value in seal_more(store).items()}
        monkeypatch.setattr(type(view), "parts", parts)
        listed = [info.task_id for info in store.tasks(status="ready")]
        monkeypatch.undo()
        # The log is sealed still, so what is not in the table yet is in the list only.
        assert sorted(listed) == sorted(values)
        live(store).logview.overlay = Overlay(0)  # read it all again


def seal_more(store: logstore.Store) -> Values:
    """As :func:`seal`, with other names."""
    values: Values = {}
    while not live(store).header.sealed:
        name = str(len(values))
        values[name] = os.urandom(1000)
        store.set_result(f"more-{name}", values[name])
    return values


def test_the_sizes_are_right_while_the_sealed_log_gets_into_the_table(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
    real = checking._difference

    def difference(*arguments: Any) -> tuple[int, int]:
        monkeypatch.setattr(checking, "_difference", real)
        assert sealing.fold_sealed(live(store), time.monotonic() + LONG_S)
        return real(*arguments)

    monkeypatch.setattr(checking, "_difference", difference)
    assert store.stats().results == len(values)


def test_a_check_a_backup_and_a_vacuum_have_what_is_in_a_sealed_log(
    store: logstore.Store, tmp_path: Path
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
        store.set_progress("running", TaskProgress(0.5))
        report = store.check()
        assert report.ok, report.problems
        assert report.log_frames == len(values) + 4  # one replaced, one deleted, one progress
        store.backup(tmp_path / "backup.db")
        stats = store.stats()
        assert (stats.results, stats.progress) == (len(values), 1)
        assert stats.log_bytes > COMPACT_AT - FIRST_OFFSET
    with logstore.open(tmp_path / "backup.db") as backup:
        assert read(backup) == values
        assert backup.get_progress("running") == TaskProgress(0.5)
    store.vacuum()
    assert live(store).header.sealed == 0
    assert read(store) == values
    assert store.check().ok


def test_a_damaged_sealed_log_is_told_by_a_check_and_salvaged_under_a_live_store(
    store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    peer = start_peer(store.path, **OPTIONS)
    with folds_held(store.path):
        values = {k: v for k, v in fill_both(store).items() if k != "sealed-3"}
        end = split(live(store).header.sealed)[1]
        data = Path(sealed_path(store)).read_bytes()
        flip(Path(sealed_path(store)), data.index(b"sealed-3"))
        assert any("expected a whole frame" in problem for problem in store.check().problems)
        with pytest.raises(Exception, match="CorruptLogError"):
            peer.run("store.get_result('sealed-4')")
    assert end
    report = peer.run("store.check(salvage=True)._asdict()")
    assert "salvaged_frames" in str(report)
    for name in ("sealed-0", "sealed-4", "open-0", "open-1"):
        assert store.get_result(name) == values[name]
    assert store.check().ok
    peer.run("store.close()")
    for kept in Path(store.path).parent.glob("app.db-log*.damaged-*"):
        kept.unlink()


# -- deaths ---------------------------------------------------------------------------------------

DIES = """
import logstore._engine.log as log, logstore._engine.sealing as sealing
import logstore._engine.logview as logview
from logstore._engine.header import SharedHeader
from logstore._engine.options import LARGE_BYTES
from logstore._engine.overlay import Overlay
from logstore._engine.readers import OldReadersError
from logstore._engine.table import Table
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def behind(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **named):
        real(*arguments, **named)
        die()
    setattr(owner, name, call)
def behind_word(name, told=None):
    field = getattr(SharedHeader, name)
    def store(header, value):
        field.__set__(header, value)
        if told in (None, value):
            die()
    setattr(SharedHeader, name, property(field.__get__, store))
def in_new_epoch(name, real=SharedHeader.begin_epoch):
    def begin(header, *arguments):
        behind_word(name)
        real(header, *arguments)
    SharedHeader.begin_epoch = begin
def half(self, data, at, real=log.Log.write):
    if at == log.FIRST_OFFSET:
        os.pwrite(self.fd, data[:-1], at)
        die()
    real(self, data, at)
"""
FOLDER = {
    "before its transaction": "sealing.fold_into = die",
    "before its commit": "Table.write_meta = die",
    "behind its commit": "behind(sealing, 'fold_into')",
    "behind its transaction's number": "behind_word('table_txn')",
    "behind sealed": "behind_word('sealed')",
    "behind folding": "behind_word('folding', 0)",
}
SEALER = {
    "before the first frame": "logview.begin_after = die",
    "in the first frame": "log.Log.write = half",
    "behind the first frame": "behind(logview, 'begin_after')",
    "behind sealed": "behind_word('sealed')",
    "behind state": "in_new_epoch('state')",
    "behind appended": "behind(SharedHeader, 'begin_epoch')",
}


LEFT_TO_OTHERS = """
from tests._engine.test_arenas import fill_both
inside.live(store).on_sealed = lambda: None
"""


@pytest.mark.parametrize("alone", [False, True], ids=["beside others", "alone"])
@pytest.mark.parametrize("when", FOLDER)
def test_a_fold_that_dies_loses_nothing(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores, when: str, alone: bool
) -> None:
    writer, folder = start_peer(path, **OPTIONS), start_peer(path, **OPTIONS)
    folder.run("store.set_result('theirs', 1)")  # who only reads does not fold
    with folds_held(path):
        values = writer.run(
            f"{LEFT_TO_OTHERS}\nvalues = fill_both(store)\nvalues['theirs'] = 1\nvalues"
        )
        folder.run(DIES + FOLDER[when])
    folder.die("inside.folded(store)")
    if alone:
        writer.kill()
    expect_all(path, open_store, values)
    if not alone:
        assert writer.run("[store.get_result(key) for key in values] == list(values.values())")
        writer.run("store.set_result('sealed-2', 2)")
        assert writer.run("inside.folded(store)")
        values["sealed-2"] = 2
        writer.run("store.close()")
        expect_all(path, open_store, values)


def expect_all(path: Path, open_store: Stores, values: Values) -> None:
    """Whoever opens the store now finds these results, and can use it."""
    store = open_store(path, **OPTIONS)
    assert read(store) == values
    assert store.status("sealed-1") == "deleted"
    store.set_result("new", 1)
    assert store.delete_result("new")
    assert folded(store)
    assert read(store) == values
    report = store.check()
    assert report.ok, report.problems
    store.close()


@pytest.mark.parametrize("alone", [False, True], ids=["beside others", "alone"])
@pytest.mark.parametrize("when", SEALER)
def test_a_seal_that_dies_loses_nothing(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores, when: str, alone: bool
) -> None:
    reader = start_peer(path, **OPTIONS)
    values: Values = {}
    with folds_held(path):
        sealer = start_peer(path, **OPTIONS)
        sealer.run(DIES)
        for i in range(8):
            values[f"task-{i}"] = bytes(1000)
            sealer.run(f"store.set_result('task-{i}', bytes(1000))")
        assert reader.run("len(list(store.tasks()))") == 8
        sealer.run(SEALER[when])
        for i in range(8, 20):
            values[f"task-{i}"] = bytes(1000)
            try:
                sealer.run(f"store.set_result('task-{i}', bytes(1000))")
            except EOFError:
                break  # it is on the disk before the log is sealed
        else:
            raise AssertionError("it has not died")
    values["sealed-1"] = 1
    if alone:
        reader.kill()
    else:
        assert reader.run("len(list(store.tasks()))") == len(values) - 1
        reader.run("store.set_result('after', 1)\nstore.set_result('sealed-1', 1)")
        values["after"] = 1
    store = open_store(path, **OPTIONS)
    if alone:
        store.set_result("sealed-1", 1)
    store.delete_result("sealed-1")
    del values["sealed-1"]
    store.close()
    expect_all(path, open_store, values)
    if not alone:
        assert reader.run("inside.folded(store)")
        reader.run("store.close()")
        expect_all(path, open_store, values)


def test_what_a_dead_process_has_folded_is_on_the_disk_before_its_log_is_used_again(
    store: logstore.Store, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have died before it was: nothing else has it then."""
    peer, engine = start_peer(store.path, **OPTIONS), live(store)
    peer.run("store.set_result('theirs', 1)")
    engine.on_sealed = lambda: None
    with folds_held(store.path):
        fill_both(store)
        peer.run(DIES + FOLDER["behind its commit"])
    peer.die("inside.folded(store)")
    steps: list[object] = []
    sealed: Any = SharedHeader.sealed

    def note(header: SharedHeader, value: int) -> None:
        steps.append(value)
        sealed.__set__(header, value)

    with monkeypatch.context() as patch:
        patch.setattr(durability, "sync_data", steps.append)
        patch.setattr(SharedHeader, "sealed", property(sealed.__get__, note))
        assert sealing.fold_sealed(engine, time.monotonic() + LONG_S)
    assert steps == [engine.table.fd, 0]


def test_behind_a_dead_compaction_of_both_logs_none_is_folded_alone(
    path: Path, store: logstore.Store, start_peer: Callable[..., Peer]
) -> None:
    """The table has more than readers have been shown: only a recovery may go on."""
    peer, engine = start_peer(store.path, **OPTIONS), live(store)
    engine.on_sealed = lambda: None
    peer.run("store.set_result('theirs', 1)")
    with folds_held(store.path):
        values = peer.run(f"{LEFT_TO_OTHERS}\nfill_both(store)")
    peer.die("store.compact()", at="logstore._engine.engine.Engine.begin_epoch")
    sealed = engine.header.sealed
    assert sealed
    assert not sealing.fold_sealed(engine, time.monotonic() + LONG_S)
    assert engine.header.sealed == sealed
    values["theirs"] = 1
    assert read(store) == values
    store.set_result("after", 1)
    assert engine.header.sealed == 0
    values["after"] = 1
    assert read(store) == values


# -- recovery alone -------------------------------------------------------------------------------


def test_a_store_left_with_both_logs_is_recovered(
    store: logstore.Store, crash_copy: CrashCopy, open_store: Stores
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
        crashed = crash_copy(store)
    with logstore.open(crashed, mode="r") as reader:
        assert {key: reader.get_result(key) for key in values} == values
        assert reader.stats().results == len(values)
        assert reader.check().ok
    expect_all(crashed, open_store, values)


def test_no_frame_of_an_earlier_round_counts_in_a_recovery(
    store: logstore.Store, crash_copy: CrashCopy, open_store: Stores
) -> None:
    values: Values = {}
    for i in range(100):
        values["sealed-1" if i == 99 else f"task-{i % 7}"] = i
        store.set_result("sealed-1" if i == 99 else f"task-{i % 7}", i)
        store.set_result("pad", bytes(1000))
        assert folded(store)
    values["pad"] = bytes(1000)
    store.delete_result("sealed-1")
    del values["sealed-1"]
    for _ in range(3):
        expect_all(crash_copy(store), open_store, values)
        store.compact()


def test_a_sealed_log_with_a_damaged_end_is_refused_and_salvaged(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
        end = split(live(store).header.sealed)[1]
        sealed, crashed = sealed_path(store), crash_copy(store)
    flip(moved(sealed, crashed), end - 1)
    last = max((key for key in values if "sealed" in key), key=lambda key: int(key[7:]))
    for mode in ("rw", "r"):
        with pytest.raises(logstore.CorruptLogError, match=f"there are frames up to {end}"):
            logstore.open(crashed, mode=mode)
    report = logstore.check(crashed, salvage=True)
    assert report.ok, report.problems
    assert report.salvaged_frames == len(values) + 3 - 1  # one replaced, one deleted, one damaged
    assert str(moved(sealed, crashed)) in " ".join(report.kept_logs)
    del values[last]
    with logstore.open(crashed) as again:
        assert read(again) == values
        assert again.status(last) == "unknown"


def test_a_sealed_log_that_is_cut_off_is_refused(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    with folds_held(store.path):
        fill_both(store)
        sealed, crashed = sealed_path(store), crash_copy(store)
    os.truncate(moved(sealed, crashed), FIRST_OFFSET)
    with pytest.raises(logstore.CorruptLogError, match="there are frames up to"):
        logstore.open(crashed)


def test_a_first_frame_that_did_not_reach_the_disk_is_the_end_of_the_log(
    store: logstore.Store, crash_copy: CrashCopy, open_store: Stores
) -> None:
    live(store).on_sealed = lambda: None  # nothing is flushed beside
    with folds_held(store.path):
        values = seal(store)
        store.set_progress("running", TaskProgress(0.5))  # not flushed either
        other, crashed = open_path(store), crash_copy(store)
    flip(moved(other, crashed), FIRST_OFFSET + 20)
    with logstore.open(crashed) as again:
        assert read(again) == values
        assert again.stats().torn_tails == 1


def test_a_damaged_first_frame_before_others_that_were_synced_is_told(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
        other, crashed = open_path(store), crash_copy(store)
    flip(moved(other, crashed), FIRST_OFFSET + 20)
    with pytest.raises(logstore.CorruptLogError, match=f"{other[-4:]}: damaged at offset 4096"):
        logstore.open(crashed)
    assert logstore.check(crashed, salvage=True).ok
    with logstore.open(crashed) as again:
        assert read(again) == values


def test_a_copy_of_the_table_from_before_a_fold_is_as_good(
    store: logstore.Store, crash_copy: CrashCopy, open_store: Stores
) -> None:
    """The sealed log has not been overwritten yet."""
    with folds_held(store.path):
        values = fill_both(store)
        older = crash_copy(store)
    assert folded(store)
    store.set_result("late", 1)
    values["late"] = 1
    crashed = crash_copy(store)
    shutil.copyfile(older, crashed)
    expect_all(crashed, open_store, values)


def test_an_older_copy_of_the_table_is_refused(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    with folds_held(store.path):
        seal(store)
        older = crash_copy(store)
    assert folded(store)
    with folds_held(store.path):
        for i in range(17):
            store.set_result(f"more-{i}", bytes(1000))
        assert live(store).header.sealed
        crashed = crash_copy(store)
    shutil.copyfile(older, crashed)
    for mode in ("rw", "r"):
        with pytest.raises(logstore.StaleTableError, match="older copy of the table"):
            logstore.open(crashed, mode=mode)
    before = {name: crashed.with_name(name).read_bytes() for name in ("app.db-log", "app.db-log2")}
    with logstore.open(crashed, accept_log_loss=True) as again:
        again.set_result("a", 1)
    kept = [path.read_bytes() for path in crashed.parent.glob("*.replaced-*")]
    assert sorted(kept) == sorted(before.values())


def test_a_table_of_the_epoch_before_without_a_sealed_log_is_refused(
    store: logstore.Store, crash_copy: CrashCopy
) -> None:
    """Its own log was folded, and may have been overwritten since."""
    store.set_result("a", 1)
    older = crash_copy(store)
    store.compact()
    store.set_result("b", 1)
    crashed = crash_copy(store)
    shutil.copyfile(older, crashed)
    with pytest.raises(logstore.StaleTableError, match="older copy of the table"):
        logstore.open(crashed)


@pytest.mark.parametrize("which", ["sealed", "open"])
def test_a_missing_log_is_told_and_may_be_accepted(
    store: logstore.Store, crash_copy: CrashCopy, which: str
) -> None:
    with folds_held(store.path):
        values = fill_both(store)
        paths = {"sealed": sealed_path(store), "open": open_path(store)}
        crashed = crash_copy(store)
    lost = moved(paths[which], crashed)
    lost.unlink()
    for mode in ("rw", "r"):
        with pytest.raises(logstore.MissingLogError, match=lost.name):
            logstore.open(crashed, mode=mode)
    if which == "open":
        with logstore.open(crashed, accept_log_loss=True) as again:
            found = read(again)
        assert {key for key in found if "sealed" in key} >= {k for k in values if "sealed" in k}
    else:
        with logstore.open(crashed, accept_log_loss=True) as again:
            again.set_result("a", 1)
            assert again.check().ok


@pytest.mark.parametrize("is_odd", [False, True])
@pytest.mark.parametrize("created", [0, 1])
def test_a_recovery_that_dies_before_it_has_replaced_the_logs_is_done_again(
    store: logstore.Store,
    crash_copy: CrashCopy,
    open_store: Stores,
    monkeypatch: pytest.MonkeyPatch,
    is_odd: bool,
    created: int,
) -> None:
    """No frame in them counts any more: the table has all, and newer ones of the same tasks."""
    if live(store).header.epoch & 1 != is_odd:
        store.set_result("first", 1)
        store.compact()
        store.delete_result("first")
    with folds_held(store.path):
        values = fill_both(store)
        crashed = crash_copy(store)
    calls: list[Callable[..., Any]] = [no_space, *[Log.create] * created]

    def create(*arguments: Any, **options: Any) -> Any:
        return calls.pop()(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "create", create)
        with pytest.raises(logstore.DiskFullError):
            logstore.open(crashed, **OPTIONS)
    assert calls == []
    again = open_store(crashed, **OPTIONS)
    assert again.stats().recovered_frames == 0
    assert read(again) == values
    again.close()
    expect_all(crashed, open_store, values)


# -- a seal that fails ----------------------------------------------------------------------------


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_seal_for_which_there_is_no_space_is_made_later(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(logview, "begin_after", no_space)
        values: Values = {f"task-{i}": bytes(1000) for i in range(40)}
        for name, value in values.items():
            store.set_result(name, value)
        assert live(store).header.sealed == 0
        assert read(store) == values
        stats = store.stats()
        assert stats.compaction_errors >= 1
        assert "No space left" in (stats.last_error or "")
    store.set_result("after", 1)
    values["after"] = 1
    assert folded(store)
    assert (store.stats().compactions, store.stats().recoveries) == (1, 0)
    assert read(store) == values


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_first_frame_that_cannot_be_written_stops_no_writer(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = durability.pwrite_all

    def fail(fd: int, data: bytes | memoryview, offset: int) -> None:
        if offset == FIRST_OFFSET and len(data) < 100:
            raise OSError(code, os.strerror(code))
        real(fd, data, offset)

    values: Values = {f"task-{i}": bytes(1000) for i in range(40)}
    with monkeypatch.context() as patch:
        patch.setattr(durability, "pwrite_all", fail)
        for name, value in values.items():
            store.set_result(name, value)
        assert read(store) == values
        assert store.stats().compaction_errors >= 1
    for i in range(40):
        values[f"task-{i}"] = i
        store.set_result(f"task-{i}", i)
    assert folded(store)
    assert read(store) == values
    assert store.check().ok


def test_a_flush_that_fails_in_a_seal_loses_no_result(store: logstore.Store) -> None:
    store.set_result("before", 1)
    header = live(store).header
    while header.appended & 0xFFFFFFFF < COMPACT_AT - 1100:
        store.set_progress("running", TaskProgress(status="x" * 1000))
    boundary.fail_next("fdatasync")
    store.set_progress("running", TaskProgress(status="y" * 1200))
    store.set_result("after", 2)
    assert read(store) == {"before": 1, "after": 2}
    assert store.stats().recoveries == 1
    assert "Input/output error" in (store.stats().last_error or "")
    for i in range(40):
        store.set_result(f"task-{i}", bytes(1000))
    assert folded(store)
    assert store.stats().results == 42


def test_both_logs_are_replaced_when_a_flush_has_failed(store: logstore.Store) -> None:
    store.set_result("a", 1)
    before = [files.identity(path) for path in log_paths(store.path)]
    boundary.fail_next("fdatasync")
    with pytest.raises(logstore.WriteError):
        store.set_result("b", 1)
    after = [files.identity(path) for path in log_paths(store.path)]
    assert not set(before) & set(after)
    assert read(store) == {"a": 1}


# -- logs that are removed ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["sealed", "open", "both"])
def test_a_log_that_is_removed_is_replaced_and_nothing_is_lost(
    store: logstore.Store, start_peer: Callable[..., Peer], which: str
) -> None:
    peer = start_peer(store.path, **OPTIONS)
    with folds_held(store.path):
        values = fill_both(store)
        assert peer.run("store.get_result('open-0')") == values["open-0"]
        paths = {"sealed": sealed_path(store), "open": open_path(store)}
        for name in paths if which == "both" else [which]:
            os.unlink(paths[name])
    assert not folded(store, 0.01)  # nobody folds beside writers now
    engine = live(store)
    engine.exclusively(engine.verify_files)
    assert names_in(Path(store.path).parent) == [
        *("app.db", "app.db-log", "app.db-log2", "app.db-shm")
    ]
    assert read(store) == values
    assert peer.run("store.get_result('sealed-0')") == values["sealed-0"]
    peer.run("store.set_result('theirs', 1)")
    assert store.get_result("theirs") == 1
    peer.run("store.close()")


def test_logs_that_are_replaced_by_another_stores_are_kept(
    store: logstore.Store, open_store: Stores, tmp_path: Path
) -> None:
    other = open_store(tmp_path / "other.db", **OPTIONS)
    other.set_result("theirs", 1)
    with folds_held(store.path):
        values = fill_both(store)
        for name in ("-log", "-log2"):
            shutil.copyfile(f"{other.path}{name}", f"{store.path}{name}-copy")
            os.rename(f"{store.path}{name}-copy", f"{store.path}{name}")
    engine = live(store)
    engine.exclusively(engine.verify_files)
    assert read(store) == values
    kept = list(tmp_path.glob("app.db-log*.replaced-*"))
    assert len(kept) == 2
    for path in kept:
        path.unlink()


# -- between two steps of others -----------------------------------------------------------------


def test_an_event_loop_does_not_answer_from_a_sealed_log_that_is_in_the_table(
    store: logstore.Store,
) -> None:
    engine = live(store)
    with folds_held(store.path):
        values = fill_both(store)
        assert engine.current_view() is engine.overlay
    assert sealing.fold_sealed(engine, time.monotonic() + LONG_S)
    assert engine.current_view() is None
    assert store.get_result("sealed-0") == values["sealed-0"]
    assert engine.current_view() is engine.overlay


@pytest.mark.parametrize("late", [False, True])
def test_a_fold_that_readers_put_off_is_told_once_the_log_is_long(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    def put_off(*_: object, **__: object) -> None:
        raise OldReadersError("readers")

    monkeypatch.setattr(sealing, "fold_into", put_off)
    if late:
        monkeypatch.setattr(sealing, "LATE_LOG_FACTOR", 0)
    fill_both(store)
    assert not sealing.fold_sealed(live(store), time.monotonic() + LONG_S)
    found = store.stats()
    assert (found.compactions, found.compaction_errors) == (0, 0)
    assert found.last_error == ("readers" if late else None)


def test_a_seal_that_does_not_get_the_flush_lock_is_made_later(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)
    with monkeypatch.context() as patch:
        patch.setattr(engine.publisher, "with_lock", lambda work, deadline: None)
        for number in range(18):
            store.set_result(str(number), bytes(1000))
    found = store.stats()
    assert found.compaction_errors > 0
    assert "writer lock" in str(found.last_error)
    with folds_held(store.path):
        store.set_result("next", 1)
        assert engine.header.sealed


def test_the_state_of_the_logs_is_of_one_moment(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = [0]  # what is seen first

    def epoch(header: SharedHeader) -> int:
        return epochs.pop() if epochs else header.state >> 32

    monkeypatch.setattr(SharedHeader, "epoch", property(epoch))
    assert live(store).log_state().epoch == live(store).header.state >> 32
    assert epochs == []


def test_a_read_beside_a_fold_whose_commit_fails_opens_the_table_again(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("a", 1)
    store.compact()
    table = live(store).table
    before = table.env

    def begin(*_: Any) -> Any:
        monkeypatch.undo()
        raise lmdb.PanicError("the commit of another thread")

    monkeypatch.setattr(table, "_begin", begin)
    assert store.get_result("a") == 1
    assert table.env is not before


def test_a_large_result_that_readers_keep_out_of_the_table_goes_through_the_log(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_off(*_: Any) -> None:
        raise OldReadersError("readers")

    large = os.urandom(LARGE_BYTES + 1)
    with monkeypatch.context() as patch:
        patch.setattr(live(store), "fold_large", put_off)
        patch.setattr(sealing, "compact_if_due", lambda *_: None)
        store.set_result("large", large)
    assert store.stats().log_bytes > LARGE_BYTES
    assert store.get_result("large") == large


def test_where_the_second_log_cannot_be_opened_the_first_is_closed(store: logstore.Store) -> None:
    os.unlink(f"{store.path}-log2")
    count = len(os.listdir("/proc/self/fd"))
    with pytest.raises(logstore.MissingLogError):
        Logs.open(store.path, live(store).logs.uuid)
    assert len(os.listdir("/proc/self/fd")) == count


def test_a_reader_that_finds_a_sealed_log_of_another_time_looks_again(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live(store)
    header = engine.header
    with folds_held(store.path):
        fill_both(store)
    with engine.view_lock:
        assert not engine.logview.catch_up(header.state + (5 << 32))  # the epoch has moved since
    header.sealed += 3 << 32
    with engine.view_lock:
        engine.logview.overlay = Overlay(0)
        with pytest.raises(logstore.CorruptLogError, match="a sealed log of epoch"):
            engine.logview.catch_up(header.state)
    header.sealed -= 3 << 32
