"""The fold lock: its holder writes the table.

Rules: of one process's threads the holder has a lock in memory, of all processes a lock on a byte
of the ``-shm`` file, which the kernel releases when its holder dies.  A holder never waits for the
writer lock or the flush lock.  Waiters sleep on a word of the shared header, which every release
changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from logstore._engine import locks, shelter
from logstore._engine.futex import SharedWord
from logstore._engine.header import SharedHeader

T = TypeVar("T")

RECHECK_S = 0.01


class FoldLock:
    """One process's side of the lock.  Safe to use from any thread."""

    def __init__(
        self,
        header: SharedHeader,
        lock_fd: int,
        byte: locks.ByteLock = locks.FOLD,
        word: SharedWord | None = None,
    ) -> None:
        self._byte = byte
        self._word = header.folds if word is None else word
        self._lock_fd = lock_fd
        self._thread_lock = threading.RLock()

    def hold(self, work: Callable[[], T], deadline: float) -> tuple[T] | None:
        """Run ``work`` holding the lock and return its value in a tuple; None at the deadline.

        The lock is given back whatever raises, a signal handler at any moment included.
        """
        lock = self._thread_lock
        try:
            if not shelter.acquire(lock, max(0.0, deadline - time.monotonic())):
                return None
            return self._hold(work, deadline)
        finally:
            try:
                lock.release()  # the first call, so that no signal handler comes before it
            except RuntimeError:
                pass  # not held: the wait for it was interrupted, or too long

    def _hold(self, work: Callable[[], T], deadline: float) -> tuple[T] | None:
        word = self._word
        try:
            while True:
                seen = word.value
                if locks.try_lock_byte(self._lock_fd, self._byte):
                    return (work(),)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                shelter.check()
                word.wait(seen, min(left, RECHECK_S))
        finally:
            try:
                locks.fcntl_call(self._lock_fd, locks.SETLK, self._byte.unlocked)  # the first call
            finally:
                word.add_one()
                word.wake()
