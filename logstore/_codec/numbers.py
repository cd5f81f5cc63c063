"""Converting numbers of other libraries, such as numpy, to equal built-in numbers.

Rules: numbers are the types registered with :mod:`numbers`, and numpy's booleans.  No module is
imported to find out.  A number without an equal built-in number, such as one with more digits than
a float, is a ``ValueError``.  The code of the number runs and may raise any exception.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from logstore._codec.text import bases_of, class_names

# numpy classes: the base of scalars, the two names of the boolean, and timedelta64, which is
# registered as an integer although it has a unit.
_SCALAR = "numpy.generic"
_BOOLEANS = frozenset({"numpy.bool", "numpy.bool_"})
_WITH_UNIT = "numpy.timedelta64"


def _fraction(value: Any) -> Fraction:
    return Fraction(int(value.numerator), int(value.denominator))


# The narrowest kind first; each is a subclass of the next.
_KINDS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (numbers.Integral, int),
    (numbers.Rational, _fraction),
    (numbers.Real, float),
    (numbers.Complex, complex),
)


def converter_for(kind: type) -> Callable[[Any], Any] | None:
    """Return the converter of ``kind`` to a built-in number; None if ``kind`` is not a number."""
    names = [".".join(class_names(base)) for base in bases_of(kind)]
    if _WITH_UNIT in names:
        return None
    if _SCALAR in names and not _BOOLEANS.isdisjoint(names):
        return bool
    for registered, convert in _KINDS:
        if issubclass(kind, registered):
            return convert
    return None


def is_numpys(kind: type) -> bool:
    """Return whether ``kind`` is a scalar class of numpy."""
    return any(class_names(base) == ("numpy", "generic") for base in bases_of(kind))


def exact(convert: Callable[[Any], Any], value: Any) -> Any:
    """Return the built-in number that equals ``value``; a nan for a nan.

    Raises ``ValueError`` if there is none, and any exception from the code of the number.
    """
    plain = convert(value)
    if plain != value and value == value:
        raise ValueError(f"no {type(plain).__name__} equals it")
    return plain
