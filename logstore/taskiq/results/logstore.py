"""The backend with a logstore file: durable, shared by all processes of one host.

Rules:

- The constructor opens nothing, so that a backend can be constructed at import time.  The store is
  opened by ``startup()``, or by the first call that needs it; see ``opening.py``.
- The event loop never waits for the disk or for the conversion of a large value.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from taskiq.abc.serializer import TaskiqSerializer
from typing_extensions import Unpack

import logstore
from logstore import errors as store_errors
from logstore._codec.hooks import EncHook, check_hook
from logstore._codec.weight import SMALL_BYTES, Limit, UnknownTypeError
from logstore._engine.shelter import is_interrupt
from logstore._handle import OpenOptions
from logstore.taskiq.abstract import AsyncResultBackend, _ReturnType
from logstore.taskiq.errors import ResultDamagedError, ResultIsReadyError, missing
from logstore.taskiq.opening import OpensStore
from logstore.taskiq.outcome.outcome import (
    brief_outcome,
    decode_outcome,
    encode_outcome,
    outcome_around,
    unstorable_outcome,
)
from logstore.taskiq.outcome.reported import (
    ReportedProgress,
    from_stored,
    to_stored,
    with_plain_meta,
)
from logstore.taskiq.outcome.revival import exception_policy
from logstore.taskiq.outcome.serialized import deserialize_outcome, is_serialized, serialize_outcome
from logstore.taskiq.results.expiry import Expiry
from logstore.taskiq.results.waiting import Wait, current_wait

if TYPE_CHECKING:
    from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
    from taskiq.result import TaskiqResult

    from logstore._engine.writes import Write
    from logstore._handle import Handle
    from logstore.aio import AsyncStore
    from logstore.progress import TaskProgress


class LogStoreResultBackend(OpensStore, AsyncResultBackend[_ReturnType]):
    """Keeps results and progress in the logstore file at ``path``.

    ``keep_results=False`` deletes a result when it is read; only one of several readers gets it.
    ``result_ex_time`` (seconds) or ``result_px_time`` (milliseconds) is the time to live of
    results, ``failure_ex_time`` (seconds) that of failed tasks' results, ``progress_ex_time``
    (seconds) that of progress.  A task's label ``result_ex_time`` overrides them for its result.
    Every task id is prefixed with ``prefix_str`` and a colon.

    ``serializer`` is a taskiq serializer for results; without one, values keep their types and
    pickle is never used.  ``exceptions`` is the set of exception classes that are rebuilt:
    ``"faithful"`` (any subclass of ``Exception`` that is imported), ``"inert"`` (none), or a list
    of classes and dotted names.  All others are returned as a ``RemoteError``.

    All other keywords are those of :func:`logstore.open`.  ``enc_hook`` and ``dec_hook`` convert
    unsupported types in return values, errors and the meta of progress; they are not used with a
    ``serializer``.  Raises ``TypeError`` or ``ValueError`` for invalid arguments.  The file is not
    accessed before ``startup()``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep_results: bool = True,
        result_ex_time: float | None = None,
        result_px_time: float | None = None,
        failure_ex_time: float | None = None,
        progress_ex_time: float | None = None,
        serializer: TaskiqSerializer | None = None,
        prefix_str: str | None = None,
        exceptions: str | Iterable[str | type[BaseException]] = "faithful",
        **store_options: Unpack[OpenOptions],
    ) -> None:
        # Absolute, because the current directory may change before the file is opened.
        self.path = os.path.abspath(path)
        self.keep_results = keep_results
        if serializer is not None and not isinstance(serializer, TaskiqSerializer):
            raise TypeError(f"serializer must be a TaskiqSerializer object, not {serializer!r}")
        self.serializer = serializer
        self.prefix_str = prefix_str
        self._expiry = Expiry.chosen(
            result_ex_time=result_ex_time,
            result_px_time=result_px_time,
            failure_ex_time=failure_ex_time,
            progress_ex_time=progress_ex_time,
        )
        self._allowed = exception_policy(exceptions)
        self._options = _checked_options(store_options)
        self._enc_hook: EncHook | None = self._options.get("enc_hook")
        self._forget()

    # -- opening and closing ---------------------------------------------------------------

    async def startup(self) -> None:
        """Open the store; no effect if it is open already.

        Raises :class:`~logstore.errors.OpenError` when it cannot be opened.
        """
        await self._opened()

    async def shutdown(self) -> None:
        """Close the store; the last close leaves a single file.  No effect if it is closed.

        :meth:`startup`, or any later call, opens it again.
        """
        await self._close()

    # -- results ---------------------------------------------------------------------------

    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Store the result; it is durable when this returns, except with ``sync="interval"``.

        A result that cannot be stored, or is too large, is stored as an error that says so.  If
        the caller is cancelled, it is unknown whether the result is stored.

        Raises ``ValueError`` for an id that the store refuses, and
        :class:`~logstore.errors.WriteError` when the disk fails.
        """
        store, key = await self._opened(), self._key(task_id)
        await store._set(lambda limit: self._result_write(store._handle, key, result, limit))

    def _result_write(
        self, handle: Handle, key: str, result: TaskiqResult[_ReturnType], limit: Limit
    ) -> Write:
        """Encode a result, or the error that replaces it.

        Raises :class:`BudgetExceededError` if that is work beyond the ``limit``.
        """

        def write(record: dict[str, Any]) -> Write:
            failed = record["is_err"]
            ttl_s = self._expiry.ttl_s(result.labels, failed=failed)
            return handle.result_write(key, record, ttl_s, failed, limit)

        try:
            if self.serializer is not None:
                if limit != "any":
                    raise UnknownTypeError
                return write(serialize_outcome(result, self.serializer))
            if limit != "any" and result.error is None:
                try:
                    return write(outcome_around(result, result.return_value, on_loop=True))
                except UnknownTypeError:  # a part must be converted
                    pass
            if limit == "stored":
                raise UnknownTypeError
            on_loop = limit == "small"
            return write(encode_outcome(result, on_loop=on_loop, enc_hook=self._enc_hook))
        except (store_errors.UnserializableValueError, store_errors.ValueTooLargeError) as error:
            reason = _about_result(error)
            try:
                return write(unstorable_outcome(result, reason))
            except store_errors.ValueTooLargeError:
                return write(brief_outcome(result, reason))

    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[_ReturnType]:
        """Return the result; ``log`` is None unless ``with_logs``.

        With ``keep_results=False`` it is deleted when this returns.

        Raises ``ResultIsMissingError``, or its subclasses ``ResultExpiredError`` and
        ``ResultDeletedError`` if there was a result, and ``ResultDamagedError`` when the stored
        data is not a result of this backend.
        """
        store = await self._opened()
        key = self._key(task_id)
        try:
            if self.keep_results:
                data = await store.get_result(key)
            else:
                data = await store.pop_result(key)
        except store_errors.ResultIsMissingError as error:
            raise missing(error) from error
        except store_errors.CorruptionError as error:
            raise ResultDamagedError(str(error)) from error
        if is_serialized(data):
            if len(data["data"]) > SMALL_BYTES:
                data = await asyncio.to_thread(deserialize_outcome, data, self.serializer)
            else:
                data = deserialize_outcome(data, self.serializer)
        try:
            return decode_outcome(data, self._allowed, with_logs=with_logs)
        except ResultDamagedError as error:
            raise ResultDamagedError(f"{self.path}: task {task_id!r}: {error}") from error

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether there is a result that has not expired.

        Returns immediately, except to taskiq's ``wait_result()``: then it waits for the result or
        the time-out (``waiting.py``).  Without a time-out, a removed result is an error, because
        the wait might never end.

        Raises ``ResultIsReadyError`` when the store cannot be read, and ``ValueError`` for an id
        that the store refuses.
        """
        key = self._key(task_id)
        try:
            store = await self._opened()
            if await store.is_result_ready(key):
                return True
            wait = current_wait(self)
            return wait is not None and await _wait_ready(store, key, wait)
        except (store_errors.LogstoreError, OSError) as error:
            if is_interrupt(error):
                raise
            raise ResultIsReadyError(f"{self.path}: {error}") from error

    async def delete_result(self, task_id: str) -> bool:
        """Delete the result and the progress of a task; return whether there was a result."""
        store = await self._opened()
        return await store.delete_result(self._key(task_id))

    # -- progress --------------------------------------------------------------------------

    async def set_progress(
        self, task_id: str, progress: TaskiqProgress[Any] | TaskProgress
    ) -> None:
        """Store the progress; when this returns, it survives the death of this process.

        A power failure may lose the progress of the last ``sync_interval_s``.

        Raises :class:`~logstore.errors.UnserializableValueError` for a meta that cannot be
        stored.
        """
        store, key = await self._opened(), self._key(task_id)
        await store._set(lambda limit: self._progress_write(store._handle, key, progress, limit))

    def _progress_write(
        self,
        handle: Handle,
        key: str,
        progress: TaskiqProgress[Any] | TaskProgress,
        limit: Limit,
    ) -> Write:
        stored, ttl_s = to_stored(progress), self._expiry.progress_ttl_s
        if limit != "any":
            try:
                return handle.progress_write(key, stored, ttl_s, limit)
            except UnknownTypeError:  # a part must be converted
                if limit == "stored":
                    raise
        stored = with_plain_meta(stored, on_loop=limit == "small", enc_hook=self._enc_hook)
        return handle.progress_write(key, stored, ttl_s, limit)

    async def get_progress(self, task_id: str) -> ReportedProgress | None:
        """Return the latest progress, or None."""
        store = await self._opened()
        stored = await store.get_progress(self._key(task_id))
        return None if stored is None else from_stored(stored)

    # -- helpers ---------------------------------------------------------------------------

    def _key(self, task_id: str) -> str:
        if self.prefix_str is None or not isinstance(task_id, str):
            return task_id
        return f"{self.prefix_str}:{task_id}"


async def _wait_ready(store: AsyncStore, key: str, wait: Wait) -> bool:
    try:
        return await store.wait_ready(key, timeout_s=wait.timeout_s)
    except store_errors.ResultIsMissingError as error:  # the result was removed
        if wait.timeout_s is not None:
            return False  # the task may have been sent again under the same id: taskiq polls on
        message = (
            f"there is nothing to wait for: {error}; to wait for a task that was sent again under "
            "the same id, give wait_result() a timeout"
        )
        raise type(error)(message) from error


def _about_result(error: Exception) -> Exception:
    """Change the codec's error about the record to an error about the task's return value."""
    text = str(error).replace("result['return_value']", "result", 1)
    about = type(error)(text)
    about.__cause__ = error.__cause__
    return about


def _checked_options(options: OpenOptions) -> OpenOptions:
    known = list(inspect.signature(logstore.open).parameters)[1:]
    for name in options:
        if name not in known:
            raise TypeError(f"there is no option {name!r}; logstore.open() has {', '.join(known)}")
    for name in ("enc_hook", "dec_hook"):
        check_hook(name, options.get(name))
    return options.copy()
