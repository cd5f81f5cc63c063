"""The log's protocol between processes, as steps over one small state.

A step reads or stores at most one word that another process may change at that moment, so that a
kill and every other process come between any two of them.  A state is a row of small numbers: the
words of the shared header, then the truth (what the files hold, what the disk holds, what clients
have been told), then a block for each process.  Steps change a state in place and return where the
process goes next; a step that has to wait returns WAIT.

Offsets count frames.  A flush puts on the disk what had been written when it began; one that fails
takes its pages for clean, so that no later flush writes them.

What the search has shown about the order of the steps:

- FLUSHING is set before a flush and cleared behind SYNCED.  Without it, a process that is killed
  between a failing flush and its store of LOG_FAILED leaves frames that every later flush takes for
  written.  The next holder of the flush lock that finds it set recovers: it folds what has been
  appended from the page cache and trusts no flush of that log.
- The failure ring is written by the recovery, under both locks, before its commit, and only while
  the table is not ahead.  A waiter that finds LOG_FAILED or FLUSHING set takes the writer lock and
  recovers; it tells a failure only after the epoch has moved.  If it told it before, the frame
  would come back when all processes die, and a waiter without a later writer would wait for ever.
- The ring needs no count: its words hold epochs, the smallest is overwritten, and the outcome of an
  epoch before all those in a full ring is unknown.
- NEEDS_SYNC is stored before APPENDED, and read after it.
- A new epoch: SYNCED and NEEDS_SYNC, then STATE, then APPENDED, then WRITING.  An APPENDED of
  another epoch than STATE's says that nothing is appended.
- A frame that needs a flush is done once it is published; SYNCED, which a new epoch resets first,
  is no condition for it.
- A failed pwrite leaves WRITING set and recovers; LOG_FAILED is not its to set.
- A log is replaced in the order NEXT_LOG, rename, LOG_ID, LOG_FAILED, with both writer locks held:
  the log that counts is the one at the path if NEXT_LOG names it, else the one of LOG_ID.
- Every release of the flush lock wakes the sleepers, also one that has published nothing.
- A fold needs no flush before its commit, which is durable by itself; with one it is right, too.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from enum import IntEnum
from typing import ClassVar, NamedTuple

# Kinds of operations.  SET, PROGRESS and POP make a frame; a POP only if it finds the key.
SET, PROGRESS, POP, FLUSH, FOLD, VACUUM = range(1, 7)
KIND_NAMES = ("", "set", "progress", "pop", "flush", "fold", "vacuum")

# fmt: off
(
    # the shared header
    EPOCH, COMMITTED, APPENDED_EPOCH, APPENDED, SYNCED, NEEDS_SYNC, WRITING, LOG_FAILED, FLUSHING,
    LOG_ID, NEXT_LOG, FAIL_EPOCH, FAIL_END, INCARNATION,
    # the log at the path: its frames' epoch, whole frames, whether a part follows; how many of
    # them are on the disk, and which (from, to) a failed flush has left behind
    PATH_LOG, LOG_EPOCH, WHOLE, PART, ON_DISK, LEFT_FROM, LEFT_TO,
    # the tables: which one is at the path, which one the directory on the disk names
    PATH_TABLE, NAMED_TABLE, EPOCH_0, EPOCH_1, KEY_0, KEY_1,
    # faults that may still come
    KILLS, KILLED, FLUSH_FAULTS, WRITE_FAULTS,
    # sets of operations, one bit each: in the tables; seen by readers, acked, said to be on the
    # disk, told to have failed
    IN_0, IN_1, SHOWN, ACKED, FLUSHED, FAILED,
    FRAMES,
) = range(38)
SLOTS = 4  # frames: kind * 8 + the operation's number
FIRST = FRAMES + SLOTS  # the first process

(PC, OP, KIND, MINE, END, TARGET, LOG, TABLE, WOKEN, OUTCOME, WRITER_LOCK, FLUSH_LOCK, DEPENDS,
 NUMBER) = range(14)
# fmt: on
WIDTH = 14
MASKS = slice(IN_0, FRAMES)

LOST, BROKEN = 1, 2  # outcomes: a pop without a key; a write that failed
WAIT = -1

State = MutableSequence[int]


class At(IntEnum):
    """Where a process is: the method of this name is its next step."""

    START = 0
    DONE = 1
    DEAD = 2
    LOCK = 3
    CHECK = 4
    RESOLVE = 5
    WRITE = 6
    NEED = 7
    APPEND = 8
    UNLOCK = 9
    LOOK = 10
    LOOK_SYNCED = 11
    LOOK_FAILURES = 12
    TRY_FLUSH_LOCK = 13
    SLEEP = 14
    FLUSH_LOCKED = 15
    LOOK_NEEDS = 16
    MARK_FLUSHING = 17
    FLUSH_LOG = 18
    FAIL = 19
    STORE_SYNCED = 20
    UNMARK_FLUSHING = 21
    PUBLISH = 22
    RELEASE_FLUSH = 23
    RELEASE_AND_RECOVER = 24
    FLUSH_LOCK_TOO = 25
    BOTH_LOCKED = 26
    NOTE_FAILURE = 27
    MARK_WRITING = 28
    COMMIT = 29
    RESET_SYNCED = 30
    RESET_NEEDS = 31
    NEW_EPOCH = 32
    RESET_APPENDED = 33
    RESET_FLUSHING = 34
    NAME_NEXT = 35
    RENAME_LOG = 36
    STORE_LOG_ID = 37
    LOG_GOOD = 38
    RENAME_TABLE = 39
    SYNC_DIRECTORY = 40
    STORE_INCARNATION = 41
    CLEAR_WRITING = 42
    RELEASE_BOTH = 43
    TELL = 44
    REOPEN = 45
    ADOPT_LOG = 46


class Config(NamedTuple):
    """What is explored: a program of operations for each process, and how many faults."""

    name: str
    programs: tuple[tuple[int, ...], ...]
    key: bool = False  # whether the table has the key at first
    kills: int = 0
    flush_faults: int = 0
    write_faults: int = 0


# Other ways to go on: what the step is called, and the word that counts how often it may come.
ALTERNATIVES: dict[int, tuple[str, int | None]] = {
    At.WRITE: ("write_fails", WRITE_FAULTS),
    At.FLUSH_LOG: ("flush_log_fails", FLUSH_FAULTS),
    At.BOTH_LOCKED: ("both_locked_flushes", None),
}


class Violation(Exception):
    """A guarantee is broken."""


class Protocol:
    """The steps, for the processes of one configuration."""

    steps: ClassVar = {int(at): at.name.lower() for at in At if at not in (At.DONE, At.DEAD)}

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bases = tuple(FIRST + WIDTH * n for n in range(len(config.programs)))
        self.needs_flush = 0
        for n, program in enumerate(config.programs):
            for i, kind in enumerate(program):
                self.needs_flush |= (kind in (SET, POP)) << self._number(n, i)

    def initial(self) -> bytes:
        """An empty log beside a table."""
        s = bytearray(FIRST + WIDTH * len(self.bases))
        s[EPOCH] = s[APPENDED_EPOCH] = s[LOG_EPOCH] = s[EPOCH_0] = 1
        s[KEY_0] = self.config.key
        s[KILLS], s[FLUSH_FAULTS] = self.config.kills, self.config.flush_faults
        s[WRITE_FAULTS] = self.config.write_faults
        return bytes(s)

    def _number(self, process: int, index: int) -> int:
        return sum(map(len, self.config.programs[:process])) + index

    # -- a write, under the writer lock -------------------------------------------------------

    def start(self, s: State, b: int) -> int:
        process = (b - FIRST) // WIDTH
        program = self.config.programs[process]
        if s[b + OP] == len(program):
            return At.DONE
        s[b + KIND] = program[s[b + OP]]
        s[b + NUMBER] = self._number(process, s[b + OP])
        if s[b + KIND] == FLUSH:
            s[b + MINE], s[b + END] = s[EPOCH], s[COMMITTED]
            s[b + DEPENDS] = self.prefix(s, s[COMMITTED])
            return At.LOOK_SYNCED
        return At.LOCK

    def lock(self, s: State, b: int) -> int:
        bit = 1 << s[b + LOG]
        if self._held(s, WRITER_LOCK, bit):
            return WAIT
        s[b + WRITER_LOCK] = bit
        return At.CHECK

    def check(self, s: State, b: int) -> int:
        counts = s[PATH_LOG] if s[PATH_LOG] == s[NEXT_LOG] else s[LOG_ID]
        if s[b + LOG] != counts:
            s[b + WRITER_LOCK] = 0
            s[b + LOG] = s[PATH_LOG]
            return At.LOCK
        if s[LOG_ID] != counts:
            return At.ADOPT_LOG  # a recovery has died behind its rename
        if s[INCARNATION] != s[PATH_TABLE]:
            return At.SYNC_DIRECTORY  # a vacuum has died behind its rename
        s[b + TABLE] = s[PATH_TABLE]
        if s[b + KIND] >= FOLD or s[WRITING] or s[LOG_FAILED]:
            return At.FLUSH_LOCK_TOO
        if not s[b + MINE]:
            return At.RESOLVE
        is_needed = s[FLUSHING] and s[EPOCH] == s[b + MINE]  # else another process has recovered
        return At.FLUSH_LOCK_TOO if is_needed else At.UNLOCK

    def adopt_log(self, s: State, b: int) -> int:
        s[LOG_ID] = s[b + LOG]
        return At.CHECK

    def resolve(self, s: State, b: int) -> int:
        s[b + MINE], s[b + END] = s[EPOCH], s[APPENDED]
        if s[b + KIND] == POP and not self.has_key(s, b, s[APPENDED]):
            s[b + OUTCOME] = LOST
            s[b + DEPENDS] = s[IN_0 + s[b + TABLE]] | self.prefix(s, s[APPENDED])
            return At.UNLOCK
        s[b + END] += 1
        s[WRITING] = 1
        return At.WRITE

    def write(self, s: State, b: int) -> int:
        self.put_frame(s, b)
        return At.NEED if s[b + KIND] != PROGRESS else At.APPEND

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
        if s[b + OUTCOME] == BROKEN or s[b + KIND] >= FOLD:
            s[b + WRITER_LOCK] = 0
            return At.TELL
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
        bit = 1 << s[b + LOG]
        if self._held(s, FLUSH_LOCK, bit):
            return At.SLEEP
        s[b + FLUSH_LOCK] = bit
        return At.FLUSH_LOCKED

    def sleep(self, s: State, b: int) -> int:
        # A time-out counts only where a killed process may have left sleepers behind.
        if s[b + WOKEN] or (s[KILLED] and not self._held(s, FLUSH_LOCK, 1 << s[b + LOG])):
            s[b + WOKEN] = 0
            return At.LOOK
        return WAIT

    def flush_locked(self, s: State, b: int) -> int:
        if s[LOG_ID] != s[b + LOG]:
            return At.REOPEN
        if s[EPOCH] != s[b + MINE]:
            return At.RELEASE_FLUSH
        if s[LOG_FAILED] or s[FLUSHING]:
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
            s[ON_DISK] = s[LEFT_FROM] if s[LEFT_TO] else s[WHOLE]
        return At.STORE_SYNCED

    def flush_log_fails(self, s: State, b: int) -> int:
        if s[b + LOG] == s[PATH_LOG] and s[WHOLE] > s[ON_DISK]:
            s[LEFT_FROM], s[LEFT_TO] = s[ON_DISK], s[WHOLE]
        return At.FAIL

    def fail(self, s: State, b: int) -> int:
        s[LOG_FAILED] = 1
        return At.RELEASE_AND_RECOVER if not s[b + WRITER_LOCK] else At.BOTH_LOCKED

    def store_synced(self, s: State, b: int) -> int:
        s[SYNCED] = s[b + TARGET]
        return At.UNMARK_FLUSHING

    def unmark_flushing(self, s: State, b: int) -> int:
        s[FLUSHING] = 0
        return At.PUBLISH

    def publish(self, s: State, b: int) -> int:
        s[COMMITTED] = s[b + TARGET]
        self.show(s)
        return At.RELEASE_FLUSH if not s[b + WRITER_LOCK] else At.MARK_WRITING

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

    # -- fold, recovery and vacuum, under both locks ------------------------------------------

    def flush_lock_too(self, s: State, b: int) -> int:
        bit = 1 << s[b + LOG]
        if self._held(s, FLUSH_LOCK, bit):
            return WAIT
        s[b + FLUSH_LOCK] = bit
        return At.BOTH_LOCKED

    def both_locked(self, s: State, b: int) -> int:
        if s[LOG_FAILED] and s[EPOCH_0 + s[b + TABLE]] == s[EPOCH]:
            return At.NOTE_FAILURE
        return At.MARK_WRITING

    def both_locked_flushes(self, s: State, b: int) -> int:
        if s[LOG_FAILED] or s[FLUSHING] or s[APPENDED_EPOCH] != s[EPOCH]:
            return WAIT
        if s[APPENDED] == s[COMMITTED]:
            return WAIT
        s[b + TARGET] = s[APPENDED]
        return At.MARK_FLUSHING

    def note_failure(self, s: State, b: int) -> int:
        s[FAIL_EPOCH], s[FAIL_END] = s[EPOCH], s[COMMITTED]
        return At.MARK_WRITING

    def mark_writing(self, s: State, b: int) -> int:
        s[WRITING] = 1
        return At.COMMIT

    def commit(self, s: State, b: int) -> int:
        if s[EPOCH_0 + s[b + TABLE]] == s[EPOCH]:  # else a folder has died behind its commit
            is_whole = not s[LOG_FAILED] and s[APPENDED_EPOCH] == s[EPOCH]
            self.fold(s, s[b + TABLE], s[APPENDED] if is_whole else s[COMMITTED])
            self.show(s)
        return At.RESET_SYNCED

    def reset_synced(self, s: State, b: int) -> int:
        s[SYNCED] = 0
        return At.RESET_NEEDS

    def reset_needs(self, s: State, b: int) -> int:
        s[NEEDS_SYNC] = 0
        return At.NEW_EPOCH

    def new_epoch(self, s: State, b: int) -> int:
        s[EPOCH], s[COMMITTED] = s[EPOCH_0 + s[b + TABLE]], 0
        self.show(s)
        return At.RESET_APPENDED

    def reset_appended(self, s: State, b: int) -> int:
        s[APPENDED_EPOCH], s[APPENDED] = s[EPOCH], 0
        return At.RESET_FLUSHING

    def reset_flushing(self, s: State, b: int) -> int:
        s[FLUSHING] = 0
        if s[LOG_FAILED]:
            return At.NAME_NEXT
        return At.RENAME_TABLE if s[b + KIND] == VACUUM else At.CLEAR_WRITING

    def name_next(self, s: State, b: int) -> int:
        s[NEXT_LOG] = max(s[PATH_LOG], s[NEXT_LOG]) + 1
        return At.RENAME_LOG

    def rename_log(self, s: State, b: int) -> int:
        self.new_arena(s)
        s[PATH_LOG] = s[NEXT_LOG]
        s[b + WRITER_LOCK] |= 1 << s[NEXT_LOG]
        return At.STORE_LOG_ID

    def store_log_id(self, s: State, b: int) -> int:
        s[LOG_ID] = s[b + LOG] = s[NEXT_LOG]
        return At.LOG_GOOD

    def log_good(self, s: State, b: int) -> int:
        s[LOG_FAILED] = 0
        return At.RENAME_TABLE if s[b + KIND] == VACUUM else At.CLEAR_WRITING

    def rename_table(self, s: State, b: int) -> int:
        old, new = s[PATH_TABLE], 1 - s[PATH_TABLE]
        for first in (EPOCH_0, KEY_0, IN_0):
            s[first + new] = s[first + old]
        s[PATH_TABLE] = new
        return At.SYNC_DIRECTORY

    def sync_directory(self, s: State, b: int) -> int:
        s[NAMED_TABLE] = s[PATH_TABLE]
        return At.STORE_INCARNATION

    def store_incarnation(self, s: State, b: int) -> int:
        s[INCARNATION] = s[b + TABLE] = s[PATH_TABLE]
        self.show(s)
        return At.CLEAR_WRITING if s[b + FLUSH_LOCK] else At.CHECK

    def clear_writing(self, s: State, b: int) -> int:
        s[WRITING] = 0
        return At.RELEASE_BOTH

    def release_both(self, s: State, b: int) -> int:
        self._wake(s, b)
        s[b + WRITER_LOCK] = 1 << s[b + LOG]
        if s[b + MINE] or s[b + KIND] >= FOLD:
            return At.UNLOCK
        return At.RESOLVE

    # -- the end of an operation --------------------------------------------------------------

    def tell(self, s: State, b: int) -> int:
        if s[b + KIND] == FLUSH:
            s[FLUSHED] |= s[b + DEPENDS]
        elif s[b + KIND] < FOLD:
            bit = 1 << s[b + NUMBER]
            if s[b + OUTCOME] == BROKEN:
                # A pop without a key has no frame that could come back.
                s[FAILED] |= bit if not s[b + DEPENDS] else 0
            elif s[b + OUTCOME] == LOST:
                s[SHOWN] |= s[b + DEPENDS]
            else:
                s[ACKED] |= bit
        return self.finish(s, b)

    def finish(self, s: State, b: int) -> int:
        operation, log, table = s[b + OP] + 1, s[b + LOG], s[b + TABLE]
        for i in range(b, b + WIDTH):
            s[i] = 0
        s[b + OP], s[b + LOG], s[b + TABLE] = operation, log, table
        if operation == len(self.config.programs[(b - FIRST) // WIDTH]):
            s[b + OP] = s[b + LOG] = s[b + TABLE] = 0
            return At.DONE
        return At.START

    # -- faults of processes ------------------------------------------------------------------

    def kill(self, s: State, b: int) -> None:
        """End a process: the kernel gives its locks back."""
        for i in range(b, b + WIDTH):
            s[i] = 0
        s[b + PC] = At.DEAD
        s[KILLS] -= 1
        s[KILLED] = 1

    # -- locks --------------------------------------------------------------------------------

    def _held(self, s: State, lock: int, bit: int) -> bool:
        return any(s[b + lock] & bit for b in self.bases)

    def _wake(self, s: State, b: int) -> None:
        s[b + FLUSH_LOCK] = 0
        for other in self.bases:
            if s[other + PC] == At.SLEEP:
                s[other + WOKEN] = 1

    # -- the truth: files, disk and readers ---------------------------------------------------

    def put_frame(self, s: State, b: int) -> None:
        """Write a frame into the arena, at the appended offset."""
        if s[b + LOG] != s[PATH_LOG]:
            return  # into a file without a name
        self._overwrite(s)
        if s[PART] or s[WHOLE] != s[APPENDED]:
            raise Violation("G5: a frame is appended behind an interrupted append, or over frames")
        if s[b + KIND] == POP and not self.has_key(s, b, s[WHOLE]):
            raise Violation("G4: a pop wins without a key in the log's order")
        s[FRAMES + s[WHOLE]] = s[b + KIND] * 8 + s[b + NUMBER]
        s[WHOLE] += 1

    def tear(self, s: State, b: int) -> None:
        """Write a part of a frame."""
        if s[b + LOG] == s[PATH_LOG]:
            self._overwrite(s)
            s[PART] = 1

    def _overwrite(self, s: State) -> None:
        if s[LOG_EPOCH] != s[EPOCH]:
            self.new_arena(s)
            s[LOG_EPOCH] = s[EPOCH]

    def new_arena(self, s: State) -> None:
        """Forget the frames: they are of an older epoch, or of another file."""
        for i in range(FRAMES, FRAMES + SLOTS):
            s[i] = 0
        s[WHOLE] = s[PART] = s[ON_DISK] = s[LEFT_FROM] = s[LEFT_TO] = s[LOG_EPOCH] = 0

    def has_key(self, s: State, b: int, end: int) -> bool:
        """Whether the key is there behind the frame before ``end``."""
        for i in range(FRAMES + min(end, s[WHOLE]) - 1, FRAMES - 1, -1):
            if s[LOG_EPOCH] == s[EPOCH] and s[i] >> 3 != PROGRESS:
                return s[i] >> 3 == SET
        return bool(s[KEY_0 + s[b + TABLE]])

    def prefix(self, s: State, end: int) -> int:
        """The operations of the frames before ``end``."""
        mask = 0
        if s[LOG_EPOCH] == s[EPOCH]:
            for i in range(FRAMES, FRAMES + min(end, s[WHOLE])):
                mask |= 1 << (s[i] & 7)
        return mask

    def fold(self, s: State, table: int, end: int) -> None:
        """Commit the frames before ``end``, and the next epoch."""
        s[IN_0 + table] |= self.prefix(s, end)
        for i in range(FRAMES, FRAMES + (min(end, s[WHOLE]) if s[LOG_EPOCH] == s[EPOCH] else 0)):
            if s[i] >> 3 != PROGRESS:
                s[KEY_0 + table] = s[i] >> 3 == SET
        s[EPOCH_0 + table] = s[EPOCH] + 1

    def show(self, s: State) -> None:
        """Let readers see what is published."""
        s[SHOWN] |= self.visible(s)

    def visible(self, s: Sequence[int]) -> int:
        """What a reader sees."""
        mask = s[IN_0 + s[INCARNATION]]
        if s[COMMITTED]:
            if s[LOG_EPOCH] != s[EPOCH] or s[COMMITTED] > s[WHOLE]:
                raise Violation("G5: what is published is no frame")
            for i in range(FRAMES, FRAMES + s[COMMITTED]):
                mask |= 1 << (s[i] & 7)
        return mask

    def survives(self, s: Sequence[int], table: int, frames: int) -> int:
        """What a recovery by a process that is alone finds."""
        mask = s[IN_0 + table]
        if s[LOG_EPOCH] == s[EPOCH_0 + table]:
            for i in range(FRAMES, FRAMES + frames):
                mask |= 1 << (s[i] & 7)
        return mask

    def verify(self, s: Sequence[int]) -> None:
        """Raise Violation if a guarantee does not hold in this state."""
        if s[EPOCH] > s[EPOCH_0 + s[PATH_TABLE]] or s[EPOCH] > s[EPOCH_0 + s[NAMED_TABLE]]:
            raise Violation("G3: an epoch is published that the table does not have")
        told = s[SHOWN] | s[ACKED]
        if s[SHOWN] & ~self.visible(s):
            raise Violation("G3: what readers have seen is not visible any more")
        if s[ACKED] & ~s[SHOWN]:
            raise Violation("G3: a write is acked and not visible")
        after_kill = self.survives(s, s[PATH_TABLE], s[WHOLE])
        after_cut = self.survives(s, s[PATH_TABLE], s[ON_DISK])
        after_cut &= self.survives(s, s[NAMED_TABLE], s[ON_DISK])
        if told & ~after_kill:
            raise Violation("G2, G3: acked or seen, and gone if all processes die")
        if (told & self.needs_flush | s[FLUSHED]) & ~after_cut:
            raise Violation("G1, G3: acked or seen, and gone after a power cut")
        if s[FAILED] & (s[SHOWN] | after_kill):
            raise Violation("a write that was told to have failed is there")
