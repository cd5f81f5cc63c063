"""Check whole histories, and show the smallest part of a history that no order explains. Pure.

Shrinking is sound: an operation is left out only if the rest fails even when that operation may
take effect at any time after its call, any number of times. So the part shown is wrong in itself,
whatever the effects of the other operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from logstore.testing.linearizability.checker import (
    TooManyConfigurationsError,
    by_key,
    first_failure,
)
from logstore.testing.linearizability.history import Operation
from logstore.testing.linearizability.models import Model, ResultModel

__all__ = ["CounterExample", "Verdict", "check_linearizable", "shrink", "timeline"]

_BAR_WIDTH = 40


@dataclass(slots=True)
class CounterExample:
    """Operations on one key that no order explains, and the number of operations left out."""

    key: str
    operations: list[Operation]
    left_out: int

    def __str__(self) -> str:
        lines = [
            f"key {self.key!r}: no order of these {len(self.operations)} operations explains their "
            f"results, whatever the {self.left_out} others did:"
        ]
        return "\n".join(lines + [f"  {line}" for line in timeline(self.operations)])


@dataclass(slots=True)
class Verdict:
    """The result of a check. `undecided` maps keys to the reason why the search was stopped."""

    operations: int = 0
    keys: int = 0
    unknown: int = 0
    seconds: float = 0.0
    counter_examples: list[CounterExample] = field(default_factory=list)
    undecided: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every key is linearizable; an undecided key counts as not linearizable."""
        return not self.counter_examples and not self.undecided

    def __str__(self) -> str:
        how = "linearizable" if self.ok else "NOT shown linearizable"
        lines = [
            f"{self.operations} operations ({self.unknown} of unknown outcome) on "
            f"{self.keys} keys: {how}, {self.seconds:.1f} s"
        ]
        lines += [str(example) for example in self.counter_examples]
        lines += [f"undecided: {why}" for why in self.undecided.values()]
        return "\n".join(lines)


def check_linearizable(
    history: Iterable[Operation],
    model: Model | None = None,
    *,
    configurations_max: int = 200_000,
    counter_examples_max: int = 3,
) -> Verdict:
    """Check a history, key by key, against a model (default: `ResultModel`).

    Stop after `counter_examples_max` keys that fail, each shrunk. A key whose search needs more
    than `configurations_max` configurations at once is reported as undecided. Raise ValueError for
    an operation that the model does not have.
    """
    begun = time.monotonic()
    chosen = ResultModel() if model is None else model
    verdict = Verdict()
    for key, operations in by_key(history).items():
        verdict.keys += 1
        verdict.operations += len(operations)
        verdict.unknown += sum(operation.unknown for operation in operations)
        try:
            failure = first_failure(operations, chosen, configurations_max=configurations_max)
        except TooManyConfigurationsError as error:
            verdict.undecided[key] = str(error)
            continue
        if failure is not None:
            verdict.counter_examples.append(shrink(operations, chosen, failure))
            if len(verdict.counter_examples) >= counter_examples_max:
                break
    verdict.seconds = time.monotonic() - begun
    return verdict


def shrink(operations: Sequence[Operation], model: Model, failure: Operation) -> CounterExample:
    """Return the smallest failing part found of one key's history.

    `failure` is the operation at which the whole history fails first.
    """
    assert failure.returned is not None
    # Calls after the failure do not matter. Operations that return later were still running then.
    end = failure.returned
    known = [
        operation
        if operation.returned is None or operation.returned <= end
        else replace(operation, returned=None)
        for operation in operations
        if operation.called <= end
    ]
    known.sort(key=lambda operation: operation.called)

    def fails(kept: list[Operation]) -> bool:
        ids = {id(operation) for operation in kept}
        free = [operation for operation in known if id(operation) not in ids]
        try:
            return first_failure(known, model, free=free) is not None
        except TooManyConfigurationsError:
            return False

    kept = _window(known, fails)
    size = max(1, len(kept) // 2)
    while True:
        position = 0
        removed = False
        while position < len(kept):
            less = kept[:position] + kept[position + size :]
            if less and fails(less):
                kept = less
                removed = True
            else:
                position += size
        if size == 1 and not removed:
            break
        size = max(1, size // 2)
    return CounterExample(failure.key, kept, len(operations) - len(kept))


def _window(known: list[Operation], fails: Callable[[list[Operation]], bool]) -> list[Operation]:
    """Return the shortest failing suffix, found by doubling its length."""
    size = 8
    while size < len(known):
        if fails(known[-size:]):
            return known[-size:]
        size *= 2
    return known


def timeline(operations: Sequence[Operation]) -> list[str]:
    """Return one line per operation: client, start and end, a bar, and the operation."""
    ordered = sorted(operations, key=lambda operation: operation.called)
    first = ordered[0].called
    ends = [operation.returned for operation in ordered if operation.returned is not None]
    last = max([*ends, ordered[-1].called], default=first)
    span = max(1, last - first)
    scale, unit = (1e3, "us") if span < 1_000_000 else (1e6, "ms")
    clients = max(len(operation.client) for operation in ordered)
    lines = []
    for operation in ordered:
        begin = (operation.called - first) * (_BAR_WIDTH - 1) // span
        returned = last if operation.returned is None else operation.returned
        end = (returned - first) * (_BAR_WIDTH - 1) // span
        bar = " " * begin + "|" + "-" * max(0, end - begin - 1)
        bar += "..." if operation.unknown else "|" * (end > begin)
        since = f"{(operation.called - first) / scale:.3f}"
        until = "?" if operation.unknown else f"{(returned - first) / scale:.3f}"
        lines.append(
            f"{operation.client:<{clients}}  {since:>9} to {until:>9} {unit}  "
            f"{bar:<{_BAR_WIDTH + 3}} {operation}"
        )
    return lines
