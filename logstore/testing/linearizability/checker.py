"""Check linearizability by Wing and Gong's search with Lowe's just-in-time linearization. Pure.

After J. M. Wing and C. Gong, "Testing and verifying concurrent objects" (1993), and G. Lowe,
"Testing for linearizability" (2017).

Rules:
- Keys are checked one by one (linearizability is local). Events are processed in order of time. At
  equal times calls come before returns, so that possible overlaps count as overlaps.
- A configuration is a model's state and the set of running operations that have taken effect. All
  possible configurations are kept, as a set. An operation takes effect only when a return needs it.
- An operation of unknown outcome never returns: it may take effect at any later time, or never.
- A free operation (used only to shrink) may take effect any number of times after its call. So a
  history that fails with free operations fails whatever their effects were.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence

from logstore.testing.linearizability.history import UNKNOWN, Operation
from logstore.testing.linearizability.models import IMPOSSIBLE, Model

__all__ = ["TooManyConfigurationsError", "by_key", "first_failure"]

_Configuration = tuple[Hashable, int]  # state, bits of the slots that have taken effect


class TooManyConfigurationsError(Exception):
    """The search for a key was stopped: too many operations of unknown outcome overlap."""


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the history of each key."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        keys.setdefault(operation.key, []).append(operation)
    return keys


def first_failure(
    operations: Sequence[Operation],
    model: Model,
    *,
    free: Collection[Operation] = (),
    configurations_max: int = 200_000,
) -> Operation | None:
    """Return the first operation whose return no order of one key's history explains, or None.

    Raise TooManyConfigurationsError if more than `configurations_max` are possible at once.
    """
    search = _Search(model, configurations_max)
    freed = {id(operation) for operation in free}
    events = [(operation.called, 0, number) for number, operation in enumerate(operations)]
    for number, operation in enumerate(operations):
        if operation.returned is not None and id(operation) not in freed:
            events.append((operation.returned, 1, number))
    for _, returns, number in sorted(events):
        operation = operations[number]
        if returns:
            if not search.returned(operation):
                return operation
        elif id(operation) in freed:
            search.freed(operation)
        else:
            search.called(operation)
    return None


class _Search:
    """The configurations of one key's history so far."""

    def __init__(self, model: Model, configurations_max: int) -> None:
        self._step = model.step
        self._limit = configurations_max
        self._configurations: set[_Configuration] = {(model.initial, 0)}
        self._running: dict[int, Operation] = {}  # by bit
        self._bits: dict[int, int] = {}  # bit by id of the operation
        self._free: dict[tuple[str, Hashable], Operation] = {}

    def called(self, operation: Operation) -> None:
        bit = 1
        while bit in self._running:
            bit <<= 1
        self._running[bit] = operation
        self._bits[id(operation)] = bit

    def freed(self, operation: Operation) -> None:
        self._free.setdefault((operation.name, operation.argument), operation)

    def returned(self, operation: Operation) -> bool:
        """Keep the configurations that the return allows; return False if there are none."""
        bit = self._bits.pop(id(operation))
        found: set[_Configuration] = set()
        if len(self._running) == 1 and not self._free:
            result = operation.result
            for state, done in self._configurations:
                after = state if done else self._step(state, operation, result)
                if after is not IMPOSSIBLE:
                    found.add((after, 0))
        else:
            self._search(operation, bit, found)
        del self._running[bit]
        self._configurations = found
        return bool(found)

    def _search(self, operation: Operation, bit: int, found: set[_Configuration]) -> None:
        step = self._step
        stack: list[_Configuration] = []
        for state, done in self._configurations:
            if done & bit:
                found.add((state, done & ~bit))
            else:
                stack.append((state, done))
        seen = set(stack)
        while stack:
            state, done = stack.pop()
            after = step(state, operation, operation.result)
            if after is not IMPOSSIBLE:
                found.add((after, done))
            for other_bit, other in self._running.items():
                if other_bit & done or other_bit == bit:
                    continue
                result = UNKNOWN if other.returned is None else other.result
                after = step(state, other, result)
                if after is IMPOSSIBLE:
                    continue
                if other.returned is None and after == state:
                    continue  # the same as no effect
                _push((after, done | other_bit), stack, seen)
            for other in self._free.values():
                after = step(state, other, UNKNOWN)
                if after is not IMPOSSIBLE:
                    _push((after, done), stack, seen)
            if len(seen) > self._limit:
                raise TooManyConfigurationsError(
                    f"key {operation.key!r}: more than {self._limit} configurations are possible "
                    f"while {len(self._running)} operations run"
                )


def _push(new: _Configuration, stack: list[_Configuration], seen: set[_Configuration]) -> None:
    if new not in seen:
        seen.add(new)
        stack.append(new)
