"""The writer lock: an exclusive ``flock`` on the log, with deadlines and fairness.

Rules: the kernel gives the lock back when its holder dies.  A waiter sleeps on a word of the
shared header, which every release changes, and looks again after 10 ms at the latest.  The last
holder lets a waiting process go first, once.  The lock counts only on the log that the header
names: one that has been replaced is opened anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from logstore.engine.header import LAST_HOLDER, LOG_ID, SharedHeader
from logstore.engine.log import Log

RECHECK_S = 0.01
FAIRNESS_S = 0.002


class WriterLock:
    """One process's side of the lock.  Used by one thread at a time."""

    def __init__(self, header: SharedHeader) -> None:
        self._header = header
        self._member = int.from_bytes(os.urandom(3), "little") | 1

    def acquire(self, log: Log, deadline: float, reopen: Callable[[], Log]) -> bool:
        """Take the lock of the current log; False at the deadline (``time.monotonic()``).

        ``reopen`` opens the log that has taken the place of ``log``.
        """
        header, member = self._header, self._member
        words = header.words
        self._let_others_go_first()
        while True:
            seen = header.releases.value
            if log.try_lock():
                if words[LOG_ID] == log.log_id:
                    break
                log.unlock()
                log = reopen()
                if words[LOG_ID] == log.log_id:
                    continue
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            header.wanted.value = member
            header.releases.wait(seen, min(left, RECHECK_S))
        if header.wanted.value == member:
            header.wanted.value = 0
        return True

    def _let_others_go_first(self) -> None:
        header = self._header
        wanted = header.wanted.value
        if wanted and wanted != self._member and header.words[LAST_HOLDER] == self._member:
            header.releases.wait(header.releases.value, FAIRNESS_S)
            if header.wanted.value == wanted:
                header.wanted.value = 0  # it may be dead: do not wait for it again

    def release(self, log: Log) -> None:
        """Give the lock back, if it is held, and wake a process that waits for it."""
        header = self._header
        header.words[LAST_HOLDER] = self._member
        log.unlock()
        header.releases.value += 1
        if header.wanted.value:
            header.releases.wake()
