"""Counting the readers of a table in shared memory, in the place of LMDB's lock file.

LMDB's lock file knows processes by their ids, which are the same in two containers, and loses its
locks when a process closes any descriptor of it.  So LMDB is opened without it, and two things that
it does for LMDB are done here:

- A page is not used again while somebody may read it.  LMDB then takes pages for transaction T that
  transactions up to T - 2 have freed; these pages were last part of snapshot T - 3.  A reader shows
  its snapshot in a *slot*, a word of the ``-shm`` file.  A fold waits until no reader is in a
  snapshot older than the newest, T - 1.  That is one more than is needed, so it does not matter
  that a processor may show a store to the others a little later.
- No reader goes by half a meta page, or by one that is not on the disk yet.  A *sequence* is odd
  during a commit.  A reader looks at it before and after it begins, and begins again if it has
  changed.  While it is odd, the snapshot of the commit before may be read.  If the reader has got
  the one that is being committed, it begins a second time after META_S: the meta page is written
  in one system call that no signal cuts short, in less time than that.  If the commit has
  something *new*, which the log does not have, the reader waits for the end of the commit before
  that; if it takes too long, it puts the table on the disk itself.  So a process that is stopped or
  killed in a commit stops no reader.

Rules: one fold at a time, under the fold lock.  Each open table of a process has a slot, which is
set before a transaction begins and cleared after it has ended.  A lock on one byte, far behind the
end of the ``-shm`` file, shows that the slot is in use.  When a process has died, the kernel has
freed the lock, and any process may clear the slot.  A fold changes nothing while it waits, and
holds no lock that a fork needs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from logstore._engine import locks, shelter
from logstore.errors import StoreBusyError, WriteTimeoutError

BYTES = 1 << 15
_WORD, _WORD_MAX = 8, (1 << 64) - 1
_LINE = 64  # bytes; a line of the processor's cache belongs to one processor at a time
_IN_LINE = _LINE // _WORD
_LINES = BYTES // _LINE - 1  # the first one has the sequence
SLOTS = _LINES * _IN_LINE
# Indexes of words: the sequence, the newest snapshot that is on the disk, and whether there is
# something new in the next one, while it is being committed.
SEQUENCE, NEWEST, HAS_NEW = range(3)

LOCKS_AT = 1 << 40  # the offset of the byte that is locked for word 0

# The parts of a slot: which table (0: no reader), and a number not above the reader's snapshot.
_SNAPSHOT_BITS = 48
_SNAPSHOT_MAX = (1 << _SNAPSHOT_BITS) - 1
_TABLES = (1 << 16) - 2
ANY_TABLE = (_TABLES + 1) << _SNAPSHOT_BITS  # a table that is being opened

WAIT_S = 0.01  # how long a fold that may be put off waits for readers
POLL_S = 0.0001
META_S = 0.001  # longer than the system call that writes a meta page
COMMIT_S = 0.1  # how long a reader waits for the end of a commit


class OldReadersError(WriteTimeoutError):
    """A process has been in a read for so long that a fold cannot begin."""


class Readers:
    """The slots of a store, as one process sees them."""

    def __init__(self, fd: int, memory: memoryview) -> None:
        """Use the slots in ``memory``, whose locks are on the open file ``fd``; -1: no locks."""
        self.words = memory.cast("Q")
        self._fd = fd
        self._mine: set[int] = set()
        self._lock = threading.Lock()  # of ``_mine``: one's own lock looks like that of a dead one

    @classmethod
    def private(cls) -> Readers:
        """Return the readers of a table that only this process has open."""
        return cls(-1, memoryview(bytearray(2 * _LINE)))

    def clear(self) -> None:
        """Set all words to 0; only for a process that is alone with the store."""
        self.words[:] = memoryview(bytes(self.words.nbytes)).cast("Q")

    # -- slots ----------------------------------------------------------------------------------

    def claim(self, path: str) -> int:
        """Return the index of a slot for an open table.  Raises StoreBusyError if none is free."""
        with self._lock:
            for index in _in_order(len(self.words)):
                if index not in self._mine and self._try_lock(index):
                    self.words[index] = 0  # of a process that died
                    self._mine.add(index)
                    return index
        raise StoreBusyError(
            f"{path}: open in {SLOTS} processes, which are as many as can have it open at once"
        )

    def release(self, index: int) -> None:
        """Give a slot back."""
        with self._lock:
            self.words[index] = 0
            self._mine.discard(index)
            self._unlock(index)

    def _try_lock(self, index: int) -> bool:
        return self._fd < 0 or locks.try_lock_byte(self._fd, _lock_of(index))

    def _unlock(self, index: int) -> None:
        if self._fd >= 0:
            locks.unlock_byte(self._fd, _lock_of(index))

    def _clear_if_dead(self, index: int) -> bool:
        """Clear a slot if its process has died; return whether it had."""
        with self._lock:
            if index in self._mine or not self._try_lock(index):
                return False
            self.words[index] = 0
            self._unlock(index)
            return True

    # -- readers --------------------------------------------------------------------------------

    def snapshots(self, table: int) -> list[int]:
        """Return the snapshots in which living processes read a table."""
        found = []
        for index in self._occupied():
            word = self.words[index]
            if word & ~_SNAPSHOT_MAX == table and not self._clear_if_dead(index):
                found.append(word & _SNAPSHOT_MAX)
        return found

    def wait_for_old(self, path: str, table: int, newest: int, timeout_s: float) -> None:
        """Wait until no reader of a table is in a snapshot before ``newest``; fold lock held.

        Readers that begin meanwhile are not.  Raises OldReadersError after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        left: Iterable[int] = self._occupied()
        while True:
            left = [
                index
                for index in left
                if _is_older(self.words[index], table, newest) and not self._clear_if_dead(index)
            ]
            if not left:
                return
            if time.monotonic() >= deadline:
                raise OldReadersError(
                    f"{path}: no compaction for {timeout_s} s, because a process does not end its "
                    f"read; look for a stopped process that has the store open"
                )
            shelter.check()
            time.sleep(POLL_S)

    def _occupied(self) -> list[int]:
        words = self.words.tolist()
        return [index for index in range(_IN_LINE, len(words)) if words[index]]

    # -- commits --------------------------------------------------------------------------------

    def is_cut_short(self) -> bool:
        """Return whether the last commit had no end; fold lock held."""
        return bool(self.words[SEQUENCE] & 1)

    def begin_commit(self, newest: int, *, has_new: bool) -> None:
        """Make the sequence odd, and another than before also if a process died in a commit.

        Everything up to the snapshot ``newest`` is on the disk.
        """
        words = self.words
        words[NEWEST] = newest
        words[HAS_NEW] = has_new
        words[SEQUENCE] = (words[SEQUENCE] + 1 | 1) & _WORD_MAX

    def end_commit(self) -> None:
        """Make it even."""
        self.words[SEQUENCE] = self.words[SEQUENCE] + 1 & _WORD_MAX

    def wait_for_commit(self, sequence: int) -> bool:
        """Wait for the end of a commit; return False if it takes too long."""
        deadline = time.monotonic() + COMMIT_S
        while self.words[SEQUENCE] == sequence:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True


def table_of(incarnation: int) -> int:
    """Return the part of a slot that says which table is read."""
    return (incarnation % _TABLES + 1) << _SNAPSHOT_BITS


def _lock_of(index: int) -> locks.ByteLock:
    return locks.ByteLock(LOCKS_AT + index)


def _is_older(word: int, table: int, newest: int) -> bool:
    """Return whether a slot shows a reader of a table in a snapshot before ``newest``."""
    return word & ~_SNAPSHOT_MAX in (table, ANY_TABLE) and word & _SNAPSHOT_MAX < newest


def _in_order(count: int) -> Iterable[int]:
    """Yield the indexes of all slots, first one in each line: the processes do not share these."""
    for begin in range(_IN_LINE, 2 * _IN_LINE):
        yield from range(begin, count, _IN_LINE)
