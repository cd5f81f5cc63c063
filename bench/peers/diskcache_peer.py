"""diskcache: a cache in SQLite, used as a store of results."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import ClassVar

from .base import About, SyncPeer

WHY = (
    "eviction_policy 'none', because results must not be thrown out to make room; no statistics "
    "(the default). Everything in the database (disk_min_file_size raised): above 32 KiB "
    "diskcache writes values to files of their own and does not sync them. "
)


class DiskCache(SyncPeer):
    """`sqlite_synchronous` is set by the subclasses; connections are per thread."""

    synchronous: ClassVar[int]

    def open(self) -> None:
        import diskcache

        self._cache = diskcache.Cache(
            str(self.place.directory),
            timeout=30,
            eviction_policy="none",
            sqlite_synchronous=self.synchronous,
            disk_min_file_size=1 << 30,
        )

    def close(self) -> None:
        self._cache.close()

    def set(self, task_id: str, value: bytes) -> None:
        self._cache.set(task_id, value, expire=self.place.ttl_s)

    def get(self, task_id: str) -> bytes | None:
        found: bytes | None = self._cache.get(task_id)
        return found

    def ready(self, task_id: str) -> bool:
        return task_id in self._cache

    def newest(self, count: int) -> int | None:
        return sum(1 for _ in islice(reversed(self._cache), count))

    def preload(self, items: Iterable[tuple[str, bytes]]) -> None:
        pending = iter(items)
        while batch := list(islice(pending, 10_000)):
            with self._cache.transact():
                for task_id, value in batch:
                    self._cache.set(task_id, value, expire=self.place.ttl_s)


class DiskCacheFull(DiskCache):
    """Durable."""

    synchronous = 2
    about = About(
        name="diskcache-full",
        title="diskcache FULL",
        durable=True,
        modules=("diskcache",),
        why=WHY + "sqlite_synchronous 2 (FULL): each set is synced.",
    )


class DiskCacheNormal(DiskCache):
    """As it comes: not durable."""

    synchronous = 1
    about = About(
        name="diskcache-normal",
        title="diskcache (its default, NORMAL)",
        durable=False,
        modules=("diskcache",),
        why=WHY + "sqlite_synchronous 1 (NORMAL), its default.",
    )
