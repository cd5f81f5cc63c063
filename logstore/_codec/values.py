"""Encoding and decoding of values, with their exact types.

Rules: pure functions, no I/O, any thread.  Decoding never executes or imports anything, except a
``dec_hook``.  A value is decoded with the same type at every level.  A value of any other type,
including subclasses, is refused before any output.  The exceptions are numbers of other libraries
(``_codec/numbers.py``) and types that an ``enc_hook`` converts (``_codec/hooks.py``).  An exception
from the code of a value is a refusal too.  The encoding is one CBOR item (RFC 8949) of definite
length, with only the tags of ``_codec/tags.py``.

The types are None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset,
datetime, date, time, timedelta, Decimal, Fraction, UUID, and the addresses, networks and
interfaces of :mod:`ipaddress`.  Beyond equality, the following is kept or lost:

- kept: the order of dicts, signs of zeros, and all details of Decimals (trailing zeros, signs,
  exponents, NaN payloads); lost: the order of sets, the payload and the sign of a float nan;
- kept: ``fold``, the offset from UTC of an aware datetime or time, and a ``datetime.timezone`` with
  its name.  Any other time zone (zoneinfo, pytz) becomes a ``datetime.timezone`` of the offset at
  that time, so that decoding needs no time zone database.  A time whose zone has no fixed offset is
  refused;
- kept: lone surrogates in a str, scope ids of IPv6 addresses; lost: ``UUID.is_safe``;
- two references to one object become two equal objects.

To bound the time of decoding, the parts of a Fraction are limited to
:data:`logstore._codec.tags.FRACTION_BITS_MAX` bits, the keys with one hash to
:data:`SAME_HASH_MAX`, and nesting to :data:`MAX_DEPTH`.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from cbor2 import CBORDecoder, CBOREncoder, CBORError, dumps

from logstore._codec.hooks import DecHook, EncHook, Revival, checked_payload
from logstore._codec.lower import (
    SAME_HASH_MAX,
    Job,
    check_hashes,
    lower,
    too_large,
)
from logstore._codec.path import Refused
from logstore._codec.tags import (
    LEAVES,
    MAX_DEPTH,
    PLAIN,
    TAG_DICT,
    TAG_FROZENSET,
    TAG_HOOKED,
    TAG_SET,
    TAG_SURROGATES,
    TAG_TUPLE,
)
from logstore._codec.text import describe
from logstore._codec.weight import BudgetExceededError, Limit, UnknownTypeError, weigh
from logstore.errors import DecodeError, UnserializableValueError, ValueTooLargeError

__all__ = ["MAX_DEPTH", "SAME_HASH_MAX", "decode_value", "encode_value"]

# A container may be a tag with an array; the innermost leaf may be a tag, an array and a tag.
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
    limit: Limit = "any",
) -> bytes:
    """Return the encoding of ``value``; the module lists the types and the details that are kept.

    ``root`` is the name of the value in messages.  ``enc_hook`` converts objects of other types,
    see ``_codec/hooks.py``.  Other threads must not change the value during the call.  A refused
    value takes no more memory than ``max_bytes`` plus one of its strings.

    Raises :class:`UnserializableValueError`, naming the type and the path, for a value with an
    unsupported type, with nesting deeper than :data:`MAX_DEPTH`, or that contains itself;
    :class:`ValueTooLargeError` when the encoding is larger than ``max_bytes``.  With
    a ``limit`` (``_codec/weight.py``) also :class:`BudgetExceededError` for a value beyond it.
    """
    weight = weigh(value)
    if weight == "plain":
        try:
            data = dumps(value)
        except Exception:  # lone surrogates need a tag; all other errors are reported below
            pass
        else:
            if len(data) > max_bytes:
                raise too_large(len(data), max_bytes)
            return data
    elif limit != "any" and weight == "unknown":
        raise UnknownTypeError
    elif limit == "small" and weight == "large":
        raise BudgetExceededError
    if (type(value) is str or type(value) is bytes) and len(value) > max_bytes:
        raise too_large(len(value), max_bytes)
    job = Job(max_bytes, enc_hook, stored_only=limit != "any")
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
            f"cannot store {root}: keys or elements in it could not be read again, such as two"
            " times that differ only in their time zones (only the offset from UTC is kept):"
            f" {error}"
        ) from error
    except (UnknownTypeError, ValueTooLargeError, MemoryError):
        raise
    except Exception as error:  # such as from a container that changes during the call
        raise UnserializableValueError(f"cannot store {root}: {describe(error)}") from error
    return data


# The errors that invalid data can raise.
_OF_DATA = (
    *(CBORError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, EOFError, DecodeError, Refused),
)


def decode_value(data: bytes | memoryview, dec_hook: DecHook | None = None) -> Any:
    """Return the value encoded in ``data``, with only the types of the module at every level.

    ``dec_hook`` converts the objects that an ``enc_hook`` returned, see ``_codec/hooks.py``.
    Without it, they are returned unchanged.

    ``data`` is not trusted.  Time and memory are proportional to its length: up to about a hundred
    bytes of objects for each byte of input.  The caller limits the length.

    Raises :class:`DecodeError` for data that :func:`encode_value` cannot write: damaged or
    truncated data, trailing bytes, an unknown tag, equal keys, nesting beyond :data:`MAX_DEPTH`.
    Also raises it when ``dec_hook`` fails; ``plain`` of the error is the value without the hook.
    """
    stream = BytesIO(data)
    revival = None if dec_hook is None else Revival(dec_hook, _check)
    try:
        value = CBORDecoder(
            stream,
            semantic_decoders=READERS if revival is None else _readers_with(revival),
            read_size=min(len(data), _READ_SIZE) or 1,
            max_depth=_CBOR_DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
        _check(value, revival)
    except MemoryError:
        raise  # a problem of this process, not of the data
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError) or (cause and not isinstance(cause, Exception)):
            raise cause from None  # also not a problem of the data, nor is an interrupt
        if revival is not None and revival.failure is not None:
            revival.failure.plain = decode_value(data)
            raise revival.failure from revival.failure.__cause__
        if not isinstance(error, _OF_DATA):
            raise  # from a signal handler
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
    """The file that the encoder writes to; it raises at the size limit.

    The base class is BytesIO for its ``writable``: a signal could interrupt a method in Python, and
    the encoder would treat an exception from the handler as a file that is not writable.
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


def _read_dict(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    check_hashes(keys)
    pairs = dict(zip(keys, items[1::2], strict=True))
    if len(pairs) != len(keys):
        raise ValueError("a dict has equal keys")
    return pairs


def _reader(payloads: tuple[type, ...], read: Callable[[Any], Any]) -> Callable[[Any, bool], Any]:
    def read_checked(payload: Any, immutable: bool) -> Any:
        if type(payload) not in payloads:
            raise ValueError(f"a payload of type {type(payload).__name__}")
        return read(payload)

    return read_checked


class _Readers(dict[int, Callable[[Any, bool], Any]]):
    """The readers by tag; no reader of the decoder itself is used."""

    def __missing__(self, tag: int) -> Callable[[Any, bool], Any]:
        raise DecodeError(f"tag {tag} is unknown")  # after a KeyError the decoder uses its own


READERS = _Readers(
    {
        2: _reader((bytes,), lambda payload: int.from_bytes(payload, "big")),
        3: _reader((bytes,), lambda payload: -1 - int.from_bytes(payload, "big")),
        TAG_TUPLE: _reader((list,), tuple),
        TAG_SET: _reader((list,), _read_set),
        TAG_FROZENSET: _reader((list,), lambda items: frozenset(_read_set(items))),
        TAG_DICT: _reader((list,), _read_dict),
        TAG_SURROGATES: _reader((bytes,), lambda payload: payload.decode("utf-8", "surrogatepass")),
        TAG_HOOKED: _reader((list,), lambda payload: checked_payload(payload)[2]),
        **{leaf.tag: _reader(leaf.payloads, leaf.read) for leaf in LEAVES},
    }
)


def _readers_with(revival: Revival) -> _Readers:
    readers = _Readers(READERS)
    readers[TAG_HOOKED] = _reader((list,), revival.read)
    return readers


def _check(value: Any, revival: Revival | None, depth: int = 0) -> None:
    """Raise unless all types in ``value`` are supported or made by a hook; CBOR has more types."""
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
                _check(item, revival, depth)
            if type(key) is not str and type(key) not in _ATOMS:
                _check(key, revival, depth)
    else:
        for item in value:
            if type(item) not in _ATOMS:
                _check(item, revival, depth)
