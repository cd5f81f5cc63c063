"""Results that expire or are evicted beside writers: by records in the log, and no long lock."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logstore
from logstore import ResultDeletedError, ResultExpiredError, TaskProgress
from logstore._engine import compaction, groups, maintenance, reading, retention, sealing
from logstore._engine import engine as engine_module
from logstore._engine.compaction import fold_into
from logstore._engine.engine import Engine
from logstore._engine.frames import EXPIRED, HAD_RESULT, KEEPS_PROGRESS, RESULT
from logstore._engine.groups import commit_group
from logstore._engine.retention import due
from logstore._engine.table import DB_EXPIRIES, Table
from logstore._engine.writes import Write
from tests.support.inside import folded, live

if TYPE_CHECKING:
    from tests.support.stores import Clock, Stores

LONG_S = 100.0
NEVER_S = 1e6

pytestmark = pytest.mark.usefixtures("no_idle_compaction")


@pytest.fixture
def by_itself() -> None:
    """Have the maintenance thread do its part, which a test otherwise does itself."""


@pytest.fixture(autouse=True)
def _by_hand(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "by_itself" not in request.fixturenames:
        monkeypatch.setattr(retention, "due", lambda engine: iter(()))


def retire(store: logstore.Store) -> list[Write]:
    """Remove what is due, as the maintenance thread does after a fold."""
    engine = live(store)
    done: list[Write] = []
    for group in due(engine):
        commit_group(engine, group)
        assert [write.error for write in group] == [None] * len(group)
        done += group
    return done


def seal(store: logstore.Store) -> None:
    """Seal the log as it is; nothing else folds it."""
    engine = live(store)
    engine.on_sealed = lambda: None
    options = engine.options
    engine.options = options._replace(compact_at=1)
    with engine.commit_lock:
        sealing.compact_if_due(engine)
    engine.options = options
    assert engine.header.sealed


def fold_beside(store: logstore.Store) -> None:
    """Seal the log as it is, and fold it as the maintenance thread does."""
    seal(store)
    assert folded(store)


def no_fold_under_all_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fold(*_: object, **__: object) -> None:
        raise AssertionError("all locks of writers were held for a fold")

    monkeypatch.setattr(Engine, "fold_unverified", fold)


def in_table(store: logstore.Store) -> int:
    return live(store).from_table(Table.counts).results


def statuses(store: logstore.Store, *task_ids: str) -> list[str]:
    return [store.status(task_id) for task_id in task_ids]


@pytest.fixture
def store(open_store: Stores) -> logstore.Store:
    return open_store(sync_interval_s=NEVER_S)


def test_what_has_expired_goes_without_a_fold_under_all_locks(
    store: logstore.Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        store.set_result(f"short-{number}", number, ttl_s=10)
    store.set_result("long", 1, ttl_s=1000)
    fold_beside(store)
    with monkeypatch.context() as patch:
        no_fold_under_all_locks(patch)
        assert not retire(store)
        clock.advance(20)
        store.set_result("later", 1)
        assert len(retire(store)) == 500
        assert in_table(store) == 501
        assert not retire(store)  # they are in the log
        fold_beside(store)
        assert in_table(store) == 2
        assert not retire(store)
    assert set(statuses(store, *(f"short-{number}" for number in range(500)))) == {"expired"}
    with pytest.raises(ResultExpiredError):
        store.pop_result("short-7")
    assert sorted(info.task_id for info in store.tasks()) == ["later", "long"]
    assert len(list(store.tasks(status="expired"))) == 500
    assert store.stats().results == 2
    assert store.check().ok


def test_an_expiry_costs_no_flush_and_an_eviction_one(open_store: Stores, clock: Clock) -> None:
    store = open_store(sync_interval_s=NEVER_S, max_results=10)
    for number in range(30):
        store.set_result(f"old-{number}", number, ttl_s=10 if number < 5 else None)
    fold_beside(store)
    clock.advance(20)
    engine = live(store)
    groups = iter(due(engine))
    flushes, synced = engine.counters.flushes, engine.header.synced
    commit_group(engine, next(groups))
    assert (engine.counters.flushes, engine.header.synced) == (flushes, synced)
    assert engine.header.state == engine.header.appended
    commit_group(engine, next(groups))
    assert not list(groups)
    assert engine.counters.flushes == flushes + 1
    assert engine.header.synced == engine.header.appended & 0xFFFFFFFF


@pytest.mark.parametrize("limits", [{"max_results": 10}, {"max_bytes": 10 * 1000}])
def test_the_oldest_results_over_a_limit_are_evicted(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    store = open_store(sync_interval_s=NEVER_S, **limits)
    for number in range(30):
        store.set_result(f"{number:07}", bytes(988))  # 1000 bytes with the id and CBOR's head
    fold_beside(store)
    assert live(store).from_table(Table.counts).data_bytes in range(29_900, 30_001)
    with monkeypatch.context() as patch:
        no_fold_under_all_locks(patch)
        store.set_result(f"{0:07}", "again")  # its old record goes, but no result
        assert store.delete_result(f"{1:07}")
        done = [write.key.decode() for write in retire(store)]
        assert done == [f"{number:07}" for number in range(2, len(done) + 2)]
        over = 20 if "max_results" in limits else 19
        assert over - 1 <= len(done) <= over
        assert not retire(store)
        fold_beside(store)
        assert not [w for w in retire(store) if w.key != f"{len(done) + 2:07}".encode()]
    assert statuses(store, f"{0:07}", f"{1:07}", f"{2:07}", f"{29:07}") == [
        "ready",
        "deleted",
        "expired",
        "ready",
    ]
    with pytest.raises(ResultExpiredError):
        store.get_result(f"{2:07}")


def test_the_progress_of_what_is_evicted_makes_room_too(open_store: Stores) -> None:
    store = open_store(sync_interval_s=NEVER_S, max_bytes=10 * 1000)
    for number in range(20):
        store.set_progress(f"{number:07}", TaskProgress(meta={"": "x" * 900}))
        store.set_result(f"{number:07}", bytes(40))
    fold_beside(store)
    before = live(store).from_table(Table.counts).data_bytes
    assert before > 19_000
    done = len(retire(store))
    fold_beside(store)
    after = live(store).from_table(Table.counts).data_bytes
    assert 10_000 - before // 20 <= after <= 10_000
    assert in_table(store) == 20 - done
    assert not retire(store)


@pytest.mark.parametrize("limits", [{"max_results": 20}, {"max_bytes": 20 * 1000}])
def test_what_the_logs_remove_is_not_evicted_again_in_other_results(
    open_store: Stores, limits: dict[str, Any]
) -> None:
    """The newest go, and one that is old is on its way out in another process."""
    store = open_store(sync_interval_s=NEVER_S, **limits)
    for number in range(30):
        store.set_result(f"{number:07}", bytes(988))
    fold_beside(store)
    for number in (3, *range(24, 30)):
        store.delete_result(f"{number:07}")
    assert [write.key for write in retire(store)] == [b"0000000", b"0000001", b"0000002"]
    fold_beside(store)
    assert in_table(store) == 20


@pytest.mark.parametrize("deleted", [0, 20])
def test_a_fold_between_two_groups_makes_the_count_void(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    """A compaction under all locks evicts by itself, as does another process."""
    monkeypatch.setattr(retention, "BATCH", 5)
    monkeypatch.setattr(reading, "LISTING_KEYS", 5)
    store = open_store(sync_interval_s=NEVER_S, max_results=20)
    for number in range(40):
        store.set_result(f"{number:07}", number)
    fold_beside(store)
    engine = live(store)
    groups = due(engine)
    commit_group(engine, next(groups))
    made_before = next(groups)
    for number in range(40 - deleted, 40):
        store.delete_result(f"{number:07}")
    engine.compact()
    left = 20 if not deleted else 15
    assert in_table(store) == left
    commit_group(engine, made_before)
    for group in groups:
        commit_group(engine, group)
    assert store.stats().results == left
    assert statuses(store, f"{4:07}", f"{39 - deleted:07}") == ["expired", "ready"]


def test_a_newer_record_of_the_task_is_not_removed(store: logstore.Store, clock: Clock) -> None:
    ids, states = (
        ("again", "deleted", "queued", "expired"),
        ["ready", "deleted", "ready", "expired"],
    )
    for task_id in ids:
        store.set_result(task_id, 1, ttl_s=10)
    fold_beside(store)
    clock.advance(20)
    engine = live(store)
    (writes,) = due(engine)
    store.set_result("again", 2)
    store.set_progress("deleted", TaskProgress())
    store.delete_result("deleted")
    commit_group(engine, [store._handle.result_write("queued", 2), *writes])
    assert [store.status(task_id) for task_id in ids] == states
    assert store.get_result("again") == store.get_result("queued") == 2
    fold_beside(store)
    assert [store.status(task_id) for task_id in ids] == states
    assert in_table(store) == 2


def test_progress_of_the_same_group_and_what_is_not_published_yet_count(
    store: logstore.Store, clock: Clock
) -> None:
    for task_id in ("grouped", "appended", "written again"):
        store.set_result(task_id, 1, ttl_s=10)
    fold_beside(store)
    clock.advance(20)
    engine, header = live(store), live(store).header
    (writes,) = due(engine)
    result = store._handle.result_write("written again", 2)
    progress = store._handle.progress_write("appended", TaskProgress(0.5))

    def append(deadline: float) -> None:
        at_us = time.time_ns() // 1000
        entries = [
            (b"appended", progress.entry._replace(time_us=at_us)),
            (b"written again", result.entry._replace(time_us=at_us + 1)),
            (b"written again", progress.entry._replace(time_us=at_us + 2)),
        ]
        header.last_time_us = at_us + 2
        engine.appending(lambda: engine.append(entries, sync=True, deadline=deadline), deadline)

    engine.in_turn(append)
    assert header.state < header.appended
    grouped = store._handle.progress_write("grouped", TaskProgress(0.5))
    commit_group(engine, [grouped, *writes])
    for _ in range(2):
        assert statuses(store, "grouped", "appended") == ["running", "running"]
        assert store.get_result("written again") == 2
        fold_beside(store)


def test_a_result_that_is_written_again_with_the_same_value_is_another_one(
    store: logstore.Store, clock: Clock
) -> None:
    store.set_result("t", 1, ttl_s=10)
    fold_beside(store)
    clock.advance(20)
    (writes,) = due(live(store))
    store.set_result("t", 1, ttl_s=5)
    clock.advance(10)
    commit_group(live(store), writes)
    entry = live(store).find_result(b"t")
    assert entry is not None
    assert entry.kind == RESULT


def test_a_clock_that_is_set_back_keeps_what_is_valid_again(
    store: logstore.Store, clock: Clock
) -> None:
    store.set_result("t", 1, ttl_s=10)
    fold_beside(store)
    clock.advance(20)
    (writes,) = due(live(store))
    clock.advance(-19)
    commit_group(live(store), writes)
    assert store.get_result("t") == 1


def test_damage_is_left_for_a_check(
    store: logstore.Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise logstore.CorruptRecordError("damaged")

    store.set_result("t", 1, ttl_s=10)
    store.set_progress("t", TaskProgress())
    fold_beside(store)
    clock.advance(20)
    (writes,) = due(live(store))
    with monkeypatch.context() as patch:
        patch.setattr(Table, "mark_in", damaged)
        commit_group(live(store), writes)
        assert writes[0].error is None
    assert live(store).overlay.result(b"t") is None
    commit_group(live(store), writes)
    entry = live(store).overlay.result(b"t")
    assert entry is not None
    assert (entry.kind, entry.flags) == (EXPIRED, HAD_RESULT)


def test_a_removal_reads_no_record_while_others_wait_to_write(
    open_store: Stores, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result may have a gibibyte."""
    store = open_store(sync_interval_s=NEVER_S, max_results=1)
    for task_id, ttl_s in (("short", 10), ("old", None), ("new", None)):
        store.set_progress(task_id, TaskProgress(0.5))
        store.set_result(task_id, 1, ttl_s=ttl_s)
    fold_beside(store)
    clock.advance(20)
    groups = due(live(store))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a record is read under the writer lock")

    with monkeypatch.context() as patch:
        patch.setattr(Table, "record_in", fail)
        for _ in range(2):
            group = next(groups)
            commit_group(live(store), group)
            assert [write.error for write in group] == [None]
    assert statuses(store, "short", "old", "new") == ["expired", "expired", "ready"]


def test_a_task_that_runs_again_keeps_its_progress(store: logstore.Store, clock: Clock) -> None:
    for task_id in ("again", "older"):
        store.set_result(task_id, 1, ttl_s=10)
    store.set_progress("older", TaskProgress(0.1))
    clock.advance(20)
    store.set_progress("again", TaskProgress(0.5))
    for place in ("in the log", "in the table"):
        if place == "in the table":
            fold_beside(store)
            retire(store)
        assert statuses(store, "again", "older") == ["running", "expired"]
        fold_beside(store)
        assert statuses(store, "again", "older") == ["running", "expired"]
    flags = {key: entry.flags for key, entry in live(store).view().changes()}
    assert flags in ({}, {b"again": HAD_RESULT | KEEPS_PROGRESS, b"older": HAD_RESULT})
    assert store.get_progress("again") == TaskProgress(0.5)
    assert store.get_progress("older") is None
    assert [info.task_id for info in store.tasks(status="running")] == ["again"]
    assert [info.task_id for info in store.tasks(status="expired")] == ["older"]
    assert store.check().ok


def test_an_evicted_task_keeps_only_later_progress(open_store: Stores) -> None:
    store = open_store(sync_interval_s=NEVER_S, max_results=1)
    for task_id in ("before", "behind", "newest"):
        store.set_result(task_id, 1)
    store.set_progress("before", TaskProgress(0.5))
    fold_beside(store)
    engine = live(store)
    (writes,) = due(engine)
    behind = store._handle.progress_write("behind", TaskProgress(0.5))
    commit_group(engine, [*writes, behind])
    for _ in range(2):
        assert statuses(store, "before", "behind", "newest") == ["expired", "running", "ready"]
        assert store.get_progress("before") is None
        assert store.get_progress("behind") == TaskProgress(0.5)
        fold_beside(store)


def test_watchers_get_each_removal_once_and_in_order(store: logstore.Store, clock: Clock) -> None:
    for task_id in ("a", "b", "again"):
        store.set_result(task_id, 1, ttl_s=10)
    clock.advance(20)
    store.set_progress("again", TaskProgress(0.5))
    fold_beside(store)
    with store.watch() as watch:
        store.set_result("first", 1)
        retire(store)
        store.set_result("last", 1)
        found = [next(watch) for _ in range(6)]
        fold_beside(store)
        store.set_result("behind the fold", 1)
        found.append(next(watch))
    assert [(event.task_id, event.kind) for event in found] == [
        ("first", "result"),
        *((task_id, "expired") for task_id in ("a", "b", "again")),
        ("again", "progress"),
        ("last", "result"),
        ("behind the fold", "result"),
    ]
    times = [event.time for event in found]
    assert times == sorted(times)


def test_a_watcher_that_comes_late_finds_the_removals_in_the_table(
    store: logstore.Store, clock: Clock
) -> None:
    for task_id in ("a", "again"):
        store.set_result(task_id, 1, ttl_s=10)
    clock.advance(20)
    store.set_progress("again", TaskProgress(0.5))
    fold_beside(store)
    engine = live(store)
    since = engine.header.last_time_us
    retire(store)
    fold_beside(store)
    seal(store)
    folded(store)
    changes = engine.from_table(lambda table: table.changes_since(since))
    assert [(key, entry.kind) for key, entry in changes] == [
        (b"a", EXPIRED),
        (b"again", EXPIRED),
        (b"again", 2),
    ]


def test_expired_progress_goes_with_the_fold_of_a_sealed_log(
    store: logstore.Store, clock: Clock
) -> None:
    """Behind results that have expired before it and are not removed yet."""
    for number in range(10):
        store.set_result(f"result-{number}", 1, ttl_s=5)
        store.set_progress(f"running-{number}", TaskProgress(0.5), ttl_s=6)
    fold_beside(store)
    clock.advance(10)
    store.set_result("later", 1)
    fold_beside(store)
    counts = live(store).from_table(Table.counts)
    assert (counts.results, counts.progress) == (11, 0)
    left = live(store).table.read(
        lambda txn: txn.stat(live(store).table.db[DB_EXPIRIES])["entries"]
    )
    assert left == 10
    assert store.check().ok


def test_a_fold_beside_the_writers_changes_nothing_that_is_seen(
    open_store: Stores, clock: Clock
) -> None:
    rng = random.Random(11)
    store = open_store(sync_interval_s=NEVER_S, max_results=12)
    ids = [f"task-{number}" for number in range(25)]

    def seen() -> dict[str, Any]:
        found: dict[str, Any] = {
            status: [(info.task_id, info.time) for info in store.tasks(status=status)]
            for status in ("ready", "running", "deleted")
        }
        found["expired"] = sorted(info.task_id for info in store.tasks(status="expired"))
        for task_id in ids:
            found[task_id] = store.status(task_id), store.get_progress(task_id)
        found["stats"] = store.stats().results
        return found

    def write(task_id: str) -> None:
        store.set_result(task_id, rng.random(), ttl_s=rng.choice((None, None, 5, 50)))

    def progress(task_id: str) -> None:
        store.set_progress(task_id, TaskProgress(rng.random()), ttl_s=rng.choice((None, 50)))

    def passes(task_id: str) -> None:
        clock.advance(rng.random() * 8)

    verbs: list[Callable[[str], object]] = [write, write, write, progress, progress, passes]
    verbs += [store.delete_result, lambda _: retire(store)]
    for _ in range(150):
        for _ in range(rng.randrange(1, 12)):
            rng.choice(verbs)(rng.choice(ids))
        seal(store)
        before = seen()
        assert folded(store)
        assert seen() == before
        assert store.check().ok
    gone = [info.task_id for info in store.tasks(status="expired")]
    assert gone


def test_the_thread_that_has_folded_a_log_removes_what_is_due_by_itself(
    by_itself: None, store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No writer helps, and it does not wait for its next look."""
    monkeypatch.setattr(maintenance, "CHECK_S", NEVER_S)
    for number in range(10):
        store.set_result(f"short-{number}", number, ttl_s=1e-6)
    engine = live(store)
    engine.options = engine.options._replace(compact_at=1)
    with engine.commit_lock:
        sealing.compact_if_due(engine)
    engine.options = engine.options._replace(compact_at=1 << 20)
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        found = [engine.view().result(f"short-{number}".encode()) for number in range(10)]
        if all(entry is not None and entry.kind == EXPIRED for entry in found):
            break
        time.sleep(0.01)
    assert [entry and entry.kind for entry in found] == [EXPIRED] * 10


def test_a_store_that_is_always_written_to_loses_what_has_expired_all_the_same(
    by_itself: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real thread, clock and limits; no fold is made under the locks of writers."""
    monkeypatch.setattr(maintenance, "CHECK_S", 0.05)
    with logstore.open(path, compact_at=1 << 16, max_results=300) as store:
        store.set_result("first", 1)
        stop = threading.Event()

        def writing() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                ttl_s = 0.2 if number % 2 else None
                store.set_result(f"task-{number}", bytes(200), ttl_s=ttl_s)

        with monkeypatch.context() as patch:
            no_fold_under_all_locks(patch)
            thread = threading.Thread(target=writing)
            thread.start()
            try:
                deadline = time.monotonic() + LONG_S
                while time.monotonic() < deadline:
                    gone = store.stats().gone
                    if gone > 2000 and store.status("first") == "expired":
                        break
                    time.sleep(0.05)
            finally:
                stop.set()
                thread.join()
        assert store.status("first") == "expired"
        with pytest.raises(ResultExpiredError):
            store.get_result("task-1")
        assert store.stats().last_error is None
        assert store.stats().results < 3000
        store.compact()
        assert store.stats().results <= 300
        assert store.check().ok


@pytest.mark.parametrize("limits", [{"max_results": 10}, {"result_ttl_s": 10}])
def test_writers_take_away_as_much_as_they_bring_if_nothing_else_does(
    open_store: Stores, clock: Clock, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    """As where the maintenance thread comes too late: the table does not grow with each log."""
    store = open_store(sync_interval_s=NEVER_S, compact_at=1 << 14, **limits)
    monkeypatch.setattr(retention, "due", due)
    monkeypatch.setattr(live(store), "on_sealed", lambda: None)
    most = number = 0
    for _ in range(20):
        epoch = live(store).header.epoch
        while live(store).header.epoch == epoch:
            store.set_result(f"task-{number}", number)
            number += 1
        clock.advance(20)
        assert folded(store)
        most = max(most, in_table(store))
    assert number > 4 * most
    assert in_table(store) < most
    assert store.stats().last_error is None
    assert store.check().ok


def test_the_first_write_behind_a_fold_takes_nothing_away(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sync_interval_s=NEVER_S, max_results=10)
    for number in range(20):
        store.set_result(f"task-{number}", number)
    fold_beside(store)
    monkeypatch.setattr(retention, "due", due)
    store.set_result("first", 1)
    assert store.stats().results == 21


def test_a_writer_removes_a_bounded_number_behind_one_commit(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a long backup, during which nothing was removed."""
    store = open_store(sync_interval_s=NEVER_S, max_results=10)
    write = store._handle.result_write
    store._handle.commit([write(f"task-{number}", number) for number in range(3000)])
    fold_beside(store)
    monkeypatch.setattr(retention, "due", due)
    store._handle.commit([write(f"more-{number}", number) for number in range(3000)])
    assert store.stats().results == 3000 + 3000 - groups.REMOVED_MAX


def test_writers_do_not_look_at_the_table_again_where_nothing_is_left_to_take_away(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sync_interval_s=NEVER_S, compact_at=1 << 16, max_results=10)
    for number in range(20):
        store.set_result(f"task-{number}", number)
    fold_beside(store)
    looks: list[Engine] = []

    def look(engine: Engine) -> Any:
        looks.append(engine)
        return due(engine)

    monkeypatch.setattr(retention, "due", look)
    for number in range(300):
        store.set_result(f"more-{number}", number)
    assert store.stats().results == 10 + 300
    assert len(looks) == 1


def test_an_error_of_a_removal_fails_no_write(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sync_interval_s=NEVER_S, compact_at=1 << 14, max_results=10)
    for number in range(50):
        store.set_result(f"task-{number}", number)
    fold_beside(store)

    def fail(_: Engine) -> Any:
        raise OSError(5, "of the disk")

    monkeypatch.setattr(retention, "due", fail)
    for number in range(50):
        store.set_result(f"more-{number}", number)
    assert store.stats().compaction_errors > 0
    assert store.get_result("more-49") == 49


def test_a_look_goes_on_in_the_table_of_the_next_fold(
    open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 5)
    store = open_store(sync_interval_s=NEVER_S, max_results=20)
    for number in range(40):
        store.set_result(f"{number:07}", number)
    fold_beside(store)
    for group in due(live(store)):
        commit_group(live(store), group)
        fold_beside(store)
    assert in_table(store) == 20


def test_an_error_ends_a_pass_until_the_next_look(
    store: logstore.Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_result("t", 1, ttl_s=10)
    fold_beside(store)
    clock.advance(20)
    thread: Any = maintenance.Maintenance.__new__(maintenance.Maintenance)
    thread._engine = engine = live(store)
    monkeypatch.setattr(retention, "due", due)
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise OSError(5, "of the disk")

        patch.setattr(engine.logview, "append", fail)
        with pytest.raises(logstore.WriteError):
            thread._retire()
    assert not thread._retires
    engine.removing_from = -1
    assert thread._retire() > 0
    assert thread._retires
    assert thread._retire() == 0
    assert not thread._retires
    assert store.status("t") == "expired"


def test_a_compaction_that_died_before_it_published_its_times_has_used_them(
    open_store: Stores, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was set back, so that it does not give later times by itself."""
    store = open_store(sync_interval_s=NEVER_S)
    for number in range(6):
        store.set_result(f"task-{number}", number, ttl_s=10)
    store.compact()
    clock.advance(7200)
    store.set_result("ahead", 1)
    clock.advance(-3600)
    monkeypatch.setattr(compaction, "PURGE_MIN", 2)
    monkeypatch.setattr(compaction, "PURGE_S", 0.0)

    def fold_and_die(*args: Any, **kwargs: Any) -> int:
        fold_into(*args, **kwargs)
        raise OSError(5, "as if killed")

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "fold_into", fold_and_die)
        with pytest.raises(logstore.WriteError):
            store.compact()
    for number in range(3):
        store.set_result("behind", number)
        store.compact()
    assert set(statuses(store, *(f"task-{number}" for number in range(6)))) == {"expired"}
    assert store.check().ok


def test_deletions_and_removals_of_one_task_follow_each_other(
    store: logstore.Store, clock: Clock
) -> None:
    store.set_result("t", 1, ttl_s=10)
    fold_beside(store)
    clock.advance(20)
    retire(store)
    assert not store.delete_result("t")
    assert store.status("t") == "expired"
    store.set_progress("t", TaskProgress())
    assert not store.delete_result("t")
    with pytest.raises(ResultDeletedError):
        store.get_result("t")
    fold_beside(store)
    assert store.status("t") == "deleted"
