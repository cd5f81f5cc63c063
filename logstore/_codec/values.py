"""Values to bytes and back, with their exact types.

Rules: pure functions, no I/O, any thread.  Nothing is ever executed or imported because of what
the bytes say, but for a ``dec_hook``.  What goes in comes out with the same type at every level; a
value of any other type, a subclass included, is refused before a byte is written.  The exceptions
are numbers of other libraries (``_codec/numbers.py``) and what an ``enc_hook`` takes
(``_codec/hooks.py``).  Whatever the code of a value raises is a refusal, too.  The bytes
are one CBOR item (RFC 8949) in definite lengths, with the tags of ``_codec/tags.py`` and no
others.

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

A Fraction's parts are limited to :data:`logstore._codec.tags.FRACTION_BITS_MAX` bits, keys that
share one hash to :data:`SAME_HASH_MAX`, nesting to :data:`MAX_DEPTH`: these bound the time to read.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from cbor2 import CBORDecoder, CBOREncoder, CBORError, dumps

from logstore._codec.hooks import DecHook, EncHook, Revival, checked_payload
from logstore._codec.lower import (
    MAX_DEPTH,
    PLAIN,
    SAME_HASH_MAX,
    SIZELESS,
    Job,
    check_hashes,
    lower,
    too_large,
)
from logstore._codec.path import Refused
from logstore._codec.tags import (
    LEAVES,
    TAG_DICT,
    TAG_FROZENSET,
    TAG_HOOKED,
    TAG_SET,
    TAG_SURROGATES,
    TAG_TUPLE,
)
from logstore._codec.text import describe
from logstore.errors import DecodeError, UnserializableValueError, ValueTooLargeError

__all__ = ["MAX_DEPTH", "SAME_HASH_MAX", "decode_value", "encode_small", "encode_value"]

# What counts as small: each part costs PART_COST, each character or byte of a string one more.
SMALL_BUDGET = 1 << 14
PART_COST = 64
SMALL_DEPTH = 16

# A container may be a tag around an array; the innermost leaf may be tag, array, tag.
_CBOR_DEPTH_MAX = 2 * MAX_DEPTH + 4
_READ_SIZE = 1 << 16
_REASON_CHARS_MAX = 200

_ATOMS = PLAIN | {leaf.kind for leaf in LEAVES}
_OTHER_CONTAINERS = frozenset({tuple, set, frozenset})


def encode_value(
    value: object,
    *,
    max_bytes: int = 1 << 30,
    root: str = "result",
    enc_hook: EncHook | None = None,
) -> bytes:
    """Return the bytes of ``value``; see the module for the types and for what is kept.

    ``root`` is what messages call the value itself; ``enc_hook`` is asked about objects of other
    types, see ``_codec/hooks.py``.  The value must not be changed by another
    thread meanwhile.  A refused value costs no more memory than ``max_bytes`` and one of its
    strings.

    Raises :class:`UnserializableValueError`, naming the type and the path, for a value that
    holds anything else, that is nested deeper than :data:`MAX_DEPTH` or that holds itself;
    :class:`ValueTooLargeError` when there would be more than ``max_bytes`` bytes.
    """
    data = encode_small(value)
    if data is not None:
        if len(data) > max_bytes:
            raise too_large(len(data), max_bytes)
        return data
    if (type(value) is str or type(value) is bytes) and len(value) > max_bytes:
        raise too_large(len(value), max_bytes)
    job = Job(max_bytes, enc_hook)
    try:
        try:
            data = _dump(lower(value, 0, job), max_bytes)
        except UnicodeEncodeError:
            job.again_with_surrogates()
            data = _dump(lower(value, 0, job), max_bytes)
        if job.changed and job.keyed:
            decode_value(data)
    except Refused as refused:
        raise UnserializableValueError(refused.message(root)) from refused.__cause__
    except DecodeError as error:
        raise UnserializableValueError(
            f"cannot store {root}: keys or elements in it cannot be read again as what is kept"
            " of them, as two that differ in their time zones alone, of which only the offset"
            f" from UTC is kept: {error}"
        ) from error
    except (ValueTooLargeError, MemoryError):
        raise
    except Exception as error:  # such as of a container that changes meanwhile
        raise UnserializableValueError(f"cannot store {root}: {describe(error)}") from error
    return data


def encode_small(value: object) -> bytes | None:
    """Return the bytes of a value that is small and plain, as most are; None for any other.

    These are what :func:`encode_value` would write.  Takes some tens of microseconds at most,
    whatever the value is.
    """
    try:
        # A list of one, so that strings and containers are weighed alike.
        if _weigh([value], SMALL_BUDGET, SMALL_DEPTH) >= 0:
            return dumps(value)
    except Exception:  # lone surrogates, which take a tag; the long way says what else it is
        pass
    return None


def _weigh(container: Any, budget: int, depth: int) -> int:
    """What is left of a budget; below zero if it is too little or there are other types."""
    budget -= PART_COST * len(container)
    if budget < 0 or depth == 0:
        return -1
    if type(container) is dict:
        for key in container:
            if type(key) is not str:
                return -1
            budget -= len(key)
        container = container.values()
    for item in container:
        kind = type(item)
        if kind is str or kind is bytes:
            budget -= len(item)
        elif kind is int:
            budget -= item.bit_length() >> 3
        elif kind is dict or kind is list:
            budget = _weigh(item, budget, depth - 1)
            if budget < 0:
                break
        elif kind not in SIZELESS:
            return -1
    return budget


# What bytes that no encoder writes can raise.
_OF_DATA = (
    *(CBORError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, EOFError, DecodeError, Refused),
)


def decode_value(data: bytes | memoryview, dec_hook: DecHook | None = None) -> Any:
    """Return the value that ``data`` holds: one of the types of the module, at every level.

    With ``dec_hook``, what an ``enc_hook`` has made comes back as what that returns, see
    ``_codec/hooks.py``; without, as it is.

    Trusts nothing in ``data``: time and memory are in proportion to its length, which the
    caller bounds (up to about a hundred bytes of objects for each byte of input).

    Raises :class:`DecodeError` for anything that :func:`encode_value` would not write: damaged,
    cut short or followed by more, an unknown tag, equal keys, nesting beyond :data:`MAX_DEPTH`;
    and when ``dec_hook`` fails: ``plain`` of the error is then the value without it.
    """
    stream = BytesIO(data)
    revival = None if dec_hook is None else Revival(dec_hook, _check_below)
    try:
        value = CBORDecoder(
            stream,
            semantic_decoders=_READERS if revival is None else _readers_with(revival),
            read_size=min(len(data), _READ_SIZE) or 1,
            max_depth=_CBOR_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
        _check(value, 0, revival)
    except MemoryError:
        raise  # says something about this process, not about the data
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError) or (cause and not isinstance(cause, Exception)):
            raise cause from None  # nor does that, nor does an interrupt
        if revival is not None and revival.failure is not None:
            revival.failure.plain = decode_value(data)
            raise revival.failure from revival.failure.__cause__
        if not isinstance(error, _OF_DATA):
            raise  # a signal handler's
        if cause and not isinstance(cause, _OF_DATA):
            raise cause from None
        reason = f"{error}: {cause}" if cause else f"{error}"
        raise DecodeError(
            f"the {len(data)} bytes of a value cannot be read: {reason[:_REASON_CHARS_MAX]}"
        ) from error
    if (end := stream.tell()) != len(data):
        raise DecodeError(f"a value of {end} bytes is followed by {len(data) - end} more")
    return value


class _Sink(BytesIO):
    """The file that the encoder writes to; stops it at the limit.

    A BytesIO for its ``writable`` alone: one in Python could be interrupted by a signal, and the
    encoder would take what the handler raises for a file that cannot be written.
    """

    __slots__ = ("chunks", "max_bytes", "size")

    def __init__(self, max_bytes: int) -> None:
        self.chunks: list[bytes] = []
        self.max_bytes = max_bytes
        self.size = 0

    def write(self, chunk: bytes) -> int:  # type: ignore[override]
        self.size += len(chunk)
        if self.size > self.max_bytes:
            raise too_large(self.size, self.max_bytes)
        self.chunks.append(chunk)
        return len(chunk)


def _dump(lowered: object, max_bytes: int) -> bytes:
    sink = _Sink(max_bytes)
    CBOREncoder(sink).encode(lowered)
    chunks = sink.chunks
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


# -- decoding -------------------------------------------------------------------------------------


def _read_set(items: list[Any]) -> set[Any]:
    check_hashes(items)
    elements = set(items)
    if len(elements) != len(items):
        raise ValueError("a set has equal elements")
    return elements


def _read_frozenset(items: list[Any]) -> frozenset[Any]:
    return frozenset(_read_set(items))


def _read_dict(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    check_hashes(keys)
    pairs = dict(zip(keys, items[1::2], strict=True))
    if len(pairs) != len(keys):
        raise ValueError("a dict has equal keys")
    return pairs


def _read_surrogates(payload: bytes) -> str:
    return payload.decode("utf-8", "surrogatepass")


def _read_hooked(payload: list[Any]) -> Any:
    return checked_payload(payload)[2]


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
        TAG_HOOKED: _reader((list,), _read_hooked),
        **{leaf.tag: _reader(leaf.payloads, leaf.read) for leaf in LEAVES},
    }
)


def _readers_with(revival: Revival) -> _Readers:
    readers = _Readers(_READERS)
    readers[TAG_HOOKED] = _reader((list,), revival.read)
    return readers


def _check_below(value: Any, revival: Revival) -> None:
    """Check what stands in a tag, before the hook sees it."""
    _check(value, 0, revival)


def _check(value: Any, depth: int, revival: Revival | None) -> None:
    """Raise unless all types in ``value`` are ours, or made by a hook; CBOR has others."""
    kind = type(value)
    if kind in _ATOMS or (revival is not None and revival.is_made(value)):
        return
    if kind is not dict and kind is not list and kind not in _OTHER_CONTAINERS:
        raise DecodeError(f"a CBOR value of type {kind.__name__}")
    if depth >= MAX_DEPTH:
        raise DecodeError(f"nested deeper than {MAX_DEPTH} levels")
    depth += 1
    if kind is dict:
        for key, item in value.items():
            if type(item) not in _ATOMS:
                _check(item, depth, revival)
            if type(key) is not str and type(key) not in _ATOMS:
                _check(key, depth, revival)
    else:
        for item in value:
            if type(item) not in _ATOMS:
                _check(item, depth, revival)
