"""diskcache: a cache in SQLite, used as a store of results."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar

from .base import About, SyncPeer, offloaded

WHY = (
    "eviction_policy 'none', because results must not be thrown out to make room; no statistics "
    "(the default). Everything in the database (disk_min_file_size raised): above 32 KiB "
    "diskcache writes values to files of their own and does not sync them. cull_limit 0 where "
    "nothing expires, so that no set looks for what to remove; its default of 10 in W11. "
)


class DiskCache(SyncPeer):
    """`sqlite_synchronous` and the shards are set by the subclasses; connections are per thread."""

    synchronous: ClassVar[int]
    shards: ClassVar[int] = 0
    threads = 1

    def open(self) -> None:
        import diskcache

        settings: dict[str, Any] = {
            "timeout": 30,
            "eviction_policy": "none",
            "sqlite_synchronous": self.synchronous,
            "disk_min_file_size": 1 << 30,
        }
        if self.place.ttl_s is None:
            settings["cull_limit"] = 0
        directory = str(self.place.directory)
        if self.shards:
            self._cache = diskcache.FanoutCache(directory, shards=self.shards, **settings)
            # The first write to each shard flushes three times. One cache has that behind it after
            # a warm-up; keys whose last characters differ reach every shard.
            for number in range(self.shards):
                self._cache.set(f"opened {number}", b"", retry=True)
        else:
            self._cache = diskcache.Cache(directory, **settings)

    def close(self) -> None:
        self._cache.close()

    def set(self, task_id: str, value: bytes) -> None:
        # retry: a FanoutCache would return False otherwise when it has waited too long.
        self._cache.set(task_id, value, expire=self.place.ttl_s, retry=True)

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
            with self._cache.transact(retry=True):
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
        why=(
            WHY
            + "sqlite_synchronous 2 (FULL): each set is synced. From an event loop a FanoutCache "
            "of 8 shards and six threads: where several write at once, which is what it is for, "
            "it sets a third more than a Cache by one thread, though it gets fewer. In W1 and W6, "
            "where one caller sets at a time, a Cache: shards would only cost it."
        ),
    )


class DiskCacheFullSharded(DiskCacheFull):
    """The same for several that write at once."""

    shards = 8
    threads = 6


# A name of its own, because the synchronous side is another class.
AsyncDiskCacheFull = offloaded(DiskCacheFullSharded)


class DiskCacheNormal(DiskCache):
    """As it comes: not durable."""

    synchronous = 1
    about = About(
        name="diskcache-normal",
        title="diskcache (its default, NORMAL)",
        durable=False,
        modules=("diskcache",),
        why=(
            WHY
            + "sqlite_synchronous 1 (NORMAL), its default. A Cache, and one thread: with nothing "
            "to wait for, neither shards nor more threads made it faster."
        ),
    )
