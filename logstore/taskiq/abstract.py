"""The abstract result backend: taskiq's interface plus deletion.

Rules for implementations:

- every method may be called from any event loop, and never blocks it;
- when ``set_result`` returns, the result has the full durability of the backend;
- ``get_result`` raises a subclass of taskiq's ``ResultGetError`` when there is no result;
- after a cancelled write it is unknown whether the result is stored, but it is never incomplete.
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
    from logstore.taskiq.outcome.reported import ReportedProgress

_ReturnType = TypeVar("_ReturnType", default=Any)  # makes annotations of a backend optional


class AsyncResultBackend(TaskiqResultBackend[_ReturnType]):
    """A taskiq result backend with deletion, for ``broker.with_result_backend(...)``."""

    async def startup(self) -> None:
        """Prepare the backend; ``broker.startup()`` calls this.  Idempotent."""

    async def shutdown(self) -> None:
        """Release all resources; a later :meth:`startup` makes the backend usable again."""

    @abstractmethod
    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Store the result of a task; replace an earlier one.

        A return value that cannot be stored is replaced by an error that says so: a caller that
        waits for the task gets an exception instead of waiting without end.
        """

    @abstractmethod
    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[_ReturnType]:
        """Return the result of a task.

        Without ``with_logs``, the ``log`` of the result is None.

        Raises a subclass of taskiq's ``ResultGetError`` when there is no result.
        """

    @abstractmethod
    async def is_result_ready(self, task_id: str) -> bool:
        """Return immediately whether there is a result.

        Only a poll by taskiq's ``wait_result()`` may wait for the result (``waiting.py``).

        Raises taskiq's ``ResultIsReadyError`` when the backend cannot find out.
        """

    @abstractmethod
    async def delete_result(self, task_id: str) -> bool:
        """Delete the result and the progress of a task; return whether there was a result."""

    @abstractmethod
    async def set_progress(
        self, task_id: str, progress: TaskiqProgress[Any] | TaskProgress
    ) -> None:
        """Store the progress of a task: a ``TaskProgress`` of taskiq or of logstore."""

    @abstractmethod
    async def get_progress(self, task_id: str) -> ReportedProgress | None:
        """Return the latest progress, or None.

        It is a ``TaskProgress`` of taskiq, with ``state`` and ``meta``, and also has the fields
        ``progress``, ``status``, ``current`` and ``total`` of logstore.
        """
