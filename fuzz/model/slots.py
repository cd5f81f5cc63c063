"""Readers' slots and folds, as steps over one small state: a model of its own.

LMDB runs without its lock table.  A transaction writes over pages that only snapshots three and
more before it have; a commit writes one of two meta pages, number and roots, in any order, and is
not interrupted there by a signal, but it may be stopped there for a while.  A reader picks the
newer meta page, and reads its number and its roots one after the other.  In a commit that fails
LMDB writes the old meta page back, and uses the number again.

A reader claims a slot (a lock), stores the newest number that is known in it, looks at the
sequence, begins, and looks again.  It starts over if the sequence has moved.  If a fold is just
committing, or has died there, the snapshot is taken if it is the one before that commit; else
after a pause and a second begin with the same number.  A fold begins when no slot of a living
process has a snapshot before the newest.

Steps, states and their search are those of ``search.py``.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import ClassVar, NamedTuple

from fuzz.model.search import OP, WAIT, Model, State, Violation

# fmt: off
(
    SEQUENCE, COMMITTING, NEWEST,  # words of the shared header; SEQUENCE is odd in a commit
    NUMBER_0, ROOTS_0, NUMBER_1, ROOTS_1,  # the meta pages
    WRITTEN, OVERWRITTEN,  # the newest transaction whose pages were written; roots that have failed
    TORN,  # a commit is within the meta page
    KILLS, FAULTS,
    SLOT, LOCK,  # of each slot: the number + 1; who has its lock
) = range(14)
SLOTS = 2
FIRST = SLOT + 2 * SLOTS
(MINE, SEEN, PAGE, ID, ROOTS, AGAIN, FOLD_LOCK, TARGET) = range(2, 10)
# fmt: on
WIDTH = 10
READ, FOLD = 1, 2
FAILED = 100  # added to the roots of a commit that fails


class At(IntEnum):
    """Where a process is: the method of this name is its next step."""

    START = 0
    DONE = 1
    DEAD = 2
    CLAIM = auto()
    STORE_SLOT = auto()
    LOOK = auto()
    PICK = auto()
    READ_NUMBER = auto()
    READ_ROOTS = auto()
    LOOK_AGAIN = auto()
    PAUSE = auto()
    STORE_EXACTLY = auto()
    USE = auto()
    CLEAR_SLOT = auto()
    FOLD_LOCKED = auto()
    LOOK_AT_SLOT = auto()
    TRY_SLOT = auto()
    CLEAR_DEAD = auto()
    UNLOCK_SLOT = auto()
    WRITE_PAGES = auto()
    STORE_COMMITTING = auto()
    MAKE_ODD = auto()
    META_FIRST = auto()
    META_SECOND = auto()
    RESTORE = auto()
    RESTORE_SECOND = auto()
    STORE_NEWEST = auto()
    MAKE_EVEN = auto()
    RELEASE = auto()


class Config(NamedTuple):
    """What is explored: a program for each process, and how many faults."""

    name: str
    programs: tuple[tuple[int, ...], ...]
    kills: int = 0
    faults: int = 0
    left: int = 0  # the number that a dead process has left in a slot


class Slots(Model):
    """The steps, for the processes of one configuration."""

    steps: ClassVar = {int(at): at.name.lower() for at in At if at not in (At.DONE, At.DEAD)}
    others: ClassVar = {
        At.META_FIRST: ("meta_first_roots", None),
        At.META_SECOND: ("meta_second_fails", FAULTS),
    }
    # No signal ends a process within the write of a meta page.
    safe = frozenset((At.START, At.META_SECOND, At.RESTORE_SECOND))
    first, width, kills = FIRST, WIDTH, KILLS

    def __init__(self, config: Config) -> None:
        super().__init__(config.programs)
        self.config = config

    def initial(self) -> bytes:
        """Two commits have been made."""
        s = bytearray(FIRST + WIDTH * len(self.bases))
        s[NUMBER_0] = s[ROOTS_0] = s[NEWEST] = s[WRITTEN] = 2
        s[NUMBER_1] = s[ROOTS_1] = 1
        s[KILLS], s[FAULTS] = self.config.kills, self.config.faults
        s[SLOT] = self.config.left and self.config.left + 1
        return bytes(s)

    def kill(self, s: State, b: int) -> None:
        if s[b + FOLD_LOCK]:
            s[TORN] = 0
        self._unlock_slots(s, b)
        super().kill(s, b)

    def _unlock_slots(self, s: State, b: int) -> None:
        for slot in range(SLOTS):
            if s[LOCK + 2 * slot] == self._me(b):
                s[LOCK + 2 * slot] = 0

    def start(self, s: State, b: int) -> int:
        program = self.programs[(b - FIRST) // WIDTH]
        if s[b + OP] == len(program):
            self._unlock_slots(s, b)
            s[b + OP] = s[b + MINE] = 0
            return At.DONE
        if program[s[b + OP]] == READ:
            return At.STORE_SLOT if s[b + MINE] else At.CLAIM
        if self._held(s, FOLD_LOCK):
            return WAIT
        s[b + FOLD_LOCK] = 1
        return At.FOLD_LOCKED

    def _me(self, b: int) -> int:
        return (b - FIRST) // WIDTH + 1

    def _end(self, s: State, b: int) -> int:
        s[b + OP] += 1
        self.clear(s, b, OP, MINE)
        return At.START

    # -- a read -------------------------------------------------------------------------------

    def claim(self, s: State, b: int) -> int:
        for slot in range(SLOTS):
            if not s[LOCK + 2 * slot]:
                s[LOCK + 2 * slot] = self._me(b)
                s[b + MINE] = slot + 1
                return At.STORE_SLOT
        return WAIT

    def store_slot(self, s: State, b: int) -> int:
        s[SLOT + 2 * (s[b + MINE] - 1)] = s[NEWEST] + 1
        return At.LOOK

    def look(self, s: State, b: int) -> int:
        s[b + SEEN] = s[SEQUENCE]
        return At.PICK

    def pick(self, s: State, b: int) -> int:
        s[b + PAGE] = s[NUMBER_1] > s[NUMBER_0]
        return At.READ_NUMBER

    def read_number(self, s: State, b: int) -> int:
        s[b + ID] = s[NUMBER_0 + 2 * s[b + PAGE]]
        return At.READ_ROOTS

    def read_roots(self, s: State, b: int) -> int:
        s[b + ROOTS] = s[ROOTS_0 + 2 * s[b + PAGE]]
        return At.LOOK_AGAIN

    def look_again(self, s: State, b: int) -> int:
        again, s[b + AGAIN] = s[b + AGAIN], 0
        if s[SEQUENCE] != s[b + SEEN]:
            return At.STORE_SLOT
        if not s[SEQUENCE] & 1 or s[b + ID] + 1 == s[COMMITTING] or s[b + ID] == again:
            return At.STORE_EXACTLY
        s[b + AGAIN] = s[b + ID]
        return At.PAUSE

    def pause(self, s: State, b: int) -> int:
        # Longer than a process is stopped within a meta page.
        if s[TORN]:
            return WAIT
        return At.PICK

    def store_exactly(self, s: State, b: int) -> int:
        s[SLOT + 2 * (s[b + MINE] - 1)] = s[b + ID] + 1
        return At.USE

    def use(self, s: State, b: int) -> int:
        if s[b + ROOTS] % FAILED != s[b + ID]:
            raise Violation("G6: a snapshot with the roots of another")
        if s[WRITTEN] >= s[b + ID] + 3:
            raise Violation("G6: pages of a snapshot that is being read are used again")
        if s[b + ROOTS] >= FAILED and s[OVERWRITTEN]:
            raise Violation("G6: pages of a commit that has failed are read and used again")
        return At.CLEAR_SLOT

    def clear_slot(self, s: State, b: int) -> int:
        s[SLOT + 2 * (s[b + MINE] - 1)] = 0
        return self._end(s, b)

    # -- a fold -------------------------------------------------------------------------------

    def fold_locked(self, s: State, b: int) -> int:
        s[b + TARGET] = max(s[NUMBER_0], s[NUMBER_1]) + 1
        return At.LOOK_AT_SLOT

    def look_at_slot(self, s: State, b: int) -> int:
        slot = s[b + PAGE]
        if slot == SLOTS:
            return At.WRITE_PAGES
        if 0 < s[SLOT + 2 * slot] < s[b + TARGET]:
            return At.TRY_SLOT
        s[b + PAGE] += 1
        return At.LOOK_AT_SLOT

    def try_slot(self, s: State, b: int) -> int:
        slot = s[b + PAGE]
        if s[LOCK + 2 * slot]:
            return At.RELEASE  # its owner lives: put off
        s[LOCK + 2 * slot] = self._me(b)
        return At.CLEAR_DEAD

    def clear_dead(self, s: State, b: int) -> int:
        s[SLOT + 2 * s[b + PAGE]] = 0
        return At.UNLOCK_SLOT

    def unlock_slot(self, s: State, b: int) -> int:
        s[LOCK + 2 * s[b + PAGE]] = 0
        return At.LOOK_AT_SLOT

    def write_pages(self, s: State, b: int) -> int:
        s[OVERWRITTEN] = s[WRITTEN] == s[b + TARGET]
        s[WRITTEN] = s[b + TARGET]
        return At.STORE_COMMITTING

    def store_committing(self, s: State, b: int) -> int:
        s[COMMITTING] = s[b + TARGET]
        return At.MAKE_ODD

    def make_odd(self, s: State, b: int) -> int:
        s[SEQUENCE] = s[SEQUENCE] + 1 | 1  # another one, if the holder before has died in a commit
        return At.META_FIRST

    def meta_first(self, s: State, b: int) -> int:
        s[b + PAGE] = s[NUMBER_1] < s[NUMBER_0]
        s[b + ID], s[b + ROOTS] = s[NUMBER_0 + 2 * s[b + PAGE]], s[ROOTS_0 + 2 * s[b + PAGE]]
        s[NUMBER_0 + 2 * s[b + PAGE]] = s[b + TARGET]
        s[TORN] = 1
        return At.META_SECOND

    def meta_first_roots(self, s: State, b: int) -> int:
        s[b + PAGE] = s[NUMBER_1] < s[NUMBER_0]
        s[b + ID], s[b + ROOTS] = s[NUMBER_0 + 2 * s[b + PAGE]], s[ROOTS_0 + 2 * s[b + PAGE]]
        s[ROOTS_0 + 2 * s[b + PAGE]] = s[b + TARGET]
        s[TORN] = 1
        return At.META_SECOND

    def meta_second(self, s: State, b: int) -> int:
        s[NUMBER_0 + 2 * s[b + PAGE]] = s[ROOTS_0 + 2 * s[b + PAGE]] = s[b + TARGET]
        s[TORN] = 0
        return At.STORE_NEWEST

    def meta_second_fails(self, s: State, b: int) -> int:
        s[NUMBER_0 + 2 * s[b + PAGE]] = s[b + TARGET]
        s[ROOTS_0 + 2 * s[b + PAGE]] = s[b + TARGET] + FAILED
        return At.RESTORE

    def restore(self, s: State, b: int) -> int:
        s[NUMBER_0 + 2 * s[b + PAGE]] = s[b + ID]
        return At.RESTORE_SECOND

    def restore_second(self, s: State, b: int) -> int:
        s[ROOTS_0 + 2 * s[b + PAGE]] = s[b + ROOTS]
        return At.MAKE_EVEN

    def store_newest(self, s: State, b: int) -> int:
        s[NEWEST] = s[b + TARGET]
        return At.MAKE_EVEN

    def make_even(self, s: State, b: int) -> int:
        s[SEQUENCE] += 1
        s[TORN] = 0
        return At.RELEASE

    def release(self, s: State, b: int) -> int:
        s[b + FOLD_LOCK] = 0
        return self._end(s, b)
