"""Readers are counted in shared memory: slots, waits of folds, and the sequence of commits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore._engine import deferral, durability, files, metapages, readers
from logstore._engine.compaction import fold_into
from logstore._engine.frames import RESULT, Entry
from logstore._engine.header import SharedHeader
from logstore._engine.options import LARGE_BYTES
from logstore._engine.presence import open_presence
from logstore._engine.readers import ANY_TABLE, SEQUENCE, OldReadersError, Readers, table_of
from logstore._engine.table import Table
from tests.support.forked import run_in_fork
from tests.support.inside import live
from tests.support.peers import Peer
from tests.support.stores import Stores

UUID = bytes(range(16))
THIS, OTHER = table_of(1), table_of(2)


@contextmanager
def process(path: Path) -> Iterator[Readers]:
    """The readers as another process has them: with an open file of its own."""
    fd = open_presence(str(path))
    header = SharedHeader(fd)
    try:
        yield header.readers
    finally:
        header.close()
        files.close(fd)


@pytest.fixture
def first(path: Path) -> Iterator[Readers]:
    with process(path) as found:
        yield found


@pytest.fixture
def second(path: Path) -> Iterator[Readers]:
    with process(path) as found:
        yield found


# -- slots -------------------------------------------------------------------------------------


def test_each_table_of_each_process_has_a_slot_in_a_line_of_its_own(
    first: Readers, second: Readers
) -> None:
    slots = [reader.claim("app.db") for reader in (first, second, first, second)]
    assert len({slot // 8 for slot in slots}) == 4
    assert min(slots) == 8  # not in the line of the sequence


class Beside:
    """Does something in another thread at a moment in the middle of what this one does."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.found: list[Any] = []
        self._thread = threading.Thread(target=lambda: self.found.append(work()))

    def at(self, monkeypatch: pytest.MonkeyPatch, readers: Readers, name: str) -> None:
        """Do it once, where a lock has been tried or is about to be given back."""
        real = getattr(readers, name)

        def call(index: int) -> Any:
            monkeypatch.undo()
            if name == "_unlock":
                self._begin()
            found = real(index)
            if name == "_try_lock":
                self._begin()
            return found

        monkeypatch.setattr(readers, name, call)

    def _begin(self) -> None:
        """Give it time to get ahead, if nothing stops it."""
        self._thread.start()
        self._thread.join(0.2)

    def end(self) -> Any:
        self._thread.join(100)
        return self.found[0]


def test_two_threads_that_claim_at_once_get_two_slots(
    first: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock on a slot is the process's: it excludes no other thread of it."""
    other = Beside(lambda: first.claim("app.db"))
    other.at(monkeypatch, first, "_try_lock")
    assert first.claim("app.db") != other.end()


def test_a_slot_that_is_just_claimed_is_no_dead_processs(
    first: Readers, second: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Beside(lambda: first._clear_if_dead(8))
    other.at(monkeypatch, first, "_try_lock")
    assert first.claim("app.db") == 8
    assert other.end() is False
    assert second.claim("app.db") != 8


def test_a_slot_that_is_just_given_back_is_not_claimed_before_its_lock_is(
    first: Readers, second: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = first.claim("app.db")
    other = Beside(lambda: first.claim("app.db"))
    other.at(monkeypatch, first, "_unlock")
    first.release(slot)
    assert other.end() == slot
    assert second.claim("app.db") != slot


def test_a_dead_processs_slot_is_not_claimed_while_it_is_cleared(
    first: Readers, second: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Beside(lambda: first.claim("app.db"))
    other.at(monkeypatch, first, "_unlock")
    assert first._clear_if_dead(8)
    assert other.end() == 8
    assert second.claim("app.db") != 8


def test_a_slot_that_was_given_back_or_whose_process_has_ended_is_used_again(
    path: Path, first: Readers
) -> None:
    with process(path) as other:
        slot = other.claim("app.db")
        other.words[slot] = THIS | 7
        assert first.claim("app.db") != slot
    assert first.words[slot] == THIS | 7
    assert first.claim("app.db") == slot
    assert first.words[slot] == 0
    first.words[slot] = THIS | 7
    first.release(slot)
    assert first.words[slot] == 0
    assert first.claim("app.db") == slot


def test_more_tables_than_slots_are_an_error_that_says_so(first: Readers) -> None:
    slots = {first.claim("app.db") for _ in range(readers.SLOTS)}
    assert len(slots) == readers.SLOTS == 4088
    assert (min(slots), max(slots)) == (8, 4095)
    with pytest.raises(logstore.StoreBusyError, match=r"^app\.db: open in 4088 processes"):
        first.claim("app.db")
    first.release(9)
    assert first.claim("app.db") == 9


def test_a_store_without_a_free_slot_is_not_opened(path: Path, start_peer: Any) -> None:
    peer = start_peer(path)
    with process(path) as other:
        for _ in range(readers.SLOTS - 1):
            other.claim("app.db")
        with pytest.raises(logstore.StoreBusyError, match="4088 processes"):
            logstore.open(path)
    logstore.open(path).close()
    peer.run("store.close()")


def test_all_words_are_cleared_by_a_process_that_is_alone(path: Path) -> None:
    fd = open_presence(str(path))
    header = SharedHeader(fd)
    for index in (SEQUENCE, 8, 4095):
        header.readers.words[index] = 7
    header.begin_rebuild()
    assert not any(header.readers.words)
    header.close()
    files.close(fd)


def test_a_forked_child_neither_holds_nor_frees_the_slots_of_its_parent(
    store: logstore.Store,
) -> None:
    store.set_result("a", 1)
    store.compact()
    engine = live(store)
    slot = engine.table._slot

    def child() -> None:
        table = engine.table
        table.close()
        assert store.get_result("a") == 1  # opens the store again
        assert live(store).table._slot != slot
        store.close()

    assert run_in_fork(child) == 0
    with process(Path(store.path)) as other:
        assert not other._try_lock(slot)
        assert not other._clear_if_dead(slot)


# -- waiting for readers -----------------------------------------------------------------------


def test_only_readers_of_an_old_snapshot_of_the_table_are_waited_for(
    first: Readers, second: Readers
) -> None:
    slot = second.claim("app.db")

    def waits(word: int) -> bool:
        second.words[slot] = word
        try:
            first.wait_for_old("app.db", THIS, 10, 0)
        except OldReadersError:
            return True
        return False

    assert not waits(0)
    assert not waits(THIS | 10)
    assert waits(THIS | 9)
    assert not waits(OTHER | 9)
    assert waits(ANY_TABLE)
    assert first.snapshots(THIS) == []
    second.words[slot] = THIS | 9
    assert first.snapshots(THIS) == [9]


def test_a_wait_ends_as_soon_as_the_reader_has_ended(first: Readers, second: Readers) -> None:
    slot = second.claim("app.db")
    second.words[slot] = THIS | 9
    started, ended = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        first.wait_for_old("app.db", THIS, 10, 100)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(100)
    assert not ended.wait(0.1)
    second.words[slot] = THIS | 10  # another read, of the newest snapshot
    assert ended.wait(100)
    thread.join()


def test_a_dead_reader_is_not_waited_for_and_its_slot_is_cleared(
    path: Path, first: Readers
) -> None:
    with process(path) as other:
        slot = other.claim("app.db")
        other.words[slot] = THIS | 9
        with pytest.raises(OldReadersError):
            first.wait_for_old("app.db", THIS, 10, 0)
        assert first.snapshots(THIS) == [9]
    first.wait_for_old("app.db", THIS, 10, 0)
    assert first.words[slot] == 0
    with process(path) as other:
        assert other.claim("app.db") == slot  # the lock was given back
        other.words[slot] = THIS | 9
        assert first.snapshots(THIS) == [9]
    assert first.snapshots(THIS) == []


def test_a_fork_does_not_wait_for_a_fold_that_waits_for_readers(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = live(store).table
    waits = threading.Event()
    real = Readers.wait_for_old

    def wait(self: Readers, *arguments: Any) -> None:
        waits.set()
        real(self, *arguments)

    monkeypatch.setattr(Readers, "wait_for_old", wait)
    with process(Path(store.path)) as other:
        slot = other.claim("app.db")
        other.words[slot] = table_of(table.meta.incarnation)
        outcome: list[BaseException | None] = []

        def write() -> None:
            try:
                table.write(lambda txn: None, wait_s=30)
                outcome.append(None)
            except BaseException as exc:
                outcome.append(exc)

        thread = threading.Thread(target=write)
        thread.start()
        assert waits.wait(100)
        assert run_in_fork(lambda: None) == 0
        assert outcome == []
        other.words[slot] = 0
        thread.join()
    assert outcome == [None]


# -- a process that is stopped in a read -------------------------------------------------------

STOPS_IN_A_READ = """
from logstore._engine.table import Table
store.get_result("a")
def get(table, txn, key, *, progress, real=Table._get_in):
    Table._get_in = real
    os.kill(os.getpid(), signal.SIGSTOP)
    return real(table, txn, key, progress=progress)
Table._get_in = get
"""


@pytest.fixture
def stopped(open_store: Stores, start_peer: Callable[..., Peer]) -> Iterator[Callable[..., Any]]:
    """Opens a store of which another process is stopped in a read of an old snapshot."""
    peers: list[Peer] = []

    def start(**options: Any) -> logstore.Store:
        store = open_store(**options)
        store.set_result("a", 1)
        store.compact()
        peer = start_peer(store.path)
        peer.run(STOPS_IN_A_READ)
        peer.begin("store.get_result('a')")
        peer.wait_until_stopped()
        peers.append(peer)
        store.set_result("b", 1)
        store.compact()  # the peer is in the newest snapshot until then
        return store

    yield start
    for peer in peers:
        os.kill(peer.pid, signal.SIGCONT)
        assert peer.end() == 1
        assert peer.run("store.get_result('b')") == 1
        peer.run("store.close()")


def test_writes_and_reads_go_on_while_a_process_is_stopped_in_a_read(
    stopped: Callable[..., logstore.Store],
    start_peer: Callable[..., Peer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deferral, "PUT_OFF_S", 0.02)
    store = stopped(compact_at=1 << 16)
    before = store.stats()
    assert before.oldest_reader is not None
    assert before.readers == 1
    for number in range(300):
        store.set_result(f"job-{number}", "x" * 1000)
    store.set_result("large", "x" * (LARGE_BYTES + 1))
    store.set_result("large", "y" * (LARGE_BYTES + 1))
    assert start_peer(store.path).run("store.get_result('large')[0]") == "y"
    live(store).deferral._put_off_until = 0.0
    store.set_result("last", 1)
    after = store.stats()
    assert after.log_bytes > 4 << 16
    assert (after.compactions, after.compaction_errors) == (before.compactions, 0)
    assert "look for a stopped process" in str(after.last_error)
    assert store.get_result("job-7") == "x" * 1000


def test_a_compaction_that_is_asked_for_says_why_it_cannot_be_had(
    stopped: Callable[..., logstore.Store],
) -> None:
    store = stopped(write_timeout_s=0.2)
    store.set_result("c", 1)
    with pytest.raises(logstore.WriteTimeoutError, match=r"no compaction for 0\.2 s.*stopped"):
        store.compact()
    header = live(store).header
    assert not header.writing
    store.set_result("d", 1)
    assert store.get_result("c") == 1
    store.vacuum()  # its copy has no other readers
    store.set_result("e", 1)
    store.compact()  # the stopped process reads another table


def test_a_recovery_waits_for_readers_and_says_why_it_cannot_be_had(
    stopped: Callable[..., logstore.Store],
) -> None:
    store = stopped(write_timeout_s=0.2)
    store.set_result("c", 1)
    engine = live(store)
    engine.header.writing = 1
    with pytest.raises(logstore.WriteTimeoutError, match="stopped process"):
        store.set_result("d", 1)
    assert engine.header.writing
    assert store.get_result("c") == 1
    engine.header.writing = 0


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long readers of an old snapshot are waited for; what is put off is so for long."""
    found: list[float] = []
    real = Readers.wait_for_old

    def wait(self: Readers, path: str, table: int, newest: int, timeout_s: float) -> None:
        found.append(timeout_s)
        real(self, path, table, newest, timeout_s)

    monkeypatch.setattr(Readers, "wait_for_old", wait)
    monkeypatch.setattr(deferral, "PUT_OFF_S", 1e6)
    return found


@pytest.mark.usefixtures("no_idle_compaction")
def test_a_compaction_that_was_put_off_is_tried_again_only_after_a_while(
    stopped: Callable[..., logstore.Store], waits: list[float]
) -> None:
    store = stopped()
    waits.clear()
    for number in range(3):
        store.set_result(f"large-{number}", bytes(LARGE_BYTES + 1))
    assert waits == [readers.WAIT_S]
    live(store).deferral._put_off_until = 0.0
    store.set_result("large-3", bytes(LARGE_BYTES + 1))
    assert waits == [readers.WAIT_S] * 2


def test_a_fold_that_was_put_off_is_tried_again_only_after_a_while(
    stopped: Callable[..., logstore.Store], waits: list[float]
) -> None:
    store = stopped(compact_at=1 << 16)
    waits.clear()
    engine = live(store)
    assert not engine.deferral.applies()
    for number in range(20):
        store.set_result(f"job-{number}", "x" * 10_000)
    store.set_result("large", bytes(LARGE_BYTES + 1))
    assert waits == [readers.WAIT_S]
    assert engine.deferral.applies()
    engine.deferral._put_off_until = 0.0
    assert not engine.deferral.applies()


# -- the sequence ------------------------------------------------------------------------------


@pytest.fixture
def table(path: Path, first: Readers) -> Iterator[Table]:
    """An open table of a store, in its second snapshot or a later one."""
    Table.create(str(path), UUID)
    with closing(Table(str(path), readers=first)) as found:
        put(found, 1)
        yield found


def put(table: Table, payload: int) -> None:
    entry = Entry(RESULT, 0, payload, 0, b"%d" % payload)
    fold_into(table, [({b"a": entry}, {})], epoch=payload + 1, incarnation=1)


def value(table: Table) -> bytes:
    found = table.get_result(b"a")
    assert found is not None
    return found.payload


class Env:
    """LMDB's handle; calls a function at each beginning of a transaction, before or after it."""

    def __init__(self, env: Any, before: Callable[[], object], after: Callable[[], object]) -> None:
        self._env, self._before, self._after = env, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, **options: Any) -> Any:
        self._before()
        txn = self._env.begin(**options)
        self._after()
        return txn


@pytest.mark.parametrize("knows", [True, False], ids=["its snapshot", "nothing"])
def test_a_reader_begins_again_if_there_is_a_commit_while_it_begins(
    path: Path, table: Table, first: Readers, knows: bool
) -> None:
    """It may have got half a meta page: here, one with the number of a transaction to come."""
    page, at = half_a_meta_page(path)
    whole = meta_page(path, at)
    assert value(table) == b"1"
    if not knows:
        table._sequence = -1
    env = table.env
    begun = []
    turn = 1 if knows else 2  # it begins once to find that it does not know

    def before() -> None:
        begun.append(1)
        if len(begun) == turn:
            first.begin_commit(env.info()["last_txnid"], has_new=False)
            put_meta_page(path, page, at)

    def after() -> None:
        if len(begun) == turn:
            put_meta_page(path, whole, at)
            first.end_commit()
            put(table, 2)

    table._env = Env(env, before, after)  # type: ignore[assignment]
    assert value(table) == b"2"
    table._env = env


def test_a_reader_takes_no_snapshot_before_the_last_whole_one(
    path: Path, table: Table, first: Readers
) -> None:
    """Its number may be that of a commit that fails: LMDB then writes back the page it replaced."""
    put(table, 2)
    at, whole = newest_meta_page(path)
    page = metapages.decode(whole)
    number = at // page.page_bytes
    older = metapages.encode(number, page._replace(txn_id=page.txn_id - 2))[: len(whole)]
    env = table.env
    begun: list[int] = []

    def before() -> None:
        begun.append(1)
        if len(begun) == 2:  # it begins once to find that it does not know its snapshot
            put_meta_page(path, older, at)

    first.begin_commit(page.txn_id, has_new=False)
    table._env = Env(env, before, lambda: put_meta_page(path, whole, at))  # type: ignore[assignment]
    assert value(table) == b"2"
    table._env = env
    first.end_commit()
    assert len(begun) == 3


def newest_meta_page(path: Path) -> tuple[int, bytes]:
    """Return where the newer of the two pages is, and the page."""
    second = metapages.decode(meta_page(path, 0)).page_bytes
    pages = [(at, meta_page(path, at)) for at in (0, second)]
    return max(pages, key=lambda found: metapages.decode(found[1]).txn_id)


def put_meta_page(path: Path, page: bytes, at: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), page, at)


def meta_page(path: Path, at: int) -> bytes:
    with open(path, "rb") as file:
        return os.pread(file.fileno(), metapages.META_BYTES, at)


def half_a_meta_page(path: Path) -> tuple[bytes, int]:
    """Return the older of the two pages with a higher transaction number, and where it is."""
    with open(path, "rb") as file:
        first = metapages.decode(os.pread(file.fileno(), metapages.META_BYTES, 0))
        second = metapages.decode(os.pread(file.fileno(), metapages.META_BYTES, first.page_bytes))
    older = min((first, second), key=lambda page: page.txn_id)
    at = 0 if older is first else first.page_bytes
    torn = older._replace(txn_id=older.txn_id + 2)
    return metapages.encode(at // first.page_bytes, torn)[: metapages.META_BYTES], at


def test_the_threads_of_the_process_itself_are_waited_for(table: Table) -> None:
    reads, go_on = threading.Event(), threading.Event()

    def read(_: object) -> None:
        reads.set()
        assert go_on.wait(100)

    thread = threading.Thread(target=lambda: table.read(read))
    thread.start()
    assert reads.wait(100)
    put(table, 2)  # it is in the newest snapshot
    with pytest.raises(OldReadersError):
        put(table, 3)
    go_on.set()
    thread.join()
    put(table, 3)
    assert value(table) == b"3"


def test_a_commit_that_has_no_end_stops_no_reader(table: Table, second: Readers) -> None:
    assert value(table) == b"1"
    second.begin_commit(table.env.info()["last_txnid"], has_new=False)
    assert value(table) == b"1"
    put_without_an_end(table, second, 2)
    assert value(table) == b"2"
    assert value(table) == b"2"
    put(table, 3)
    assert not second.words[SEQUENCE] & 1
    assert value(table) == b"3"


def put_without_an_end(table: Table, readers: Readers, payload: int, **options: Any) -> None:
    """Commit as a process that is killed before it can make the sequence even."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Readers, "end_commit", lambda self: None)
        put(table, payload)
    assert readers.words[SEQUENCE] & 1


def test_the_next_commit_moves_a_sequence_that_a_dead_process_has_left(
    table: Table, second: Readers
) -> None:
    put_without_an_end(table, second, 2)
    before = second.words[SEQUENCE]
    second.begin_commit(1, has_new=False)
    assert second.words[SEQUENCE] == before + 2
    second.end_commit()
    assert second.words[SEQUENCE] == before + 3


@pytest.mark.parametrize("ends", [True, False])
def test_a_reader_sees_what_the_log_does_not_have_only_when_it_is_on_the_disk(
    table: Table, first: Readers, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(durability, "sync_data", synced.append)
    if not ends:
        monkeypatch.setattr(readers, "COMMIT_S", 0.01)
    reads, found = threading.Event(), []
    real = Readers.wait_for_commit

    def wait(self: Readers, sequence: int) -> bool:
        reads.set()
        return real(self, sequence)

    monkeypatch.setattr(Readers, "wait_for_commit", wait)
    put_without_an_end(table, first, 2)
    thread = threading.Thread(target=lambda: found.append(value(table)))
    thread.start()
    assert reads.wait(100)
    if ends:
        assert not found
        first.end_commit()
    thread.join()
    assert found == [b"2"]
    assert synced == ([] if ends else [table.fd])
    assert value(table) == b"2"
    assert len(synced) == (not ends)  # once


def test_the_next_commit_first_puts_on_the_disk_what_a_dead_process_has_committed(
    table: Table, second: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(durability, "sync_data", synced.append)
    put(table, 2)
    assert synced == []
    put_without_an_end(table, second, 3)
    put(table, 4)
    assert synced == [table.fd]


def test_only_a_fold_of_what_the_log_has_on_the_disk_is_seen_at_once(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    new: list[bool] = []
    real = Readers.begin_commit

    def begin(self: Readers, newest: int, *, has_new: bool) -> None:
        new.append(has_new)
        real(self, newest, has_new=has_new)

    monkeypatch.setattr(Readers, "begin_commit", begin)
    store.set_result("a", 1)
    store.compact()
    assert new == [False]
    store.set_result("large", bytes(LARGE_BYTES + 1))
    assert new[1:] == [True]


def test_a_table_is_opened_as_by_a_reader_of_any_table(
    table: Table, first: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold waits for it, since its snapshot is not known yet."""
    seen: list[int] = []
    real = Table.read_meta_in

    def read_meta(self: Table, txn: Any) -> Any:
        seen.append(first.words[self._slot])
        return real(self, txn)

    monkeypatch.setattr(Table, "read_meta_in", read_meta)
    snapshot = table.env.info()["last_txnid"]
    table.reopen()
    assert seen == [ANY_TABLE | snapshot]
    assert first.words[table._slot] == 0
    table.read_meta()
    assert seen[1:] == [THIS | snapshot]
