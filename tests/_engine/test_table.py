"""The table: opened with suspicion, read in short copies, closed under its readers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore._engine import lmdbfile
from logstore._engine import table as table_module
from logstore._engine.compaction import fold_into
from logstore._engine.frames import PROGRESS, RESULT, Entry
from logstore._engine.metapages import MAGIC_AT
from logstore._engine.readers import Readers
from logstore._engine.records import Mark
from logstore._engine.table import DB_RESULTS, DB_RUNNING, Table
from tests.support.inside import live

if TYPE_CHECKING:
    from tests.support.stores import Clock, Stores

UUID = bytes(range(16))


@pytest.fixture
def table(path: Path) -> Iterator[Table]:
    """A table with 20 results of the times 100, 101 and so on, and three running tasks."""
    Table.create(str(path), UUID)
    table = Table(str(path))
    results = {f"task-{i:02}".encode(): Entry(RESULT, 0, 100 + i, 0, bytes(500)) for i in range(20)}
    running: dict[bytes, Entry | None] = {
        f"run-{i}".encode(): Entry(PROGRESS, 0, 200 + i, 0, b"p") for i in range(3)
    }
    fold_into(table, [(results, running)], None, now_us=0, last_time_us=0, epoch=5, incarnation=3)
    yield table
    table.close()


def test_a_new_table_is_clean_private_and_at_its_beginning(path: Path) -> None:
    Table.create(str(path), UUID)
    assert os.listdir(path.parent) == ["app.db"]
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(Table(str(path))) as table:
        meta = table.meta
    assert (meta.uuid, meta.epoch, meta.incarnation, meta.clean) == (UUID, 1, 1, True)


def test_the_meta_record_is_what_the_last_compaction_wrote(table: Table) -> None:
    meta = table.read_meta()
    assert (meta.epoch, meta.incarnation, meta.clean) == (5, 3, False)
    assert meta.data_bytes == 20 * (500 + 7) + 3 * (1 + 5)


def test_a_transaction_that_fails_ends_though_its_error_is_kept(store: logstore.Store) -> None:
    """The error has the frames that have the transaction, as long as a debugger keeps it."""
    table = live(store).table
    with pytest.raises(ZeroDivisionError) as reading:
        table.read(lambda txn: 1 // 0)
    assert table.counts().oldest_reader is None
    with pytest.raises(ZeroDivisionError) as writing:
        table.write(lambda txn: 1 // 0)
    table.write(lambda txn: None)
    assert reading.tb
    assert writing.tb


def test_the_newest_transaction_is_that_of_either_header(path: Path) -> None:
    logstore.open(path).close()
    with closing(Table(str(path), readers=Readers.private())) as table:
        for _ in range(3):
            table.write(lambda txn: table.write_meta(txn, table.read_meta_in(txn)))
            assert table.last_transaction() == table.env.info()["last_txnid"]


@pytest.mark.parametrize("damage", ["0", "100", "4096", "4196", "no magic"])
def test_a_file_that_is_no_table_any_more_has_no_transactions(path: Path, damage: str) -> None:
    logstore.open(path).close()
    table = Table(str(path), readers=Readers.private())
    assert table.last_transaction() >= 0
    with path.open("r+b") as file:
        if damage.isdecimal():
            file.truncate(int(damage))
        else:
            file.seek(MAGIC_AT)
            file.write(bytes(4))
    assert table.last_transaction() == -1
    table.close()


def times(table: Table, name: bytes, newest_first: bool, limit: int) -> list[int]:
    found: list[int] = []
    after_us: int | None = None
    while True:
        batch, after_us = table.listing(
            name, newest_first=newest_first, after_us=after_us, limit=limit
        )
        found += [record.entry.time_us for record in batch]
        if after_us is None:
            return found


@pytest.mark.parametrize("limit", [1, 3, 19, 20, 21, 1000])
def test_a_listing_in_batches_has_every_record_once_in_order(table: Table, limit: int) -> None:
    assert times(table, DB_RESULTS, False, limit) == list(range(100, 120))
    assert times(table, DB_RESULTS, True, limit) == list(range(119, 99, -1))
    assert times(table, DB_RUNNING, True, limit) == [202, 201, 200]


def test_a_listing_leaves_out_the_payload_of_results_and_says_its_size(table: Table) -> None:
    (record,), _ = table.listing(DB_RESULTS, newest_first=True, after_us=None, limit=1)
    assert (record.entry.payload, record.size) == (b"", 500)
    (record,), _ = table.listing(DB_RUNNING, newest_first=True, after_us=None, limit=1)
    assert record.entry.payload == b"p"


def test_a_mark_leads_to_its_records(table: Table) -> None:
    mark = table.read(lambda txn: table.mark_in(txn, b"task-07"))
    assert mark == Mark(107, 0, 0)
    assert table.read(lambda txn: table.mark_in(txn, b"nobody")) is None


def test_the_newest_time_is_that_of_all_databases(table: Table, tmp_path: Path) -> None:
    assert table.newest_time_us() == 202
    Table.create(str(tmp_path / "empty.db"), UUID)
    with closing(Table(str(tmp_path / "empty.db"))) as empty:
        assert empty.newest_time_us() == 0


def test_a_closed_table_answers_with_a_typed_error(table: Table) -> None:
    table.close()
    with pytest.raises(logstore.StoreClosedError):
        table.get_result(b"task-01")
    with pytest.raises(logstore.StoreClosedError):
        table.counts()


def test_closing_waits_for_the_write_that_is_under_way(table: Table) -> None:
    begun, go_on = threading.Event(), threading.Event()
    outcomes: list[object] = []

    def fill(_: object) -> None:
        begun.set()
        assert go_on.wait(100)

    def write() -> None:
        try:
            outcomes.append(table.write(fill))
        except Exception as exc:
            outcomes.append(exc)

    writing, closing_ = threading.Thread(target=write), threading.Thread(target=table.close)
    writing.start()
    assert begun.wait(100)
    closing_.start()
    closing_.join(0.1)
    waits = closing_.is_alive()
    go_on.set()
    for thread in (writing, closing_):
        thread.join()
    assert waits
    assert outcomes == [None]


def test_no_read_transaction_outlives_a_read(store: logstore.Store) -> None:
    store.set_result("a", 1)
    store.compact()
    for _ in range(10):
        store.get_result("a")
        next(iter(store.tasks()))
    assert store.stats().oldest_reader is None


def test_reading_while_the_table_is_opened_again_waits_and_succeeds(
    store: logstore.Store,
) -> None:
    store.set_result("a", 1)
    store.compact()
    wrong: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                assert store.get_result("a") == 1
        except BaseException as exc:
            wrong.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    engine = live(store)
    for _ in range(20):
        engine.exclusively(engine.table.reopen)
    stop.set()
    thread.join()
    assert wrong == []


def test_many_results_are_looked_up_in_short_transactions(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    real = Table._begin

    def begin(self: Table, env: Any) -> Any:
        begun.append(self)
        return real(self, env)

    monkeypatch.setattr(Table, "_begin", begin)
    keys = [f"task-{i:02}".encode() for i in range(25)]  # the last five are not there
    expected = [table.get_result(key) for key in keys]
    assert expected[19] is not None
    assert expected[20:] == [None] * 5
    for batch_keys, batch_bytes, transactions in (
        (64, 1 << 20, 1),
        (10, 1 << 20, 3),
        (64, 999, 10),
    ):
        monkeypatch.setattr(table_module, "BATCH_KEYS", batch_keys)
        monkeypatch.setattr(table_module, "BATCH_BYTES", batch_bytes)
        begun.clear()
        assert table.get_results(keys) == expected
        assert transactions <= len(begun) <= transactions + 1


def test_no_read_of_many_records_is_one_long_transaction(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A process that is stopped in one keeps all pages from being used again."""
    store = open_store(sync="interval")
    count = 3 * table_module.LISTING_KEYS
    for number in range(count):
        store.set_result(f"task-{number}", number, ttl_s=10)
    store.compact()
    for number in range(count):
        store.set_result(f"task-{number}", number, ttl_s=10)
    looked: list[int] = []
    begin_read, mark_in = Table._begin, Table.mark_in

    def begin(table: Table, env: Any) -> Any:
        looked.append(0)
        return begin_read(table, env)

    def look(table: Table, txn: Any, key: bytes) -> Mark | None:
        looked[-1] += 1
        return mark_in(table, txn, key)

    monkeypatch.setattr(Table, "_begin", begin)
    monkeypatch.setattr(Table, "mark_in", look)
    table = live(store).table
    assert store.stats().results == count
    assert len(table.changes_since(0)) == count
    assert max(looked) == table_module.LISTING_KEYS
    assert sum(looked) >= 2 * count


def test_one_environment_at_a_time_is_opened_or_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB's registry goes by inode, which a file system gives to the next file at once."""
    held: list[tuple[str, bool]] = []

    class Environment:
        def __init__(self, env: Any) -> None:
            self._env = env

        def __getattr__(self, name: str) -> Any:
            return getattr(self._env, name)

        def close(self) -> None:
            held.append(("close", table_module.environments.locked()))
            self._env.close()

    real = lmdbfile.open_environment

    def open_environment(*arguments: Any, **options: Any) -> Any:
        held.append(("open", table_module.environments.locked()))
        return Environment(real(*arguments, **options))

    monkeypatch.setattr(table_module, "open_environment", open_environment)
    Table.create(str(path), UUID)
    table = Table(str(path))
    table.reopen()
    table.close()
    assert held == [("open", True), ("close", True)] * 3
