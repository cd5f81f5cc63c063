"""Values to bytes and back, with their exact types.

Rules: pure functions, no I/O, any thread.  Nothing is ever executed or imported because of what
the bytes say.  What goes in comes out with the same type at every level; a value of any other
type, a subclass included, is refused before a byte is written.  The bytes are one CBOR item
(RFC 8949) in definite lengths, with the tags of :mod:`logstore.codec_tags` and no others.

The types are None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset,
datetime, date, time, timedelta, Decimal, Fraction, UUID, and the addresses, networks and
interfaces of :mod:`ipaddress`.  What is and is not kept beyond equality:

- insertion order of dicts, but not the order of sets; signs of zeros; trailing zeros, signs,
  exponents and NaN payloads of Decimals; but not the payload and the sign of a float nan;
- ``fold``, and the offset from UTC of an aware datetime or time.  A ``datetime.timezone`` comes
  back as it was, with its name.  Any other time zone (zoneinfo, pytz) comes back as a
  ``datetime.timezone`` of the offset it had then, so that reading needs no time zone database;
  a time whose zone has no fixed offset is refused;
- lone surrogates in a str; scope ids of IPv6 addresses; but not ``UUID.is_safe``;
- two references to one object come back as two equal objects.

A Fraction's parts are limited to :data:`logstore.codec_tags.FRACTION_BITS_MAX` bits, keys that
share one hash to :data:`SAME_HASH_MAX`, nesting to :data:`MAX_DEPTH`: these bound the time to read.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from io import BytesIO
from typing import IO, Any, cast

from cbor2 import CBORDecoder, CBOREncoder, CBORTag

from logstore.codec_path import Refused
from logstore.codec_tags import (
    LEAVES,
    TAG_DICT,
    TAG_FROZENSET,
    TAG_SET,
    TAG_SURROGATES,
    TAG_TUPLE,
    Leaf,
)
from logstore.errors import DecodeError, UnserializableValueError, ValueTooLargeError

MAX_DEPTH = 64
"""How many containers may stand around a value."""

SAME_HASH_MAX = 1000
"""How many keys of one dict, or elements of one set, may have one hash.

Only keys that are not all str or bytes are counted: the hashes of those two are salted, so bytes
that were made to collide cannot exist.
"""

# A container may be a tag around an array; the innermost leaf may be tag, array, tag.
_CBOR_DEPTH_MAX = 2 * MAX_DEPTH + 4
_READ_SIZE = 1 << 16

_TEXT_KEYS = frozenset({str, bytes})
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_ATOMS = _PLAIN | {leaf.kind for leaf in LEAVES}


def encode_value(value: object, *, max_bytes: int = 1 << 30, root: str = "result") -> bytes:
    """Return the bytes of ``value``; see the module for the types and for what is kept.

    ``root`` is what messages call the value itself.  The value must not be changed by another
    thread meanwhile.  A refused value costs no more memory than ``max_bytes`` and one of its
    strings.

    Raises :class:`UnserializableValueError`, naming the type and the path, for a value that
    holds anything else, that is nested deeper than :data:`MAX_DEPTH` or that holds itself;
    :class:`ValueTooLargeError` when there would be more than ``max_bytes`` bytes.
    """
    if isinstance(value, (str, bytes)) and len(value) > max_bytes:
        raise _too_large(len(value), max_bytes)
    job = _Job(max_bytes, _PLAIN, _TEXT_KEYS)
    try:
        try:
            data = _dump(_lower(value, 0, job), max_bytes)
        except UnicodeEncodeError:
            job = _Job(max_bytes, _PLAIN - {str}, _TEXT_KEYS - {str})
            data = _dump(_lower(value, 0, job), max_bytes)
    except Refused as refused:
        raise UnserializableValueError(refused.message(root)) from refused.__cause__
    if job.zoned and job.keyed:
        _check_keys_differ(data, root)
    return data


def decode_value(data: bytes | memoryview) -> Any:
    """Return the value that ``data`` holds: one of the types of the module, at every level.

    Trusts nothing in ``data``: time and memory are in proportion to its length, which the
    caller bounds (up to about a hundred bytes of objects for each byte of input).

    Raises :class:`DecodeError` for anything that :func:`encode_value` would not write: damaged,
    cut short or followed by more, an unknown tag, equal keys, nesting beyond :data:`MAX_DEPTH`.
    """
    stream = BytesIO(data)
    try:
        value = CBORDecoder(
            stream,
            semantic_decoders=_READERS,
            read_size=_READ_SIZE,
            max_depth=_CBOR_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
        _check(value, 0)
    except MemoryError:
        raise  # says something about this process, not about the data
    except Exception as error:
        reason = str(error)[:200]
        raise DecodeError(f"the {len(data)} bytes of a value cannot be read: {reason}") from error
    if (end := stream.tell()) != len(data):
        raise DecodeError(f"a value of {end} bytes is followed by {len(data) - end} more")
    return value


# -- encoding: to what CBOR can hold ------------------------------------------------------------


class _Job:
    """What one encoding needs to know and remember."""

    __slots__ = ("keyed", "keys", "max_bytes", "plain", "room", "zoned")

    def __init__(self, max_bytes: int, plain: frozenset[type], keys: frozenset[type]) -> None:
        self.max_bytes = max_bytes
        self.room = max_bytes  # each item takes a byte at least: shared lists cannot explode
        self.plain = plain  # types that CBOR holds as they are
        self.keys = keys  # types of keys that a CBOR map may have
        self.zoned = False  # saw a time zone of which only the offset is kept
        self.keyed = False  # saw a set or a dict that is written as an array

    def enter(self, container: Collection[Any], depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise Refused(container, f"is nested deeper than {MAX_DEPTH} levels", nesting=True)
        self.room -= len(container)
        if self.room < 0:
            raise _too_large(self.max_bytes - self.room, self.max_bytes)


def _lower(value: Any, depth: int, job: _Job) -> Any:
    """Return what CBOR can hold for ``value``: itself where nothing in it needs a tag."""
    kind = type(value)
    if kind in job.plain:
        return value
    try:
        lower = _LOWER[kind]
    except KeyError:
        raise Refused.for_type(value, _LOWER.keys() | _PLAIN) from None
    return lower(value, depth, job)


def _lower_each(values: Iterable[Any], depth: int, job: _Job) -> list[Any]:
    plain = job.plain
    return [item if type(item) in plain else _lower(item, depth, job) for item in values]


def _lower_list(value: list[Any], depth: int, job: _Job) -> list[Any]:
    job.enter(value, depth)
    if job.plain.issuperset(map(type, value)):
        return value
    try:
        return _lower_each(value, depth + 1, job)
    except Refused as refused:
        refused.inside(value, value, "[{}]")
        raise


def _lower_tuple(value: tuple[Any, ...], depth: int, job: _Job) -> CBORTag:
    job.enter(value, depth)
    try:
        return CBORTag(TAG_TUPLE, _lower_each(value, depth + 1, job))
    except Refused as refused:
        refused.inside(value, value, "[{}]")
        raise


def _lower_elements(value: Collection[Any], depth: int, job: _Job) -> list[Any]:
    job.enter(value, depth)
    _check_hashes(value)
    job.keyed = True
    try:
        return _lower_each(value, depth + 1, job)
    except Refused as refused:
        refused.inside(value, value, ".elements()[{}]")
        raise


def _lower_set(value: set[Any], depth: int, job: _Job) -> CBORTag:
    return CBORTag(TAG_SET, _lower_elements(value, depth, job))


def _lower_frozenset(value: frozenset[Any], depth: int, job: _Job) -> CBORTag:
    return CBORTag(TAG_FROZENSET, _lower_elements(value, depth, job))


def _lower_dict(value: dict[Any, Any], depth: int, job: _Job) -> dict[Any, Any] | CBORTag:
    job.enter(value, depth)
    plain = job.plain
    depth += 1
    try:
        if job.keys.issuperset(map(type, value)):
            if plain.issuperset(map(type, value.values())):
                return value
            return {
                key: item if type(item) in plain else _lower(item, depth, job)
                for key, item in value.items()
            }
        _check_hashes(value)
        job.keyed = True
        flat: list[Any] = [None] * (2 * len(value))
        flat[::2] = _lower_each(value, depth, job)
        flat[1::2] = _lower_each(value.values(), depth, job)
        return CBORTag(TAG_DICT, flat)
    except Refused as refused:
        if not refused.inside(value, value, ".keys()[{}]"):
            refused.inside(value, value.values(), "[{}]", names=value)
        raise


def _lower_surrogates(value: str, depth: int, job: _Job) -> str | CBORTag:
    # Only in the second attempt, when some str of the value has a lone surrogate.
    try:
        value.encode()
    except UnicodeEncodeError:
        return CBORTag(TAG_SURROGATES, value.encode("utf-8", "surrogatepass"))
    return value


def _leaf_lowering(leaf: Leaf) -> Callable[[Any, int, _Job], CBORTag]:
    tag, kind, _, write, _ = leaf
    has_zone = kind in (dt.datetime, dt.time)

    def lower(value: Any, depth: int, job: _Job) -> CBORTag:
        try:
            payload = write(value)
        except Exception as error:  # a time zone's methods can be anybody's code
            raise Refused(value, f"cannot be written: {error}") from error
        if has_zone and type(value.tzinfo) not in (type(None), dt.timezone):
            job.zoned = True
        if str not in job.plain:
            payload = (
                _lower_each(payload, depth, job)
                if type(payload) is list
                else (_lower(payload, depth, job))
            )
        return CBORTag(tag, payload)

    return lower


_LOWER: dict[type, Callable[[Any, int, _Job], Any]] = {
    list: _lower_list,
    tuple: _lower_tuple,
    dict: _lower_dict,
    set: _lower_set,
    frozenset: _lower_frozenset,
    str: _lower_surrogates,
    **{leaf.kind: _leaf_lowering(leaf) for leaf in LEAVES},
}


class _Sink:
    """The file that the encoder writes to; stops it at the limit."""

    __slots__ = ("chunks", "max_bytes", "size")

    def __init__(self, max_bytes: int) -> None:
        self.chunks: list[bytes] = []
        self.max_bytes = max_bytes
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, chunk: bytes) -> int:
        self.size += len(chunk)
        if self.size > self.max_bytes:
            raise _too_large(self.size, self.max_bytes)
        self.chunks.append(chunk)
        return len(chunk)


def _dump(lowered: object, max_bytes: int) -> bytes:
    sink = _Sink(max_bytes)
    CBOREncoder(cast("IO[bytes]", sink)).encode(lowered)
    chunks = sink.chunks
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(size: int, max_bytes: int) -> ValueTooLargeError:
    return ValueTooLargeError(
        f"the encoded value has at least {size} bytes, the limit is {max_bytes}"
    )


def _check_hashes(keys: Collection[Any]) -> None:
    if len(keys) > SAME_HASH_MAX:
        count = Counter(map(hash, keys)).most_common(1)[0][1]
        if count > SAME_HASH_MAX:
            raise Refused(keys, f"has {count} keys of one hash, the limit is {SAME_HASH_MAX}")


def _check_keys_differ(data: bytes, root: str) -> None:
    """Refuse keys that only their time zones told apart; they would not be readable."""
    try:
        decode_value(data)
    except DecodeError as error:
        raise UnserializableValueError(
            f"cannot store {root}: keys or elements in it differ in their time zones alone,"
            " of which only the offset from UTC is kept"
        ) from error


# -- decoding -------------------------------------------------------------------------------------


def _read_set(items: list[Any]) -> set[Any]:
    _check_hashes(items)
    elements = set(items)
    if len(elements) != len(items):
        raise ValueError("a set has equal elements")
    return elements


def _read_frozenset(items: list[Any]) -> frozenset[Any]:
    return frozenset(_read_set(items))


def _read_dict(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    _check_hashes(keys)
    pairs = dict(zip(keys, items[1::2], strict=True))
    if len(pairs) != len(keys):
        raise ValueError("a dict has equal keys")
    return pairs


def _read_surrogates(payload: bytes) -> str:
    return payload.decode("utf-8", "surrogatepass")


def _read_int(payload: bytes) -> int:
    return int.from_bytes(payload, "big")


def _read_negative_int(payload: bytes) -> int:
    return -1 - int.from_bytes(payload, "big")


def _reader(payloads: tuple[type, ...], read: Callable[[Any], Any]) -> Callable[[Any, bool], Any]:
    def read_checked(payload: Any, immutable: bool) -> Any:
        if type(payload) not in payloads:
            raise ValueError(f"a payload of type {type(payload).__name__}")
        return read(payload)

    return read_checked


class _Readers(dict[int, Callable[[Any, bool], Any]]):
    """The readers by tag; stands before all those that the decoder itself would know."""

    def __missing__(self, tag: int) -> Callable[[Any, bool], Any]:
        raise DecodeError(f"tag {tag} is unknown")  # a KeyError would mean: ask the decoder's


_READERS = _Readers(
    {
        2: _reader((bytes,), _read_int),
        3: _reader((bytes,), _read_negative_int),
        TAG_TUPLE: _reader((list,), tuple),
        TAG_SET: _reader((list,), _read_set),
        TAG_FROZENSET: _reader((list,), _read_frozenset),
        TAG_DICT: _reader((list,), _read_dict),
        TAG_SURROGATES: _reader((bytes,), _read_surrogates),
        **{leaf.tag: _reader(leaf.payloads, leaf.read) for leaf in LEAVES},
    }
)


def _check(value: Any, depth: int) -> None:
    """Raise unless all types in ``value`` are ours; CBOR has values that are not."""
    kind = type(value)
    if kind in _ATOMS:
        return
    parts: tuple[Collection[Any], ...]
    if kind is dict:
        parts = (value, value.values())
    elif kind is list or kind is tuple or kind is set or kind is frozenset:
        parts = (value,)
    else:
        raise DecodeError(f"a CBOR value of type {kind.__name__}")
    if depth >= MAX_DEPTH:
        raise DecodeError(f"nested deeper than {MAX_DEPTH} levels")
    for part in parts:
        if not _ATOMS.issuperset(map(type, part)):
            for item in part:
                if type(item) not in _ATOMS:
                    _check(item, depth + 1)
