"""Listing: log and table together, by the same rules as a single task's status."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import logstore
from logstore import TaskProgress
from logstore.engine import reading
from logstore.engine.table import Table
from logstore.types import Status

if TYPE_CHECKING:
    from tests.conftest import Clock


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
    store.commit([store.result_write(f"task-{i}", i) for i in range(3000)])
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
