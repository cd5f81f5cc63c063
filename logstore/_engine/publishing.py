"""Flushing and publishing what is appended: one flush for the writers of all processes.

Rules: a write is appended under the writer lock, which is then given back.  It is acknowledged when
it is published.  Of the processes that wait for that, one gets the flush lock: it flushes for all,
publishes, and wakes the others, which sleep meanwhile.  What is published is always the log from
its start to some offset; it is on the disk unless it needs no flush.  A holder of the flush lock
never waits for the writer lock; whatever begins a new epoch takes both, in the order writer lock,
flush lock.

After a failed flush nothing more of the epoch is published.  After a process has died in its flush,
no further flush of that log is trusted: that one may have failed, and the system reports a failure
only once.  A process that finds either recovers, and looks again in the new epoch.  The header
keeps up to where an epoch with a failed flush was published.  ``fuzz/model`` is a model of this
protocol, and explores all orders of its steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from logstore._engine import locks, shelter
from logstore._engine.counters import Counters
from logstore._engine.frames import OFFSET_MAX
from logstore._engine.header import SharedHeader
from logstore._engine.logview import LogView
from logstore._engine.shelter import is_interrupt
from logstore._engine.systemerrors import flush_error

T = TypeVar("T")

GATHER_FLUSH_S_MIN = 0.0005  # a faster flush is not worth a wait
GATHER_STEP_S, GATHER_SKIP_MAX = 0.00005, 64
RECHECK_S = 0.01  # how long a wait for another process's flush lasts before it looks again


class Found(Enum):
    """How a wait for a point has ended."""

    PUBLISHED = "published"
    LATE = "late"  # the deadline has passed
    BROKEN = "broken"  # look again after a recovery


class Publisher:
    """One process's side of the flush lock.  Used by one thread at a time."""

    def __init__(
        self, view: LogView, header: SharedHeader, lock_fd: int, counters: Counters
    ) -> None:
        self._view = view
        self._header = header
        self._lock_fd = lock_fd
        self._counters = counters
        self._flush_s = 0.0  # how long the last flush has taken
        self._arrival = 0  # which of all appended groups was the last of this process
        self._skip = self._misses = 0

    def publish(self, point: int, deadline: float, *, flush: bool) -> Found:
        """Publish everything up to a point; with ``flush``, put it on the disk in any case.

        A point is a value of ``appended``.  The flush may be made by another process.  Raises
        OSError if the flush fails, or if one has failed that the point needed: what was not
        published then never is.
        """
        header = self._header
        epoch, end = point >> 32, point & OFFSET_MAX
        while True:
            seen = header.sequence.value
            state = header.state
            if state >> 32 != epoch:
                published = header.published_before(epoch)
                if published is not None and published < end:
                    raise flush_error(self._view.logs.of(epoch).path)
                return Found.PUBLISHED
            if state >= point and (not flush or header.synced >= end):
                return Found.PUBLISHED
            if header.log_failed or header.log_id != self._view.logs.log_id:
                return Found.BROKEN
            found = self._try_publish(epoch, end if flush else 0)
            if found is Found.LATE:
                left = deadline - time.monotonic()
                if left <= 0:
                    return found
                header.wait_for_publication(seen, min(left, RECHECK_S))
            elif found is not None:
                return found

    def _try_publish(self, epoch: int, synced_to: int) -> Found | None:
        """Publish everything appended; LATE if another process has the flush lock.

        None if there is a new epoch, or another log.
        """
        header, view = self._header, self._view
        locked = False
        try:
            locked = locks.try_lock_byte(self._lock_fd, locks.FLUSH)
            if not locked:
                return Found.LATE
            if header.flushing:
                return Found.BROKEN
            if header.log_id == view.logs.log_id and header.state >> 32 == epoch:
                self._gather()
                if self.publish_all(synced_to):
                    return Found.PUBLISHED
            return None
        finally:
            locks.fcntl_call(self._lock_fd, locks.SETLK, locks.FLUSH.unlocked)  # the first call
            if locked:
                header.announce()

    def _gather(self) -> None:
        """Wait for processes whose writes have just been published, and may write again.

        They would miss this flush by a moment, and wait for two.  As long as they keep coming, it
        waits for half a flush at most.  Where none comes, it is tried less and less often.
        """
        header = self._header
        if self._flush_s < GATHER_FLUSH_S_MIN:
            return
        now = header.arrivals
        own = header.arrivals_published - header.batch < self._arrival <= header.arrivals_published
        self._arrival = now
        expected = now + header.batch - own
        if expected == now:
            return
        if self._skip:
            self._skip -= 1
            return
        start = last = time.perf_counter()
        count = now
        while count < expected:
            time.sleep(GATHER_STEP_S)
            at = time.perf_counter()
            if header.arrivals > count:
                count, last = header.arrivals, at
            if at - last > self._flush_s / 8 or at - start > self._flush_s / 2:
                break
        self._misses = self._misses + 1 if count == now else 0
        self._skip = min(2**self._misses, GATHER_SKIP_MAX) if self._misses else 0

    def with_lock(self, work: Callable[[], T], deadline: float) -> T | None:
        """Run ``work`` holding the flush lock; None at the deadline.

        The lock is given back whatever raises, a signal handler at any moment included.
        """
        header = self._header
        try:
            while True:
                seen = header.sequence.value
                if locks.try_lock_byte(self._lock_fd, locks.FLUSH):
                    return work()
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                shelter.check()
                header.wait_for_publication(seen, min(left, RECHECK_S))
        finally:
            try:
                locks.fcntl_call(self._lock_fd, locks.SETLK, locks.FLUSH.unlocked)  # as above
            finally:
                header.announce()

    # -- flush lock held ------------------------------------------------------------------------

    def publish_all(self, synced_to: int = 0) -> bool:
        """Publish everything appended, with the flush that it needs; return whether it could.

        ``synced_to`` is up to where the log is to be on the disk in any case.  Raises OSError if
        the flush fails.
        """
        header = self._header
        if header.log_failed or header.flushing:
            return False
        arrivals = header.arrivals
        appended, state = header.appended, header.state
        if appended >> 32 != state >> 32:
            return False  # a process died while it began a new epoch
        if header.synced < max(synced_to, header.unsynced):
            header.flushing = 1  # an exception of a signal handler leaves it set
            start = time.perf_counter()
            try:
                self._view.logs.of(appended >> 32).sync()
            except OSError as exc:
                if not is_interrupt(exc):
                    header.log_failed = 1
                raise
            self._flush_s = time.perf_counter() - start
            self._counters.flushes += 1
            header.synced = appended & OFFSET_MAX
            header.flushing = 0
        if appended != state:
            header.batch = arrivals - header.arrivals_published
            header.arrivals_published = arrivals
            self._view.publish(appended)
        return True
