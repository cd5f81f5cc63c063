"""A taskiq result backend over aiosqlite, written for the bench as its users would write it."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import aiosqlite
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress

from .backend_peer import BackendPeer
from .base import About
from .sqlite_direct import CREATE, CREATE_PROGRESS, GET, READY, SET, SET_PROGRESS

if TYPE_CHECKING:
    from collections.abc import Mapping

GET_PROGRESS = "SELECT value FROM progress WHERE task_id = ?"


class AiosqliteResultBackend(AsyncResultBackend[Any]):
    """Results and progress in two tables of one SQLite file.

    `grouped=False`: autocommit, one hop to aiosqlite's thread per write. `grouped=True`: execute
    and commit, as in aiosqlite's README; on one shared connection the first commit takes along
    what the other coroutines have executed meanwhile, which makes groups by accident.
    """

    def __init__(self, path: Path, synchronous: str, grouped: bool) -> None:
        self._path = path
        self._synchronous = synchronous
        self._grouped = grouped

    async def startup(self) -> None:
        options: Mapping[str, Any] = {} if self._grouped else {"isolation_level": None}
        self._db = await aiosqlite.connect(self._path, timeout=30.0, **options)
        await self._db.execute("PRAGMA journal_mode = WAL")
        await self._db.execute(f"PRAGMA synchronous = {self._synchronous}")
        await self._db.execute(CREATE)
        await self._db.execute(CREATE_PROGRESS)
        await self._db.commit()

    async def shutdown(self) -> None:
        await self._db.close()

    async def _write(self, statement: str, row: tuple[Any, ...]) -> None:
        await self._db.execute(statement, row)
        if self._grouped:
            await self._db.commit()

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        value = pickle.dumps(result.model_dump(mode="json"))
        await self._write(SET, (task_id, value, time.time()))

    async def is_result_ready(self, task_id: str) -> bool:
        return bool(await self._db.execute_fetchall(READY, (task_id,)))

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
        rows = list(await self._db.execute_fetchall(GET, (task_id,)))
        if not rows:
            raise KeyError(task_id)
        result = TaskiqResult[Any].model_validate(pickle.loads(rows[0][0]))
        if not with_logs:
            result.log = None
        return result

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        await self._write(SET_PROGRESS, (task_id, pickle.dumps(progress.model_dump(mode="json"))))

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        rows = list(await self._db.execute_fetchall(GET_PROGRESS, (task_id,)))
        return TaskProgress[Any].model_validate(pickle.loads(rows[0][0])) if rows else None

    async def load_many(self, items: Iterable[tuple[str, TaskiqResult[Any]]]) -> None:
        """Store many in one transaction."""
        now = time.time()
        rows = [(key, pickle.dumps(item.model_dump(mode="json")), now) for key, item in items]
        await self._db.execute("BEGIN")
        await self._db.executemany(SET, rows)
        await self._db.commit()


WHY = (
    "As plain as a user's own backend would be: one connection, WAL, pickled results like taskiq's "
    "other backends, reads in one hop to the thread (execute_fetchall). taskiq-sqlalchemy can use "
    "aiosqlite too, through SQLAlchemy; this one does without that layer, so it costs less. "
)
AUTOCOMMIT = "Autocommit, the fewest hops to the thread. "
GROUPED = (
    "execute and then commit, as in aiosqlite's README: two hops, but concurrent writers on the "
    "one connection share commits. What others have not committed yet is visible to readers of "
    "the connection, and a failed commit takes others' rows with it. "
)


class AiosqlitePeer(BackendPeer):
    """The backend at the durability and commit style that the subclasses name."""

    synchronous: ClassVar[str]
    grouped: ClassVar[bool] = False

    def make(self) -> AiosqliteResultBackend:
        path = self.place.directory / "results.sqlite"
        return AiosqliteResultBackend(path, self.synchronous, self.grouped)

    async def preload(self, items: Iterable[tuple[str, TaskiqResult[Any]]]) -> None:
        assert isinstance(self.backend, AiosqliteResultBackend)
        await self.backend.load_many(items)


class AiosqliteFull(AiosqlitePeer):
    """Durable, a transaction per result."""

    synchronous = "FULL"
    about = About(
        name="aiosqlite-full",
        title="aiosqlite FULL",
        durable=True,
        modules=("aiosqlite", "taskiq"),
        why=WHY + AUTOCOMMIT + "FULL: each is synced.",
    )


class AiosqliteGrouped(AiosqlitePeer):
    """Durable, commits shared by all that wait."""

    synchronous = "FULL"
    grouped = True
    about = About(
        name="aiosqlite-full-shared",
        title="aiosqlite FULL, shared commits",
        durable=True,
        shares_commits=True,
        modules=("aiosqlite", "taskiq"),
        why=WHY + GROUPED + "FULL: each commit is synced.",
    )


class AiosqliteNormal(AiosqlitePeer):
    """Not durable, a transaction per result."""

    synchronous = "NORMAL"
    about = About(
        name="aiosqlite-normal",
        title="aiosqlite NORMAL",
        durable=False,
        modules=("aiosqlite", "taskiq"),
        why=WHY + AUTOCOMMIT + "NORMAL: the last commits may be lost with the power.",
    )
