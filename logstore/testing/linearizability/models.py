"""Sequential models of the checked operations. Pure.

For a state and an operation, a model returns the next state, or that the operation cannot have its
result in that state. States must be hashable.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

from logstore.testing.linearizability.history import MISSING, UNKNOWN, Operation

__all__ = ["IMPOSSIBLE", "Model", "RegisterModel", "ResultModel"]

IMPOSSIBLE: Final = object()
"""Returned by `Model.step` if the operation cannot have its result in the state."""


class Model(Protocol):
    """The sequential behaviour of one key."""

    @property
    def initial(self) -> Hashable:
        """The state before any operation."""

    def step(self, state: Hashable, operation: Operation, result: object) -> Hashable:
        """Return the state after an operation with that result (UNKNOWN: any), or IMPOSSIBLE.

        Raise ValueError for an operation that the model does not have.
        """


class ResultModel:
    """The model of a result store's key. The state is the value, or MISSING.

    Operations: `set(v)`, `get -> v or MISSING`, `delete -> bool`, `pop -> v or MISSING`, `ready ->
    bool`.
    """

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
    """The model of a progress register. The state is the value, or MISSING.

    Operations: `set(v)`, `get -> v or MISSING`, `clear`.
    """

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
