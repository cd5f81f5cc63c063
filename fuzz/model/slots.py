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

A state is a row of small numbers, as in ``protocol.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence, Sequence
from enum import IntEnum, auto
from typing import ClassVar, NamedTuple

from fuzz.model.search import Result

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
(PC, OP, MINE, SEEN, PAGE, ID, ROOTS, AGAIN, FOLD_LOCK, TARGET) = range(10)
# fmt: on
WIDTH = 10
WAIT = -1
READ, FOLD = 1, 2
FAILED = 100  # added to the roots of a commit that fails

State = MutableSequence[int]


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


class Violation(Exception):
    """A guarantee is broken."""


class Slots:
    """The steps, for the processes of one configuration."""

    steps: ClassVar = {int(at): at.name.lower() for at in At if at not in (At.DONE, At.DEAD)}

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bases = tuple(FIRST + WIDTH * n for n in range(len(config.programs)))

    def initial(self) -> bytes:
        """Two commits have been made."""
        s = bytearray(FIRST + WIDTH * len(self.bases))
        s[NUMBER_0] = s[ROOTS_0] = s[NEWEST] = s[WRITTEN] = 2
        s[NUMBER_1] = s[ROOTS_1] = 1
        s[KILLS], s[FAULTS] = self.config.kills, self.config.faults
        s[SLOT] = self.config.left and self.config.left + 1
        return bytes(s)

    def successors(self, state: bytes) -> Iterator[tuple[str, int, bool, bytearray]]:
        """Each step that is possible.  Raises Violation."""
        for n, b in enumerate(self.bases):
            at = state[b + PC]
            if at in (At.DONE, At.DEAD):
                continue
            names = [self.steps[at]]
            if at == At.META_FIRST:
                names += ["meta_first_roots"]
            if at == At.META_SECOND and state[FAULTS]:
                names += ["meta_second_fails"]
            for name in names:
                s = bytearray(state)
                following = getattr(self, name)(s, b)
                if following != WAIT:
                    s[b + PC] = following
                    yield name, n, name == "meta_second_fails", s
            # No signal ends a process within the write of a meta page.
            if state[KILLS] and at not in (At.START, At.META_SECOND, At.RESTORE_SECOND):
                s = bytearray(state)
                for i in range(b, b + WIDTH):
                    s[i] = 0
                s[b + PC] = At.DEAD
                s[KILLS] -= 1
                if state[b + FOLD_LOCK]:
                    s[TORN] = 0
                for slot in range(SLOTS):
                    if s[LOCK + 2 * slot] == n + 1:
                        s[LOCK + 2 * slot] = 0
                yield "is killed", n, True, s

    def start(self, s: State, b: int) -> int:
        program = self.config.programs[(b - FIRST) // WIDTH]
        if s[b + OP] == len(program):
            for slot in range(SLOTS):
                if s[LOCK + 2 * slot] == self._me(b):
                    s[LOCK + 2 * slot] = 0
            s[b + OP] = s[b + MINE] = 0
            return At.DONE
        if program[s[b + OP]] == READ:
            return At.STORE_SLOT if s[b + MINE] else At.CLAIM
        if any(s[other + FOLD_LOCK] for other in self.bases):
            return WAIT
        s[b + FOLD_LOCK] = 1
        return At.FOLD_LOCKED

    def _me(self, b: int) -> int:
        return (b - FIRST) // WIDTH + 1

    def _end(self, s: State, b: int) -> int:
        operation, mine = s[b + OP] + 1, s[b + MINE]
        for i in range(b, b + WIDTH):
            s[i] = 0
        s[b + OP], s[b + MINE] = operation, mine
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
        s[FAULTS] -= 1
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

    def is_over(self, s: Sequence[int]) -> bool:
        """Whether all living processes are done."""
        return all(s[b + PC] in (At.DONE, At.DEAD) for b in self.bases)


def explore(slots: type[Slots], config: Config) -> Result:
    """Search all states, breadth first, up to the first violation."""
    model = slots(config)
    known = {model.initial(): 0}
    parents: list[tuple[int, str]] = [(0, "")]
    edges: list[tuple[int, int]] = []
    states, at = list(known), 0
    transitions = 0
    found = None
    try:
        while at < len(states):
            for name, n, is_fault, s in model.successors(states[at]):
                transitions += 1
                key = bytes(s)
                number = known.get(key)
                if number is None:
                    number = known[key] = len(states)
                    states.append(key)
                    parents.append((at, f"{n} {name} {list(key[:FIRST])}"))
                if not is_fault:
                    edges.append((at, number))
            at += 1
        good = [model.is_over(state) for state in states]
        changed = True
        while changed:
            changed = False
            for i, j in reversed(edges):
                if good[j] and not good[i]:
                    good[i] = changed = True
        if False in good:
            at, found = good.index(False), "a process waits for ever"
    except Violation as violation:
        found = str(violation)
    trace = []
    while found and at:
        trace.append(parents[at][1])
        at = parents[at][0]
    return Result(len(states), transitions, found, trace[::-1])
