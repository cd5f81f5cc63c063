"""What is small enough for an event loop: the work of encoding a value, before it begins.

Rules: weighing takes at most some tens of microseconds, whatever the value is, and runs no code of
its own types.  So does the encoding of a value within the budget.
"""

from __future__ import annotations

from typing import Any, Literal

from logstore._codec.tags import CONTAINERS, MAX_DEPTH, PLAIN, STORED

SMALL_BYTES = 1 << 14
"""The most bytes to decode on an event loop, and the budget for encoding there.

Each part costs :data:`PART_COST`, each character of a string 1, a part with a tag more.
"""

PART_COST = 64
TAG_COST = 128
PARTS_MAX = SMALL_BYTES // PART_COST

_SIZELESS = PLAIN - {str, bytes}
_TAGGED = STORED - PLAIN - CONTAINERS

Limit = Literal["small", "stored", "any"]
"""What to encode: small values, on an event loop; all whose types are stored as they are, in a
thread that must not run other code; or any values."""


class BudgetExceededError(Exception):
    """The work may hold this thread up: another one must do it."""


class UnknownTypeError(BudgetExceededError):
    """The value has parts of other types, whose code may block."""


def weigh(value: object) -> Literal["plain", "tagged", "large", "unknown"]:
    """Return whether encoding is short work.

    A value is ``"plain"`` or ``"tagged"`` if it is; the former is of types that CBOR has and not
    nested too deep.  It is ``"unknown"`` if a part is of a type that is not stored as it is.
    """
    left, weight = SMALL_BYTES, "plain"
    containers: list[Any] = [(value,)]  # grows on the way
    try:
        for container in containers:
            left -= PART_COST * len(container)
            if left < 0:
                return "large"
            if type(container) is dict:
                for key in container:
                    if type(key) is not str:
                        weight = "tagged"
                        containers.append(list(container))
                        break
                    left -= len(key)
                container = container.values()
            for part in container:
                kind = type(part)
                if kind is str or kind is bytes:
                    left -= len(part)
                elif kind is int:
                    left -= part.bit_length() >> 3
                elif kind is dict or kind is list:
                    containers.append(part)
                elif kind not in _SIZELESS:
                    weight = "tagged"
                    if kind in CONTAINERS:
                        containers.append(part)
                    elif kind in _TAGGED:
                        left -= TAG_COST + part.__sizeof__()
                    else:
                        return "unknown"
    except Exception:  # from a metaclass without a hash, or a container that changes
        return "unknown"
    if left < 0:
        return "large"
    return "plain" if weight == "plain" and len(containers) <= MAX_DEPTH else "tagged"
