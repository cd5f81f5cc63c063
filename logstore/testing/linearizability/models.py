"""What operations mean: sequential models of what is checked. Pure.

A model says, for a state and an operation, which state follows, or that the operation cannot have
had that result in that state. States must be hashable.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

from logstore.testing.linearizability.history import MISSING, UNKNOWN, Operation

__all__ = ["IMPOSSIBLE", "Model", "RegisterModel", "ResultModel"]

IMPOSSIBLE: Final = object()
"""What `Model.step` returns when the operation cannot have had its result in the state."""


class Model(Protocol):
    """The sequential behaviour of one key."""

    @property
    def initial(self) -> Hashable:
        """The state before any operation."""

    def step(self, state: Hashable, operation: Operation, result: object) -> Hashable:
        """The state after an operation with that result (UNKNOWN: with any), or IMPOSSIBLE.

        Raises ValueError for an operation that the model does not know.
        """


class ResultModel:
    """A result store's key: `set(v)`, `get -> v or MISSING`, `delete -> bool`, `pop -> v or
    MISSING`,
    `ready -> bool`. The state is the value, or MISSING."""

    initial: Hashable = MISSING

    def step(self, state: Hashable, operation: Operation, result: object) -> Hashable:
        """See `Model.step`."""
        name = operation.name
        if name == "set":
            return _hashable(operation.argument)
        if name == "get":
            return state if result is UNKNOWN or result == state else IMPOSSIBLE
        if name == "delete":
            return MISSING if result is UNKNOWN or result is (state is not MISSING) else IMPOSSIBLE
        if name == "pop":
            return MISSING if result is UNKNOWN or result == state else IMPOSSIBLE
        if name == "ready":
            return state if result is UNKNOWN or result is (state is not MISSING) else IMPOSSIBLE
        raise ValueError(f"the model has no operation {name!r}")


class RegisterModel:
    """A progress register: `set(v)`, `get -> v or MISSING`, `clear`. The state is the value, or
    MISSING."""

    initial: Hashable = MISSING

    def step(self, state: Hashable, operation: Operation, result: object) -> Hashable:
        """See `Model.step`."""
        name = operation.name
        if name == "set":
            return _hashable(operation.argument)
        if name == "get":
            return state if result is UNKNOWN or result == state else IMPOSSIBLE
        if name == "clear":
            return MISSING
        raise ValueError(f"the model has no operation {name!r}")


def _hashable(value: object) -> Hashable:
    hash(value)
    assert isinstance(value, Hashable)
    return value
