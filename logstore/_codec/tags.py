"""The table of tags: how types outside plain CBOR are written and read.

Rules: this is the on-disk format of values: rows may be added, never changed or reused.  Plain CBOR
has None, bool, int (with tags 2 and 3 for large values), float, str, bytes, list, and a dict whose
keys are all str or bytes.  Every other type is a tag and a payload:

====== =============================== =========================================================
tag    type                            payload
====== =============================== =========================================================
45056  tuple                           array of the items
45057  set                             array of the elements
45058  frozenset                       array of the elements
45059  dict with any other key         array: key, value, key, value, ... in insertion order
45060  str with a lone surrogate       byte string: UTF-8, the surrogates encoded like any other
45061  complex                         array: real part, imaginary part (floats)
45062  datetime                        text, ISO 8601; or, if that would lose data, array: text
                                       without offset, fold (0 or 1), offset from UTC in
                                       microseconds or null, name of the zone or null
45063  date                            text, ISO 8601
45064  time                            as for datetime
45065  timedelta                       integer, microseconds
45066  Decimal                         text, as returned by ``str()``
45067  Fraction                        array: numerator, denominator (integers)
45068  UUID                            byte string of 16 bytes
45069  IPv4Address                     text
45070  IPv4Network                     text, with a prefix length
45071  IPv4Interface                   text, with a prefix length
45072  IPv6Address                     text, with its scope id
45073  IPv6Network                     text, with its scope id and a prefix length
45074  IPv6Interface                   text, with its scope id and a prefix length
45075  (any other, by an enc_hook)     array: module and qualified name of its class (texts), and
                                       the value that the hook returned
====== =============================== =========================================================

The functions are pure.  ``write`` gets a value of exactly the row's type.  ``read`` gets a payload
of exactly one of the row's payload types and does not trust its content: it may raise any
``Exception``, and takes time and memory proportional to the payload.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Any, NamedTuple
from uuid import UUID

TAG_TUPLE = 45056
TAG_SET = 45057
TAG_FROZENSET = 45058
TAG_DICT = 45059
TAG_SURROGATES = 45060
TAG_HOOKED = 45075

HOOKED_HEAD = b"\xd9" + TAG_HOOKED.to_bytes(2, "big")
"""The first bytes of an item with this tag.  An encoding without these bytes has no such item."""

MAX_DEPTH = 64
"""The maximum depth of nested containers around a value."""

FRACTION_BITS_MAX = 1 << 18
"""The most bits that a Fraction's numerator or denominator may have.

Reading a Fraction computes a greatest common divisor in quadratic time, about 50 ms at this limit.
"""

# Exact, independent of the caller's decimal context.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])
_MICROSECOND = dt.timedelta(microseconds=1)


class Leaf(NamedTuple):
    """One row of the table: a type without other values inside."""

    tag: int
    kind: type
    payloads: tuple[type, ...]
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _read_complex(payload: list[float]) -> complex:
    real, imag = payload
    if type(real) is not float or type(imag) is not float:
        raise ValueError("the parts of a complex number must be floats")
    return complex(real, imag)


def _write_clock(value: dt.datetime | dt.time) -> str | list[Any]:
    zone = value.tzinfo
    offset = value.utcoffset()
    if zone is not None and offset is None:
        raise ValueError(f"its time zone {zone!r} has no fixed offset from UTC")
    name = None
    if type(zone) is dt.timezone:
        name = str.__str__(zone.tzname(None))  # it may be of a subclass of str
        if name == dt.timezone(zone.utcoffset(None)).tzname(None):
            name = None
    # Parsing a text drops the microseconds of an offset of less than a second.
    if not value.fold and name is None and (offset is None or not offset.microseconds):
        return value.isoformat()
    text = value.replace(tzinfo=None).isoformat()
    return [text, value.fold, None if offset is None else offset // _MICROSECOND, name]


def _read_clock(kind: type[dt.datetime] | type[dt.time], payload: str | list[Any]) -> Any:
    if isinstance(payload, str):
        return kind.fromisoformat(payload)
    text, fold, offset_us, name = payload
    if type(text) is not str or type(fold) is not int:
        raise ValueError("expected a text and a fold")
    zone = None
    if offset_us is not None:
        if type(offset_us) is not int or type(name) not in (str, type(None)):
            raise ValueError("expected an offset and the name of its zone")
        offset = dt.timedelta(microseconds=offset_us)
        zone = dt.timezone(offset) if name is None else dt.timezone(offset, name)
    elif name is not None:
        raise ValueError("a zone with a name and no offset")
    return kind.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _check_parts(numerator: object, denominator: object) -> None:
    for part in (numerator, denominator):
        if type(part) is not int:
            raise ValueError("the parts of a fraction must be integers")
        if part.bit_length() > FRACTION_BITS_MAX:
            raise ValueError(
                f"a part of the fraction has {part.bit_length()} bits,"
                f" the limit is {FRACTION_BITS_MAX}"
            )


def _write_fraction(value: Fraction) -> list[int]:
    parts = [value.numerator, value.denominator]
    _check_parts(*parts)
    return parts


def _read_fraction(payload: list[int]) -> Fraction:
    numerator, denominator = payload
    _check_parts(numerator, denominator)
    return Fraction(numerator, denominator)


def _with_prefix(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader that accepts only a short prefix length, to bound the digits to convert."""

    def read(payload: str) -> Any:
        prefix = payload.rpartition("/")[2]
        if not 1 <= len(prefix) <= 3:
            raise ValueError("expected a prefix length")
        return kind(payload)

    return read


LEAVES = (
    Leaf(45061, complex, (list,), lambda value: [value.real, value.imag], _read_complex),
    Leaf(45062, dt.datetime, (str, list), _write_clock, partial(_read_clock, dt.datetime)),
    Leaf(45063, dt.date, (str,), dt.date.isoformat, dt.date.fromisoformat),
    Leaf(45064, dt.time, (str, list), _write_clock, partial(_read_clock, dt.time)),
    Leaf(45065, dt.timedelta, (int,), lambda value: value // _MICROSECOND, _MICROSECOND.__mul__),
    Leaf(45066, Decimal, (str,), str, lambda payload: Decimal(payload, _EXACT)),
    Leaf(45067, Fraction, (list,), _write_fraction, _read_fraction),
    Leaf(45068, UUID, (bytes,), lambda value: value.bytes, lambda payload: UUID(bytes=payload)),
    Leaf(45069, IPv4Address, (str,), str, IPv4Address),
    Leaf(45070, IPv4Network, (str,), str, _with_prefix(IPv4Network)),
    Leaf(45071, IPv4Interface, (str,), str, _with_prefix(IPv4Interface)),
    Leaf(45072, IPv6Address, (str,), str, IPv6Address),
    Leaf(45073, IPv6Network, (str,), str, _with_prefix(IPv6Network)),
    Leaf(45074, IPv6Interface, (str,), str, _with_prefix(IPv6Interface)),
)
"""The types without other values inside, in the order of their tags."""

PLAIN = frozenset({type(None), bool, int, float, str, bytes})
"""The types that need no tag in CBOR."""

CONTAINERS = frozenset({list, tuple, dict, set, frozenset})

STORED = PLAIN | CONTAINERS | {leaf.kind for leaf in LEAVES}
"""All types that are stored without a conversion."""
