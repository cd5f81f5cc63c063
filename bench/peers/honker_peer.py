"""honker: queues and results in SQLite, its result storage alone."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from .base import About, Offloaded, SyncPeer

if TYPE_CHECKING:
    from taskiq import TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress


def job_id(task_id: str) -> int:
    """A number for a task's id: the results of honker are kept by the number of a job."""
    return int.from_bytes(blake2b(task_id.encode(), digest_size=8).digest(), "big") >> 1


class HonkerFull(SyncPeer):
    """Queue.save_result and get_result on a Database whose writer flushes each transaction."""

    threads = 1

    about = About(
        name="honker-full",
        title="honker FULL",
        durable=True,
        modules=("honker",),
        why=(
            "Its result storage (Queue.save_result, get_result, wait_result), without its queue. "
            "honker opens its connections with synchronous NORMAL, which is not durable, and has "
            "no option for that; here FULL is set on the one connection that writes, between two "
            "transactions. Results are kept by a job's number and as JSON: the number is made "
            "from the task's id by a hash, and bytes (W1, W6) are written as base64, a third "
            "longer. Its get takes the one write connection too, so one thread calls it. All else "
            "as it comes: WAL, 32 MB of cache, a checkpoint after each 10,000 pages."
        ),
    )

    def open(self) -> None:
        import honker

        self._db = honker.open(str(self.place.directory / "honker.db"))
        self._queue = self._db.queue("bench")
        with self._db.transaction() as transaction:
            # SQLite changes it between two transactions only.
            transaction.execute("COMMIT")
            transaction.execute("PRAGMA synchronous = FULL")
            transaction.execute("BEGIN IMMEDIATE")

    def synchronous(self) -> int:
        """The level of the connection that writes: 2 is FULL."""
        with self._db.transaction() as transaction:
            level: int = transaction.query("PRAGMA synchronous")[0]["synchronous"]
            return level

    def close(self) -> None:
        self._db.close()

    def save(self, task_id: str, value: Any) -> None:
        """Store a value of JSON's types."""
        self._queue.save_result(job_id(task_id), value)

    def find(self, task_id: str) -> tuple[bool, Any]:
        """Whether there is a result, and its value."""
        found: tuple[bool, Any] = self._queue.get_result(job_id(task_id))
        return found

    async def wait(self, task_id: str) -> None:
        """Wait as its users do: woken by the commits of any process."""
        await self._queue.wait_result(job_id(task_id))

    def set(self, task_id: str, value: bytes) -> None:
        self.save(task_id, base64.b64encode(value).decode())

    def get(self, task_id: str) -> bytes | None:
        found, value = self.find(task_id)
        return base64.b64decode(value) if found else None

    def ready(self, task_id: str) -> bool:
        return self.find(task_id)[0]

    def save_many(self, items: Iterable[tuple[str, Any]]) -> None:
        """Store many in one transaction."""
        with self._db.transaction() as transaction:
            for task_id, value in items:
                self._queue.save_result(job_id(task_id), value, tx=transaction)

    def preload(self, items: Iterable[tuple[str, bytes]]) -> None:
        self.save_many((key, base64.b64encode(value).decode()) for key, value in items)


class AsyncHonkerFull(Offloaded):
    """Results as JSON, which is what honker keeps; waiting is on the event loop."""

    sync_class = HonkerFull
    about = HonkerFull.about
    _sync: HonkerFull

    async def set(self, task_id: str, result: TaskiqResult[Any]) -> None:
        await self._run(self._sync.save, task_id, result.model_dump(mode="json"))

    async def get(self, task_id: str) -> TaskiqResult[Any]:
        from taskiq import TaskiqResult

        found, value = await self._read(self._sync.find, task_id)
        if not found:
            raise KeyError(task_id)
        return TaskiqResult[Any].model_validate(value)

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        await self._run(self._sync.save, "progress:" + task_id, progress.model_dump(mode="json"))

    async def wait(self, task_id: str) -> None:
        await self._sync.wait(task_id)

    async def preload(self, items: Iterable[tuple[str, TaskiqResult[Any]]]) -> None:
        dumped = [(key, result.model_dump(mode="json")) for key, result in items]
        await self._run(self._sync.save_many, dumped)
