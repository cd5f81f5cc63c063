"""The standard library's sqlite3 in WAL mode, used directly."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from typing import ClassVar

from .base import About, SyncPeer

CREATE = (
    "CREATE TABLE IF NOT EXISTS results ("
    "task_id TEXT PRIMARY KEY, value BLOB NOT NULL, finished REAL NOT NULL)"
)
CREATE_PROGRESS = "CREATE TABLE IF NOT EXISTS progress (task_id TEXT PRIMARY KEY, value BLOB)"
SET = (
    "INSERT INTO results VALUES (?, ?, ?) ON CONFLICT (task_id) DO UPDATE "
    "SET value = excluded.value, finished = excluded.finished"
)
SET_PROGRESS = (
    "INSERT INTO progress VALUES (?, ?) ON CONFLICT (task_id) DO UPDATE SET value = excluded.value"
)
GET = "SELECT value FROM results WHERE task_id = ?"
READY = "SELECT 1 FROM results WHERE task_id = ?"
NEWEST = "SELECT task_id, finished FROM results ORDER BY rowid DESC LIMIT ?"

WHY = (
    "WAL is what SQLite's documentation recommends for concurrent readers and a writer. One "
    "connection writes, by a thread of its own, because writers would only wait for each other; "
    "from an event loop six other threads read, each by its own connection. Autocommit (one "
    "statement is one transaction, without the extra BEGIN and COMMIT calls), statements cached "
    "by the driver, default page size, cache_size (2 MB a connection) and automatic checkpoint. "
    "An ordinary rowid table: rows are larger than what WITHOUT ROWID is advised for, and the "
    "rowid gives the newest results without a second index, since each id is written once here. "
)


class SqliteWal(SyncPeer):
    """Autocommit; `synchronous` is set by the subclasses.

    Who opens it writes, and reads by the same connection; other threads that read get their own.
    """

    synchronous: ClassVar[str]
    threads = 1
    reading_threads = 6

    def open(self) -> None:
        self._opened: list[sqlite3.Connection] = []
        self._own = threading.local()
        self._db = self._connection()
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(CREATE)
        self._db.execute(CREATE_PROGRESS)

    def _connection(self) -> sqlite3.Connection:
        """The calling thread's connection."""
        found: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if found is None:
            # 30 s, the store's own default: with the driver's 5 s a busy writer could fail first.
            found = self._own.connection = sqlite3.connect(
                self.place.directory / "results.sqlite",
                timeout=30.0,
                isolation_level=None,
                check_same_thread=False,
            )
            found.execute(f"PRAGMA synchronous = {self.synchronous}")
            self._opened.append(found)
        return found

    def close(self) -> None:
        for connection in reversed(self._opened):
            connection.close()

    def set(self, task_id: str, value: bytes) -> None:
        self._db.execute(SET, (task_id, value, time.time()))

    def get(self, task_id: str) -> bytes | None:
        row = self._connection().execute(GET, (task_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def ready(self, task_id: str) -> bool:
        return self._connection().execute(READY, (task_id,)).fetchone() is not None

    def set_progress(self, task_id: str, value: bytes) -> None:
        self._db.execute(SET_PROGRESS, (task_id, value))

    def newest(self, count: int) -> int | None:
        return len(self._db.execute(NEWEST, (count,)).fetchall())

    def preload(self, items: Iterable[tuple[str, bytes]]) -> None:
        now = time.time()
        self._db.execute("BEGIN")
        self._db.executemany(SET, ((task_id, value, now) for task_id, value in items))
        self._db.execute("COMMIT")


class SqliteFull(SqliteWal):
    """Durable."""

    synchronous = "FULL"
    about = About(
        name="sqlite-full",
        title="sqlite3 WAL FULL",
        durable=True,
        why=WHY + "FULL syncs the WAL at every commit: an acknowledged row survives power loss.",
    )


class SqliteNormal(SqliteWal):
    """Not durable: the last commits may be lost with the power."""

    synchronous = "NORMAL"
    about = About(
        name="sqlite-normal",
        title="sqlite3 WAL NORMAL",
        durable=False,
        why=WHY + "NORMAL syncs at checkpoints alone: a crash of the system loses the last ones.",
    )
