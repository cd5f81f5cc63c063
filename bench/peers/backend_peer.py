"""The adapter of anything that is a taskiq result backend already."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from .base import POLL_INTERVAL_S, AsyncPeer

if TYPE_CHECKING:
    from taskiq import AsyncResultBackend, TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress


class BackendPeer(AsyncPeer):
    """Calls the backend as taskiq's receiver and its task handles do."""

    backend: AsyncResultBackend[Any]

    @abstractmethod
    def make(self) -> AsyncResultBackend[Any]:
        """Construct the backend."""

    async def open(self) -> None:
        self.backend = self.make()
        await self.backend.startup()

    async def close(self) -> None:
        await self.backend.shutdown()

    async def set(self, task_id: str, result: TaskiqResult[Any]) -> None:
        await self.backend.set_result(task_id, result)

    async def get(self, task_id: str) -> TaskiqResult[Any]:
        return await self.backend.get_result(task_id)

    async def ready(self, task_id: str) -> bool:
        return await self.backend.is_result_ready(task_id)

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        await self.backend.set_progress(task_id, progress)

    async def wait(self, task_id: str) -> None:
        from taskiq.task import AsyncTaskiqTask

        task: AsyncTaskiqTask[Any] = AsyncTaskiqTask(task_id, self.backend)
        await task.wait_result(check_interval=POLL_INTERVAL_S)
