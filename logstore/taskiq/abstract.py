"""The abstract result backend: taskiq's, with deletion.

Rules for those who implement it:

- every method may be called from any event loop, and never blocks it;
- ``set_result`` has stored the result when it returns, as durably as the backend ever will;
- ``get_result`` raises a subclass of taskiq's ``ResultGetError`` when there is nothing to return;
- cancelling a write leaves open whether it happens; it never leaves half a result.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from taskiq.abc.result_backend import AsyncResultBackend as TaskiqResultBackend
from typing_extensions import TypeVar

if TYPE_CHECKING:
    from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
    from taskiq.result import TaskiqResult

    from logstore.progress import TaskProgress
    from logstore.taskiq.outcome.progress import ReportedProgress

_ReturnType = TypeVar("_ReturnType", default=Any)  # so that a backend needs no annotation


class AsyncResultBackend(TaskiqResultBackend[_ReturnType]):
    """A taskiq result backend that can also delete; for ``broker.with_result_backend(...)``."""

    async def startup(self) -> None:
        """Get ready for use; taskiq calls it from ``broker.startup()``.  Idempotent."""

    async def shutdown(self) -> None:
        """Release everything; a later :meth:`startup` makes the backend usable again."""

    @abstractmethod
    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Store the result of a task in place of any earlier one.

        A return value that cannot be stored is replaced by an error that says so, so that
        whoever waits for the task gets an exception instead of waiting for ever.
        """

    @abstractmethod
    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[_ReturnType]:
        """Return the result of a task.

        ``with_logs`` says whether the result's ``log`` is returned, or None in its place.

        Raises a subclass of taskiq's ``ResultGetError`` when there is no result.
        """

    @abstractmethod
    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether there is a result, at once.

        Only a poll of taskiq's ``wait_result()`` may get its answer when the result is there
        (``waiting.py``).

        Raises taskiq's ``ResultIsReadyError`` when that cannot be told.
        """

    @abstractmethod
    async def delete_result(self, task_id: str) -> bool:
        """Delete the result of a task, and its progress; return whether there was a result."""

    @abstractmethod
    async def set_progress(
        self, task_id: str, progress: TaskiqProgress[Any] | TaskProgress
    ) -> None:
        """Store how far a task has got: taskiq's ``TaskProgress`` or logstore's."""

    @abstractmethod
    async def get_progress(self, task_id: str) -> ReportedProgress | None:
        """Return the progress that was last set, or None.

        It is taskiq's ``TaskProgress``, with ``state`` and ``meta``, and has logstore's
        ``progress``, ``status``, ``current`` and ``total`` as well.
        """
