"""Values as readable JSON that keeps their exact types.

None, booleans, finite floats, integers below 2**63, strings, lists and dicts with string keys are
plain JSON.  Everything else is an object with two fields, ``{"$type": name, "$value": payload}``:

================================ ============================================================
name                             payload
================================ ============================================================
tuple, set, frozenset            array of the items
dict                             array of [key, value] pairs: any key is ``$...`` or not a string
int                              a text in hexadecimal
float                            "nan", "inf" or "-inf"
bytes                            a text in base64
str                              base64 of UTF-8, for strings with lone surrogates
datetime, Decimal, UUID, ...     the payload of ``_codec/tags.py``
================================ ============================================================

Rules: pure functions.  ``_codec`` decides what can be stored, and its tags are the types: this
module has their names and the texts.  Reading validates everything, bounds the nesting and executes
nothing.  Data that :func:`to_jsonable` cannot write is a ``ValueError``.
"""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cbor2 import CBORTag

from logstore._codec.lower import Job, lower
from logstore._codec.path import Refused
from logstore._codec.tags import (
    LEAVES,
    TAG_DICT,
    TAG_FROZENSET,
    TAG_SET,
    TAG_TUPLE,
)
from logstore._codec.values import MAX_DEPTH, READERS
from logstore.errors import UnserializableValueError

_TYPE = "$type"
_VALUE = "$value"
_PLAIN_INT_MAX = 1 << 63
_INT_DIGITS_MAX = 1 << 28

_TAGS = {
    "tuple": TAG_TUPLE,
    "set": TAG_SET,
    "frozenset": TAG_FROZENSET,
    "dict": TAG_DICT,
    **{leaf.kind.__name__: leaf.tag for leaf in LEAVES},
}
_NAMES = {tag: name for name, tag in _TAGS.items()}


def to_jsonable(value: Any, name: str = "result") -> Any:
    """Return ``value`` as data for ``json.dumps``.

    Raises :class:`~logstore.errors.UnserializableValueError`, with a path that begins with
    ``name``.
    """
    job = Job(sys.maxsize)
    try:
        data = _with_names(lower(value, 0, job))
    except Refused as refused:
        raise UnserializableValueError(refused.message(name)) from refused.__cause__
    if job.changed and job.keyed:  # keys may have become equal: only the offset of a zone is kept
        try:
            from_jsonable(data)
        except ValueError as error:
            raise UnserializableValueError(f"cannot store {name}: {error}") from error
    return data


def from_jsonable(data: Any) -> Any:
    """Return the value that :func:`to_jsonable` converted to ``data``.

    Raises ``ValueError`` for invalid data.
    """
    try:
        return _raise(data, 0)
    except (TypeError, KeyError, ArithmeticError, RecursionError, Refused) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _with_names(part: Any) -> Any:
    """Return a value in types of CBOR as data of JSON: with names in place of the tags."""
    kind = type(part)
    if kind is str:
        return part if part.isascii() else _text(part)
    if kind is int:
        return part if -_PLAIN_INT_MAX < part < _PLAIN_INT_MAX else _tagged("int", hex(part))
    if kind is float:
        return part if math.isfinite(part) else _tagged("float", repr(part))
    if kind is bytes:
        return _tagged("bytes", base64.b64encode(part).decode())
    if kind is list:
        return [_with_names(item) for item in part]
    if kind is dict:
        return _dict_with_names(part.keys(), part.values())
    if kind is not CBORTag:
        return part
    if part.tag == TAG_DICT:
        return _dict_with_names(part.value[::2], part.value[1::2])
    return _tagged(_NAMES[part.tag], _with_names(part.value))


def _dict_with_names(keys: Iterable[Any], values: Iterable[Any]) -> dict[str, Any]:
    names = [_with_names(key) for key in keys]
    items = zip(names, map(_with_names, values), strict=True)
    if all(type(name) is str and not name.startswith("$") for name in names):
        return dict(items)
    return _tagged("dict", [[name, item] for name, item in items])


def _text(part: str) -> Any:
    try:
        part.encode()
    except UnicodeEncodeError:
        return _tagged("str", base64.b64encode(part.encode("utf-8", "surrogatepass")).decode())
    return part


def _tagged(name: str, payload: Any) -> dict[str, Any]:
    return {_TYPE: name, _VALUE: payload}


# -- reading -----------------------------------------------------------------------------------


def _raise(data: Any, depth: int) -> Any:
    kind = type(data)
    if data is None or kind in (bool, int, float, str):
        return data
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        return [_raise(item, depth + 1) for item in data]
    if kind is not dict:
        raise ValueError(f"a JSON value of type {kind.__name__}")
    if _TYPE not in data:
        return {key: _raise(item, depth + 1) for key, item in data.items()}
    if len(data) != 2:
        raise ValueError(f"an object with {_TYPE!r} has other fields than {_VALUE!r}")
    name, payload = data[_TYPE], data[_VALUE]
    read_text = _OF_TEXT.get(name)
    if read_text is not None:
        return read_text(payload)
    tag = _TAGS.get(name)
    if tag is None:
        raise ValueError(f"a value of the unknown type {name!r}")
    if tag == TAG_DICT:
        payload = [_raise(part, depth + 1) for key, item in payload for part in (key, item)]
    else:
        payload = _raise(payload, depth)
    return READERS[tag](payload, False)


def _raise_int(payload: Any) -> int:
    if type(payload) is not str or len(payload) > _INT_DIGITS_MAX:
        raise ValueError("an int is not a text in hexadecimal")
    return int(payload, 16)


def _raise_float(payload: Any) -> float:
    if payload not in ("nan", "inf", "-inf"):
        raise ValueError(f"a float is {payload!r}")
    return float(payload)


def _raise_bytes(payload: Any) -> bytes:
    return base64.b64decode(payload, validate=True)


_OF_TEXT: dict[Any, Callable[[Any], Any]] = {
    "int": _raise_int,
    "float": _raise_float,
    "bytes": _raise_bytes,
    "str": lambda payload: _raise_bytes(payload).decode("utf-8", "surrogatepass"),
}
