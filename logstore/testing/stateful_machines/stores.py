"""The machine for stores: objects with the methods of :class:`logstore.Store`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from logstore.errors import ResultError
from logstore.progress import TaskProgress
from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.stateful_machines.base import HANDLES, INDEXES, Machine

_MISSING = object()
_FRACTIONS = st.floats(0, 1)
_STATUSES = st.text(st.characters(codec="utf-8"), max_size=8)


class StoreMachine(Machine):
    """A store and its model; see :mod:`logstore.testing.stateful` for usage.

    The store has ``set_result``, ``get_result``, ``is_result_ready``, ``delete_result`` (which
    returns whether there was a result, and clears progress) and ``close``; each a function or a
    coroutine. ``pop_result``, ``set_progress`` with ``get_progress``, ``status``, ``tasks`` and the
    methods in ``upkeep`` are used if the store has them.
    """

    missing_errors: ClassVar[tuple[type[BaseException], ...]] = (ResultError,)
    """The exceptions of ``get_result`` and ``pop_result`` if there is no result."""
    upkeep: ClassVar[tuple[str, ...]] = ("compact", "vacuum", "sync")
    """Methods that may be called at any time and do not change the visible data."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[str] = set()
        self.ranks: dict[str, int] = {}  # of ids with a result, by their last writes

    def open_store(self, place: Path) -> Any:
        """Return an open store with its files at ``place``; may be a coroutine."""
        raise NotImplementedError("a store machine needs open_store()")

    def open_handle(self, place: Path) -> Any:
        """Return an open store."""
        return self.run(self.open_store(place))

    def close_handle(self, handle: Any) -> None:
        """Close the store."""
        self.run(handle.close())

    # -- writing -------------------------------------------------------------------------------

    @precondition(lambda self: self.has("pop_result"))
    @rule(handle=HANDLES, index=INDEXES)
    def pop_result(self, handle: int, index: int) -> None:
        """Pop the result, if there is one."""
        task_id = self.task_id(index)
        found = self.read(self.handle(handle).pop_result, task_id)
        self.compare(task_id, found)
        if task_id in self.results:
            self.forget(task_id)
        self.check(task_id)

    @rule(data=st.data(), handle=HANDLES)
    def do_upkeep(self, data: st.DataObject, handle: int) -> None:
        """Call a method of ``upkeep``, and check that no data changed."""
        verbs = [verb for verb in self.upkeep if self.has(verb)]
        if verbs:
            self.run(getattr(self.handle(handle), data.draw(st.sampled_from(verbs)))())
        self.check_everything()

    # -- reading -------------------------------------------------------------------------------

    @rule(handle=HANDLES, index=INDEXES)
    def get_result(self, handle: int, index: int) -> None:
        """Read one task."""
        self.check_through(self.handle(handle), self.task_id(index))

    @precondition(lambda self: self.has("tasks"))
    @rule(handle=HANDLES, newest_first=st.booleans())
    def list_tasks(self, handle: int, newest_first: bool) -> None:
        """List the tasks with a result, in the order of their last writes."""
        listed = self.handle(handle).tasks(status="ready", newest_first=newest_first)
        found = [info.task_id for info in self.items(listed)]
        assert sorted(found) == sorted(self.results), f"tasks() lists {found}"
        ranks = [self.ranks[task_id] for task_id in found]
        assert ranks == sorted(ranks, reverse=newest_first), f"tasks() in the order {found}"

    def check_through(self, handle: Any, task_id: str) -> None:
        """Check that value, readiness, progress and status equal the model."""
        is_there = task_id in self.results
        ready = self.run(handle.is_result_ready(task_id))
        assert ready is is_there, f"is_result_ready({task_id!r}) returned {ready}"
        self.compare(task_id, self.read(handle.get_result, task_id))
        if self.keeps_progress and self.has("get_progress"):
            found = self.run(handle.get_progress(task_id))
            assert found == self.progress.get(task_id), f"progress of {task_id!r}: {found}"
        if self.has("status"):
            status = self.run(handle.status(task_id))
            expected = "ready" if is_there else "running" if task_id in self.progress else None
            expected = expected or ("deleted" if task_id in self.deleted else "unknown")
            assert status == expected, f"{task_id!r} is {status}, expected {expected}"

    # -- helpers -------------------------------------------------------------------------------

    def draw_result(self, data: st.DataObject) -> Any:
        """Draw a value."""
        return data.draw(self.values)

    def draw_progress(self, data: st.DataObject) -> TaskProgress:
        """Draw progress in logstore's form."""
        meta = {"value": data.draw(self.values)}
        return TaskProgress(data.draw(_FRACTIONS), data.draw(_STATUSES), meta=meta)

    def keep(self, results: dict[str, Any]) -> None:
        """Put acknowledged values into the model; any of several may have been the last."""
        super().keep(results)
        if not self.keeps_nothing:
            self.deleted.difference_update(results)
            self.ranks.update(dict.fromkeys(results, max(self.ranks.values(), default=0) + 1))

    def forget(self, task_id: str) -> None:
        """Remove a task from the model."""
        if self.results.pop(task_id, _MISSING) is not _MISSING:
            self.ranks.pop(task_id)
            self.deleted.add(task_id)
        self.progress.pop(task_id, None)

    def read(self, get: Any, task_id: str) -> Any:
        """Return the value, or ``_MISSING``."""
        try:
            return self.run(get(task_id))
        except self.missing_errors:
            return _MISSING

    def compare(self, task_id: str, found: Any) -> None:
        """Raise AssertionError unless ``found`` equals the model."""
        expected = self.results.get(task_id, _MISSING)
        if found is _MISSING or expected is _MISSING:
            assert found is expected, f"{task_id!r}: expected {expected!r}, found {found!r}"
        else:
            assert_same(found, expected, repr(task_id))

    def items(self, listed: Any) -> Iterator[Any]:
        """Return the items of an iterator or an asynchronous iterator."""
        if not hasattr(listed, "__aiter__"):
            return iter(self.run(listed))

        async def take() -> list[Any]:
            return [item async for item in listed]

        return iter(self.run(take()))
