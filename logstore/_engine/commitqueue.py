"""Group commit: the first waiting thread commits for all that have queued behind it.

Rules: a thread queues its batch, and commits if it gets the lead, which is a lock.  The leader
takes the whole queue, commits it as one group, wakes the followers, gives the lead back, and then
wakes the first batch that was queued during the commit.  No timer delays a commit: a lone writer
commits on its own thread at once, and groups form while the disk is busy.  A batch that has been
taken is committed whatever happens to its caller.  The groups of several processes share a flush:
see publishing.py.

Nothing here depends on a thread reaching the end of its work, because a signal handler may raise
at any point of it.  The lead is given back by one call of C; each batch has its own flags for
"taken" and "done"; and a follower that was not woken looks again after a moment.  A commit within
another one of the same thread, as in a handler that writes, is refused.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from logstore._engine.writes import Write
from logstore.errors import WriteError, WriteTimeoutError

RECHECK_S = 0.05  # how long a follower sleeps at most before it looks again


class _Batch:
    """Writes that one caller waits for together."""

    __slots__ = ("done", "taken", "wake", "writes")

    def __init__(self, writes: Sequence[Write]) -> None:
        self.writes = writes
        self.wake: threading.Lock | None = None  # a follower's: held until it is woken
        self.taken = False  # a leader has it: its writes may have been committed
        self.done = False  # each of its writes has an outcome or an error


def nested_error() -> WriteError:
    """Return the error for a call of a handler or finalizer within a call of its thread."""
    return WriteError(
        errno.EDEADLK,
        "the store was called within another call of the same thread, by a signal handler or a "
        "finalizer; nothing was written",
    )


class CommitQueue:
    """The queue in front of the log.  ``commit`` is called by one thread at a time."""

    def __init__(
        self, commit: Callable[[list[Write], Callable[[], None]], None], timeout_s: float
    ) -> None:
        self._commit = commit
        self._timeout_s = timeout_s
        self._lead = threading.RLock()
        self._queue: deque[_Batch] = deque()

    def is_led_here(self) -> bool:
        """Return whether the calling thread is committing."""
        return self._lead._is_owned()  # type: ignore[attr-defined, no-any-return]

    def run(self, writes: Sequence[Write]) -> None:
        """Commit the writes in their order and return when each has an outcome or an error.

        Raises WriteTimeoutError if that takes longer than the time-out; the outcome is then
        unknown, as after a KeyboardInterrupt.  Raises WriteError, with nothing written, within
        another call of the same thread.
        """
        if self.is_led_here():
            raise nested_error()
        batch = _Batch(writes)
        lead, queue = self._lead, self._queue
        try:
            try:
                if lead.acquire(False):
                    self._lead_with(batch)
            finally:
                try:
                    lead.release()  # the first call, so that no signal handler comes before it
                except RuntimeError:
                    pass  # another thread has the lead
            if not batch.done:
                self._follow(batch)
        finally:
            if queue:
                self._wake_next()

    def _follow(self, batch: _Batch) -> None:
        """Wait until a leader has committed the batch, or lead."""
        lead, queue = self._lead, self._queue
        batch.wake = wake = threading.Lock()
        wake.acquire()
        deadline = time.monotonic() + self._timeout_s
        try:
            queue.append(batch)
            while not batch.done:
                try:
                    if lead.acquire(False) and not batch.done:
                        if batch.taken:
                            return  # by a leader that was interrupted: the writes say so
                        self._lead_with(batch)
                        continue
                finally:
                    try:
                        lead.release()
                    except RuntimeError:
                        pass
                left = deadline - time.monotonic()
                if left <= 0:
                    raise WriteTimeoutError(
                        f"the write was not committed within {self._timeout_s} s, because the one "
                        f"before it has not ended; its outcome is unknown"
                    )
                wake.acquire(timeout=min(left, RECHECK_S))
        finally:
            try:
                queue.remove(batch)
            except ValueError:
                pass  # a leader has taken it

    def _lead_with(self, own: _Batch) -> None:
        """Commit a batch and all that are queued, as one group.  The caller has the lead."""
        own.taken = True
        group = [own]
        writes = list(own.writes)
        queue = self._queue
        try:
            while queue:
                batch = queue.popleft()
                if batch is not own:
                    group.append(batch)
                    batch.taken = True
                    writes += batch.writes
            self._commit(writes, lambda: _acknowledge(group))
        finally:
            if not group[-1].done:
                _acknowledge(group)

    def _wake_next(self) -> None:
        """Wake the first batch in the queue, whose thread then leads or looks again."""
        for batch in list(self._queue)[:1]:
            _wake(batch)


def _acknowledge(group: list[_Batch]) -> None:
    for batch in group:
        batch.done = True
        _wake(batch)


def _wake(batch: _Batch) -> None:
    wake = batch.wake
    if wake is not None and wake.locked():
        try:
            wake.release()
        except RuntimeError:
            pass  # another thread was faster
