"""Exhaustive search: every state that a model reaches, each verified once.

A model has processes whose steps change one small state: a row of small numbers, in which each has
a block of its own.  States that differ only in which of several equal processes is which count as
one.  Afterwards every state must lead, without further faults, to one where all living processes
are done.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import ClassVar, NamedTuple

PC, OP = 0, 1  # the first words of a process: where it is, and which operation of its program
START, DONE, DEAD = 0, 1, 2  # where each may be
ENDS = (DONE, DEAD)
WAIT = -1
WAITS = "a process waits for ever"

State = MutableSequence[int]
Step = tuple[str, int, bool, bytearray]  # its name, the process, whether a fault, what follows


class Violation(Exception):
    """A guarantee is broken."""


class Model:
    """Processes, and what they and the machine may do next.

    A step is a method with the name of where the process is.  It changes the state in place, and
    returns where the process goes then, or WAIT.
    """

    steps: ClassVar[dict[int, str]]
    # Other ways to go on: what the step is called, and the word that counts how often it may come.
    others: ClassVar[dict[int, tuple[str, int | None]]] = {}
    safe: ClassVar[frozenset[int]] = frozenset((START,))  # where no process is killed
    first: ClassVar[int]  # where the block of the first process begins
    width: ClassVar[int]
    kills: ClassVar[int]  # the word that counts how many processes may still be killed
    has_twins = False  # whether some processes are equal

    def __init__(self, programs: Sequence[Sequence[int]]) -> None:
        self.programs = programs
        self.bases = tuple(self.first + self.width * n for n in range(len(programs)))
        self._ways: dict[int, list[tuple[str, Callable[[State, int], int], int | None]]] = {
            at: [(name, getattr(self, name), None)] for at, name in self.steps.items()
        }
        for at, (name, budget) in self.others.items():
            self._ways[at].append((name, getattr(self, name), budget))

    def initial(self) -> bytes:
        """The state in which everything begins."""
        raise NotImplementedError

    def successors(self, state: bytes) -> Iterator[Step]:
        """Each step that is possible.  Raises Violation."""
        for b in self.bases:
            at = state[b + PC]
            if at in ENDS:
                continue
            for name, step, budget in self._ways[at]:
                if budget is None or state[budget]:
                    s = bytearray(state)
                    following = step(s, b)
                    if following != WAIT:
                        s[b + PC] = following
                        if budget is not None:
                            s[budget] -= 1
                        yield name, b, budget is not None, s
            if state[self.kills] and at not in self.safe:
                for name, s in self.deaths(state, b):
                    yield name, b, True, s
        for s in self.cuts(state):
            yield "the machine stops", self.first, True, s

    def deaths(self, state: bytes, b: int) -> Iterator[tuple[str, bytearray]]:
        """The ways in which a process may die where it is."""
        s = bytearray(state)
        self.kill(s, b)
        yield "is killed", s

    def kill(self, s: State, b: int) -> None:
        """End a process: the kernel gives its locks back."""
        self.clear(s, b)
        s[b + PC] = DEAD
        s[self.kills] -= 1

    def cuts(self, state: bytes) -> Iterator[bytearray]:
        """The states after a power cut, in which the machine goes on with new processes."""
        return iter(())

    def clear(self, s: State, b: int, *kept: int) -> None:
        """Set all words of a process to 0, but for some."""
        values = [s[b + word] for word in kept]
        for i in range(b, b + self.width):
            s[i] = 0
        for word, value in zip(kept, values, strict=True):
            s[b + word] = value

    def _held(self, s: Sequence[int], lock: int) -> bool:
        return any(s[b + lock] for b in self.bases)

    def verify(self, s: Sequence[int]) -> None:
        """Raise Violation if a guarantee does not hold in this state."""

    def is_over(self, s: Sequence[int]) -> bool:
        """Whether all living processes are done."""
        return all(s[b + PC] in ENDS for b in self.bases)

    def canonical(self, s: bytearray) -> bytes:
        """The same state with equal processes in one order."""
        return bytes(s)

    def describe(self, name: str, b: int, s: bytearray) -> str:
        """One step, and the words behind it."""
        return f"{(b - self.first) // self.width} {name:<22} {list(s[: self.first])}"


class Result(NamedTuple):
    """What a search has found; the trace leads to the violation."""

    states: int
    transitions: int
    violation: str | None
    trace: list[str]


class Search:
    """All states of a model."""

    def __init__(self, model: Model, *, symmetric: bool = True) -> None:
        self._model = model
        self._canonical: Callable[[bytearray], bytes] = model.canonical if symmetric else bytes

    def run(self) -> Result:
        """Look at all states, breadth first, up to the first violation."""
        model = self._model
        known = {model.initial(): 0}
        parents = array("I", [0])
        sources, targets = array("I"), array("I")  # of the steps that are no faults
        canonical, verify = self._canonical, model.verify
        transitions, at, frontier = 0, 0, list(known)
        try:
            while frontier:
                following = []
                for state in frontier:
                    for _, _, is_fault, s in model.successors(state):
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
        stuck = _first_stuck(list(map(model.is_over, states)), sources, targets)
        if stuck is None:
            return Result(len(known), transitions, None, [])
        trace = [*self._trace(states, parents, stuck), WAITS]
        return Result(len(known), transitions, WAITS, trace)

    def _trace(self, states: list[bytes], parents: array[int], last: int) -> list[str]:
        """The steps to a state, and the one behind it that breaks a guarantee."""
        model = self._model
        if self._canonical is not bytes and model.has_twins:
            return []  # processes have changed places on the way
        path = []
        while last:
            path.append(states[last])
            last = parents[last]
        state, lines = states[0], []
        for wanted in reversed(path):
            step = next(step for step in model.successors(state) if step[3] == wanted)
            lines.append(model.describe(step[0], step[1], step[3]))
            state = wanted
        try:
            for name, b, _, s in model.successors(state):
                lines.append(model.describe(name, b, s))
                model.verify(s)
                lines.pop()
        except Violation:
            pass
        return lines


def explore(model: Model, *, trace: bool = False) -> Result:
    """Search all states of a model; with ``trace`` show the steps to a violation."""
    result = Search(model).run()
    if trace and result.violation:
        return Search(model, symmetric=False).run()
    return result


def _first_stuck(is_good: list[bool], sources: array[int], targets: array[int]) -> int | None:
    """The first state from which no good one can be reached."""
    changed = True
    while changed:
        changed = False
        for i in range(len(sources) - 1, -1, -1):
            if not is_good[sources[i]] and is_good[targets[i]]:
                is_good[sources[i]] = changed = True
    return is_good.index(False) if False in is_good else None
