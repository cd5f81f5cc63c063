"""The shared header: a page of memory that all processes of a store map.  See FORMAT.md.

The states of a store, and what leads from one to the next:

    from         what happens                                 fields then                to
    -----------  -------------------------------------------  -------------------------  -----------
    void         opening.py: a process alone has recovered    ready 1                    idle
    idle         append.py: a group is written                writing 1                  writing
    writing      append.py: its frames are whole              appended (e, end),         appended
                                                              writing 0
    appended     publishing.py: what needs it is flushed      flushing 1, then           appended
                                                              synced end, flushing 0
    appended     publishing.py: readers are shown all of it   state (e, end)             idle
    appended     publishing.py: the flush has failed          log_failed 1               failed
    idle         identity.py: a log has been removed          log_failed 1               failed
    idle         LogView.seal: the log is full, the other     writing 1, sealed (e,      idle
                 one is free                                  end), state, appended
                                                              (e + 1, start), writing 0
    idle         Engine.fold: a compaction of both logs       writing 1                  folding
    failed       Engine.recover, before anything else         writing 1                  folding
    interrupted  Engine.recover, before anything else         writing 1                  folding
    folding      Engine.begin_epoch: the table is committed;  sealed 0, state, appended  idle
                 logs that have failed are replaced           (e + 1, 4096), flushing 0,
                                                              log_failed 0, writing 0
    idle         vacuum.py: the last round of a vacuum        writing 1                  exchanging
    exchanging   vacuum.py: the new table has the old name    incarnation + 1, then as   idle
                                                              from folding
    writing or   the process is killed, or an error leaves    as they were               interrupted
    flushing 1   open what is on the disk
    idle         identity.py: another file was removed or     replaced 1 or 2,           replaced
                 replaced; all data has been saved            state all ones
    idle         closing.py: the last process has folded      ready 0                    void

The holder of the writer lock appends, also while the log is being flushed; the holder of the flush
lock flushes and publishes; the holder of the fold lock writes the table.  A seal needs the first
two, all other steps but the first are of a process that has all.  So a process that gets the writer
lock and finds ``writing`` set knows that the holder before it is gone; the same with ``flushing``.

Beside all this, the holder of the fold lock folds a sealed log in any state but the last two: it
sets ``folding``, commits, and clears ``sealed``, which lets the log be used again, and
``folding``.  In any state a copy (copying.py) may put compactions off until a time of its own.

Rules: only the holder of a lock changes the fields, except for the times of copies, and
``waiters`` and ``wanted``, which waiting processes set.  The counts on which these sleep go up
after the lock has been released; of two increments at a time one may be lost, so a process that
sleeps looks again after a while.
A field is one aligned word, read and written in one access.  ``state`` has epoch and committed
offset together, so that one store publishes both.  Nothing in the header survives a boot: a process
that is alone with the store rebuilds it.

A thread may still be in a call while another closes the store: the fields of a closed header are
zeros, or values that such a thread has set, and no other process sees them.

Behind the header's page are the slots of the readers: see :mod:`logstore._engine.readers`.
"""

from __future__ import annotations

import ctypes
import os
from typing import Literal, TypeAlias, get_args

from logstore._engine import durability, futex, leases, readers, system
from logstore._engine.frames import OFFSET_MAX
from logstore._engine.leases import Leases
from logstore._engine.readers import Readers
from logstore._engine.sharedpage import SharedPage

SIZE = 4096
LEASES_AT = SIZE + readers.BYTES
FILE_BYTES = LEASES_AT + leases.BYTES
MAGIC = int.from_bytes(b"LSTRSHM3", "little")
FAILURES = range(24, 28)

Copy: TypeAlias = Literal["vacuum", "check", "backup"]
COPIES: tuple[Copy, ...] = get_args(Copy)

# Indexes of words of 4 bytes, in cache lines of their own; processes sleep on six of them.
SEQUENCE = 96  # counts publications
WAITERS = 97  # not 0: a process sleeps on SEQUENCE
RELEASES = 112  # counts releases of the writer lock
WANTED = 113  # a process that waits for the writer lock
FOLDS = 128  # counts releases of the fold lock
TAKES = 144  # counts releases of the take lock
READY_MESSAGES = 160  # counts messages that became ready


class _Fields(ctypes.Structure):
    """The words of 8 bytes, in their order; read and written by ctypes, which is fastest."""

    magic: int
    ready: int  # 1 once a process alone with the store has rebuilt the header
    boot_low: int  # the boot in which that was
    boot_high: int
    nonce: int  # random, new each time the header is rebuilt
    state: int  # epoch << 32 | committed offset
    synced: int  # everything below this offset of the log is on the disk
    incarnation: int  # which file is the table: a vacuum adds one
    table_inode: int  # the inode of that file
    log_id: int  # which files are the logs
    writing: int  # not 0 while an append or a compaction is under way
    log_failed: int  # not 0: the log must be replaced before the next append
    held_by_vacuum: int  # until when it puts compactions off, in ns of the monotonic clock
    uuid_low: int  # the store's UUID
    uuid_high: int
    last_holder: int  # the process that last released the writer lock
    last_time_us: int  # the time of the newest record: times only grow
    held_by_check: int
    held_by_backup: int
    replaced: int  # not 0: the store's files were removed or replaced, nothing is written
    table_txn: int  # the number of the table's newest transaction
    appended: int  # epoch << 32 | end of the last whole frame, published or not
    unsynced: int  # end of the last frame that is not to be published before a flush
    flushing: int  # not 0: a flush is under way, or its process has died within it
    failed_1: int  # states whose flush has failed
    failed_2: int
    failed_3: int
    failed_4: int
    arrivals: int  # counts groups that were appended
    arrivals_published: int  # how many of them were there when it was published last
    batch: int  # how many were published then
    sealed: int  # the last state of the epoch before, until it is in the table; 0 if it is
    folding: int  # not 0 while it is being folded into the table


FIELDS = tuple(_Fields.__annotations__)
_Fields._fields_ = [(name, ctypes.c_uint64) for name in FIELDS]


class SharedHeader(_Fields):
    """The mapped header."""

    def __new__(cls, fd: int) -> SharedHeader:
        """Map the header of an open ``-shm`` file.  Raises OSError if there is no space."""
        durability.allocate(fd, FILE_BYTES)
        page = SharedPage(fd, FILE_BYTES)
        header = cls.from_buffer(page.memory)
        header._page = page
        return header

    def __init__(self, fd: int) -> None:
        memory = self._page.memory
        self.words = memoryview(memory)[:SIZE].cast("Q")  # the fields by their indexes
        self.readers = Readers(fd, memoryview(memory)[SIZE:LEASES_AT])
        self.leases = Leases(fd, memoryview(memory)[LEASES_AT:FILE_BYTES])
        self.sequence = futex.SharedWord(memory, 4 * SEQUENCE)
        self.waiters = futex.SharedWord(memory, 4 * WAITERS)
        self.releases = futex.SharedWord(memory, 4 * RELEASES)
        self.wanted = futex.SharedWord(memory, 4 * WANTED)
        self.folds = futex.SharedWord(memory, 4 * FOLDS)
        self.takes = futex.SharedWord(memory, 4 * TAKES)
        self.ready_messages = futex.SharedWord(memory, 4 * READY_MESSAGES)

    _page: SharedPage

    def close(self) -> None:
        """Unmap the file; the fields are zeros from now on."""
        self._page.detach()

    def begin_rebuild(self) -> None:
        """Declare the contents void: no process joins until :meth:`end_rebuild`."""
        self.ready = 0
        self.magic = 0
        for index in range(1, SIZE // 8):
            self.words[index] = 0
        self.readers.clear()
        self.leases.clear()
        self.nonce = int.from_bytes(os.urandom(8), "little") | 1

    def end_rebuild(self, uuid: bytes) -> None:
        """Let others join."""
        self.boot_low, self.boot_high = _halves(system.boot_id())
        self.uuid_low, self.uuid_high = _halves(uuid)
        self.magic = MAGIC
        self.ready = 1

    def is_live(self) -> bool:
        """Return whether processes of this boot have built the header, so that it is trusted."""
        return (
            self.ready == 1
            and self.magic == MAGIC
            and (self.boot_low, self.boot_high) == _halves(system.boot_id())
        )

    @property
    def uuid(self) -> bytes:
        """The UUID of the store."""
        return self.uuid_low.to_bytes(8, "little") + self.uuid_high.to_bytes(8, "little")

    @property
    def epoch(self) -> int:
        """The epoch in ``state``."""
        return self.state >> 32

    @property
    def committed(self) -> int:
        """The committed offset in ``state``."""
        return self.state & OFFSET_MAX

    def begin_epoch(self, epoch: int, synced: int, end: int) -> None:
        """Publish that an epoch begins, with frames up to ``end``; locks held, or alone.

        ``appended`` comes last: one of another epoch than ``state`` says that nothing is appended.
        """
        self.synced = self.unsynced = synced
        self.arrivals_published, self.batch = self.arrivals, 0
        self.state = epoch << 32 | end
        self.appended = epoch << 32 | end

    def add_failure(self) -> None:
        """Note that what is behind the committed offset of this epoch is never published."""
        if all(self.words[index] != self.state for index in FAILURES):
            self.words[min(FAILURES, key=self.words.__getitem__)] = self.state

    def published_before(self, epoch: int) -> int | None:
        """Return up to where an epoch that is over was published.

        None if all of it was: no flush of it has failed.  0 if so many have failed since that it
        is not known.
        """
        failed = [self.words[index] for index in FAILURES]
        for state in failed:
            if state >> 32 == epoch:
                return state & OFFSET_MAX
        return 0 if min(failed) >> 32 > epoch else None

    def announce(self) -> None:
        """Wake the waiters for publications.  Call it after releasing the flush lock."""
        self.sequence.add_one()
        if self.waiters.value:
            self.waiters.value = 0
            self.sequence.wake()

    def wait_for_publication(self, seen: int, timeout_s: float) -> None:
        """Sleep until the sequence is no longer ``seen``, at most ``timeout_s``."""
        self.waiters.value = 1
        self.sequence.wait(seen, timeout_s)

    def held_until_ns(self, by: Copy) -> int:
        """Return until when a kind of copy puts compactions off, 0 if it does not."""
        return int(getattr(self, f"held_by_{by}"))

    def hold_until(self, by: Copy, until_ns: int) -> None:
        """Put compactions off for a kind of copy, 0 for no longer."""
        setattr(self, f"held_by_{by}", until_ns)


def split(state: int) -> tuple[int, int]:
    """Return the epoch and the committed offset that a value of ``state`` has."""
    return state >> 32, state & OFFSET_MAX


def _halves(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")
