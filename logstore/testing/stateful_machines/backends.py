"""The machine for taskiq result backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError
from taskiq.result import TaskiqResult

from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.stateful_machines.base import HANDLES, INDEXES, Machine

Backend = AsyncResultBackend[Any]
_ERRORS = (ValueError, KeyError, RuntimeError, OSError)


class BackendMachine(Machine):
    """A backend and its model; see :mod:`logstore.testing.stateful` for usage.

    ``delete_result`` is used if the backend has it. It must return whether there was a result.
    """

    missing_error: ClassVar[type[BaseException]] = ResultGetError
    """The exception of ``get_result`` if there is no result."""
    deletes_progress: ClassVar[bool] = True
    """Deleting a result deletes the task's progress as well."""
    keeps_logs: ClassVar[bool] = True
    """``log`` is stored, and returned only on request."""
    reading_deletes: ClassVar[bool] = False
    """``get_result`` deletes the result that it returns, and the task's progress."""
    is_cancellable: ClassVar[bool] = True
    """A cancelled write is complete or absent after all threads have finished."""

    async def make_backend(self, place: Path) -> Backend:
        """Return a backend with its storage at ``place``, not started."""
        raise NotImplementedError("a backend machine needs make_backend()")

    def open_handle(self, place: Path) -> Any:
        """Return a started backend."""
        backend = self.run(self.make_backend(place))
        self.run(backend.startup())
        return backend

    def close_handle(self, handle: Any) -> None:
        """Shut the backend down."""
        self.run(handle.shutdown())

    # -- writing -------------------------------------------------------------------------------

    @rule(data=st.data(), index=INDEXES, count=st.integers(2, 4))
    def set_one_at_the_same_time(self, data: st.DataObject, index: int, count: int) -> None:
        """Store several results of one task at the same time: one of them remains."""
        task_id = self.task_id(index)
        results = [self.draw_result(data) for _ in range(count)]
        self.gather(*(self.setter(number, task_id, one) for number, one in enumerate(results)))
        if not self.keeps_nothing:
            self.adopt(task_id, list(results))

    @precondition(lambda self: self.is_cancellable)
    @rule(data=st.data(), handle=HANDLES, index=INDEXES, turns=st.integers(0, 6))
    def cancel_a_write(self, data: st.DataObject, handle: int, index: int, turns: int) -> None:
        """Cancel a write: afterwards the result is the old or the new one."""
        task_id, result = self.task_id(index), self.draw_result(data)
        self.cancel_early(self.setter(handle, task_id, result), turns)
        self.adopt(task_id, [self.results.get(task_id), None if self.keeps_nothing else result])

    # -- reading -------------------------------------------------------------------------------

    @rule(handle=HANDLES, index=INDEXES, with_logs=st.booleans())
    def get_result(self, handle: int, index: int, with_logs: bool) -> None:
        """Read one task."""
        self.check_through(self.handle(handle), self.task_id(index), with_logs)

    @rule()
    def read_everything(self) -> None:
        """Read all tasks."""
        self.check_everything()

    def check_through(self, handle: Any, task_id: str, with_logs: bool = True) -> None:
        """Check that result, readiness and progress equal the model."""
        expected = self.results.get(task_id)
        ready = self.run(handle.is_result_ready(task_id))
        assert ready is (expected is not None), f"is_result_ready({task_id!r}) returned {ready}"
        self.compare(self.read(handle, task_id, with_logs), expected, with_logs)
        if self.reading_deletes and expected is not None:
            self.forget(task_id)
        if self.keeps_progress:
            found = self.run(handle.get_progress(task_id))
            progress = self.progress.get(task_id)
            assert (found is None) == (progress is None), f"progress of {task_id!r}: {found}"
            if progress is not None:
                assert_same((found.state, found.meta), (progress.state, progress.meta), "progress")

    # -- helpers -------------------------------------------------------------------------------

    def draw_result(self, data: st.DataObject) -> TaskiqResult[Any]:
        """Draw the result of a task that returned or failed."""
        fields: dict[str, Any] = {"execution_time": 0.5, "log": data.draw(_LOGS)}
        if data.draw(st.booleans()):
            return TaskiqResult(is_err=False, return_value=data.draw(self.values), **fields)
        error = data.draw(st.sampled_from(_ERRORS))(data.draw(_STATES))
        return TaskiqResult(is_err=True, return_value=None, error=error, **fields)

    def draw_progress(self, data: st.DataObject) -> TaskProgress[Any]:
        """Draw progress in taskiq's form."""
        meta = data.draw(self.values)
        return TaskProgress(state=data.draw(_STATES), meta=meta)

    def forget(self, task_id: str) -> None:
        """Remove from the model the data of a deletion."""
        self.results.pop(task_id, None)
        if self.deletes_progress:
            self.progress.pop(task_id, None)

    def adopt(self, task_id: str, possible: list[TaskiqResult[Any] | None]) -> None:
        """Find the remaining one of several possible results, and put it into the model."""
        found = self.read(self.handle(0), task_id, with_logs=True)
        for candidate in possible:
            try:
                self.compare(found, candidate, with_logs=True)
            except AssertionError:
                continue
            self.results.pop(task_id, None)
            if candidate is not None and self.reading_deletes:
                self.forget(task_id)
            elif candidate is not None:
                self.results[task_id] = candidate
            self.check(task_id)
            return
        raise AssertionError(f"{task_id!r} has {found!r}, expected one of {possible!r}")

    def read(self, handle: Any, task_id: str, with_logs: bool) -> TaskiqResult[Any] | None:
        """Return the result, or None if it is missing."""
        try:
            result: TaskiqResult[Any] = self.run(handle.get_result(task_id, with_logs))
        except self.missing_error:
            return None
        return result

    def compare(
        self, found: TaskiqResult[Any] | None, expected: TaskiqResult[Any] | None, with_logs: bool
    ) -> None:
        """Raise AssertionError unless both are equal."""
        assert (found is None) == (expected is None), f"expected {expected!r}, found {found!r}"
        if found is None or expected is None:
            return
        assert found.is_err is expected.is_err
        assert_same(found.return_value, expected.return_value, "return_value")
        assert found.execution_time == expected.execution_time
        if self.keeps_logs:
            assert found.log == (expected.log if with_logs else None)
        assert type(found.error) is type(expected.error)
        if expected.error is not None and found.error is not None:
            assert found.error.args == expected.error.args


_LETTERS = st.characters(codec="utf-8")
_LOGS = st.none() | st.text(_LETTERS, max_size=8)
_STATES = st.text(_LETTERS, max_size=8)
