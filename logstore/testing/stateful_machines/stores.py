"""The machine for stores: objects with the verbs of :class:`logstore.Store`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from logstore.errors import ResultError
from logstore.progress import TaskProgress
from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.stateful_machines.base import HANDLES, Machine

_INDEXES = st.integers(0, 63)
_MISSING = object()
_STATUSES = st.text(st.characters(codec="utf-8"), max_size=8)


class StoreMachine(Machine):
    """A store against a model; see :mod:`logstore.testing.stateful` for how to use it.

    The store has ``set_result``, ``get_result``, ``is_result_ready``, ``delete_result`` (which
    returns whether there was a result, and clears progress) and ``close``; each a function or a
    coroutine.  ``pop_result``, ``set_progress`` with ``get_progress``, ``status``, ``tasks`` and
    the verbs in ``upkeep`` are used where it has them.
    """

    missing_errors: ClassVar[tuple[type[BaseException], ...]] = (ResultError,)
    """What ``get_result`` and ``pop_result`` raise when there is no result."""
    upkeep: ClassVar[tuple[str, ...]] = ("compact", "vacuum", "sync")
    """Methods that may be called at any time and change nothing that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, Any] = {}
        self.progress: dict[str, TaskProgress] = {}
        self.deleted: set[str] = set()
        self.ranks: dict[str, int] = {}  # of ids with a result, in the order of their last writes

    def open_store(self, place: Path) -> Any:
        """Return an open store that keeps what it stores at ``place``; may be a coroutine."""
        raise NotImplementedError("a store machine needs open_store()")

    def open_handle(self, place: Path) -> Any:
        """An open store."""
        return self.run(self.open_store(place))

    def close_handle(self, handle: Any) -> None:
        """Close it."""
        self.run(handle.close())

    def has(self, verb: str) -> bool:
        """Whether the store has a method."""
        return bool(self.handles) and hasattr(self.handles[0], verb)

    # -- writing -------------------------------------------------------------------------------

    @rule(data=st.data(), handle=HANDLES, index=_INDEXES)
    def set_result(self, data: st.DataObject, handle: int, index: int) -> None:
        """Store a value."""
        task_id, value = self.task_id(index), data.draw(self.values)
        self.run(self.handle(handle).set_result(task_id, value))
        self.keep(task_id, value)
        self.check(task_id)

    @rule(data=st.data(), index=_INDEXES, count=st.integers(2, 6))
    def set_many(self, data: st.DataObject, index: int, count: int) -> None:
        """Store the values of several tasks at the same time, through all handles."""
        ids = [self.task_id(index + number) for number in range(min(count, len(self.task_ids)))]
        values = {task_id: data.draw(self.values) for task_id in ids}
        self.gather(*(self._setter(number, *pair) for number, pair in enumerate(values.items())))
        for task_id, value in values.items():
            self.keep(task_id, value)
        for task_id in ids:
            self.check(task_id)
            if task_id in self.ranks:
                self.ranks[task_id] = max(self.ranks.values())  # any of them may have been last

    @rule(handle=HANDLES, index=_INDEXES)
    def delete_result(self, handle: int, index: int) -> None:
        """Delete, and be told whether there was a result."""
        task_id = self.task_id(index)
        told = self.run(self.handle(handle).delete_result(task_id))
        assert told is (task_id in self.results), f"delete_result({task_id!r}) returned {told}"
        self.forget(task_id)
        self.check(task_id)

    @precondition(lambda self: self.has("pop_result"))
    @rule(handle=HANDLES, index=_INDEXES)
    def pop_result(self, handle: int, index: int) -> None:
        """Take the value away, if there is one."""
        task_id = self.task_id(index)
        found = self.read(self.handle(handle).pop_result, task_id)
        self.compare(task_id, found)
        if task_id in self.results:
            self.forget(task_id)
        self.check(task_id)

    @precondition(lambda self: self.has("set_progress"))
    @rule(data=st.data(), handle=HANDLES, index=_INDEXES, fraction=st.floats(0, 1))
    def set_progress(self, data: st.DataObject, handle: int, index: int, fraction: float) -> None:
        """Store how far a task has got."""
        task_id = self.task_id(index)
        meta = {"value": data.draw(self.values)}
        progress = TaskProgress(fraction, data.draw(_STATUSES), meta=meta)
        self.run(self.handle(handle).set_progress(task_id, progress))
        if not self.keeps_nothing:
            self.progress[task_id] = progress
        self.check(task_id)

    @rule(data=st.data(), handle=HANDLES)
    def do_upkeep(self, data: st.DataObject, handle: int) -> None:
        """Nothing changes for readers."""
        verbs = [verb for verb in self.upkeep if self.has(verb)]
        if verbs:
            self.run(getattr(self.handle(handle), data.draw(st.sampled_from(verbs)))())
        self.check_everything()

    # -- reading -------------------------------------------------------------------------------

    @rule(handle=HANDLES, index=_INDEXES)
    def get_result(self, handle: int, index: int) -> None:
        """Read one task."""
        self.check_through(self.handle(handle), self.task_id(index))

    @precondition(lambda self: self.has("tasks"))
    @rule(handle=HANDLES, newest_first=st.booleans())
    def list_tasks(self, handle: int, newest_first: bool) -> None:
        """Those with a result, in the order of their last writes."""
        listed = self.handle(handle).tasks(status="ready", newest_first=newest_first)
        found = [info.task_id for info in self.items(listed)]
        assert sorted(found) == sorted(self.results), f"tasks() lists {found}"
        ranks = [self.ranks[task_id] for task_id in found]
        assert ranks == sorted(ranks, reverse=newest_first), f"tasks() in the order {found}"

    def check_everything(self) -> None:
        """Every task through every handle."""
        for task_id in self.task_ids:
            self.check(task_id)

    def check(self, task_id: str) -> None:
        """One task through every handle."""
        for handle in self.handles:
            self.check_through(handle, task_id)

    def check_through(self, handle: Any, task_id: str) -> None:
        """Value, readiness, progress and status are what the model has."""
        is_there = task_id in self.results
        ready = self.run(handle.is_result_ready(task_id))
        assert ready is is_there, f"is_result_ready({task_id!r}) returned {ready}"
        self.compare(task_id, self.read(handle.get_result, task_id))
        if self.has("get_progress"):
            found = self.run(handle.get_progress(task_id))
            assert found == self.progress.get(task_id), f"progress of {task_id!r}: {found}"
        if self.has("status"):
            status = self.run(handle.status(task_id))
            expected = "ready" if is_there else "running" if task_id in self.progress else None
            expected = expected or ("deleted" if task_id in self.deleted else "unknown")
            assert status == expected, f"{task_id!r} is {status}, expected {expected}"

    # -- helpers -------------------------------------------------------------------------------

    def task_id(self, index: int) -> str:
        """One of the ids in use."""
        return self.task_ids[index % len(self.task_ids)]

    def keep(self, task_id: str, value: Any) -> None:
        """Put into the model what has been acked."""
        if self.keeps_nothing:
            return
        self.results[task_id] = value
        self.deleted.discard(task_id)
        self.ranks[task_id] = max(self.ranks.values(), default=0) + 1

    def forget(self, task_id: str) -> None:
        """Take a task out of the model."""
        if self.results.pop(task_id, _MISSING) is not _MISSING:
            self.ranks.pop(task_id)
            self.deleted.add(task_id)
        self.progress.pop(task_id, None)

    def read(self, get: Any, task_id: str) -> Any:
        """The value, or that it is missing."""
        try:
            return self.run(get(task_id))
        except self.missing_errors:
            return _MISSING

    def compare(self, task_id: str, found: Any) -> None:
        """Raise AssertionError unless it is what the model has."""
        expected = self.results.get(task_id, _MISSING)
        if found is _MISSING or expected is _MISSING:
            assert found is expected, f"{task_id!r}: expected {expected!r}, found {found!r}"
        else:
            assert_same(found, expected, repr(task_id))

    def items(self, listed: Any) -> Iterator[Any]:
        """The items of an iterator or an asynchronous one."""
        if not hasattr(listed, "__aiter__"):
            return iter(self.run(listed))

        async def take() -> list[Any]:
            return [item async for item in listed]

        return iter(self.run(take()))

    def _setter(self, handle: int, task_id: str, value: Any) -> Any:
        return lambda: self.handle(handle).set_result(task_id, value)
