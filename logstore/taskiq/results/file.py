"""The backend that keeps a JSON file for each result and for each task's progress.

Rules: a file is complete or does not exist (``atomic.py``).  Its name contains the task id
(``filenames.py``).  Its content is readable by people and keeps the types (``json_file.py``).  Disk
access and encoding run in the default executor of the calling loop.  Any number of processes may
share the directory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from logstore.errors import UnserializableValueError
from logstore.progress import TaskProgress
from logstore.taskiq.abstract import AsyncResultBackend, _ReturnType
from logstore.taskiq.errors import (
    ResultDamagedError,
    ResultIsMissingError,
    ResultIsReadyError,
)
from logstore.taskiq.outcome.outcome import decode_outcome, encode_outcome, unstorable_outcome
from logstore.taskiq.outcome.reported import (
    ReportedProgress,
    from_stored,
    to_stored,
    with_plain_meta,
)
from logstore.taskiq.outcome.revival import exception_policy
from logstore.taskiq.results import atomic
from logstore.taskiq.results.filenames import file_name
from logstore.taskiq.results.json_file import parse, render

if TYPE_CHECKING:
    from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
    from taskiq.result import TaskiqResult

T = TypeVar("T")


class FileResultBackend(AsyncResultBackend[_ReturnType]):
    """Keeps results and progress as JSON files in ``storage_dir``.

    The directory is created on first use.  A relative path is resolved when the backend is
    constructed.  ``exceptions`` is the set of exception classes that are rebuilt: ``"faithful"``
    (any subclass of ``Exception`` that is imported), ``"inert"`` (none), or a list of classes and
    dotted names.  All others are returned as a ``RemoteError``.

    Results and progress are on disk when a call returns; each call costs two syncs.  If the caller
    is cancelled, the write goes on in its thread; its outcome is then unknown.
    """

    def __init__(
        self,
        storage_dir: str | os.PathLike[str] = "./task_results",
        *,
        exceptions: str | Iterable[str | type[BaseException]] = "faithful",
    ) -> None:
        self.storage_dir = Path(os.path.abspath(storage_dir))
        self._allowed = exception_policy(exceptions)

    async def startup(self) -> None:
        """Create the directory, and remove incomplete files of dead writers.

        Raises ``OSError`` when the directory cannot be created.
        """
        await asyncio.to_thread(self._startup)

    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Write the result; it is durable when this returns.

        Raises ``OSError`` when it cannot be written, ``ValueError`` for an id that is not a str.
        """
        await asyncio.to_thread(self._set_result, task_id, result)

    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[_ReturnType]:
        """Return the result; ``log`` is None unless ``with_logs``.

        Raises :class:`~logstore.taskiq.errors.ResultIsMissingError` when there is no file,
        :class:`~logstore.taskiq.errors.ResultDamagedError` when the file is damaged,
        and ``OSError`` when it cannot be read.
        """
        return await asyncio.to_thread(self._get_result, task_id, with_logs)

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether there is a result.

        Raises :class:`~logstore.taskiq.errors.ResultIsReadyError` when the directory cannot be
        searched.
        """
        path = self._path(task_id, "result")
        return await asyncio.to_thread(_is_there, path)

    async def delete_result(self, task_id: str) -> bool:
        """Remove the files of a task durably; return whether there was a result."""
        result, progress = self._path(task_id, "result"), self._path(task_id, "progress")

        def delete() -> bool:
            was_there = atomic.remove_file(result)
            atomic.remove_file(progress)
            return was_there

        return await asyncio.to_thread(delete)

    async def set_progress(
        self, task_id: str, progress: TaskiqProgress[Any] | TaskProgress
    ) -> None:
        """Write the progress; it is durable when this returns.

        Raises :class:`~logstore.errors.UnserializableValueError` for a meta that cannot be
        stored, and ``OSError`` when the file cannot be written.
        """
        path = self._path(task_id, "progress")

        def write() -> None:
            stored = with_plain_meta(to_stored(progress))
            atomic.write_file(path, render("progress", task_id, stored.to_dict()))

        await asyncio.to_thread(write)

    async def get_progress(self, task_id: str) -> ReportedProgress | None:
        """Return the latest progress, or None.

        Raises :class:`~logstore.taskiq.errors.ResultDamagedError` when the file is damaged.
        """

        def decode(content: dict[str, Any]) -> ReportedProgress:
            return from_stored(TaskProgress.from_dict(content))

        return await asyncio.to_thread(self._read, task_id, "progress", decode)

    # -- in a thread -----------------------------------------------------------------------

    def _startup(self) -> None:
        atomic.make_directory(self.storage_dir)
        atomic.remove_leftovers(self.storage_dir)

    def _set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        path = self._path(task_id, "result")
        try:
            data = render("result", task_id, encode_outcome(result))
        except UnserializableValueError as error:
            data = render("result", task_id, unstorable_outcome(result, error))
        atomic.write_file(path, data)

    def _get_result(self, task_id: str, with_logs: bool) -> TaskiqResult[_ReturnType]:
        decode = partial(decode_outcome, allowed=self._allowed, with_logs=with_logs)
        result = self._read(task_id, "result", decode)
        if result is None:
            path = self._path(task_id, "result")
            raise ResultIsMissingError(f"there is no result for task {task_id!r}: no file {path}")
        return result

    def _read(self, task_id: str, kind: str, decode: Callable[[dict[str, Any]], T]) -> T | None:
        path = self._path(task_id, kind)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        content = parse(data, kind, task_id, str(path))
        try:
            return decode(content)
        except (ValueError, ResultDamagedError) as error:
            raise ResultDamagedError(f"{path}: {error}") from error

    def _path(self, task_id: str, kind: str) -> Path:
        return self.storage_dir / f"{file_name(task_id)}.{kind}.json"


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ResultIsReadyError(f"{path}: {error}") from error
    return True
