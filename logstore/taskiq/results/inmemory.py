"""The backend that keeps the newest results in memory, for tests and single programs.

Rules: return values and progress are kept by reference, not copied, and are lost with the process.
Only an error that is not an ``Exception`` is returned as a ``RemoteError``.  A lock makes each call
atomic: several event loops and threads may share one backend.  No call waits, except the poll of
taskiq's ``wait_result()``.  An unpickled or copied backend is empty.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from logstore._loops.handover import call_soon
from logstore.taskiq.abstract import AsyncResultBackend, _ReturnType
from logstore.taskiq.errors import ResultIsMissingError
from logstore.taskiq.outcome.exceptions import encode_error
from logstore.taskiq.outcome.reported import ReportedProgress, reported
from logstore.taskiq.outcome.revival import decode_error, exception_policy
from logstore.taskiq.results.waiting import current_wait

if TYPE_CHECKING:
    from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
    from taskiq.result import TaskiqResult

    from logstore.progress import TaskProgress

_FAITHFUL = exception_policy("faithful")


class _Flag:
    """Whether a result was stored after its waiters were woken."""

    is_set = False


class InmemoryResultBackend(AsyncResultBackend[_ReturnType]):
    """Keeps up to ``max_stored_results`` results in memory; the oldest is evicted first.

    -1 means no limit.  Raises ``ValueError`` for zero and for less than -1.  The same limit applies
    to progress, which is also evicted with the task's result.  Setting a result again replaces it,
    makes it the newest, and evicts no other result.
    """

    def __init__(self, max_stored_results: int = 100) -> None:
        if not isinstance(max_stored_results, int) or isinstance(max_stored_results, bool):
            raise TypeError(f"max_stored_results must be an int, not {max_stored_results!r}")
        if max_stored_results == 0 or max_stored_results < -1:
            raise ValueError(
                f"max_stored_results must be above zero, or -1 for no limit, "
                f"not {max_stored_results}"
            )
        self.max_stored_results = max_stored_results
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._results: OrderedDict[str, TaskiqResult[_ReturnType]] = OrderedDict()
        self._progress: OrderedDict[str, ReportedProgress] = OrderedDict()
        self._arrivals: dict[str, list[asyncio.Future[_Flag]]] = {}  # of the calls of wait_result()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_results", "_progress", "_arrivals")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Keep the result; evict the oldest one if there are too many."""
        kept, was_kept = result.model_copy(), _Flag()
        with self._lock:
            # Wake the waiters first, because a signal handler may raise afterwards.  They check
            # whether the result was stored.
            for arrival in self._arrivals.get(task_id, ()):
                call_soon(arrival.get_loop(), partial(arrival.set_result, was_kept))
            self._results[task_id] = kept
            was_kept.is_set = True
            self._arrivals.pop(task_id, None)
            self._results.move_to_end(task_id)
            while self._is_over(self._results):
                oldest, _ = self._results.popitem(last=False)
                self._progress.pop(oldest, None)

    async def get_result(self, task_id: str, with_logs: bool = True) -> TaskiqResult[_ReturnType]:
        """Return the result; ``log`` is None unless ``with_logs``.

        Raises :class:`~logstore.taskiq.errors.ResultIsMissingError` when there is no result, also
        if it was evicted or deleted.
        """
        with self._lock:
            result = self._results.get(task_id)
        if result is None:
            raise ResultIsMissingError(f"there is no result for task {task_id!r} in memory")
        update: dict[str, Any] = {} if with_logs else {"log": None}
        if result.error is not None and not isinstance(result.error, Exception):
            update["error"] = decode_error(encode_error(result.error), _FAITHFUL)
        # A copy, because taskiq parses the return value in place, and ``log`` may change.
        return result.model_copy(update=update)

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether there is a result.

        Returns immediately, except to taskiq's ``wait_result()``: then it waits for the result or
        the time-out (``waiting.py``).
        """
        wait = current_wait(self)
        if wait is None:
            with self._lock:
                return task_id in self._results
        loop = asyncio.get_running_loop()
        until = None if wait.timeout_s is None else loop.time() + wait.timeout_s
        while True:
            arrival: asyncio.Future[_Flag] = loop.create_future()
            try:
                with self._lock:
                    if task_id in self._results:
                        return True
                    self._arrivals.setdefault(task_id, []).append(arrival)
                left = None if until is None else until - loop.time()
                if left is not None and left <= 0:
                    return False
                await asyncio.wait((arrival,), timeout=left)
                if arrival.done() and arrival.result().is_set:
                    return True  # even if it has been removed again
            finally:
                self._leave(task_id, arrival)

    async def delete_result(self, task_id: str) -> bool:
        """Delete the result and the progress of a task; return whether there was a result."""
        with self._lock:
            self._progress.pop(task_id, None)
            return self._results.pop(task_id, None) is not None

    async def set_progress(
        self, task_id: str, progress: TaskiqProgress[Any] | TaskProgress
    ) -> None:
        """Keep the progress; evict the oldest one if there are too many."""
        report = reported(progress).model_copy()
        with self._lock:
            self._progress[task_id] = report
            self._progress.move_to_end(task_id)
            while self._is_over(self._progress):
                self._progress.popitem(last=False)

    async def get_progress(self, task_id: str) -> ReportedProgress | None:
        """Return the latest progress, or None."""
        with self._lock:
            report = self._progress.get(task_id)
        return None if report is None else report.model_copy()

    def _leave(self, task_id: str, arrival: asyncio.Future[_Flag]) -> None:
        with self._lock:
            others = self._arrivals.get(task_id, [])
            if arrival in others:
                others.remove(arrival)
                if not others:
                    del self._arrivals[task_id]

    def _is_over(self, kept: OrderedDict[str, Any]) -> bool:
        return self.max_stored_results != -1 and len(kept) > self.max_stored_results
