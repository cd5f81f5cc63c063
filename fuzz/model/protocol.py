"""The log's protocol between processes, as steps over one small state.

A step reads or stores at most one word that another process may change at that moment, so that a
kill and every other process come between any two of them.  A state is a row of small numbers: the
words of the shared header, then the truth (what the files hold, what the disk holds, what clients
have been told), then a block for each process.  Steps change a state in place and return where the
process goes next; a step that has to wait returns WAIT.

Offsets count frames.  There are two arenas, the logs of the even and of the odd epochs.  An epoch
that begins by a seal has a START as its first frame, which says where the sealed one ends; one that
begins by a fold of everything has none.  A flush puts on the disk what had been written when it
began; one that fails takes its pages for clean, so that no later flush writes them.  A commit of
the table is visible before it is on the disk.

What is not here: threads, time-outs (a process that holds a lock goes on or dies), the hold of
copies, a log that is removed, and LMDB's own transactions, which are in ``slots.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, auto
from itertools import combinations
from typing import ClassVar, NamedTuple

from fuzz.model.search import OP, PC, WAIT, Model, State, Violation

# Kinds of operations.  The first make a frame; POP and EXPIRE only if they find the key.
SET, PROGRESS, POP, EXPIRE, FLUSH, SEAL, READ, TICK, FOLD, VACUUM, LARGE = range(1, 12)
KIND_NAMES = (
    "", "set", "progress", "pop", "expire", "flush", "seal", "read", "tick", "fold", "vacuum",
    "large",
)  # fmt: skip
FRAMED = (SET, PROGRESS, POP, EXPIRE)
OF_KEY = (SET, POP, EXPIRE)
START = 15  # a frame's kind, in place of an operation's

SLOTS = 5  # frames in an arena
# fmt: off
(
    # the shared header
    EPOCH, COMMITTED, APPENDED_EPOCH, APPENDED, SYNCED, NEEDS_SYNC, WRITING, LOG_FAILED, FLUSHING,
    LOG_ID, FAIL_EPOCH, FAIL_END, INCARNATION, SEALED, SEALED_END,
    # the logs at the paths; whether a part of a frame follows the open arena's frames
    PATH_LOG, PART,
    # the tables: which one is at the path, which one the directory on the disk names; the epoch
    # and the key's newest operation in each, as processes see it and on the disk
    PATH_TABLE, NAMED_TABLE, EPOCH_0, EPOCH_1, KEY_0, KEY_1,
    DISK_EPOCH_0, DISK_EPOCH_1, DISK_KEY_0, DISK_KEY_1,
    # faults that may still come
    KILLS, KILLED, FLUSH_FAULTS, WRITE_FAULTS, CUTS,
    # how many values the key has had, and the newest that a read has returned
    VERSION, SEEN_VERSION,
    # sets of operations, one bit each: in the tables; seen by readers, acked, said to be on the
    # disk, told to have failed
    IN_0, IN_1, DISK_IN_0, DISK_IN_1, SHOWN, ACKED, FLUSHED, FAILED,
    VERSIONS,  # of the operations
) = range(43)
OPERATIONS = 8
ARENAS = VERSIONS + OPERATIONS
# An arena: frames (kind * 16 + number), their epochs, which are on the disk, which a failed flush
# has left behind.
EPOCHS, ON_DISK, LEFT, ARENA = SLOTS, 2 * SLOTS, 2 * SLOTS + 1, 2 * SLOTS + 2
FIRST = ARENAS + 2 * ARENA  # the first process

(KIND, MINE, END, TARGET, LOG, TABLE, WOKEN, OUTCOME, WRITER_LOCK, FLUSH_LOCK, FOLD_LOCK,
 FLOOR, VIEW_EPOCH, VIEW_END, VIEW_SEALED, VIEW_SEALED_END, IN_OPEN, IN_SEALED,
 DEPENDS, EXPECTED, NUMBER) = range(2, 23)
# fmt: on
WIDTH = 23
KEPT = (LOG, TABLE, VIEW_EPOCH, VIEW_END, VIEW_SEALED, VIEW_SEALED_END, IN_OPEN, IN_SEALED)
MASKS = slice(IN_0, VERSIONS)
KEYS = (KEY_0, KEY_1, DISK_KEY_0, DISK_KEY_1)
INITIAL = OPERATIONS + 1  # a key's newest operation: the number + 1, 0 if there was none

LOST, BROKEN, AGAIN, DONE_LARGE = 1, 2, 3, 4  # outcomes


class At(IntEnum):
    """Where a process is: the method of this name is its next step."""

    START = 0
    DONE = 1
    DEAD = 2
    LOCK = auto()
    CHECK = auto()
    RESOLVE = auto()
    WRITE = auto()
    NEED = auto()
    APPEND = auto()
    UNLOCK = auto()
    LOOK = auto()
    LOOK_SYNCED = auto()
    LOOK_FAILURES = auto()
    TRY_FLUSH_LOCK = auto()
    SLEEP = auto()
    FLUSH_LOCKED = auto()
    LOOK_NEEDS = auto()
    MARK_FLUSHING = auto()
    FLUSH_LOG = auto()
    FAIL = auto()
    STORE_SYNCED = auto()
    UNMARK_FLUSHING = auto()
    PUBLISH = auto()
    RELEASE_FLUSH = auto()
    RELEASE_AND_RECOVER = auto()
    FLUSH_LOCK_TOO = auto()
    SEAL_READY = auto()
    SEAL_MARK = auto()
    SEAL_START = auto()
    SEAL_SYNCED = auto()
    SEAL_NEEDS = auto()
    SEAL_WORD = auto()
    SEAL_STATE = auto()
    SEAL_APPENDED = auto()
    SEAL_DONE = auto()
    FOLD_LOCK_TOO = auto()
    ALL_LOCKED = auto()
    NOTE_FAILURE = auto()
    MARK_WRITING = auto()
    COMMIT = auto()
    SYNC_TABLE = auto()
    CLEAR_SEALED = auto()
    RESET_SYNCED = auto()
    RESET_NEEDS = auto()
    NEW_EPOCH = auto()
    RESET_APPENDED = auto()
    RESET_FLUSHING = auto()
    RENAME_LOG = auto()
    STORE_LOG_ID = auto()
    LOG_GOOD = auto()
    RENAME_TABLE = auto()
    SYNC_DIRECTORY = auto()
    STORE_INCARNATION = auto()
    CLEAR_WRITING = auto()
    RELEASE_ALL = auto()
    TRY_FOLD = auto()
    SLEEP_FOLD = auto()
    FOLD_LOCKED = auto()
    FOLD_COMMIT = auto()
    FOLD_SYNC = auto()
    FOLD_DONE = auto()
    RELEASE_FOLD = auto()
    READ_VIEW = auto()
    READ_VIEW_SEALED = auto()
    READ_INCARNATION = auto()
    READ_STATE = auto()
    READ_SAME_TABLE = auto()
    READ_SEALED = auto()
    READ_OPEN_LOG = auto()
    READ_SEALED_LOG = auto()
    READ_TABLE = auto()
    READ_WRITING = auto()
    READ_RECHECK = auto()
    REOPEN = auto()
    TELL = auto()


class Config(NamedTuple):
    """What is explored: a program of operations for each process, and how many faults."""

    name: str
    programs: tuple[tuple[int, ...], ...]
    key: bool = False  # whether the table has the key at first
    kills: int = 0
    flush_faults: int = 0
    write_faults: int = 0
    cuts: int = 0  # how often the machine may lose its power, and go on


class Protocol(Model):
    """The steps, for the processes of one configuration."""

    steps: ClassVar = {int(at): at.name.lower() for at in At if at not in (At.DONE, At.DEAD)}
    others: ClassVar = {
        At.WRITE: ("write_fails", WRITE_FAULTS),
        At.SEAL_START: ("seal_start_fails", WRITE_FAULTS),
        At.FLUSH_LOG: ("flush_log_fails", FLUSH_FAULTS),
        At.FOLD_COMMIT: ("fold_fails", WRITE_FAULTS),
    }
    first, width, kills = FIRST, WIDTH, KILLS

    def __init__(self, config: Config) -> None:
        super().__init__(config.programs)
        self.config = config
        self.kinds: list[int] = []  # of the operations, by number
        for program in config.programs:
            self.kinds += program
        self.needs_flush = sum((k in (SET, POP, LARGE)) << n for n, k in enumerate(self.kinds))
        self._twins = list(_twins(config))
        self.has_twins = bool(self._twins)

    def initial(self) -> bytes:
        """Two empty logs beside a table."""
        s = bytearray(FIRST + WIDTH * len(self.bases))
        s[EPOCH] = s[APPENDED_EPOCH] = s[EPOCH_0] = s[DISK_EPOCH_0] = 1
        if self.config.key:
            s[KEY_0] = s[DISK_KEY_0] = INITIAL
        s[KILLS], s[FLUSH_FAULTS] = self.config.kills, self.config.flush_faults
        s[WRITE_FAULTS], s[CUTS] = self.config.write_faults, self.config.cuts
        return bytes(s)

    def _number(self, process: int, index: int) -> int:
        return sum(map(len, self.programs[:process])) + index

    # -- a write, under the writer lock -------------------------------------------------------

    def start(self, s: State, b: int) -> int:
        process = (b - FIRST) // WIDTH
        program = self.programs[process]
        if s[b + OP] == len(program):
            return At.DONE
        s[b + KIND] = kind = program[s[b + OP]]
        s[b + NUMBER] = self._number(process, s[b + OP])
        if kind == FLUSH:
            s[b + MINE], s[b + END] = s[APPENDED_EPOCH], s[APPENDED]
            s[b + DEPENDS] = s[SHOWN]
            return At.LOOK
        if kind == READ:
            s[b + FLOOR] = s[SEEN_VERSION]
            return At.READ_VIEW
        if kind == TICK or (kind == SEAL and s[SEALED]):
            return At.TRY_FOLD
        if kind == EXPIRE:
            s[b + EXPECTED] = self.newest(s, s[COMMITTED], s[INCARNATION])
        return At.LOCK

    def lock(self, s: State, b: int) -> int:
        if self._held(s, WRITER_LOCK):
            return WAIT
        s[b + WRITER_LOCK] = 1
        return At.CHECK

    def check(self, s: State, b: int) -> int:
        if s[b + LOG] != s[LOG_ID]:
            s[b + LOG] = s[PATH_LOG]
        if s[INCARNATION] != s[PATH_TABLE]:
            return At.SYNC_DIRECTORY  # a vacuum has died behind its rename
        s[b + TABLE] = s[PATH_TABLE]
        if s[b + KIND] not in FRAMED or s[b + MINE] or s[WRITING] or s[LOG_FAILED]:
            return At.FLUSH_LOCK_TOO
        return At.RESOLVE

    def resolve(self, s: State, b: int) -> int:
        s[b + MINE], s[b + END] = s[EPOCH], s[APPENDED]
        if s[b + KIND] in (POP, EXPIRE):
            newest = self.newest(s, s[APPENDED], s[b + TABLE])
            if not self.is_there(newest) or s[b + EXPECTED] not in (0, newest):
                s[b + OUTCOME] = LOST
                s[b + DEPENDS] = s[IN_0 + s[b + TABLE]] | self.prefix(s, s[EPOCH], s[APPENDED])
                if s[SEALED]:
                    s[b + DEPENDS] |= self.prefix(s, s[SEALED], s[SEALED_END])
                return At.UNLOCK
        s[b + END] += 1
        s[WRITING] = 1
        return At.WRITE

    def write(self, s: State, b: int) -> int:
        self.put_frame(s, b)
        return At.NEED if self.needs_flush >> s[b + NUMBER] & 1 else At.APPEND

    def write_fails(self, s: State, b: int) -> int:
        self.tear(s, b)
        s[b + OUTCOME] = BROKEN
        return At.FLUSH_LOCK_TOO

    def need(self, s: State, b: int) -> int:
        s[NEEDS_SYNC] = s[b + END]
        return At.APPEND

    def append(self, s: State, b: int) -> int:
        s[APPENDED_EPOCH], s[APPENDED] = s[b + MINE], s[b + END]
        return At.UNLOCK

    def unlock(self, s: State, b: int) -> int:
        s[WRITING] = 0
        s[b + WRITER_LOCK] = 0
        return At.LOOK

    # -- making it public ---------------------------------------------------------------------

    def look(self, s: State, b: int) -> int:
        if s[EPOCH] != s[b + MINE]:
            return At.LOOK_FAILURES
        if s[b + KIND] == FLUSH:
            return At.LOOK_SYNCED
        return At.TELL if s[COMMITTED] >= s[b + END] else At.TRY_FLUSH_LOCK

    def look_synced(self, s: State, b: int) -> int:
        return At.TELL if s[SYNCED] >= s[b + END] else At.TRY_FLUSH_LOCK

    def look_failures(self, s: State, b: int) -> int:
        if s[b + KIND] != FLUSH:
            if s[FAIL_EPOCH] > s[b + MINE]:
                return self.finish(s, b)  # unknown: the ring has gone over it
            if s[FAIL_EPOCH] == s[b + MINE] and s[FAIL_END] < s[b + END]:
                s[b + OUTCOME] = BROKEN
        return At.TELL

    def try_flush_lock(self, s: State, b: int) -> int:
        s[b + WOKEN] = 0
        if self._held(s, FLUSH_LOCK):
            return At.SLEEP
        s[b + FLUSH_LOCK] = 1
        return At.FLUSH_LOCKED

    def sleep(self, s: State, b: int) -> int:
        # A time-out counts only where a killed process may have left sleepers behind.
        if s[b + WOKEN] or (s[KILLED] and not self._held(s, FLUSH_LOCK)):
            s[b + WOKEN] = 0
            return At.LOOK
        return WAIT

    def flush_locked(self, s: State, b: int) -> int:
        if s[LOG_ID] != s[b + LOG]:
            return At.REOPEN
        if s[EPOCH] != s[b + MINE]:
            return At.RELEASE_FLUSH
        if s[LOG_FAILED] or s[FLUSHING] or s[APPENDED_EPOCH] != s[EPOCH]:
            return At.RELEASE_AND_RECOVER
        s[b + TARGET] = s[APPENDED]
        return At.LOOK_NEEDS

    def look_needs(self, s: State, b: int) -> int:
        if s[NEEDS_SYNC] > s[SYNCED] or s[b + KIND] == FLUSH:
            return At.MARK_FLUSHING
        return At.PUBLISH

    def mark_flushing(self, s: State, b: int) -> int:
        s[FLUSHING] = 1
        return At.FLUSH_LOG

    def flush_log(self, s: State, b: int) -> int:
        if s[b + LOG] == s[PATH_LOG]:
            a = ARENAS + ARENA * (s[EPOCH] & 1)
            s[a + ON_DISK] = (1 << SLOTS) - 1 & ~s[a + LEFT]
        return At.STORE_SYNCED

    def flush_log_fails(self, s: State, b: int) -> int:
        if s[b + LOG] == s[PATH_LOG]:
            a = ARENAS + ARENA * (s[EPOCH] & 1)
            s[a + LEFT] |= self.written(s, a) & ~s[a + ON_DISK]
        return At.FAIL

    def fail(self, s: State, b: int) -> int:
        s[LOG_FAILED] = 1
        if not s[b + WRITER_LOCK]:
            return At.RELEASE_AND_RECOVER
        return self._settled(s, b) if s[b + FOLD_LOCK] else At.RELEASE_ALL

    def store_synced(self, s: State, b: int) -> int:
        s[SYNCED] = s[b + TARGET]
        return At.UNMARK_FLUSHING

    def unmark_flushing(self, s: State, b: int) -> int:
        s[FLUSHING] = 0
        return At.PUBLISH

    def publish(self, s: State, b: int) -> int:
        s[COMMITTED] = s[b + TARGET]
        self.show(s)
        if not s[b + WRITER_LOCK]:
            return At.RELEASE_FLUSH
        return self._settled(s, b) if s[b + FOLD_LOCK] else At.SEAL_MARK

    def reopen(self, s: State, b: int) -> int:
        self._wake(s, b)
        s[b + LOG] = s[PATH_LOG]
        return At.LOOK

    def release_flush(self, s: State, b: int) -> int:
        self._wake(s, b)
        return At.LOOK

    def release_and_recover(self, s: State, b: int) -> int:
        self._wake(s, b)
        return At.LOCK

    # -- a seal, under the writer and the flush lock ------------------------------------------

    def flush_lock_too(self, s: State, b: int) -> int:
        if self._held(s, FLUSH_LOCK):
            return WAIT
        s[b + FLUSH_LOCK] = 1
        return At.SEAL_READY if s[b + KIND] == SEAL else At.FOLD_LOCK_TOO

    def seal_ready(self, s: State, b: int) -> int:
        if s[SEALED] or self.must_recover(s) or not self.prefix(s, s[EPOCH], s[APPENDED]):
            return At.RELEASE_ALL
        s[b + TARGET] = s[APPENDED]
        if s[SYNCED] < s[APPENDED]:
            return At.MARK_FLUSHING
        return At.PUBLISH if s[COMMITTED] < s[APPENDED] else At.SEAL_MARK

    def seal_mark(self, s: State, b: int) -> int:
        s[WRITING] = 1
        return At.SEAL_START

    def seal_start(self, s: State, b: int) -> int:
        self.put_start(s, b, s[EPOCH] + 1, s[APPENDED])
        return At.SEAL_SYNCED

    def seal_start_fails(self, s: State, b: int) -> int:
        self.put_start(s, b, 0, 0)
        return At.RELEASE_ALL

    def seal_synced(self, s: State, b: int) -> int:
        s[SYNCED] = 0
        return At.SEAL_NEEDS

    def seal_needs(self, s: State, b: int) -> int:
        s[NEEDS_SYNC] = 0
        return At.SEAL_WORD

    def seal_word(self, s: State, b: int) -> int:
        s[SEALED], s[SEALED_END] = s[EPOCH], s[b + TARGET]
        return At.SEAL_STATE

    def seal_state(self, s: State, b: int) -> int:
        s[EPOCH], s[COMMITTED] = s[EPOCH] + 1, 1
        self.show(s)
        return At.SEAL_APPENDED

    def seal_appended(self, s: State, b: int) -> int:
        s[APPENDED_EPOCH], s[APPENDED] = s[EPOCH], 1
        return At.SEAL_DONE

    def seal_done(self, s: State, b: int) -> int:
        s[WRITING] = 0
        return At.RELEASE_ALL

    # -- fold, recovery and vacuum, under all locks -------------------------------------------

    def fold_lock_too(self, s: State, b: int) -> int:
        if self._held(s, FOLD_LOCK):
            return WAIT
        s[b + FOLD_LOCK] = 1
        return At.ALL_LOCKED

    def must_recover(self, s: Sequence[int]) -> bool:
        """Whether a process has died in a step, or a flush has failed."""
        return bool(s[WRITING] or s[LOG_FAILED] or s[FLUSHING] or s[APPENDED_EPOCH] != s[EPOCH])

    def all_locked(self, s: State, b: int) -> int:
        is_over = s[LOG_FAILED] or s[FLUSHING] or s[APPENDED_EPOCH] != s[EPOCH]
        if is_over or s[APPENDED] == s[COMMITTED]:
            return self._settled(s, b)
        s[b + TARGET] = s[APPENDED]
        return At.MARK_FLUSHING if s[NEEDS_SYNC] > s[SYNCED] else At.PUBLISH

    def _settled(self, s: State, b: int) -> int:
        """Go on when everything is published that can be: recover first, if that is needed."""
        if self.must_recover(s):
            if s[b + KIND] >= VACUUM:
                s[b + OUTCOME] = AGAIN
            return At.MARK_WRITING
        return At.MARK_WRITING if s[b + KIND] >= FOLD else At.RELEASE_ALL

    def mark_writing(self, s: State, b: int) -> int:
        s[WRITING] = 1
        return At.NOTE_FAILURE if s[LOG_FAILED] else At.COMMIT

    def note_failure(self, s: State, b: int) -> int:
        if s[EPOCH_0 + s[b + TABLE]] <= s[EPOCH]:
            s[FAIL_EPOCH], s[FAIL_END] = s[EPOCH], s[COMMITTED]
        return At.COMMIT

    def commit(self, s: State, b: int) -> int:
        table, epoch = s[b + TABLE], s[EPOCH_0 + s[b + TABLE]]
        is_whole = not s[LOG_FAILED] and s[APPENDED_EPOCH] == s[EPOCH]
        end = s[APPENDED] if is_whole else s[COMMITTED]
        if s[b + KIND] == VACUUM and s[SEALED]:
            s[b + OUTCOME] = AGAIN  # so that its copy begins with empty logs
        if s[b + KIND] == VACUUM and not s[b + OUTCOME]:
            table, old = 1 - table, table
            for first in (EPOCH_0, KEY_0, IN_0):
                s[first + table] = s[first + old]
        # Whether readers may find the key in an overlay.
        is_covered = s[SEALED] > 0 and self.newest_in(s, s[SEALED], s[SEALED_END]) > 0
        if epoch <= s[EPOCH]:
            if s[SEALED] and epoch == s[SEALED] < s[EPOCH]:
                self.fold(s, table, s[SEALED], s[SEALED_END])
            is_covered = self.fold(s, table, s[EPOCH], end) or is_covered
        s[EPOCH_0 + table] = max(epoch, s[EPOCH]) + 1
        if s[b + KIND] == LARGE and not s[b + OUTCOME]:
            self.put_large(s, b, table, is_covered)
        if table != s[b + TABLE]:
            self.sync(s, table)
            return At.RENAME_TABLE
        return At.SYNC_TABLE

    def put_large(self, s: State, b: int, table: int, is_covered: bool) -> None:
        """Put a large record into the table, unless readers would find an older one before it."""
        if is_covered:
            s[b + OUTCOME] = AGAIN
            return
        number = s[b + NUMBER]
        s[VERSION] += 1
        s[VERSIONS + number] = s[VERSION]
        s[IN_0 + table] |= 1 << number
        s[KEY_0 + table] = number + 1
        s[b + OUTCOME] = DONE_LARGE

    def sync_table(self, s: State, b: int) -> int:
        self.sync(s, s[b + TABLE])
        self.show(s)
        return At.CLEAR_SEALED

    def rename_table(self, s: State, b: int) -> int:
        s[PATH_TABLE] = 1 - s[PATH_TABLE]
        return At.SYNC_DIRECTORY

    def sync_directory(self, s: State, b: int) -> int:
        s[NAMED_TABLE] = s[PATH_TABLE]
        return At.STORE_INCARNATION

    def store_incarnation(self, s: State, b: int) -> int:
        s[INCARNATION] = s[b + TABLE] = s[PATH_TABLE]
        self.show(s)
        return At.CLEAR_SEALED if s[b + FOLD_LOCK] else At.CHECK

    def clear_sealed(self, s: State, b: int) -> int:
        s[SEALED] = s[SEALED_END] = 0
        return At.RESET_SYNCED

    def reset_synced(self, s: State, b: int) -> int:
        s[SYNCED] = 0
        return At.RESET_NEEDS

    def reset_needs(self, s: State, b: int) -> int:
        s[NEEDS_SYNC] = 0
        return At.NEW_EPOCH

    def new_epoch(self, s: State, b: int) -> int:
        s[EPOCH], s[COMMITTED] = s[EPOCH_0 + s[b + TABLE]], 0
        s[PART] = 0
        self.show(s)
        return At.RESET_APPENDED

    def reset_appended(self, s: State, b: int) -> int:
        s[APPENDED_EPOCH], s[APPENDED] = s[EPOCH], 0
        return At.RESET_FLUSHING

    def reset_flushing(self, s: State, b: int) -> int:
        s[FLUSHING] = 0
        return At.RENAME_LOG if s[LOG_FAILED] else At.CLEAR_WRITING

    def rename_log(self, s: State, b: int) -> int:
        for i in range(ARENAS, FIRST):
            s[i] = 0
        s[PATH_LOG] += 1
        return At.STORE_LOG_ID

    def store_log_id(self, s: State, b: int) -> int:
        s[LOG_ID] = s[b + LOG] = s[PATH_LOG]
        return At.LOG_GOOD

    def log_good(self, s: State, b: int) -> int:
        s[LOG_FAILED] = 0
        return At.CLEAR_WRITING

    def clear_writing(self, s: State, b: int) -> int:
        s[WRITING] = 0
        return At.RELEASE_ALL

    def release_all(self, s: State, b: int) -> int:
        self._wake(s, b)
        if s[b + FOLD_LOCK]:
            self._wake_folders(s, b)
        s[b + WRITER_LOCK] = 0
        if s[b + KIND] == SEAL:
            return self.finish(s, b)
        if s[b + OUTCOME] == AGAIN:
            s[b + OUTCOME] = 0
            return At.LOCK
        if s[b + OUTCOME] == BROKEN or s[b + KIND] >= FOLD:
            return At.TELL
        return At.LOOK if s[b + MINE] else At.LOCK

    # -- a fold beside the writers, under the fold lock alone ---------------------------------

    def try_fold(self, s: State, b: int) -> int:
        s[b + WOKEN] = 0
        if not s[SEALED]:
            return self._go_on(s, b)
        if self._held(s, FOLD_LOCK):
            return At.SLEEP_FOLD if s[b + KIND] == SEAL else self.finish(s, b)
        s[b + FOLD_LOCK] = 1
        return At.FOLD_LOCKED

    def sleep_fold(self, s: State, b: int) -> int:
        if s[b + WOKEN] or (s[KILLED] and not self._held(s, FOLD_LOCK)):
            s[b + WOKEN] = 0
            return At.TRY_FOLD
        return WAIT

    def fold_locked(self, s: State, b: int) -> int:
        if s[PATH_TABLE] != s[INCARNATION] or s[SEALED] != s[EPOCH] - 1 or not s[SEALED]:
            return At.RELEASE_FOLD
        s[b + TABLE] = s[PATH_TABLE]
        epoch = s[EPOCH_0 + s[b + TABLE]]
        if epoch < s[SEALED]:
            raise Violation("G6: the table lacks an epoch before the sealed one")
        if epoch > s[SEALED] + 1:
            return At.RELEASE_FOLD  # a fold of everything has died behind its commit: recover
        return At.FOLD_COMMIT if epoch == s[SEALED] else At.FOLD_SYNC

    def fold_commit(self, s: State, b: int) -> int:
        before = self.view(s)
        self.fold(s, s[b + TABLE], s[SEALED], s[SEALED_END])
        s[EPOCH_0 + s[b + TABLE]] = s[SEALED] + 1
        if self.view(s) != before:
            raise Violation("G4: a fold changes what readers see")
        return At.FOLD_SYNC

    def fold_fails(self, s: State, b: int) -> int:
        return At.RELEASE_FOLD

    def fold_sync(self, s: State, b: int) -> int:
        self.sync(s, s[b + TABLE])
        return At.FOLD_DONE

    def fold_done(self, s: State, b: int) -> int:
        before = self.view(s)
        s[SEALED] = s[SEALED_END] = 0
        if self.view(s) != before:
            raise Violation("G4: a fold changes what readers see")
        return At.RELEASE_FOLD

    def release_fold(self, s: State, b: int) -> int:
        self._wake_folders(s, b)
        return self._go_on(s, b)

    def _go_on(self, s: State, b: int) -> int:
        is_to_seal = s[b + KIND] == SEAL and not s[SEALED]
        return At.LOCK if is_to_seal else self.finish(s, b)

    # -- a read -------------------------------------------------------------------------------

    def read_view(self, s: State, b: int) -> int:
        is_current = (s[b + VIEW_EPOCH], s[b + VIEW_END]) == (s[EPOCH], s[COMMITTED])
        return At.READ_VIEW_SEALED if is_current else At.READ_INCARNATION

    def read_view_sealed(self, s: State, b: int) -> int:
        is_current = s[b + VIEW_SEALED] in (0, s[SEALED])
        return At.READ_TABLE if is_current else At.READ_INCARNATION

    def read_incarnation(self, s: State, b: int) -> int:
        s[b + TABLE] = s[INCARNATION]
        return At.READ_STATE

    def read_state(self, s: State, b: int) -> int:
        s[b + VIEW_EPOCH], s[b + VIEW_END] = s[EPOCH], s[COMMITTED]
        return At.READ_SAME_TABLE

    def read_same_table(self, s: State, b: int) -> int:
        return At.READ_SEALED if s[b + TABLE] == s[INCARNATION] else At.READ_INCARNATION

    def read_sealed(self, s: State, b: int) -> int:
        epoch = s[b + VIEW_EPOCH]
        if s[SEALED] not in (0, epoch - 1, epoch):
            return At.READ_INCARNATION
        is_before = s[SEALED] == epoch - 1  # else it is being sealed
        s[b + VIEW_SEALED] = s[SEALED] if is_before else 0
        s[b + VIEW_SEALED_END] = s[SEALED_END] if is_before else 0
        return At.READ_SEALED_LOG if s[b + VIEW_SEALED] else At.READ_OPEN_LOG

    def read_sealed_log(self, s: State, b: int) -> int:
        epoch, end = s[b + VIEW_SEALED], s[b + VIEW_SEALED_END]
        if s[SEALED] != epoch:
            return At.READ_INCARNATION
        if self.frames(s, epoch) < end:
            raise Violation("G6: what is sealed is no frame")
        s[b + IN_SEALED] = self.newest_in(s, epoch, end)
        return At.READ_OPEN_LOG

    def read_open_log(self, s: State, b: int) -> int:
        epoch, end = s[b + VIEW_EPOCH], s[b + VIEW_END]
        s[b + IN_SEALED] = s[b + IN_SEALED] if s[b + VIEW_SEALED] else 0
        if end and s[EPOCH] != epoch:
            return At.READ_INCARNATION
        if self.frames(s, epoch) < end:
            raise Violation("G6: what is published is no frame")
        s[b + IN_OPEN] = self.newest_in(s, epoch, end)
        return At.READ_TABLE

    def read_table(self, s: State, b: int) -> int:
        found = s[b + IN_OPEN] or s[b + IN_SEALED]
        if found:
            return self.returned(s, b, found)
        self.sync(s, s[b + TABLE])  # a reader that comes into a commit
        s[b + TARGET] = s[KEY_0 + s[b + TABLE]]
        return At.READ_WRITING

    def read_writing(self, s: State, b: int) -> int:
        return At.READ_RECHECK if s[WRITING] else self.returned(s, b, s[b + TARGET])

    def read_recheck(self, s: State, b: int) -> int:
        is_current = (s[b + VIEW_EPOCH], s[b + VIEW_END]) == (s[EPOCH], s[COMMITTED])
        return self.returned(s, b, s[b + TARGET]) if is_current else At.READ_VIEW

    def returned(self, s: State, b: int, found: int) -> int:
        """Give the value of an operation to the caller."""
        version = self.version(s, found)
        if version < s[b + FLOOR]:
            raise Violation("G4: a read returns an older value than one before it")
        s[SEEN_VERSION] = max(version, s[SEEN_VERSION])
        if 0 < found < INITIAL:
            s[SHOWN] |= 1 << found - 1
        return self.finish(s, b)

    # -- the end of an operation --------------------------------------------------------------

    def tell(self, s: State, b: int) -> int:
        bit, kind = 1 << s[b + NUMBER], s[b + KIND]
        if kind == FLUSH:
            s[FLUSHED] |= s[b + DEPENDS]
        elif kind in FRAMED or kind == LARGE:
            if s[b + OUTCOME] == BROKEN:
                # A pop without a key has no frame that could come back.
                s[FAILED] |= bit if not s[b + DEPENDS] else 0
            elif s[b + OUTCOME] == LOST:
                s[SHOWN] |= s[b + DEPENDS]
            else:
                s[ACKED] |= bit
        return self.finish(s, b)

    def finish(self, s: State, b: int) -> int:
        s[b + OP] += 1
        if s[b + OP] == len(self.programs[(b - FIRST) // WIDTH]):
            self.clear(s, b)
            return At.DONE
        self.clear(s, b, OP, *KEPT)
        return At.START

    # -- faults of processes and of the machine -----------------------------------------------

    def deaths(self, state: bytes, b: int) -> Iterator[tuple[str, bytearray]]:
        yield from super().deaths(state, b)
        if state[b + PC] in (At.WRITE, At.SEAL_START):
            s = bytearray(state)
            self.tear_at(s, b, state[b + PC])
            self.kill(s, b)
            yield "is killed, a part is written", s

    def kill(self, s: State, b: int) -> None:
        super().kill(s, b)
        s[KILLED] = 1

    def cuts(self, state: bytes) -> Iterator[bytearray]:
        if not state[CUTS]:
            return
        dirty = [
            (a, slot)
            for a in (ARENAS, ARENAS + ARENA)
            for slot in range(SLOTS)
            if state[a + slot] and not state[a + ON_DISK] >> slot & 1
        ]
        for table in {state[PATH_TABLE], state[NAMED_TABLE]}:
            for is_written in (False, True):
                for lost in range(1 << len(dirty)):
                    s = bytearray(state)
                    if not is_written:
                        for cached, disk in (
                            (EPOCH_0, DISK_EPOCH_0), (KEY_0, DISK_KEY_0), (IN_0, DISK_IN_0)
                        ):  # fmt: skip
                            s[cached + table] = s[disk + table]
                    for i, (a, slot) in enumerate(dirty):
                        if lost >> i & 1:
                            s[a + slot] = s[a + EPOCHS + slot] = 0
                    self._recover_alone(s, table)
                    yield s

    def _recover_alone(self, s: State, table: int) -> None:
        begun = 0
        for b in self.bases:
            if s[b + PC] not in (At.START, At.DONE, At.DEAD):
                begun |= 1 << s[b + NUMBER]
                s[b + PC] = self.finish(s, b)
            self.clear(s, b, OP, PC)
        epoch = s[EPOCH_0 + table]
        found = self.survives(s, epoch, s[IN_0 + table], is_cut=False)
        if (s[SHOWN] | s[ACKED]) & self.needs_flush & ~found:
            raise Violation("G1, G3: acked or seen, and gone after a power cut")
        self.fold(s, table, epoch, self.frames(s, epoch))
        if s[ARENAS + ARENA * (epoch + 1 & 1)] >> 4 == START:
            self.fold(s, table, epoch + 1, self.frames(s, epoch + 1))
        # The old logs are there until new ones are made; they must not count again.
        s[EPOCH_0 + table] = new = epoch + 2
        s[PATH_TABLE] = s[NAMED_TABLE] = s[INCARNATION] = table
        self.sync(s, table)
        for word in (WRITING, LOG_FAILED, FLUSHING, NEEDS_SYNC, SEALED, SEALED_END, PART, KILLED):
            s[word] = 0
        s[FAIL_EPOCH] = s[FAIL_END] = 0
        s[LOG_ID] = s[PATH_LOG] = 0
        for a in (ARENAS, ARENAS + ARENA):
            s[a + ON_DISK], s[a + LEFT] = (1 << SLOTS) - 1, 0
        s[EPOCH] = s[APPENDED_EPOCH] = new
        s[COMMITTED] = s[APPENDED] = s[SYNCED] = 0
        s[SHOWN] = s[IN_0 + table]
        s[ACKED] &= s[SHOWN]
        s[FLUSHED] &= s[SHOWN]
        s[FAILED] |= begun & ~s[SHOWN]
        s[SEEN_VERSION] = self.version(s, s[KEY_0 + table])
        s[CUTS] -= 1

    # -- locks --------------------------------------------------------------------------------

    def _wake(self, s: State, b: int) -> None:
        s[b + FLUSH_LOCK] = 0
        for other in self.bases:
            if s[other + PC] == At.SLEEP:
                s[other + WOKEN] = 1

    def _wake_folders(self, s: State, b: int) -> None:
        s[b + FOLD_LOCK] = 0
        for other in self.bases:
            if s[other + PC] == At.SLEEP_FOLD:
                s[other + WOKEN] = 1

    # -- the truth: files, disk and readers ---------------------------------------------------

    def put(self, s: State, arena: int, slot: int, frame: int, epoch: int) -> None:
        """Write a frame into the page cache."""
        a = ARENAS + ARENA * arena
        s[a + slot], s[a + EPOCHS + slot] = frame, epoch
        s[a + ON_DISK] &= ~(1 << slot)
        s[a + LEFT] &= ~(1 << slot)

    def put_start(self, s: State, b: int, epoch: int, end: int) -> None:
        """Write the START of an epoch; of epoch 0: a part of one."""
        if s[b + LOG] == s[PATH_LOG]:
            self.put(s, s[EPOCH] + 1 & 1, 0, START * 16 + end, epoch)

    def put_frame(self, s: State, b: int) -> None:
        """Write a frame into the arena, at the appended offset."""
        if s[b + LOG] != s[PATH_LOG]:
            return  # into a file without a name
        number, epoch = s[b + NUMBER], s[EPOCH]
        a = ARENAS + ARENA * (epoch & 1)
        whole = self.frames(s, epoch)
        if s[APPENDED] == 0 and s[a] >> 4 == START:
            whole = 0  # of a process that has died before it could publish the epoch
        if s[PART] or whole != s[APPENDED]:
            raise Violation("G5: a frame is appended behind an interrupted append, or over frames")
        newest = self.newest(s, s[APPENDED], s[PATH_TABLE])
        if s[b + KIND] in (POP, EXPIRE) and not self.is_there(newest):
            raise Violation("G4: a pop wins without a key in the log's order")
        self.put(s, epoch & 1, s[APPENDED], s[b + KIND] * 16 + number, epoch)
        if s[b + KIND] in OF_KEY:
            s[VERSION] += 1
            s[VERSIONS + number] = s[VERSION]

    def tear(self, s: State, b: int) -> None:
        """Write a part of a frame."""
        if s[b + LOG] == s[PATH_LOG]:
            s[PART] = 1

    def tear_at(self, s: State, b: int, at: int) -> None:
        """Write a part of what a step writes."""
        if at == At.WRITE:
            self.tear(s, b)
        else:
            self.put_start(s, b, 0, 0)

    def written(self, s: Sequence[int], a: int) -> int:
        """Which slots of an arena have a frame."""
        return sum((s[a + slot] > 0) << slot for slot in range(SLOTS))

    def frames(self, s: Sequence[int], epoch: int, only: int = (1 << SLOTS) - 1) -> int:
        """How many whole frames an epoch has, from its start."""
        a = ARENAS + ARENA * (epoch & 1)
        for slot in range(SLOTS):
            if s[a + EPOCHS + slot] != epoch or not only >> slot & 1:
                return slot
        return SLOTS

    def prefix(self, s: Sequence[int], epoch: int, end: int) -> int:
        """The operations of the frames before ``end``."""
        a, mask = ARENAS + ARENA * (epoch & 1), 0
        for i in range(a, a + min(end, self.frames(s, epoch))):
            if s[i] >> 4 != START:
                mask |= 1 << (s[i] & 15)
        return mask

    def newest_in(self, s: Sequence[int], epoch: int, end: int) -> int:
        """The key's newest operation among the frames before ``end``: its number + 1, or 0."""
        a = ARENAS + ARENA * (epoch & 1)
        for i in range(a + min(end, self.frames(s, epoch)) - 1, a - 1, -1):
            if s[i] >> 4 in OF_KEY:
                return (s[i] & 15) + 1
        return 0

    def newest(self, s: Sequence[int], end: int, table: int) -> int:
        """The key's newest operation, in the log up to ``end`` and the table."""
        newest = self.newest_in(s, s[EPOCH], end)
        if not newest and s[SEALED] == s[EPOCH] - 1:
            newest = self.newest_in(s, s[SEALED], s[SEALED_END])
        return newest or s[KEY_0 + table]

    def is_there(self, newest: int) -> bool:
        """Whether the key is there behind an operation."""
        return newest == INITIAL or (newest > 0 and self.kinds[newest - 1] in (SET, LARGE))

    def version(self, s: Sequence[int], newest: int) -> int:
        """How many values the key has had up to an operation."""
        return s[VERSIONS + newest - 1] if 0 < newest < INITIAL else 0

    def fold(self, s: State, table: int, epoch: int, end: int) -> bool:
        """Put the frames before ``end`` into a table; return whether one is of the key."""
        if self.frames(s, epoch) < end:
            raise Violation("G6: a fold does not find the frames")
        s[IN_0 + table] |= self.prefix(s, epoch, end)
        newest = self.newest_in(s, epoch, end)
        s[KEY_0 + table] = newest or s[KEY_0 + table]
        return newest > 0

    def sync(self, s: State, table: int) -> None:
        """Put a table on the disk."""
        s[DISK_EPOCH_0 + table] = s[EPOCH_0 + table]
        s[DISK_KEY_0 + table] = s[KEY_0 + table]
        s[DISK_IN_0 + table] = s[IN_0 + table]

    def show(self, s: State) -> None:
        """Let readers see what is published."""
        visible, newest = self.view(s)
        s[SHOWN] |= visible
        s[SEEN_VERSION] = max(s[SEEN_VERSION], self.version(s, newest))

    def view(self, s: Sequence[int]) -> tuple[int, int]:
        """What a reader sees that has just come: the operations, and the key's newest one."""
        epoch, end = s[EPOCH], s[COMMITTED]
        mask = s[IN_0 + s[INCARNATION]]
        if self.frames(s, epoch) < end:
            raise Violation("G6: what is published is no frame")
        mask |= self.prefix(s, epoch, end)
        if s[SEALED] == epoch - 1 > 0:
            if self.frames(s, s[SEALED]) < s[SEALED_END]:
                raise Violation("G6: what is sealed is no frame")
            mask |= self.prefix(s, s[SEALED], s[SEALED_END])
        return mask, self.newest(s, end, s[INCARNATION])

    def survives(self, s: Sequence[int], epoch: int, mask: int, *, is_cut: bool) -> int:
        """What a recovery by a process that is alone finds: all that is written, or on the disk.

        A START that is not on the disk may be there all the same.
        """
        if max(max(s[a + EPOCHS : a + ON_DISK]) for a in (ARENAS, ARENAS + ARENA)) > epoch + 1:
            raise Violation("G6: a healthy store is refused: the table is too old for the logs")
        a, following = ARENAS + ARENA * (epoch & 1), ARENAS + ARENA * (epoch + 1 & 1)
        everything = (1 << SLOTS) - 1
        end = self.frames(s, epoch, s[a + ON_DISK] if is_cut else everything)
        mask |= self.prefix(s, epoch, end)
        if s[following + EPOCHS] != epoch + 1:
            return mask
        if s[following] >> 4 != START:
            raise Violation("G6: a healthy store is refused: no START behind the table's epoch")
        if s[following] != START * 16 + end:
            raise Violation("G6: a healthy store is refused: the sealed arena has another end")
        after = self.frames(s, epoch + 1, s[following + ON_DISK] if is_cut else everything)
        return mask | self.prefix(s, epoch + 1, after)

    def verify(self, s: Sequence[int]) -> None:
        needed = s[EPOCH] - (s[SEALED] == s[EPOCH] - 1 > 0)
        if needed > s[EPOCH_0 + s[PATH_TABLE]] or needed > s[DISK_EPOCH_0 + s[NAMED_TABLE]]:
            raise Violation("G3: an epoch is published that the table does not have")
        told = s[SHOWN] | s[ACKED]
        visible, newest = self.view(s)
        if s[SHOWN] & ~visible:
            raise Violation("G3: what readers have seen is not visible any more")
        if s[ACKED] & ~s[SHOWN]:
            raise Violation("G3: a write is acked and not visible")
        if self.version(s, newest) < s[SEEN_VERSION]:
            raise Violation("G4: a reader sees an older value than one before it")
        table = s[PATH_TABLE]
        after_kill = self.survives(s, s[EPOCH_0 + table], s[IN_0 + table], is_cut=False)
        if told & ~after_kill:
            raise Violation("G2, G3: acked or seen, and gone if all processes die")
        after_cut = 255
        for table in {s[PATH_TABLE], s[NAMED_TABLE]}:
            for epoch, mask in {
                (s[EPOCH_0 + table], s[IN_0 + table]),
                (s[DISK_EPOCH_0 + table], s[DISK_IN_0 + table]),
            }:
                after_cut &= self.survives(s, epoch, mask, is_cut=True)
        if (told & self.needs_flush | s[FLUSHED]) & ~after_cut:
            raise Violation("G1, G3: acked or seen, and gone after a power cut")
        if s[FAILED] & (s[SHOWN] | after_kill):
            raise Violation("a write that was told to have failed is there")

    # -- what the search asks ---------------------------------------------------------------

    def canonical(self, s: bytearray) -> bytes:
        for i, j, numbers, keys, masks, frames in self._twins:
            first, second = s[i : i + WIDTH], s[j : j + WIDTH]
            if first[:NUMBER] > second[:NUMBER]:
                s[i : i + WIDTH], s[j : j + WIDTH] = second, first
                s[MASKS] = s[MASKS].translate(masks)
                versions = s[VERSIONS : VERSIONS + OPERATIONS]
                for number, other in enumerate(numbers):
                    s[VERSIONS + other] = versions[number]
                for a in (ARENAS, ARENAS + ARENA):
                    s[a : a + SLOTS] = s[a : a + SLOTS].translate(frames)
                for word in KEYS:
                    s[word] = keys[s[word]]
                for b in self.bases:
                    s[b + DEPENDS] = masks[s[b + DEPENDS]]
                    for word in (EXPECTED, IN_OPEN, IN_SEALED):
                        s[b + word] = keys[s[b + word]]
                    if s[b + KIND]:
                        s[b + NUMBER] = numbers[s[b + NUMBER]]
        return bytes(s)

    def describe(self, name: str, b: int, s: bytearray) -> str:
        process = (b - FIRST) // WIDTH
        arenas = " ".join(
            "/".join(
                f"{s[a + SLOTS + i]}{'S' if s[a + i] >> 4 == START else 'f'}{s[a + i] & 15}"
                f"{'' if s[a + ON_DISK] >> i & 1 else '*'}"
                for i in range(SLOTS)
                if s[a + i]
            )
            or "-"
            for a in (ARENAS, ARENAS + ARENA)
        )
        return (
            f"{process} {name:<22} {KIND_NAMES[s[b + KIND]]:<9}"
            f"state {s[EPOCH]}:{s[COMMITTED]} appended {s[APPENDED_EPOCH]}:{s[APPENDED]} "
            f"sealed {s[SEALED]}:{s[SEALED_END]} "
            f"synced {s[SYNCED]} needs {s[NEEDS_SYNC]} writing {s[WRITING]} failed {s[LOG_FAILED]} "
            f"flushing {s[FLUSHING]} log {s[LOG_ID]} | {arenas} "
            f"table {s[EPOCH_0 + s[PATH_TABLE]]} on disk {s[DISK_EPOCH_0 + s[PATH_TABLE]]}"
        )


def _twins(config: Config) -> Iterator[tuple[int, int, bytes, bytes, bytes, bytes]]:
    """Pairs of processes with equal programs, and what their exchange makes of numbers."""
    starts = [sum(map(len, config.programs[:n])) for n in range(len(config.programs) + 1)]
    for i, j in combinations(range(len(config.programs)), 2):
        if config.programs[i] == config.programs[j]:
            numbers = list(range(OPERATIONS))
            for k in range(len(config.programs[i])):
                numbers[starts[i] + k], numbers[starts[j] + k] = starts[j] + k, starts[i] + k
            keys = bytes((0, *(number + 1 for number in numbers), OPERATIONS + 1))
            masks = bytes(
                sum(1 << numbers[bit] for bit in range(8) if mask >> bit & 1) for mask in range(256)
            )
            frames = bytes(
                frame if frame >> 4 in (0, START) else frame & ~15 | numbers[frame & 7]
                for frame in range(256)
            )
            places = (FIRST + WIDTH * i, FIRST + WIDTH * j)
            yield *places, bytes(numbers), keys, masks, frames
