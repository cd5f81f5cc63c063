"""The backend that keeps the newest results of this process, for tests and single programs.

Rules: results and progress are kept as the objects they are, not as copies, and are gone with the
process; only an error that is no ``Exception`` comes back as a ``RemoteError``.  A lock makes each
call atomic, so that several event loops and threads may share one backend.  Nothing here waits for
anything, but for the poll of taskiq's ``wait_result()``.  A pickled or copied backend arrives
empty.
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
from logstore.taskiq.outcome.progress import ReportedProgress, reported
from logstore.taskiq.outcome.revival import decode_error, exception_policy
from logstore.taskiq.results.waiting import current_wait

if TYPE_CHECKING:
    from taskiq.depends.progress_tracker import TaskProgress as TaskiqProgress
    from taskiq.result import TaskiqResult

    from logstore.progress import TaskProgress

_FAITHFUL = exception_policy("faithful")


class _Flag:
    """Whether a result that waiters have been told of was kept in the end."""

    is_set = False


class InmemoryResultBackend(AsyncResultBackend[_ReturnType]):
    """Keeps up to ``max_stored_results`` results in memory; the one written first goes first.

    -1 means no limit; ``ValueError`` is raised for zero and for less than -1.  The progress of
    tasks is bounded by the same number, and goes with the task's result.  Setting a result again
    replaces it, counts as its newest write, and pushes no other out.
    """

    def __init__(self, max_stored_results: int = 100) -> None:
        if not isinstance(max_stored_results, int) or isinstance(max_stored_results, bool):
            raise TypeError(f"max_stored_results is a count, not {max_stored_results!r}")
        if max_stored_results == 0 or max_stored_results < -1:
            raise ValueError(
                f"max_stored_results is a count above zero, or -1 for no limit, "
                f"not {max_stored_results}"
            )
        self.max_stored_results = max_stored_results
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._results: OrderedDict[str, TaskiqResult[_ReturnType]] = OrderedDict()
        self._progress: OrderedDict[str, ReportedProgress] = OrderedDict()
        self._arrivals: dict[
            str, list[asyncio.Future[_Flag]]
        ] = {}  # what a wait_result() waits for

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_results", "_progress", "_arrivals")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    async def set_result(self, task_id: str, result: TaskiqResult[_ReturnType]) -> None:
        """Keep the result; the oldest one goes when there are too many."""
        kept, was_kept = result.model_copy(), _Flag()
        with self._lock:
            # Before it is kept, in case a signal handler raises behind that: they look for it.
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

        Raises :class:`~logstore.taskiq.errors.ResultIsMissingError` when there is none, which
        says nothing about whether there was one.
        """
        with self._lock:
            result = self._results.get(task_id)
        if result is None:
            raise ResultIsMissingError(f"there is no result for task {task_id!r} in memory")
        update: dict[str, Any] = {} if with_logs else {"log": None}
        if result.error is not None and not isinstance(result.error, Exception):
            update["error"] = decode_error(encode_error(result.error), _FAITHFUL)
        # A copy: taskiq parses the return value in place, and the log may have to go.
        return result.model_copy(update=update)

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether there is a result.

        It answers at once, unless taskiq's ``wait_result()`` is asking: that gets its answer when
        the result is there, or its time-out over (``waiting.py``).
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
                    return True  # also if it is gone again
            finally:
                self._leave(task_id, arrival)

    async def delete_result(self, task_id: str) -> bool:
        """Forget the result and the progress of a task; return whether there was a result."""
        with self._lock:
            self._progress.pop(task_id, None)
            return self._results.pop(task_id, None) is not None

    async def set_progress(
        self, task_id: str, progress: TaskiqProgress[Any] | TaskProgress
    ) -> None:
        """Keep the progress; the oldest one goes when there are too many."""
        report = reported(progress).model_copy()
        with self._lock:
            self._progress[task_id] = report
            self._progress.move_to_end(task_id)
            while self._is_over(self._progress):
                self._progress.popitem(last=False)

    async def get_progress(self, task_id: str) -> ReportedProgress | None:
        """Return the progress that was last set, or None."""
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
