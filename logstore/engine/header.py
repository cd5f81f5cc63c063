"""The shared header: one page of memory that all processes of a store map.  See FORMAT.md.

Rules: only the holder of the writer lock changes the words, except the two that waiters raise
(``WAITERS``, ``WANTED``).  A word is 8 bytes, aligned, and read and written in one access.
``STATE`` holds epoch and committed offset together, so that one store publishes both.  Nothing in
it survives a boot: whoever finds itself alone with the store rebuilds it.
"""

from __future__ import annotations

import mmap
import os

from logstore.engine import osdep

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
VACUUM = 12  # nonzero: a vacuum is copying, compactions are put off
W_UUID = 13  # and 14: the store's UUID
LAST_HOLDER = 15  # the process that last released the writer lock
LAST_TIME = 16  # the time of the newest record, in microseconds: times only grow

# Byte offsets of the 32-bit words that processes sleep on, each in a cache line of its own.
SEQUENCE_AT = 256  # counts publications
WAITERS_AT = 260
RELEASES_AT = 320  # counts releases of the writer lock
WANTED_AT = 324  # a process that waits for the writer lock


class SharedHeader:
    """The mapped header.  ``words[i]`` reads and writes one 64-bit word."""

    def __init__(self, fd: int) -> None:
        """Map the header of an open ``-shm`` file.  Raises OSError if there is no space."""
        osdep.allocate(fd, SIZE)
        self._map = mmap.mmap(fd, SIZE)
        self._view = memoryview(self._map)
        self.words = self._view.cast("Q")
        self.sequence = osdep.SharedWord(self._map, SEQUENCE_AT)
        self.waiters = osdep.SharedWord(self._map, WAITERS_AT)
        self.releases = osdep.SharedWord(self._map, RELEASES_AT)
        self.wanted = osdep.SharedWord(self._map, WANTED_AT)

    def begin_rebuild(self) -> None:
        """Declare the contents void: nobody may join until :meth:`end_rebuild`."""
        self.words[W_READY] = 0
        self.words[W_MAGIC] = 0
        for index in range(1, SIZE // 8):
            self.words[index] = 0
        self.words[W_NONCE] = int.from_bytes(os.urandom(8), "little") | 1

    def end_rebuild(self, uuid: bytes) -> None:
        """Let others join."""
        boot = osdep.boot_id()
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
            and (words[W_BOOT], words[W_BOOT + 1]) == _halves(osdep.boot_id())
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
        self.sequence.value += 1
        if self.waiters.value:
            self.waiters.value = 0
            self.sequence.wake()

    def wait_for_publication(self, seen: int, timeout_s: float) -> None:
        """Sleep until the sequence is no longer ``seen``, at most ``timeout_s``."""
        self.waiters.value = 1
        self.sequence.wait(seen, timeout_s)

    def close(self) -> None:
        """Unmap.  No word may be used afterwards."""
        for word in (self.sequence, self.waiters, self.releases, self.wanted):
            word.release()
        self.words.release()
        self._view.release()
        self._map.close()


def _halves(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")
