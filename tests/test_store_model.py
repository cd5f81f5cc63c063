"""The store against a simple model, under Hypothesis (derandomized; a failure prints its steps).

Invariants: through any handle, at any time and after any compaction, vacuum, reopening or sudden
death, every acked write is seen as the model has it: values, statuses, progress, the lists of
``tasks()``; a backup opens as a store that says the same; the full check finds nothing.

What the model leaves open: the progress of a task whose result has expired, if it is older than
the expiry, may be gone or not; and a task that is deleted with an expired result and progress is
"deleted" or "expired".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
)

import logstore
from logstore import TaskProgress
from tests.support.lives import MODEL, StoreLives

IDS = ("a", "b", "c", "d", "e\u00e9", "f" * 480)
ids = st.sampled_from(IDS)
handles = st.integers(0, 2)
ttls = st.sampled_from((None, None, 100, 1000))
values = st.one_of(
    st.integers(),
    st.text(max_size=20),
    st.integers(0, 3000).map(lambda size: b"\x55" * size),
    st.just(b"\xaa" * 300_000),  # goes past the log
)
fractions = st.floats(0, 1, allow_nan=False)


@dataclass
class Task:
    """What the model knows of one id; times are the model's own seconds."""

    value: Any = None
    has_result: bool = False  # live or expired
    failed: bool = False
    expires: float = float("inf")
    order: int = 0  # of the last write of the result
    gone: str = ""  # "deleted", "expired"; or "either"
    progress: TaskProgress | None = None
    progress_expires: float = float("inf")
    progress_order: int = 0
    progress_time: float = 0.0


class StoreMachine(StoreLives):
    """One store with two handles that write and one that reads."""

    modes = ("rw", "rw", "r")

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[str, Task] = {}

    # -- the model ----------------------------------------------------------------------------

    def task(self, task_id: str) -> Task:
        return self.tasks.setdefault(task_id, Task())

    def is_ready(self, task: Task) -> bool:
        return task.has_result and task.expires > self.now

    def status(self, task: Task) -> set[str]:
        if self.is_ready(task):
            return {"ready"}
        expired = task.has_result or task.gone in ("expired", "either")
        if task.progress is not None and task.progress_expires > self.now:
            if not expired or task.gone == "either":
                return {"running"}
            if task.progress_time > task.expires:
                return {"running"}
        if task.gone == "either":
            return {"deleted", "expired"}
        if expired:
            return {"expired"}
        return {"deleted"} if task.gone else {"unknown"}

    def next_order(self) -> int:
        self.order += 1
        return self.order

    # -- the store ----------------------------------------------------------------------------

    def writer(self, handle: int) -> logstore.Store:
        return self.stores[handle % 2]

    # -- writes -------------------------------------------------------------------------------

    @rule(handle=handles, task_id=ids, value=values, ttl_s=ttls, failed=st.booleans())
    def set_result(
        self, handle: int, task_id: str, value: Any, ttl_s: float | None, failed: bool
    ) -> None:
        self.writer(handle).set_result(task_id, value, ttl_s=ttl_s, failed=failed)
        task = self.task(task_id)
        task.value, task.has_result, task.failed, task.gone = value, True, failed, ""
        task.expires = self.now + ttl_s if ttl_s else float("inf")
        task.order = self.next_order()

    @rule(handle=handles, task_id=ids, fraction=fractions, ttl_s=ttls)
    def set_progress(self, handle: int, task_id: str, fraction: float, ttl_s: float | None) -> None:
        progress = TaskProgress(fraction, "at work", meta={"n": fraction})
        self.writer(handle).set_progress(task_id, progress, ttl_s=ttl_s)
        task = self.task(task_id)
        task.progress, task.progress_order = progress, self.next_order()
        task.progress_time = self.now
        task.progress_expires = self.now + ttl_s if ttl_s else float("inf")

    @rule(handle=handles, task_id=ids)
    def delete(self, handle: int, task_id: str) -> None:
        task = self.task(task_id)
        assert self.writer(handle).delete_result(task_id) == self.is_ready(task)
        if self.is_ready(task):
            task.has_result, task.gone, task.order = False, "deleted", self.next_order()
        elif task.progress is not None and (task.has_result or task.gone == "expired"):
            task.has_result, task.gone, task.order = False, "either", self.next_order()
        task.progress = None

    @rule(handle=handles, task_id=ids)
    def pop(self, handle: int, task_id: str) -> None:
        task = self.task(task_id)
        if self.is_ready(task):
            assert self.writer(handle).pop_result(task_id) == task.value
            task.has_result, task.gone, task.order = False, "deleted", self.next_order()
            task.progress = None
        else:
            with pytest.raises(logstore.ResultError):
                self.writer(handle).pop_result(task_id)

    # -- reads --------------------------------------------------------------------------------

    @rule(handle=handles, task_id=ids)
    def get(self, handle: int, task_id: str) -> None:
        store, task = self.stores[handle], self.task(task_id)
        errors = {
            "unknown": logstore.ResultIsMissingError,
            "deleted": logstore.ResultDeletedError,
            "expired": logstore.ResultExpiredError,
        }
        status = self.status(task)
        assert store.status(task_id) in status
        assert store.is_result_ready(task_id) == self.is_ready(task)
        if self.is_ready(task):
            assert store.get_result(task_id) == task.value
        else:
            with pytest.raises(logstore.ResultError) as caught:
                store.get_result(task_id)
            if "running" not in status:
                assert type(caught.value) in {errors[name] for name in status}

    @rule(handle=handles, task_id=ids)
    def get_progress(self, handle: int, task_id: str) -> None:
        task = self.task(task_id)
        found = self.stores[handle].get_progress(task_id)
        if task.progress is None or task.progress_expires <= self.now:
            assert found is None
        elif found != task.progress:
            assert found is None
            assert "running" not in self.status(task)
            assert not self.is_ready(task)

    @rule(handle=handles, newest_first=st.booleans(), limit=st.sampled_from((None, 0, 1, 3)))
    def list_tasks(self, handle: int, newest_first: bool, limit: int | None) -> None:
        store = self.stores[handle]
        expected: list[tuple[int, str, str]] = []
        for task_id, task in self.tasks.items():
            status = self.status(task)
            if status == {"ready"}:
                expected.append((task.order, task_id, "ready"))
            elif status == {"running"}:
                expected.append((task.progress_order, task_id, "running"))
        expected.sort(reverse=newest_first)
        found = list(store.tasks(newest_first=newest_first, limit=limit))
        assert [(info.task_id, info.status) for info in found] == [
            (task_id, status) for _, task_id, status in expected[:limit]
        ]
        for info in found:
            task = self.tasks[info.task_id]
            assert info.failed == (info.status == "ready" and task.failed)
            assert info.progress == (task.progress if info.status == "running" else None)
        for only in ("ready", "running"):
            assert [info.task_id for info in store.tasks(status=only)] == [
                task_id for _, task_id, status in sorted(expected, reverse=True) if status == only
            ]

    @rule(handle=handles)
    def list_gone(self, handle: int) -> None:
        store = self.stores[handle]
        deleted = [info.task_id for info in store.tasks(status="deleted")]
        expired = [info.task_id for info in store.tasks(status="expired")]
        known = deleted + expired
        assert len(known) == len(set(known))
        for task_id, task in self.tasks.items():
            if "ready" in self.status(task) or self.status(task) == {"unknown"}:
                assert task_id not in known
            elif self.status(task) == {"deleted"}:
                assert task_id in deleted
            elif self.status(task) == {"expired"}:
                assert task_id in expired

    # -- time and the whole store -------------------------------------------------------------

    @rule(seconds=st.sampled_from((60, 600)))
    @precondition(lambda self: self.now < 80_000)
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(handle=handles)
    def compact(self, handle: int) -> None:
        self.writer(handle).compact()

    @rule(handle=handles)
    def vacuum(self, handle: int) -> None:
        self.writer(handle).vacuum()

    @rule(handle=handles)
    def back_up(self, handle: int) -> None:
        copy = self.path.with_name("copy.db")
        self.writer(handle).backup(copy)
        with logstore.open(copy) as store:
            for task_id, task in self.tasks.items():
                assert store.status(task_id) in self.status(task)
                if self.is_ready(task):
                    assert store.get_result(task_id) == task.value
            assert store.check().ok
        copy.unlink()

    @invariant()
    def counts_agree(self) -> None:
        if self.stores:
            stats = self.stores[0].stats()
            ready = sum(self.is_ready(task) for task in self.tasks.values())
            stored = sum(task.has_result for task in self.tasks.values())
            assert ready <= stats.results <= stored


TestStoreModel = pytest.mark.slow(StoreMachine.TestCase)
TestStoreModel.settings = MODEL
