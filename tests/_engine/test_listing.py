"""Listing: log and table together, by the same rules as a single task's status."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import logstore
from logstore import TaskProgress
from logstore._engine import compaction, reading
from logstore._engine import listing as listing_module
from logstore._engine.table import Table, Txn
from logstore.types import Status

if TYPE_CHECKING:
    from tests.support.stores import Clock


def ids_of(store: logstore.Store, status: Status) -> set[str]:
    listed = [info.task_id for info in store.tasks(status=status)]
    assert len(listed) == len(set(listed))
    return set(listed)


@pytest.mark.parametrize("seed", range(6))
def test_every_list_agrees_with_every_status(
    store: logstore.Store, clock: Clock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LISTING_KEYS", 3)
    rng = random.Random(seed)
    names = [f"task-{i}" for i in range(15)]
    for _ in range(25):
        for _ in range(6):
            name, ttl_s = rng.choice(names), rng.choice((None, 20, 200))
            action = rng.randrange(4)
            if action == 0:
                store.set_result(name, 1, ttl_s=ttl_s)
            elif action == 1:
                store.set_progress(name, TaskProgress(0.5), ttl_s=ttl_s)
            elif action == 2:
                store.delete_result(name)
            else:
                clock.advance(rng.randrange(1, 30))
        if rng.random() < 0.4:
            store.compact()
        for status in ("ready", "running", "deleted", "expired"):
            expected = {name for name in names if store.status(name) == status}
            assert ids_of(store, status) == expected, (seed, status)
        both = [info.time for info in store.tasks()]
        assert both == sorted(both, reverse=True)
        for newest_first in (True, False):
            whole = list(store.tasks(newest_first=newest_first))
            assert [info.time for info in whole] == sorted(both, reverse=newest_first)
            for limit in (0, 1, 4):
                some = list(store.tasks(newest_first=newest_first, limit=limit))
                assert some == whole[:limit]
        assert {info.task_id for info in store.tasks()} == ids_of(store, "ready") | ids_of(
            store, "running"
        )


def test_the_newest_of_many_are_read_without_the_others(
    store: logstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store._handle.commit([store._handle.result_write(f"task-{i}", i) for i in range(3000)])
    store.compact()
    read: list[int] = []
    listing = Table.listing

    def counting(table: Table, *, limit: int, **options: object) -> object:
        found = listing(table, limit=limit, **options)  # type: ignore[arg-type]
        read.append(len(found[0]))
        return found

    monkeypatch.setattr(Table, "listing", counting)
    newest = [info.task_id for info in store.tasks(status="ready", limit=50)]
    assert newest == [f"task-{i}" for i in range(2999, 2949, -1)]
    assert read == [50]


def count_records(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the records that are verified, one for each that is listed."""
    times: list[int] = []
    listed = Table._listed

    def counting(table: Table, txn: Txn, name: bytes, time_us: int) -> object:
        times.append(time_us)
        return listed(table, txn, name, time_us)

    monkeypatch.setattr(Table, "_listed", counting)
    return times


@pytest.mark.parametrize("status", [None, "ready", "running", "expired", "deleted"])
@pytest.mark.parametrize("newest_first", [True, False])
def test_a_few_tasks_are_found_among_many_that_have_expired(
    store: logstore.Store,
    clock: Clock,
    status: Status | None,
    newest_first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = TaskProgress(0.5)
    for end in ("old", "new"):
        store._handle.commit([store._handle.result_write(f"{end}-ready-{i}", i) for i in range(5)])
        store._handle.commit(
            [store._handle.progress_write(f"{end}-running-{i}", half) for i in range(5)]
        )
        store._handle.commit(
            [store._handle.result_write(f"{end}-deleted-{i}", i) for i in range(5)]
        )
        for i in range(5):
            store.delete_result(f"{end}-deleted-{i}")
        if end == "old":
            names = [f"{kind}-{i}" for i in range(3000) for kind in ("result", "progress")]
            store._handle.commit(
                [store._handle.result_write(name, 1, ttl_s=10) for name in names[::2]]
            )
            store._handle.commit(
                [store._handle.progress_write(name, half, ttl_s=10) for name in names[1::2]]
            )
    store.compact()
    clock.advance(20)
    verified = count_records(monkeypatch)
    found = [i.task_id for i in store.tasks(status=status, newest_first=newest_first, limit=5)]
    assert len(found) == 5
    assert len(verified) <= 4 * 5
    if status != "expired":
        end = "new" if newest_first else "old"
        assert all(name.startswith(end) for name in found)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("listed_before", [1, 40])
def test_a_compaction_during_a_list_of_the_expired_neither_doubles_nor_loses_a_task(
    store: logstore.Store,
    clock: Clock,
    newest_first: bool,
    listed_before: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing_module, "LISTING_KEYS", 3)
    names = [f"task-{i:02}" for i in range(80)]
    store._handle.commit(
        [store._handle.result_write(name, 1, ttl_s=10 + i) for i, name in enumerate(names[:20])]
    )
    store.compact()
    clock.advance(100)
    store.compact()  # these are taken away already
    for i, name in enumerate(names[20:]):
        store.set_result(name, 1, ttl_s=10 + i)
    store.set_progress("task-30", TaskProgress(0.5))
    store.compact()
    store.set_result("task-79", 2, ttl_s=10)  # in the log again
    clock.advance(100)
    store.set_progress("task-50", TaskProgress(0.5))  # runs again
    listing = store.tasks(status="expired", newest_first=newest_first)
    found = [next(listing).task_id for _ in range(listed_before)]
    store.compact()
    found += [info.task_id for info in listing]
    assert sorted(found) == [name for name in names if name != "task-50"]


def test_a_task_that_runs_and_whose_old_result_is_damaged_leaves_the_others_listed(
    path: Path, clock: Clock
) -> None:
    with logstore.open(path) as store:
        store.set_result("damaged", "mark of damage", ttl_s=10)
        clock.advance(20)
        store.set_progress("damaged", TaskProgress(0.5))
        store.set_progress("other", TaskProgress(0.5))
        with mock.patch.object(compaction.Fold, "_budget", return_value=()):
            store.compact()
            assert {info.task_id for info in store.tasks(status="running")} == {"damaged", "other"}
            store.close()
    raw = path.read_bytes()
    assert raw.count(b"mark of damage") >= 1
    path.write_bytes(raw.replace(b"mark of damage", b"MARK of damage"))
    with logstore.open(path, mode="r") as reader:
        assert [info.task_id for info in reader.tasks(status="running")] == ["other"]
        with pytest.raises(logstore.CorruptRecordError):
            reader.status("damaged")
