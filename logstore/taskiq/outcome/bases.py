"""Converting instances of subclasses of types without items to the supported base type.

Rules: a table; the first matching row counts.  The value is read with the methods of the base, not
of the subclass.  Where both can be compared, they must be equal, so that no data is lost, such as
the nanoseconds of a ``pandas.Timestamp``.  A converter may raise anything: it runs code of the
subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePath
from typing import Any
from uuid import UUID

import pydantic
import pydantic_core


def _datetime(value: datetime) -> datetime:
    day = value.year, value.month, value.day
    clock = value.hour, value.minute, value.second, value.microsecond
    return datetime(*day, *clock, value.tzinfo, fold=value.fold)


def _time(value: time) -> time:
    clock = value.hour, value.minute, value.second, value.microsecond
    return time(*clock, value.tzinfo, fold=value.fold)


def _from_text(kind: type) -> Callable[[Any], Any]:
    """Return the converter for an address or a network, which its text fully describes."""
    text: Any = kind.__str__
    return lambda value: kind(text(value))


def _equal(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def convert_exactly(value: Any) -> Any:
        plain = convert(value)
        if plain != value:
            raise ValueError(f"it cannot be kept as a {type(plain).__name__} without loss")
        return plain

    return convert_exactly


_Row = tuple[type, Callable[[Any], Any]]

_ADDRESSES = (IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, IPv4Address, IPv6Address)

# The order matters: an interface is also an address, and a datetime is also a date.
BASES: tuple[_Row, ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__pos__),
    (str, str.__str__),
    (bytes, lambda value: b"".join((value,))),
    (datetime, _equal(_datetime)),
    (date, _equal(lambda value: date(value.year, value.month, value.day))),
    (time, _equal(_time)),
    (timedelta, _equal(lambda value: timedelta(value.days, value.seconds, value.microseconds))),
    (Decimal, Decimal),
    (Fraction, _equal(lambda value: Fraction(value.numerator, value.denominator))),
    (UUID, _equal(lambda value: UUID(bytes=value.bytes))),
    *((kind, _equal(_from_text(kind))) for kind in _ADDRESSES),
)
"""A supported type, and the converter from an instance of a subclass."""

OTHERS: tuple[_Row, ...] = (
    (bytearray, bytes),
    (memoryview, bytes),
    (PurePath, str),
    (pydantic_core.Url, str),
    (pydantic_core.MultiHostUrl, str),
    (pydantic.AnyUrl, str),
)
"""An unrelated type, and its converter."""
