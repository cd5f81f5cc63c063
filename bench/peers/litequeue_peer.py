"""litequeue: a queue in SQLite, of which a put can be compared with a set and nothing else."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from .base import About, Offloaded, SyncPeer

if TYPE_CHECKING:
    from taskiq import TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress

NO_RESULTS = "litequeue keeps messages under ids of its own, and no results"


class LiteQueueFull(SyncPeer):
    """LiteQueue.put: a durable message with the bytes of a result."""

    threads = 1

    about = About(
        name="litequeue-full",
        title="litequeue FULL",
        durable=True,
        modules=("litequeue",),
        why=(
            "LiteQueue.put of a message as long as the result: one insert in one transaction. It "
            "has no results: the id of a message is its own, and what a task returns is not kept. "
            "So it takes part where sets alone are measured (W1, W2, W7, W8, W9). Its constructor "
            "sets synchronous NORMAL, which is not durable; here FULL is set on its public "
            "connection. A message is text: results are JSON, and the bytes of W1 base64, a third "
            "longer. One connection, so one thread. A busy time-out of 30 s, passed on to sqlite3."
        ),
    )

    def open(self) -> None:
        from litequeue import LiteQueue

        self._queue = LiteQueue(str(self.place.directory / "queue.sqlite"), timeout=30.0)
        self._queue.conn.execute("PRAGMA synchronous = FULL")

    def synchronous(self) -> int:
        """The level of the connection that writes: 2 is FULL."""
        level: int = self._queue.conn.execute("PRAGMA synchronous").fetchone()[0]
        return level

    def messages(self) -> int:
        """How many messages wait."""
        count: int = self._queue.qsize()
        return count

    def close(self) -> None:
        self._queue.close()

    def put(self, text: str) -> None:
        """Append a message."""
        self._queue.put(text)

    def set(self, task_id: str, value: bytes) -> None:
        self.put(task_id + base64.b64encode(value).decode())

    def get(self, task_id: str) -> bytes | None:
        raise NotImplementedError(NO_RESULTS)

    def ready(self, task_id: str) -> bool:
        raise NotImplementedError(NO_RESULTS)


class AsyncLiteQueueFull(Offloaded):
    """Results as JSON text, because a message is text."""

    sync_class = LiteQueueFull
    about = LiteQueueFull.about
    _sync: LiteQueueFull

    async def set(self, task_id: str, result: TaskiqResult[Any]) -> None:
        await self._run(self._sync.put, task_id + result.model_dump_json())

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        raise NotImplementedError(NO_RESULTS)
