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

Rules: pure functions.  Reading validates everything, bounds the nesting and executes nothing.  Data
that :func:`to_jsonable` cannot write is a ``ValueError``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from typing import Any

from logstore._codec.path import Refused
from logstore._codec.tags import LEAVES, Leaf
from logstore._codec.values import MAX_DEPTH
from logstore.errors import UnserializableValueError

_TYPE = "$type"
_VALUE = "$value"
_PLAIN_INT_MAX = 1 << 63
_INT_DIGITS_MAX = 1 << 28

_LEAVES_BY_KIND = {leaf.kind: leaf for leaf in LEAVES}
_LEAVES_BY_NAME = {leaf.kind.__name__: leaf for leaf in LEAVES}


def to_jsonable(value: Any, name: str = "result") -> Any:
    """Return ``value`` as data for ``json.dumps``.

    Raises :class:`~logstore.errors.UnserializableValueError`, with a path that begins with
    ``name``.
    """
    try:
        return _lower(value, 0)
    except Refused as refused:
        raise UnserializableValueError(refused.message(name)) from refused.__cause__


def from_jsonable(data: Any) -> Any:
    """Return the value that :func:`to_jsonable` converted to ``data``.

    Raises ``ValueError`` for invalid data.
    """
    try:
        return _raise(data, 0)
    except (TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


# -- writing -----------------------------------------------------------------------------------


def _lower(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if value.isascii() else _lower_text(value)
    if kind is int:
        return value if -_PLAIN_INT_MAX < value < _PLAIN_INT_MAX else _tagged("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else _tagged("float", repr(value))
    if kind is bytes:
        return _tagged("bytes", base64.b64encode(value).decode())
    leaf = _LEAVES_BY_KIND.get(kind)
    if leaf is not None:
        return _lower_leaf(leaf, value, depth)
    if depth >= MAX_DEPTH:
        raise Refused(value, f"is nested deeper than {MAX_DEPTH} levels", nesting=True)
    if kind is list:
        return _lower_each(value, value, depth, "[{}]")
    if kind is dict:
        return _lower_dict(value, depth)
    if kind is tuple:
        return _tagged("tuple", _lower_each(value, value, depth, "[{}]"))
    if kind is set or kind is frozenset:
        return _tagged(kind.__name__, _lower_each(value, value, depth, ".elements()[{}]"))
    raise Refused.for_type(value)


def _tagged(name: str, payload: Any) -> dict[str, Any]:
    return {_TYPE: name, _VALUE: payload}


def _lower_each(container: Any, values: Iterable[Any], depth: int, step: str) -> list[Any]:
    try:
        return [_lower(item, depth + 1) for item in values]
    except Refused as refused:
        refused.inside(container, container, step)
        raise


def _lower_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogatepass")
        return _tagged("str", base64.b64encode(data).decode())
    return value


def _lower_dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    try:
        if all(type(key) is str and _is_field_name(key) for key in value):
            return {key: _lower(item, depth + 1) for key, item in value.items()}
        return _tagged(
            "dict",
            [[_lower(key, depth + 1), _lower(item, depth + 1)] for key, item in value.items()],
        )
    except Refused as refused:
        if not refused.inside(value, value, ".keys()[{}]"):
            refused.inside(value, value.values(), "[{}]", names=value)
        raise


def _is_field_name(key: str) -> bool:
    return not key.startswith("$") and (key.isascii() or type(_lower_text(key)) is str)


def _lower_leaf(leaf: Leaf, value: Any, depth: int) -> dict[str, Any]:
    try:
        payload = leaf.write(value)
    except Exception as error:  # the code of a time zone may raise anything
        raise Refused(value, f"cannot be written: {error}") from error
    return _tagged(leaf.kind.__name__, _lower(payload, min(depth, MAX_DEPTH - 1)))


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
    reader = _READERS.get(name)
    if reader is not None:
        return reader(payload, depth)
    leaf = _LEAVES_BY_NAME.get(name)
    if leaf is None:
        raise ValueError(f"a value of the unknown type {name!r}")
    value = _raise(payload, depth)
    if type(value) not in leaf.payloads:
        raise ValueError(f"a {name} with a payload of type {type(value).__name__}")
    return leaf.read(value)


def _items(payload: Any, depth: int) -> list[Any]:
    if type(payload) is not list:
        raise ValueError(f"expected an array, found {type(payload).__name__}")
    return [_raise(item, depth + 1) for item in payload]


def _raise_set(payload: Any, depth: int) -> set[Any]:
    items = _items(payload, depth)
    elements = set(items)
    if len(elements) != len(items):
        raise ValueError("a set has equal elements")
    return elements


def _raise_dict(payload: Any, depth: int) -> dict[Any, Any]:
    value: dict[Any, Any] = {}
    for key, item in payload:
        plain_key = _raise(key, depth + 1)
        if plain_key in value:
            raise ValueError("a dict has equal keys")
        value[plain_key] = _raise(item, depth + 1)
    return value


def _raise_int(payload: Any, depth: int) -> int:
    if type(payload) is not str or len(payload) > _INT_DIGITS_MAX:
        raise ValueError("an int is not a text in hexadecimal")
    return int(payload, 16)


def _raise_float(payload: Any, depth: int) -> float:
    if payload not in ("nan", "inf", "-inf"):
        raise ValueError(f"a float is {payload!r}")
    return float(payload)


def _raise_bytes(payload: Any, depth: int) -> bytes:
    return base64.b64decode(payload, validate=True)


def _raise_text(payload: Any, depth: int) -> str:
    return _raise_bytes(payload, depth).decode("utf-8", "surrogatepass")


_READERS: dict[Any, Callable[[Any, int], Any]] = {
    "tuple": lambda payload, depth: tuple(_items(payload, depth)),
    "set": _raise_set,
    "frozenset": lambda payload, depth: frozenset(_raise_set(payload, depth)),
    "dict": _raise_dict,
    "int": _raise_int,
    "float": _raise_float,
    "bytes": _raise_bytes,
    "str": _raise_text,
}
