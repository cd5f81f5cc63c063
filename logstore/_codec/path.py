"""The path of a part that cannot be stored: ``result['rows'][3]``.

Rules: there is no cost until a value is refused.  The exception is raised at the refused part.
Each container on its way outwards adds a step to the path.  Keys are shown with a bounded repr, and
only if their types can be stored: no code of the value's own classes runs and no huge text is
formatted.
"""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import Repr
from typing import Any

from logstore._codec.hints import advice
from logstore._codec.text import NAME_CHARS_MAX, describe, safe_text, type_name

_INT_BITS_MAX = 256


class _KeyRepr(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        # The repr of a huge int is quadratic, and limited by the interpreter.
        if x.bit_length() > _INT_BITS_MAX:
            return f"<int of {x.bit_length()} bits>"
        return repr(x)

    def repr_Fraction(self, x: Any, level: int) -> str:
        parts = self.repr_int(x.numerator, level), self.repr_int(x.denominator, level)
        return f"Fraction({', '.join(parts)})"

    def repr_str(self, x: Any, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}..."

    repr_bytes = repr_str


_key_repr = _KeyRepr().repr


class Refused(Exception):
    """A part of the value cannot be stored; collects the path of that part."""

    def __init__(self, culprit: object, reason: str, *, nesting: bool = False) -> None:
        super().__init__(reason)
        self.kind = type(culprit)
        self.reason = reason
        self.nesting = nesting
        self._of_hook = False
        self._at = culprit
        # From the culprit outwards: the containers, and the step from each to the next inner one.
        # A caller that knows its step needs no container: it adds the step alone.
        self._chain: list[object] = [culprit]
        self.steps: list[str] = []

    @classmethod
    def for_type(cls, culprit: object) -> Refused:
        return cls(culprit, advice(type(culprit)))

    @classmethod
    def failed(cls, culprit: object, error: Exception, what: str = "cannot be written:") -> Refused:
        refused = cls(culprit, f"{what} {describe(error)}")
        refused.__cause__ = error
        return refused

    def of_hook(self, origin: str) -> None:
        """Note that the culprit is in the object that a hook made of an ``origin``."""
        if not self._of_hook:
            self._of_hook = True
            self.reason += f" (enc_hook made it of the {safe_text(origin, NAME_CHARS_MAX)})"

    def inside(
        self,
        container: object,
        children: Iterable[Any],
        step: str,
        *,
        names: Iterable[Any] | None = None,
    ) -> bool:
        """Add a step for ``container``; return False if no child of ``children`` is on the path.

        ``step`` is a format for the position of the child, or for its name if there are ``names``.
        """
        for index, child in enumerate(children):
            if child is self._at:
                name: object = index
                if names is not None:
                    name = _key_repr(list(names)[index])
                self.steps.append(step.format(name))
                self._chain.append(container)
                self._at = container
                return True
        return False

    def message(self, root: str) -> str:
        """Return the error message; ``root`` is the name of the outermost value."""
        steps = self.steps[::-1]
        if self.nesting:
            seen: set[int] = set()
            for depth, container in enumerate(reversed(self._chain)):
                if id(container) in seen:
                    place = root + "".join(steps[:depth])
                    name = type_name(type(container))
                    return f"cannot store {place}: the {name} there holds itself"
                seen.add(id(container))
        place = f"{root}{''.join(steps)}"
        return f"cannot store {place}: the {type_name(self.kind)} there {self.reason}"
