"""The limit: one `pwrite` and one `fdatasync`, and nothing else."""

from __future__ import annotations

import asyncio
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .base import About, AsyncPeer, SyncPeer

if TYPE_CHECKING:
    from taskiq import TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress

ARENA_BYTES_MIN = 8 << 20
ARENA_VALUES = 32

ABOUT = About(
    name="bare",
    title="bare pwrite + fdatasync",
    durable=True,
    role="limit",
    processes=False,
    why=(
        "The floor of any durable store on this disk: the same bytes (key and value) appended to "
        "a file that is already filled with zeros, so that no commit changes its size or its "
        "extents and fdatasync needs no journal commit of the file system. It stores nothing "
        "that could be found again."
    ),
)


class Arena:
    """A preallocated file with an append position that wraps round."""

    def __init__(self, path: os.PathLike[str], length: int) -> None:
        self._length = length
        self._offset = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        block = bytes(1 << 20)
        for offset in range(0, length, len(block)):
            os.pwrite(self._fd, block, offset)
        os.fsync(self._fd)

    def append(self, data: bytes, flush: bool = True) -> None:
        """Write `data` at the append position, flushed by default."""
        if self._offset + len(data) > self._length:
            self._offset = 0
        os.pwrite(self._fd, data, self._offset)
        self._offset += len(data)
        if flush:
            os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class Bare(SyncPeer):
    """Appends, and can find nothing again."""

    about = ABOUT
    threads = 1

    def open(self) -> None:
        length = max(ARENA_BYTES_MIN, ARENA_VALUES * self.place.value_bytes)
        self._arena = Arena(self.place.directory / "arena", length)

    def close(self) -> None:
        self._arena.close()

    def set(self, task_id: str, value: bytes) -> None:
        self._arena.append(task_id.encode() + value)

    def get(self, task_id: str) -> bytes | None:
        raise NotImplementedError("the limit stores nothing that could be found again")

    def ready(self, task_id: str) -> bool:
        raise NotImplementedError("the limit stores nothing that could be found again")

    def set_progress(self, task_id: str, value: bytes) -> None:
        self._arena.append(task_id.encode() + value, flush=False)


class AsyncBare(AsyncPeer):
    """The floor for an event loop: all that wait are written and flushed together, by a thread.

    No timer: the thread that comes back takes whatever has gathered meanwhile.
    """

    about = ABOUT

    async def open(self) -> None:
        self._arena = Arena(self.place.directory / "arena", ARENA_BYTES_MIN)
        self._pool = ThreadPoolExecutor(1)
        self._queue: list[tuple[bytes, asyncio.Future[None]]] = []
        self._running = False
        self._groups = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        await asyncio.gather(*self._tasks)
        self._pool.shutdown()
        self._arena.close()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            group, self._queue = self._queue, []
            data = b"".join(part for part, _ in group)
            await loop.run_in_executor(self._pool, self._arena.append, data)
            self._groups += 1
            for _, waiter in group:
                if not waiter.done():
                    waiter.set_result(None)
        self._running = False

    async def _append(self, data: bytes) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((data, waiter))
        if not self._running:
            self._running = True
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await waiter

    async def set(self, task_id: str, result: TaskiqResult[Any]) -> None:
        data = pickle.dumps(result.model_dump(mode="json"))
        await self._append(task_id.encode() + data)

    async def get(self, task_id: str) -> TaskiqResult[Any]:
        raise NotImplementedError("the limit stores nothing that could be found again")

    async def ready(self, task_id: str) -> bool:
        raise NotImplementedError("the limit stores nothing that could be found again")

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        raise NotImplementedError("the limit of a progress update is a memory copy")

    def commit_groups(self) -> int | None:
        return self._groups
