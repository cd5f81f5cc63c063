"""The writer lock: an exclusive ``flock`` on the log, with deadlines and fairness.

Rules: the kernel releases the lock when its holder dies.  A waiter sleeps on a word of the shared
header, which every release changes, and tries again after at most 10 ms.  The last holder lets a
waiting process go first, once, for as long as it held the lock itself: on a busy machine that
process may wake up slowly, and if it misses its turn, it waits for another whole flush.  The lock
counts only on the log that the header names: a log that was replaced is opened again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from logstore._engine import shelter
from logstore._engine.header import SharedHeader
from logstore._engine.log import Log
from logstore.errors import LogstoreError

RECHECK_S = 0.01
FAIRNESS_S_MIN, FAIRNESS_S_MAX = 0.002, 0.1


class WriterLock:
    """One process's side of the lock.  Used by one thread at a time."""

    def __init__(self, header: SharedHeader) -> None:
        self._header = header
        self._member = int.from_bytes(os.urandom(3), "little") | 1
        self._taken_at = 0.0
        self._held_s = 0.0  # the last time

    def acquire(self, log: Log, deadline: float, reopen: Callable[[], Log]) -> bool:
        """Take the lock of the current log; return False at the deadline (``time.monotonic()``).

        ``reopen`` opens the log that has replaced ``log``.
        """
        header, member = self._header, self._member
        if header.wanted.value:
            self._let_others_go_first(deadline)
        while True:
            seen = header.releases.value
            if log.try_lock():
                if self._is_current(log):
                    break
                log.unlock()
                log = reopen()
                if self._is_current(log):
                    continue
            left = deadline - time.monotonic()
            if left <= 0:
                if header.wanted.value == member:
                    header.wanted.value = 0
                return False
            shelter.check()
            header.wanted.value = member
            header.releases.wait(seen, min(left, RECHECK_S))
        if header.wanted.value == member:
            header.wanted.value = 0
            header.wanted.wake()
        self._taken_at = time.monotonic()
        return True

    def _is_current(self, log: Log) -> bool:
        """Return whether the lock on a log counts.

        It does if the header names the log.  But once the next log is at the path, its lock
        counts, also if the process that put it there has died before the header named it.
        """
        header = self._header
        named, following = header.log_id, header.next_log
        if named == following:
            return log.log_id == named
        if log.log_id == following:
            header.log_id = following  # before a recovery names another one
            return True
        return log.log_id == named and not _is_at_path(log, following)

    def _let_others_go_first(self, deadline: float) -> None:
        header = self._header
        wanted = header.wanted.value
        if wanted and wanted != self._member and header.last_holder == self._member:
            patience_s = min(max(FAIRNESS_S_MIN, self._held_s), FAIRNESS_S_MAX)
            header.wanted.wait(wanted, max(0.0, min(patience_s, deadline - time.monotonic())))
            if header.wanted.value == wanted:
                header.wanted.value = 0  # it may be dead: no other wait for it

    def about_to_release(self) -> None:
        """Record who held the lock and how long; call this while the lock is held."""
        self._header.last_holder = self._member
        self._held_s = time.monotonic() - self._taken_at

    def released(self) -> None:
        """Wake a process that waits for the lock; call this when the lock has been released."""
        header = self._header
        header.releases.add_one()
        if header.wanted.value:
            header.releases.wake()


def _is_at_path(log: Log, log_id: int) -> bool:
    """Return whether the log with this id is at the path of a log."""
    try:
        at_path = Log.open(log.path, log.uuid)
    except (LogstoreError, OSError):
        return False
    at_path.close()
    return at_path.log_id == log_id
