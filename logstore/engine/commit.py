"""Group commit: whoever comes first commits for everybody who has come since.

Rules: at most one thread of a process leads.  A leader takes the whole queue, commits it as one
group, wakes the followers, and hands the lead to the first of those who came meanwhile.  There
is no timer: a lone writer commits on its own thread at once, and groups form while the disk is
busy.  A batch that has been taken is carried to its end whatever happens to its caller.  Nothing is
committed by a call within another one of the same thread, as of a signal handler that writes.
"""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Sequence

from logstore.engine.frames import DELETED, HAD_RESULT, Entry
from logstore.engine.states import is_known, is_live_result, missing_result
from logstore.errors import CorruptRecordError, WriteError, WriteTimeoutError

REFUSED = object()  # the outcome of a write whose condition did not hold: its error stands
_INTERRUPTED = WriteTimeoutError("the commit was interrupted; the write's outcome is unknown")


class Lookup:
    """What a conditional write may ask of the store, as of its place in the group."""

    def result(self, key: bytes) -> Entry | None:
        """The newest record of the result: RESULT, DELETED or EXPIRED, or None."""
        raise NotImplementedError

    def has_progress(self, key: bytes) -> bool:
        """Whether there is progress to clear."""
        raise NotImplementedError


class Write:
    """One write: what it puts into the log, and afterwards what became of it."""

    __slots__ = ("entry", "error", "key", "outcome", "sync")

    def __init__(self, key: bytes, entry: Entry, *, sync: bool) -> None:
        self.key = key
        self.entry = entry
        self.sync = sync  # whether the group must be flushed before this is acked
        self.outcome: object = None
        self.error: BaseException | None = _INTERRUPTED  # None once it is committed

    def resolve(self, lookup: Lookup, now_us: int) -> Entry | None:
        """The entry to log, or None if there is nothing to write; may set the outcome.

        Asked of subclasses only: a plain write logs its entry.
        """
        return self.entry


class Delete(Write):
    """Delete a result and its progress; the outcome is whether there was a result."""

    __slots__ = ()

    def resolve(self, lookup: Lookup, now_us: int) -> Entry | None:
        try:
            current = lookup.result(self.key)
            live, known = is_live_result(current, now_us), is_known(current)
            cleared = live or lookup.has_progress(self.key)
        except CorruptRecordError:
            live = known = cleared = True  # deleting is how to get rid of damage
        self.outcome = live
        return self.entry._replace(flags=HAD_RESULT if known else 0) if cleared else None


class Pop(Write):
    """Delete a result and return its payload; the outcome is the entry that was there."""

    __slots__ = ()

    def resolve(self, lookup: Lookup, now_us: int) -> Entry | None:
        current = lookup.result(self.key)
        if current is None or not is_live_result(current, now_us):
            self.error = missing_result(self.key, current)
            self.outcome = REFUSED
            return None
        self.outcome = current
        return self.entry._replace(flags=HAD_RESULT)


class Flush(Write):
    """Force everything acked so far to the disk."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(b"", Entry(DELETED, 0, 0, 0, b""), sync=True)

    def resolve(self, lookup: Lookup, now_us: int) -> Entry | None:
        return None


class _Batch:
    """Writes that one caller waits for together."""

    __slots__ = ("done", "thread", "wake", "writes")

    def __init__(self, writes: Sequence[Write]) -> None:
        self.writes = writes
        self.thread = threading.get_ident()
        self.wake: threading.Lock | None = None  # held until there is news
        self.done = False


def amid_error() -> WriteError:
    """What a signal handler or finalizer gets that writes while its thread is writing."""
    return WriteError(
        errno.EDEADLK,
        "the store was called amid a write of the same thread, by a signal handler or a "
        "finalizer; nothing was written",
    )


class Committer:
    """The queue in front of the log, without its leader.  ``commit`` is called by that only."""

    def __init__(
        self, commit: Callable[[list[Write], Callable[[], None]], None], timeout_s: float
    ) -> None:
        self._commit = commit
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._queue: list[_Batch] = []
        self._leader: _Batch | None = None
        self._inside: set[int] = set()  # the threads that are in here, and those left by a signal

    def run(self, writes: Sequence[Write]) -> None:
        """Commit the writes in their order and return when each has an outcome or an error.

        Raises WriteTimeoutError if that takes longer than the time-out; their outcome is then
        unknown, as it is after a KeyboardInterrupt.  Raises WriteError amid another call of the
        same thread: nothing is written then.
        """
        batch = _Batch(writes)
        leader = self._leader
        leads = leader is not None and leader.thread == batch.thread
        if leads or batch.thread in self._inside:
            if self._is_amid():
                raise amid_error()
            if leader is not None and leads:
                self._resign(leader)  # what a signal handler that raised has left behind
        try:
            self._inside.add(batch.thread)
            with self._lock:
                if self._leader is None:
                    self._leader = batch
                else:
                    self._queue.append(batch)
                    batch.wake = threading.Lock()
                    batch.wake.acquire()
            if batch.wake is not None and not batch.wake.acquire(timeout=self._timeout_s):
                raise WriteTimeoutError(
                    f"the write was not committed within {self._timeout_s} s, because the one "
                    f"before it has not ended; its outcome is unknown"
                )
            if not batch.done:
                self._lead(batch)
        finally:
            if not batch.done or self._leader is batch:
                self._resign(batch)
            self._inside.discard(batch.thread)

    def _is_amid(self) -> bool:
        """Whether :meth:`run` has been called by something that it called itself."""
        code, frame = Committer.run.__code__, sys._getframe(1).f_back
        while frame is not None:
            if frame.f_code is code and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def _lead(self, leader: _Batch) -> None:
        group = [leader]
        acked = False

        def ack() -> None:
            nonlocal acked
            for batch in group:
                batch.done = True
                if batch.wake is not None and batch.wake.locked():
                    batch.wake.release()
            acked = True  # at the end: it begins anew if a signal handler has raised amid it

        try:
            if self._queue:
                with self._lock:
                    group[1:], self._queue = self._queue, []
            self._commit([write for batch in group for write in batch.writes], ack)
        finally:
            if not acked:
                ack()

    def _resign(self, batch: _Batch) -> None:
        """Wait no longer; a leader hands the lead to the first in the queue."""
        with self._lock:
            if batch in self._queue:
                self._queue.remove(batch)
            if self._leader is batch:
                # Without a call, after which a signal could come between the two.
                self._leader = self._queue[0] if self._queue else None
                del self._queue[:1]
                if self._leader is not None and self._leader.wake is not None:
                    self._leader.wake.release()
