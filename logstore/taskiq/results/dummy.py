"""The backend that stores nothing, for programs that never read a result."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from logstore.taskiq.abstract import AsyncResultBackend, _ReturnType
from logstore.taskiq.errors import ResultIsMissingError, WaitingForNothingWarning

if TYPE_CHECKING:
    from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
    from taskiq.result import TaskiqResult

    from logstore.progress import TaskProgress

_ASKED_MAX = 1000


class DummyResultBackend(AsyncResultBackend[_ReturnType]):
    """Stores nothing: no task is ever ready, and there is never a result.

    With taskiq's default backend every task is ready and has the result None: a program that waits
    for a result continues with a wrong one.  With this backend a wait never ends.  The second
    question about one task warns, once per backend, with
    :class:`~logstore.taskiq.errors.WaitingForNothingWarning`.
    """

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._warned = False

    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Do nothing."""

    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[_ReturnType]:
        """Raise :class:`~logstore.taskiq.errors.ResultIsMissingError`."""
        raise ResultIsMissingError(
            f"there is no result for task {task_id!r}: DummyResultBackend stores nothing"
        )

    async def is_result_ready(self, task_id: str) -> bool:
        """Return False."""
        if not self._warned:
            if task_id in self._asked:
                self._warned = True
                self._asked.clear()
                warnings.warn(
                    f"waiting for the result of task {task_id!r} will never end: "
                    "DummyResultBackend stores nothing",
                    WaitingForNothingWarning,
                    stacklevel=2,
                )
            elif len(self._asked) < _ASKED_MAX:
                self._asked.add(task_id)
        return False

    async def delete_result(self, task_id: str) -> bool:
        """Return False: there was no result."""
        return False

    async def set_progress(
        self, task_id: str, progress: TaskiqProgress[Any] | TaskProgress
    ) -> None:
        """Do nothing."""

    async def get_progress(self, task_id: str) -> None:
        """Return None."""
        return
