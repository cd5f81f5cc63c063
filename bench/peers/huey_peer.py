"""huey's SqliteStorage, its result store alone."""

from __future__ import annotations

from collections.abc import Iterable

from .base import About, SyncPeer


class HueySqlite(SyncPeer):
    """The storage class itself, below huey's task layer: what keeps the results."""

    threads = 1

    about = About(
        name="huey",
        title="huey SqliteStorage",
        durable=True,
        modules=("huey",),
        why=(
            "Its defaults (WAL, 8 MB of cache) with fsync=True, which sets synchronous=FULL; "
            "left alone it is what SQLite was built with, FULL as a rule, and False is OFF. "
            "Version 3 has one connection under one lock, so one thread calls it. Reads by "
            "peek_data, which leaves the result in place as the others do. A longer busy time-out, "
            "so that two writers wait for each other rather than fail."
        ),
    )

    def open(self) -> None:
        from huey.storage import SqliteStorage

        path = str(self.place.directory / "huey.db")
        self._storage = SqliteStorage("bench", filename=path, fsync=True, timeout=30)

    def close(self) -> None:
        self._storage.close()

    def set(self, task_id: str, value: bytes) -> None:
        self._storage.put_data(task_id, value, is_result=True)

    def get(self, task_id: str) -> bytes | None:
        from huey.constants import EmptyData

        found = self._storage.peek_data(task_id)
        return None if found is EmptyData else bytes(found)

    def ready(self, task_id: str) -> bool:
        return bool(self._storage.has_data_for_key(task_id))

    def preload(self, items: Iterable[tuple[str, bytes]]) -> None:
        with self._storage.db(commit=True) as cursor:
            cursor.executemany(
                "insert or replace into kv (queue, key, value) values (?, ?, ?)",
                (("bench", task_id, value) for task_id, value in items),
            )
