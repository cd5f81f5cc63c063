"""The shared header: one page of memory that all processes of a store map.  See FORMAT.md.

Rules: only the holder of the writer lock changes the words, except the two that waiters raise
(``WAITERS``, ``WANTED``), the two counts on which they sleep (``SEQUENCE``, ``RELEASES``), and
those by which copies put compactions off (``HOLDS``).  The counts go up once the lock has been
given back, one of two counts at a time may be lost, and so who sleeps looks again after a while.
A word is 8 bytes, aligned, and read and written in one access.  ``STATE`` holds epoch and committed
offset together, so that one store publishes both.  Nothing in it survives a boot: whoever finds
itself alone with the store rebuilds it.

A thread may still be in a call while another closes the store: the words of a closed header are
zeros, or what such a thread has written, and no other process sees them.
"""

from __future__ import annotations

import os

from logstore._engine import durability, futex, system
from logstore._engine.sharedpage import SharedPage

SIZE = 4096
MAGIC = int.from_bytes(b"LSTRSHM1", "little")

# Indexes of 64-bit words.
W_MAGIC = 0
W_READY = 1  # 1 once a process alone with the store has rebuilt the header
W_BOOT = 2  # and 3: the boot in which that was
W_NONCE = 4  # random, new each time the header is rebuilt
STATE = 5  # epoch << 32 | committed offset
SYNCED = 6  # everything below this offset of the log is on the disk
INCARNATION = 7  # which file is the table: a vacuum adds one
TABLE_INODE = 8  # the inode of that file
LOG_ID = 9  # which file is the log
WRITING = 10  # nonzero while an append or a compaction is under way
LOG_FAILED = 11  # nonzero: the log must be replaced before the next append
HELD_BY_VACUUM = 12  # until when it puts compactions off, in ns of the monotonic clock, or 0
W_UUID = 13  # and 14: the store's UUID
LAST_HOLDER = 15  # the process that last released the writer lock
LAST_TIME = 16  # the time of the newest record, in microseconds: times only grow
HELD_BY_CHECK = 17  # as HELD_BY_VACUUM
HELD_BY_BACKUP = 18  # as HELD_BY_VACUUM; several at once share it
REPLACED = 19  # nonzero: the store's files were removed or replaced, its processes write no more
TABLE_TXN = 20  # the number of the table's newest transaction
HOLDS = (HELD_BY_VACUUM, HELD_BY_CHECK, HELD_BY_BACKUP)

# Indexes of 32-bit words, in cache lines of their own; processes sleep on three of them.
SEQUENCE = 64  # counts publications
WAITERS = 65  # nonzero: somebody sleeps on SEQUENCE
RELEASES = 80  # counts releases of the writer lock
WANTED = 81  # a process that waits for the writer lock


class SharedHeader:
    """The mapped header.

    ``words[i]`` and ``words32[i]`` read and write one word; on ``publications``, ``releases`` and
    ``wanted`` processes sleep.
    """

    def __init__(self, fd: int) -> None:
        """Map the header of an open ``-shm`` file.  Raises OSError if there is no space."""
        durability.allocate(fd, SIZE)
        self._page = SharedPage(fd, SIZE)
        view = memoryview(self._page.memory)
        self.words = view.cast("Q")
        self.words32 = view.cast("I")
        self.publications = futex.SharedWord(self._page.memory, 4 * SEQUENCE)
        self.releases = futex.SharedWord(self._page.memory, 4 * RELEASES)
        self.wanted = futex.SharedWord(self._page.memory, 4 * WANTED)

    def close(self) -> None:
        """Let go of the file; the words are zeros from now on."""
        self._page.detach()

    def begin_rebuild(self) -> None:
        """Declare the contents void: nobody may join until :meth:`end_rebuild`."""
        self.words[W_READY] = 0
        self.words[W_MAGIC] = 0
        for index in range(1, SIZE // 8):
            self.words[index] = 0
        self.words[W_NONCE] = int.from_bytes(os.urandom(8), "little") | 1

    def end_rebuild(self, uuid: bytes) -> None:
        """Let others join."""
        boot = system.boot_id()
        self.words[W_BOOT], self.words[W_BOOT + 1] = _halves(boot)
        self.words[W_UUID], self.words[W_UUID + 1] = _halves(uuid)
        self.words[W_MAGIC] = MAGIC
        self.words[W_READY] = 1

    def is_live(self) -> bool:
        """Whether this boot's processes have built the header and it may be trusted."""
        words = self.words
        return (
            words[W_READY] == 1
            and words[W_MAGIC] == MAGIC
            and (words[W_BOOT], words[W_BOOT + 1]) == _halves(system.boot_id())
        )

    @property
    def nonce(self) -> int:
        """Which life of the header this is."""
        return self.words[W_NONCE]

    @property
    def uuid(self) -> bytes:
        """Which store this is."""
        return b"".join(self.words[W_UUID + i].to_bytes(8, "little") for i in (0, 1))

    def publish(self, epoch: int, committed: int) -> None:
        """Make everything up to ``committed`` in ``epoch`` visible to all readers."""
        self.words[STATE] = epoch << 32 | committed

    def announce(self) -> None:
        """Wake whoever waits for publications.  Call it after releasing the writer lock."""
        self.count(SEQUENCE)
        if self.words32[WAITERS]:
            self.words32[WAITERS] = 0
            self.publications.wake()

    def wait_for_publication(self, seen: int, timeout_s: float) -> None:
        """Sleep until the sequence is no longer ``seen``, at most ``timeout_s``."""
        self.words32[WAITERS] = 1
        self.publications.wait(seen, timeout_s)

    def count(self, index: int) -> None:
        """Add one to a 32-bit word."""
        words = self.words32
        words[index] = words[index] + 1 & 0xFFFFFFFF


def _halves(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")
