"""Compaction: the newest record per task, marks and indexes in step, what a crash in it leaves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import compaction, lmdbfile, records
from logstore._engine.compaction import fold_into
from logstore._engine.frames import DELETED, EXPIRED, FAILED, HAD_RESULT, PROGRESS, RESULT, Entry
from logstore._engine.options import Retention
from logstore._engine.records import TIME, Mark
from logstore._engine.table import DB_GONE, DB_IDS, DB_PROGRESS, DB_RESULTS, DB_RUNNING, Table
from tests.support.inside import folded, live

if TYPE_CHECKING:
    from tests.support.peers import Peer
    from tests.support.stores import Clock, Stores

HALF = TaskProgress(0.5)


@pytest.fixture
def table(path: Path) -> Iterator[Table]:
    Table.create(str(path), bytes(range(16)))
    with closing(Table(str(path))) as table:
        yield table


def fold(
    table: Table,
    results: dict[bytes, Entry],
    progress: dict[bytes, Entry | None],
    *,
    now_us: int = 10**9,
    last_time_us: int = 10**9,
    retention: Retention | None = None,
) -> int:
    return fold_into(
        table,
        [(results, progress)],
        retention or Retention(),
        now_us=now_us,
        last_time_us=last_time_us,
        epoch=2,
        incarnation=1,
    )


def due(table: Table, now_us: int, retention: Retention | None = None) -> bool:
    return table.read(lambda txn: compaction.is_due(table, txn, retention or Retention(), now_us))


def a_result(time_us: int, payload: bytes = b"v", expires_us: int = 0) -> Entry:
    return Entry(RESULT, FAILED, time_us, expires_us, payload)


def test_it_gives_way_again_and_again(table: Table) -> None:
    steps = 3
    results = {b"%d" % n: a_result(n + 1) for n in range(steps * compaction.STEP)}
    progress = {b"p%d" % n: Entry(PROGRESS, 0, 9000 + n, 0, b"") for n in range(compaction.STEP)}
    calls: list[None] = []
    fold_into(
        table,
        [(results, progress)],
        epoch=2,
        incarnation=1,
        give_way=lambda: calls.append(None),
    )
    assert table.counts().results == len(results)
    # Each pass over so many records: two for results; three for progress, one of which clears it.
    assert len(calls) == 2 * steps + 3


def test_the_newest_record_of_each_task_is_in_the_table(table: Table) -> None:
    fold(table, {b"a": a_result(10)}, {b"b": Entry(PROGRESS, 0, 11, 0, b"p")})
    fold(table, {b"a": a_result(20, b"new")}, {b"b": Entry(PROGRESS, 0, 21, 0, b"q")})
    assert table.get_result(b"a") == a_result(20, b"new")
    assert table.get_progress(b"b") == Entry(PROGRESS, 0, 21, 0, b"q")
    counts = table.counts()
    assert (counts.results, counts.progress, counts.gone) == (1, 1, 0)
    assert counts.data_bytes == len(b"anew") + len(b"bq")


def test_folding_the_same_twice_changes_nothing(table: Table) -> None:
    results = {
        b"a": a_result(10, expires_us=2 * 10**9),
        b"d": Entry(DELETED, HAD_RESULT, 11, 0, b""),
    }
    progress: dict[bytes, Entry | None] = {b"p": Entry(PROGRESS, 0, 12, 0, b"p"), b"d": None}
    fold(table, results, progress)
    once = table.read(everything(table))
    fold(table, results, progress)
    assert table.read(everything(table)) == once


def everything(table: Table) -> Callable[[lmdb.Transaction[bytes]], list[tuple[bytes, ...]]]:
    def read(txn: lmdb.Transaction[bytes]) -> list[tuple[bytes, ...]]:
        found: list[tuple[bytes, ...]] = []
        for name, db in table.db.items():
            with txn.cursor(db=db) as cursor:
                found += [(name, bytes(key), bytes(value)) for key, value in cursor.iternext()]
        return found

    return read


def test_a_deletion_leaves_its_id_which_says_whether_there_was_a_result(table: Table) -> None:
    fold(table, {b"a": a_result(10)}, {b"b": Entry(PROGRESS, 0, 11, 0, b"p")})
    fold(
        table,
        {b"a": Entry(DELETED, 0, 20, 0, b""), b"b": Entry(DELETED, 0, 21, 0, b"")},
        {b"a": None, b"b": None},
    )
    gone = table.get_result(b"a")
    assert gone is not None
    assert (gone.kind, gone.flags) == (DELETED, HAD_RESULT)
    cleared = table.get_result(b"b")
    assert cleared is not None
    assert (cleared.kind, cleared.flags) == (DELETED, 0)
    assert table.get_progress(b"b") is None
    counts = table.counts()
    assert (counts.results, counts.progress, counts.gone, counts.data_bytes) == (0, 0, 2, 0)


def test_what_expires_leaves_an_id_of_a_new_time(table: Table) -> None:
    fold(table, {b"a": a_result(10, expires_us=1000)}, {}, now_us=999, last_time_us=999)
    assert table.get_result(b"a") == a_result(10, expires_us=1000)
    last = fold(table, {}, {}, now_us=1000, last_time_us=1000)
    gone = table.get_result(b"a")
    assert gone is not None
    assert (gone.kind, gone.expires_us, gone.time_us) == (EXPIRED, 1000, last)
    assert last > 1000


def test_more_than_one_compaction_takes_away_a_great_many_expired_records(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "PURGE_MIN", 10)
    monkeypatch.setattr(compaction, "PURGE_S", 0.0)
    fold(
        table,
        {str(i).encode(): a_result(10 + i, expires_us=1000 + i) for i in range(25)},
        {},
        now_us=999,
        last_time_us=999,
    )
    left = []
    for _ in range(3):
        fold(table, {}, {}, now_us=2000, last_time_us=2000)
        left.append(table.counts().results)
    assert left == [15, 5, 0]
    assert not due(table, 2000)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction takes away ten records of each kind, or twice as many as it folds."""
    monkeypatch.setattr(compaction, "PURGE_MIN", 10)
    monkeypatch.setattr(compaction, "PURGE_S", 0.0)


@pytest.mark.parametrize(
    "limit", [Retention(results_max=5), Retention(bytes_max=5 * 3)], ids=["count", "bytes"]
)
def test_a_great_surplus_over_a_limit_goes_in_steps_and_does_not_grow_meanwhile(
    table: Table, small_steps: None, limit: Retention
) -> None:
    fold(table, {f"{i:02}".encode(): a_result(10 + i) for i in range(60)}, {})
    left = []
    for number in range(5):
        assert due(table, 10**9, limit)
        new = {f"n{number}".encode(): a_result(100 + number)} if number < 2 else {}
        fold(table, new, {}, retention=limit)
        left.append(table.counts().results)
    assert left == [51, 42, 32, 22, 12]
    many = {f"{i}".encode(): a_result(200 + i) for i in range(20)}
    fold(table, many, {}, retention=limit)
    assert table.counts().results == 5
    assert not due(table, 10**9, limit)
    assert not due(table, 10**9, Retention())


def test_nothing_is_due_where_only_progress_is_over_the_limit(table: Table) -> None:
    fold(table, {}, {b"a": Entry(PROGRESS, 0, 10, 0, bytes(1000))})
    assert not due(table, 10**9, Retention(0, 100))


def test_what_is_remembered_of_ended_results_is_forgotten_in_steps_too(
    table: Table, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold(table, {f"{i:02}".encode(): a_result(10 + i) for i in range(60)}, {})
    ended = {f"{i:02}".encode(): Entry(DELETED, HAD_RESULT, 100 + i, 0, b"") for i in range(60)}
    fold(table, ended, {})
    assert not due(table, 100 + compaction.GONE_KEPT_US)
    left: list[int] = []
    for _ in range(7):
        now_us = 200 + compaction.GONE_KEPT_US
        assert due(table, now_us) == (len(left) < 6)
        fold(table, {}, {}, now_us=now_us, last_time_us=now_us)
        left.append(table.counts().gone)
    assert left == [50, 40, 30, 20, 10, 0, 0]
    monkeypatch.setattr(compaction, "GONE_COUNT_MAX", 5)
    results = {f"{i:02}".encode(): a_result(300 + i, expires_us=10**10) for i in range(60)}
    fold(table, results, {})
    for number in range(6):
        fold(table, {}, {}, now_us=10**10, last_time_us=10**10 + 100 * number)
        assert table.counts().gone <= 5  # as many go as come
    assert (table.counts().results, table.counts().gone) == (0, 5)
    assert not due(table, 10**10)
    monkeypatch.setattr(compaction, "GONE_COUNT_MAX", 4)
    assert due(table, 10**10)


def test_a_compaction_takes_away_more_while_its_time_lasts(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(compaction, "PURGE_MIN", 10)
    monkeypatch.setattr(compaction, "PURGE_S", 20)
    monkeypatch.setattr(time, "perf_counter", ticks.__next__)
    results = {str(i).encode(): a_result(10 + i, expires_us=1000) for i in range(60)}
    fold(table, results, {}, now_us=999, last_time_us=999)
    fold(table, {}, {}, now_us=2000, last_time_us=2000)
    assert 60 - table.counts().results == 10 + 19


def test_the_progress_of_a_task_that_will_run_again_is_in_the_index_of_those_that_run(
    table: Table,
) -> None:
    def running() -> set[bytes]:
        found, _ = table.listing(DB_RUNNING, newest_first=True, after_us=None, limit=10)
        return {record.key for record in found}

    def a_progress(time_us: int) -> Entry:
        return Entry(PROGRESS, 0, time_us, 0, b"p")

    later_us = 10**10
    fold(
        table,
        {
            b"kept": a_result(10),
            b"older": a_result(20, expires_us=later_us),
            b"newer": a_result(11, expires_us=500),
            b"before its end": a_result(12, expires_us=later_us),
        },
        {
            b"kept": a_progress(15),
            b"older": a_progress(16),
            b"newer": a_progress(501),
            b"before its end": a_progress(502),
        },
        now_us=400,
        last_time_us=502,
    )
    assert running() == {b"newer"}
    fold(table, {}, {b"older": a_progress(later_us + 1)}, now_us=400, last_time_us=later_us + 1)
    assert running() == {b"newer", b"older"}
    newer = {b"newer": a_result(later_us + 2, expires_us=later_us + 5)}
    fold(table, newer, {}, now_us=400, last_time_us=later_us + 2)
    assert running() == {b"older"}
    fold(table, {}, {}, now_us=later_us + 1, last_time_us=later_us + 3)
    assert running() == {b"older"}
    assert table.get_progress(b"before its end") is None
    fold(table, {}, {b"older": None}, now_us=later_us + 1, last_time_us=later_us + 3)
    assert running() == set()


# -- damage in what is replaced, dropped or forgotten ------------------------------------------


def damage(table: Table, name: bytes, time_us: int, raw: bytes | None = None) -> None:
    """Put something else in the place of a record; without ``raw`` take it away."""
    with table.env.begin(write=True, db=table.db[name]) as txn:
        if raw is None:
            assert txn.delete(TIME.pack(time_us))
        else:
            assert txn.replace(TIME.pack(time_us), raw) is not None


GARBAGE = {"missing": None, "garbage": b"\xff" * 100, "short": b"\xff"}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_record_that_is_damaged_is_replaced(table: Table, kind: str) -> None:
    fold(table, {b"a": a_result(10)}, {b"a": Entry(PROGRESS, 0, 11, 0, b"p")})
    damage(table, DB_RESULTS, 10, GARBAGE[kind])
    damage(table, DB_PROGRESS, 11, GARBAGE[kind])
    fold(table, {b"a": a_result(20, b"new")}, {b"a": Entry(PROGRESS, 0, 21, 0, b"q")})
    assert table.get_result(b"a") == a_result(20, b"new")
    assert table.get_progress(b"a") == Entry(PROGRESS, 0, 21, 0, b"q")
    counts = table.counts()
    assert (counts.results, counts.progress) == (1, 1)


@pytest.mark.parametrize("kind", GARBAGE)
def test_damage_does_not_stop_what_expires_or_is_over_the_limit(table: Table, kind: str) -> None:
    fold(table, {b"a": a_result(10, expires_us=10**9 + 1), b"b": a_result(11)}, {})
    damage(table, DB_RESULTS, 10, GARBAGE[kind])
    fold(table, {b"c": a_result(12)}, {}, now_us=10**9 + 1, retention=Retention(results_max=2))
    assert not due(table, 10**9 + 1)
    assert table.get_result(b"b") == a_result(11)
    assert table.get_result(b"c") == a_result(12)
    assert table.counts().results == 2


@pytest.mark.parametrize("kind", ["garbage", "short"])
def test_the_oldest_result_is_evicted_although_it_is_damaged(table: Table, kind: str) -> None:
    fold(table, {b"a": a_result(10), b"b": a_result(11)}, {})
    damage(table, DB_RESULTS, 10, GARBAGE[kind])
    fold(table, {}, {}, retention=Retention(results_max=1))
    assert table.get_result(b"b") == a_result(11)
    assert table.counts().results == 1


def test_a_record_that_no_mark_speaks_of_is_the_first_to_go(table: Table) -> None:
    """As damage of a mark leaves it: no read can find the record, so nothing is lost."""
    fold(table, {b"a": a_result(10, expires_us=10**9 + 1), b"b": a_result(11)}, {})
    with table.env.begin(write=True, db=table.db[DB_IDS]) as txn:
        assert txn.delete(b"a")
    fold(table, {}, {}, retention=Retention(results_max=1))
    assert table.get_result(b"a") is None
    assert table.get_result(b"b") == a_result(11)
    counts = table.counts()
    assert (counts.results, counts.gone) == (1, 0)
    fold(table, {}, {}, now_us=10**9 + 1)
    assert not due(table, 10**9 + 1)


def test_an_expired_record_that_no_mark_speaks_of_goes_without_a_trace(table: Table) -> None:
    fold(table, {b"a": a_result(10, expires_us=10**9 + 1)}, {})
    with table.env.begin(write=True, db=table.db[DB_IDS]) as txn:
        assert txn.delete(b"a")
    fold(table, {}, {}, now_us=10**9 + 1)
    counts = table.counts()
    assert (counts.results, counts.gone) == (0, 0)
    assert table.get_result(b"a") is None


def test_expired_progress_goes_without_a_trace(table: Table) -> None:
    fold(table, {}, {b"a": Entry(PROGRESS, 0, 10, 10**9 + 1, b"p")})
    fold(table, {}, {}, now_us=10**9 + 1)
    assert table.get_progress(b"a") is None
    counts = table.counts()
    assert (counts.progress, counts.gone, counts.data_bytes) == (0, 0, 0)


def test_progress_alone_is_never_evicted_however_large(table: Table) -> None:
    fold(table, {}, {b"a": Entry(PROGRESS, 0, 10, 0, bytes(1000))}, retention=Retention(None, 100))
    assert table.get_progress(b"a") == Entry(PROGRESS, 0, 10, 0, bytes(1000))


@pytest.mark.parametrize("kind", ["whole", "garbage", "of another time"])
def test_the_id_of_what_is_gone_is_forgotten_after_a_day_whatever_its_record(
    table: Table, kind: str
) -> None:
    fold(table, {b"a": a_result(10)}, {})
    fold(table, {b"a": Entry(DELETED, 0, 20, 0, b"")}, {})
    if kind == "garbage":
        damage(table, DB_GONE, 20, GARBAGE[kind])
    elif kind == "of another time":
        with table.env.begin(write=True, db=table.db[DB_IDS]) as txn:
            txn.put(b"a", records.encode_mark(table.seed, b"a", Mark(0, 30, 0)))
    day_us = compaction.GONE_KEPT_US
    fold(table, {}, {}, now_us=20 + day_us, last_time_us=20 + day_us)
    assert table.counts().gone == 1
    fold(table, {}, {}, now_us=21 + day_us, last_time_us=21 + day_us)
    assert table.counts().gone == 0
    if kind == "whole":
        assert table.get_result(b"a") is None


# -- the map -----------------------------------------------------------------------------------


def test_a_compaction_that_fills_the_map_grows_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdbfile, "MAP_BYTES", 1 << 17)
    Table.create(str(path), bytes(range(16)))
    with closing(Table(str(path))) as table:
        fold(table, {b"a": a_result(10, bytes(1 << 20))}, {})
        assert table.get_result(b"a") == a_result(10, bytes(1 << 20))
        assert table.env.info()["map_size"] >= 1 << 20


def with_small_maps(
    open_store: Stores, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> tuple[logstore.Store, Peer]:
    """A store that two processes have open, in maps that one large result outgrows."""
    monkeypatch.setattr(lmdbfile, "MAP_BYTES", 1 << 18)
    store = open_store()
    peer = start_peer()
    peer.run("from logstore._engine import lmdbfile\nlmdbfile.MAP_BYTES = 1 << 18")
    peer.open(store.path)
    return store, peer


def test_a_process_whose_map_is_smaller_than_a_peers_adopts_its_size(
    open_store: Stores, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, peer = with_small_maps(open_store, start_peer, monkeypatch)
    peer.run("store.set_result('large', bytes(1 << 20))")
    assert store.get_result("large") == bytes(1 << 20)
    store.set_result("own", bytes(1 << 21))
    assert peer.run("len(store.get_result('own'))") == 1 << 21
    peer.run("store.close()")


def test_a_compaction_in_a_map_that_a_peer_has_grown_adopts_its_size_first(
    open_store: Stores, start_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, peer = with_small_maps(open_store, start_peer, monkeypatch)
    adopted: list[Table] = []
    real = Table.adopt_map_size

    def adopt(table: Table) -> None:
        adopted.append(table)
        real(table)

    monkeypatch.setattr(Table, "adopt_map_size", adopt)
    peer.run("store.set_result('large', bytes(1 << 20))")
    engine = live(store)

    def fold() -> None:
        epoch = engine.overlay.epoch
        fold_into(
            engine.table,
            [({b"own": a_result(10**9)}, {})],
            None,
            now_us=10**9,
            last_time_us=10**9,
            epoch=epoch + 1,
            incarnation=engine.incarnation,
        )
        engine.begin_epoch(epoch + 1)

    engine.exclusively(fold)
    assert adopted == [engine.table]
    assert store.get_result("large") == bytes(1 << 20)
    assert engine.find_result(b"own") == a_result(10**9)
    peer.run("store.close()")


def test_marks_and_indexes_stay_in_step_over_random_histories(
    open_store: Stores, clock: Clock
) -> None:
    """Seeded: the seed is in the id of the task that the check names."""
    for seed in range(5):
        rng = random.Random(seed)
        store = open_store(max_results=12, compact_at=1 << 14)
        for step in range(300):
            task_id = f"s{seed}-{rng.randrange(25)}"
            action = rng.randrange(6)
            ttl_s = rng.choice((None, 5, 50))
            if action <= 1:
                store.set_result(task_id, bytes(rng.randrange(300)), ttl_s=ttl_s)
            elif action <= 3:
                store.set_progress(task_id, HALF, ttl_s=ttl_s)
            elif action == 4:
                store.delete_result(task_id)
            else:
                clock.advance(rng.randrange(10))
            if step % 10 == 9:
                store.compact()
                report = store.check()
                assert report.ok, (seed, step, report.problems)
                assert report.results <= 12
        store.close()


def test_a_compaction_that_dies_before_its_commit_loses_nothing(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores
) -> None:
    peer = start_peer(path)
    peer.run("store.set_result('a', 1)")
    peer.die("store.compact()", at="logstore._engine.table.Table.write_meta")
    store = open_store(path)
    assert store.get_result("a") == 1
    assert store.stats().recovered_frames == 1


def test_a_compaction_that_dies_after_its_commit_loses_nothing_and_a_peer_goes_on(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores
) -> None:
    store = open_store(path)
    peer = start_peer(path)
    peer.run("store.set_result('a', 1)")
    peer.die("store.compact()", at="logstore._engine.engine.Engine.begin_epoch")
    assert store.get_result("a") == 1
    store.set_result("a", 2)
    assert store.stats().recoveries == 1
    assert store.get_result("a") == 2


def test_an_append_that_dies_half_written_never_comes_back(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores
) -> None:
    store = open_store(path)
    peer = start_peer(path)
    peer.run("store.set_result('acked', 1)")
    peer.die("boundary.die_half_written()\nstore.set_result('lost', 1)")
    assert store.status("lost") == "unknown"
    store.set_result("after", 1)
    assert store.stats().recoveries == 1
    store.close()
    again = open_store(path)
    assert (again.status("acked"), again.status("lost")) == ("ready", "unknown")
    assert again.get_result("after") == 1


def test_what_a_process_has_appended_before_it_died_is_published_by_the_next_write(
    path: Path, start_peer: Callable[..., Peer], open_store: Stores
) -> None:
    """It was not acked, so either would do; but a write may have been resolved against it."""
    store = open_store(path)
    peer = start_peer(path)
    peer.die("store.set_result('whole', 1)", at="os.fdatasync")
    assert store.status("whole") == "unknown"
    store.set_result("after", 1)
    assert store.get_result("whole") == 1


def test_the_log_is_compacted_when_it_reaches_its_limit(open_store: Stores) -> None:
    store = open_store(compact_at=1 << 14)
    for i in range(100):
        store.set_result(f"task-{i}", bytes(1000))
        assert folded(store)
        assert store.stats().log_bytes < (1 << 14) + 2000
    assert store.stats().compactions >= 6


def test_a_failed_compaction_is_counted_and_writing_goes_on(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_at=1 << 14)
    engine = live(store)

    def fail(*_: object) -> None:
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    monkeypatch.setattr(Table, "write_meta", fail)
    for i in range(20):
        store.set_result(f"task-{i}", bytes(1000))
    assert not folded(store)
    failed = engine.counters.compaction_errors
    assert failed >= 1
    assert "Input/output error" in (store.stats().last_error or "")
    monkeypatch.undo()
    acked = [info.task_id for info in store.tasks()]
    assert len(acked) == 20
    store.set_result("after", 1)
    assert folded(store)
    assert store.stats().recoveries == 0
    assert [info.task_id for info in store.tasks()] == ["after", *acked]


def test_no_older_record_hides_a_large_one(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large records are seen in the table before the log's new epoch is published."""
    store.set_result("t", "small")
    store.set_progress("t", logstore.TaskProgress(current=1))
    engine = live(store)
    seen: list[tuple[Any, Any]] = []
    real = type(engine).begin_epoch

    def begin_epoch(self: Any, epoch: int) -> None:
        progress = store.get_progress("t")
        assert progress is not None
        seen.append((store.get_result("t"), progress.current))
        in_table = engine.table.get_result(b"t"), engine.table.get_progress(b"t")
        assert in_table == (engine.find_result(b"t"), engine.find_progress(b"t"))
        real(self, epoch)

    monkeypatch.setattr(type(engine), "begin_epoch", begin_epoch)
    store.set_result("t", "large" * 60_000)
    store.set_progress("t", logstore.TaskProgress(current=2))
    store.set_progress("t", logstore.TaskProgress(current=3, meta={"large": bytes(300_000)}))
    monkeypatch.undo()
    large = "large" * 60_000
    assert seen == [("small", 1), (large, 1), (large, 2), (large, 3)]
    assert store.get_result("t") == large


def test_gone_ids_are_bounded_by_count_oldest_first(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "GONE_COUNT_MAX", 5)
    for i in range(8):
        store.set_result(f"task-{i}", i)
        store.delete_result(f"task-{i}")
    store.compact()
    assert store.stats().gone == 5
    deleted = [info.task_id for info in store.tasks(status="deleted")]
    assert deleted == [f"task-{i}" for i in (7, 6, 5, 4, 3)]
    assert store.status("task-2") == "unknown"
