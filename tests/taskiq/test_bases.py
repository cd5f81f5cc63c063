"""Instances of subclasses of the stored types as their base: bases.py."""

from __future__ import annotations

import datetime as dt
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
from typing import Any
from uuid import UUID

import pytest

from logstore.errors import UnserializableValueError
from logstore.taskiq.outcome.plain import to_plain
from logstore.testing.conformance_cases.comparing import assert_same

ZONE = dt.timezone(dt.timedelta(hours=5.5), "IST")

INSTANCES: list[Any] = [
    5,
    -1.5,
    1 + 2j,
    "te\ud800xt",
    b"by\x00tes",
    dt.datetime(2024, 2, 29, 12, 30, 15, 123456, ZONE, fold=1),
    dt.datetime(1, 1, 1),
    dt.date(9999, 12, 31),
    dt.time(23, 59, 59, 999999, ZONE, fold=1),
    dt.timedelta(-5, 3, 7),
    Decimal("-1.100E+7"),
    Decimal("-0"),
    Fraction(-3, 7),
    UUID(int=5),
    IPv4Address("10.0.0.1"),
    IPv4Network("10.0.0.0/8"),
    IPv4Interface("10.0.0.1/8"),
    IPv6Address("fe80::1%eth0"),
    IPv6Network("2001:db8::/32"),
    IPv6Interface("fe80::1%eth0/64"),
]


def own(value: Any, **body: Any) -> Any:
    """The same as an instance of a subclass."""
    kind: Any = type("Own", (type(value),), body)
    if isinstance(value, dt.datetime):
        clock = (value.hour, value.minute, value.second, value.microsecond)
        return kind(value.year, value.month, value.day, *clock, value.tzinfo, fold=value.fold)
    if isinstance(value, dt.date):
        return kind(value.year, value.month, value.day)
    if isinstance(value, dt.time):
        clock = (value.hour, value.minute, value.second, value.microsecond)
        return kind(*clock, value.tzinfo, fold=value.fold)
    if isinstance(value, dt.timedelta):
        return kind(value.days, value.seconds, value.microseconds)
    if isinstance(value, UUID):
        return kind(int=value.int)
    if isinstance(value, complex):
        return kind(value.real, value.imag)
    if isinstance(value, (IPv4Network, IPv6Network)) or hasattr(value, "with_prefixlen"):
        return kind(str(value))
    return kind(value)


@pytest.mark.parametrize("value", INSTANCES, ids=lambda value: type(value).__name__)
def test_an_instance_of_a_subclass_becomes_its_base(value: Any) -> None:
    instance = own(value)
    assert type(instance) is not type(value)
    found = to_plain({"rows": [instance]})["rows"][0]
    assert_same(found, value)
    assert getattr(found, "fold", None) == getattr(value, "fold", None)
    assert repr(found) == repr(value)


def say(self: object, *args: object) -> Any:
    return "something else"


@pytest.mark.parametrize("value", INSTANCES, ids=lambda value: type(value).__name__)
def test_what_is_kept_is_what_the_base_knows(value: Any) -> None:
    names = "__str__", "__repr__", "__format__", "__int__", "__float__", "__complex__", "__bytes__"
    found = to_plain(own(value, **dict.fromkeys(names, say)))
    assert_same(found, value)


@pytest.mark.parametrize("text", ["NaN", "sNaN123", "-Infinity"])
def test_a_decimal_that_equals_nothing_is_kept(text: str) -> None:
    found = to_plain(own(Decimal(text)))
    assert type(found) is Decimal
    assert str(found) == text


class Precise(dt.datetime):
    """As a Timestamp with nanoseconds: two that differ in these alone are not equal."""

    nanosecond = 5

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Precise) and super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = dt.datetime.__hash__


@pytest.mark.parametrize(
    "value",
    [
        Precise(2024, 1, 1),
        *(
            own(value, __eq__=lambda self, other: False, __ne__=lambda self, other: True)
            for value in (dt.date(2024, 1, 1), dt.time(1), dt.timedelta(1), Fraction(1, 2))
        ),
        own(UUID(int=1), bytes=bytes(16)),
    ],
    ids=lambda value: type(value).__mro__[1].__name__,
)
def test_what_its_base_does_not_equal_is_refused(value: Any) -> None:
    with pytest.raises(UnserializableValueError, match=r"result\[0\].*without loss"):
        to_plain([value])
