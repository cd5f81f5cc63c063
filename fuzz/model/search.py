"""Exhaustive search: every state that a configuration reaches, each verified once.

States that differ only in which of several equal processes is which count as one.  Afterwards
every state must lead, without further faults, to one where all living processes are done.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from fuzz.model.protocol import (
    ALTERNATIVES,
    APPENDED,
    APPENDED_EPOCH,
    ARENA,
    ARENAS,
    COMMITTED,
    CUTS,
    DEPENDS,
    DISK_EPOCH_0,
    EPOCH,
    EPOCH_0,
    EXPECTED,
    FIRST,
    FLUSHING,
    IN_OPEN,
    IN_SEALED,
    KEYS,
    KILLS,
    KIND,
    KIND_NAMES,
    LOG_FAILED,
    LOG_ID,
    MASKS,
    NEEDS_SYNC,
    NUMBER,
    ON_DISK,
    OPERATIONS,
    PATH_TABLE,
    PC,
    SEALED,
    SEALED_END,
    SLOTS,
    START,
    SYNCED,
    VERSIONS,
    WAIT,
    WIDTH,
    WRITING,
    At,
    Config,
    Protocol,
    Violation,
)

ENDS = (int(At.DONE), int(At.DEAD))
WAITS = "a process waits for ever"
Step = tuple[str, int, bool, bytearray]  # its name, the process, whether a fault, what follows


class Result(NamedTuple):
    """What a search has found; the trace leads to the violation."""

    states: int
    transitions: int
    violation: str | None
    trace: list[str]


class Search:
    """All states of a protocol."""

    def __init__(self, protocol: Protocol, *, symmetric: bool = True) -> None:
        self.protocol = protocol
        self._steps = {at: (name, getattr(protocol, name)) for at, name in protocol.steps.items()}
        self._others = {
            int(at): (name, getattr(protocol, name), budget)
            for at, (name, budget) in ALTERNATIVES.items()
        }
        self._swaps = list(_swaps(protocol.config)) if symmetric else []

    def successors(self, state: bytes) -> Iterator[Step]:
        """Each step that is possible.  Raises Violation."""
        for b in self.protocol.bases:
            at = state[b + PC]
            if at in ENDS:
                continue
            s = bytearray(state)
            name, step = self._steps[at]
            following = step(s, b)
            if following != WAIT:
                s[b + PC] = following
                yield name, b, False, s
            if at in self._others:
                name, step, budget = self._others[at]
                s = bytearray(state)
                following = step(s, b) if budget is None or s[budget] else WAIT
                if following != WAIT:
                    s[b + PC] = following
                    if budget is not None:
                        s[budget] -= 1
                    yield name, b, budget is not None, s
            if state[KILLS] and at != At.START:
                s = bytearray(state)
                self.protocol.kill(s, b)
                yield "is killed", b, True, s
                if at in (At.WRITE, At.SEAL_START):
                    s = bytearray(state)
                    self.protocol.tear_at(s, b, at)
                    self.protocol.kill(s, b)
                    yield "is killed, a part is written", b, True, s

        if state[CUTS]:
            for s in self.protocol.cuts(state):
                yield "the machine stops", FIRST, True, s

    def canonical(self, s: bytearray) -> bytes:
        """The same state with equal processes in one order."""
        for i, j, numbers, keys, masks, frames in self._swaps:
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
                for b in self.protocol.bases:
                    s[b + DEPENDS] = masks[s[b + DEPENDS]]
                    for word in (EXPECTED, IN_OPEN, IN_SEALED):
                        s[b + word] = keys[s[b + word]]
                    if s[b + KIND]:
                        s[b + NUMBER] = numbers[s[b + NUMBER]]
        return bytes(s)

    def run(self) -> Result:
        """Look at all states, breadth first, up to the first violation."""
        known = {self.protocol.initial(): 0}
        parents = array("I", [0])
        sources, targets = array("I"), array("I")  # of the steps that are no faults
        canonical, verify = self.canonical, self.protocol.verify
        transitions, at, frontier = 0, 0, list(known)
        try:
            while frontier:
                following = []
                for state in frontier:
                    for _, _, is_fault, s in self.successors(state):
                        transitions += 1
                        key = canonical(s)
                        number = known.get(key)
                        if number is None:
                            verify(key)
                            number = known[key] = len(parents)
                            parents.append(at)
                            following.append(key)
                        if not is_fault:
                            sources.append(at)
                            targets.append(number)
                    at += 1
                frontier = following
        except Violation as violation:
            trace = [*self._trace(list(known), parents, at), str(violation)]
            return Result(len(known), transitions, str(violation), trace)
        states = list(known)
        stuck = _first_stuck([self._is_over(state) for state in states], sources, targets)
        if stuck is None:
            return Result(len(known), transitions, None, [])
        trace = [*self._trace(states, parents, stuck), WAITS]
        return Result(len(known), transitions, WAITS, trace)

    def _is_over(self, state: bytes) -> bool:
        return all(state[b + PC] in ENDS for b in self.protocol.bases)

    def _trace(self, states: list[bytes], parents: array[int], last: int) -> list[str]:
        """The steps to a state, and the one behind it that breaks a guarantee."""
        if self._swaps:
            return []  # processes have changed places on the way
        path = []
        while last:
            path.append(states[last])
            last = parents[last]
        state, lines = states[0], []
        for wanted in reversed(path):
            step = next(step for step in self.successors(state) if step[3] == wanted)
            lines.append(describe(step[0], step[1], step[3]))
            state = wanted
        try:
            for name, b, _, s in self.successors(state):
                lines.append(describe(name, b, s))
                self.protocol.verify(s)
                lines.pop()
        except Violation:
            pass
        return lines


def explore(protocol: type[Protocol], config: Config, *, trace: bool = False) -> Result:
    """Search a configuration; with ``trace`` show the steps to a violation."""
    result = Search(protocol(config)).run()
    if trace and result.violation:
        return Search(protocol(config), symmetric=False).run()
    return result


def describe(name: str, b: int, s: bytearray) -> str:
    """One step, and the words behind it."""
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


def _first_stuck(is_good: list[bool], sources: array[int], targets: array[int]) -> int | None:
    """The first state from which no good one can be reached."""
    changed = True
    while changed:
        changed = False
        for i in range(len(sources) - 1, -1, -1):
            if not is_good[sources[i]] and is_good[targets[i]]:
                is_good[sources[i]] = changed = True
    return is_good.index(False) if False in is_good else None


def _swaps(config: Config) -> Iterator[tuple[int, int, bytes, bytes, bytes, bytes]]:
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
