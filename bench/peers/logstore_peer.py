"""logstore itself: Store, AsyncStore and LogStoreResultBackend."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import logstore
from logstore._engine import locks

from .backend_peer import BackendPeer
from .base import About, AsyncPeer, Place, SyncPeer

if TYPE_CHECKING:
    from taskiq import AsyncResultBackend, TaskiqResult
    from taskiq.depends.progress_tracker import TaskProgress

WHY = "Every option at its default: sync='always', a 1 MiB log before a compaction{}. "
FILE_NAME = "app.db"
PRELOAD_GROUP = 256


def _stats(place: Place) -> logstore.StoreStats:
    """The counts of the store that this process has open: a second handle shares them."""
    with logstore.open(place.directory / FILE_NAME) as store:
        return store.stats()


def _options(place: Place) -> dict[str, Any]:
    """What a workload asks of a store beside its defaults."""
    return {} if place.log_bytes is None else {"compact_at": place.log_bytes}


class StorePeer(SyncPeer):
    """The synchronous Store."""

    about = About(
        name="logstore",
        title="logstore",
        durable=True,
        role="own",
        modules=("logstore", "lmdb", "cbor2"),
        why=WHY.format(", but for a time to live in W11 and a long log in a part of W14")
        + "W1 and W6 call Store, the rest LogStoreResultBackend.",
    )

    def open(self) -> None:
        path = self.place.directory / FILE_NAME
        self._store = logstore.open(path, result_ttl_s=self.place.ttl_s, **_options(self.place))

    def close(self) -> None:
        self._store.close()

    def set(self, task_id: str, value: bytes) -> None:
        self._store.set_result(task_id, value)

    def get(self, task_id: str) -> bytes | None:
        found: bytes = self._store.get_result(task_id)
        return found

    def ready(self, task_id: str) -> bool:
        return self._store.is_result_ready(task_id)

    def newest(self, count: int) -> int | None:
        return sum(1 for _ in self._store.tasks(limit=count))

    def preload(self, items: Iterable[tuple[str, bytes]]) -> None:
        waiting = iter(items)
        while group := list(islice(waiting, PRELOAD_GROUP)):
            self.write_group(group)

    def write_group(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Set many at once, as so many callers who write at the same time."""
        handle = self._store._handle
        handle.commit([handle.result_write(key, value) for key, value in items])

    def log_bytes(self) -> int:
        """How much of the log is in use."""
        return self._store.stats().log_bytes

    def hold_folds(self) -> None:
        """Keep sealed logs from being folded, as a process that is stopped in a fold does."""
        fd = os.open(self.place.directory / f"{FILE_NAME}-shm", os.O_RDWR)
        while not locks.try_lock_byte(fd, locks.FOLD):
            time.sleep(0.001)  # a fold is under way

    def recovered_frames(self) -> int:
        """How many frames of its log the opening found that were not in the table."""
        return self._store.stats().recovered_frames


class AsyncStorePeer(AsyncPeer):
    """AsyncStore: the same engine without taskiq's classes around it."""

    about = About(
        name="logstore-async",
        title="logstore AsyncStore",
        durable=True,
        role="own",
        modules=("logstore.aio", "lmdb", "cbor2"),
        why=WHY.format("") + "Given and giving the fields of a TaskiqResult as a dict.",
    )

    async def open(self) -> None:
        self._store = await logstore.open_async(
            self.place.directory / FILE_NAME,
            result_ttl_s=self.place.ttl_s,
            **_options(self.place),
        )

    async def close(self) -> None:
        await self._store.close()

    async def set(self, task_id: str, result: TaskiqResult[Any]) -> None:
        await self._store.set_result(task_id, result.model_dump(mode="json"))

    async def get(self, task_id: str) -> TaskiqResult[Any]:
        from taskiq import TaskiqResult

        return TaskiqResult[Any].model_validate(await self._store.get_result(task_id))

    async def ready(self, task_id: str) -> bool:
        return await self._store.is_result_ready(task_id)

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        meta = progress.meta or {}
        await self._store.set_progress(
            task_id, logstore.TaskProgress(current=meta["current"], total=meta["total"])
        )

    async def wait(self, task_id: str) -> None:
        await self._store.wait_result(task_id)

    def commit_groups(self) -> int | None:
        return _stats(self.place).commits

    def compactions(self) -> int | None:
        return _stats(self.place).compactions


class BackendLogStorePeer(BackendPeer):
    """LogStoreResultBackend, the one that taskiq's users plug in."""

    about = StorePeer.about

    def make(self) -> AsyncResultBackend[Any]:
        from logstore.taskiq import LogStoreResultBackend

        backend: AsyncResultBackend[Any] = LogStoreResultBackend(
            self.place.directory / FILE_NAME,
            result_ex_time=self.place.ttl_s,
            **_options(self.place),
        )
        return backend

    def commit_groups(self) -> int | None:
        return _stats(self.place).commits

    def compactions(self) -> int | None:
        return _stats(self.place).compactions
