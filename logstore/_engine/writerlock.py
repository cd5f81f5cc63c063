"""The writer lock, with deadlines and fairness.

Rules: the kernel releases the lock when its holder dies.  A waiter sleeps on a word of the shared
header, which every release changes, and tries again after at most 10 ms.  The last holder lets a
waiting process go first, once, for as long as it held the lock itself: on a busy machine that
process may wake up slowly, and if it misses its turn, it waits for another whole flush.
"""

from __future__ import annotations

import os
import time

from logstore._engine import locks, shelter
from logstore._engine.header import SharedHeader

RECHECK_S = 0.01
FAIRNESS_S_MIN, FAIRNESS_S_MAX = 0.002, 0.1


class WriterLock:
    """One process's side of the lock.  Used by one thread at a time."""

    def __init__(self, header: SharedHeader, lock_fd: int) -> None:
        self._header = header
        self._lock_fd = lock_fd
        self._member = int.from_bytes(os.urandom(3), "little") | 1
        self._taken_at = 0.0
        self._held_s = 0.0  # the last time

    def acquire(self, deadline: float) -> bool:
        """Take the lock; return False at the deadline (``time.monotonic()``)."""
        header, member = self._header, self._member
        if header.wanted.value:
            self._let_others_go_first(deadline)
        while True:
            seen = header.releases.value
            if locks.try_lock_byte(self._lock_fd, locks.WRITER):
                break
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
