"""From what a task returns to data that a store can keep.

Rules:

- Values of the store's own types are passed on as they are; see :mod:`logstore.codec`.
- Pydantic models and dataclasses become dicts, enums their values, named tuples tuples, paths and
  URLs strings, subclasses of a stored type that type: data that taskiq's parsing of a task's
  return type builds the same objects from again.
- Everything else raises :class:`~logstore.errors.UnserializableValueError`, which names the type
  and the path inside the value.  Nothing is dropped, guessed or stored by its ``repr``.
- Nesting is bounded, cycles are errors.  Nothing here does I/O; it may run in any thread.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, TypeVar

import pydantic
import pydantic_core

from logstore.backends.models import model_to_mapping
from logstore.codec import MAX_DEPTH
from logstore.codec_tags import LEAVES
from logstore.errors import UnserializableValueError

DEPTH_MAX = MAX_DEPTH - 8
"""How deep a value may be nested: what the codec allows, less what a result is wrapped in."""

LEAF_TYPES: frozenset[type] = frozenset(
    {type(None), bool, int, float, str, bytes, *(leaf.kind for leaf in LEAVES)}
)


_Clock = TypeVar("_Clock", date, datetime, timedelta)


class BudgetExceededError(Exception):
    """The value has more parts than the caller wants to walk on this thread."""


class _Unstorable(Exception):
    """Carries the path, innermost step first, up to where it is complete."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []


def to_plain(value: Any, name: str = "result", *, parts_max: int | None = None) -> Any:
    """Return ``value`` as data of the store's own types.

    ``name`` stands at the head of the path in an error.  Raises
    :class:`~logstore.errors.UnserializableValueError` for what cannot be stored, and
    :class:`BudgetExceededError` when the value has more than ``parts_max`` parts.
    """
    if type(value) in LEAF_TYPES:
        return value
    try:
        return _Walk(parts_max).convert(value)
    except _Unstorable as error:
        path = name + "".join(reversed(error.steps))
        raise UnserializableValueError(f"cannot store {path}: {error.reason}") from None


class _Walk:
    """One pass over one value."""

    def __init__(self, parts_max: int | None) -> None:
        self.parts_left = parts_max
        self.above: set[int] = set()

    def convert(self, value: Any) -> Any:
        kind = type(value)
        if kind in LEAF_TYPES:
            return value
        if len(self.above) >= DEPTH_MAX:
            raise _Unstorable(f"it is nested deeper than {DEPTH_MAX} levels")
        if id(value) in self.above:
            raise _Unstorable(f"the {_type_name(value)} there holds itself")
        self.above.add(id(value))
        try:
            converter = _CONTAINERS.get(kind) or _converter(value)
            if converter is None:
                raise _Unstorable(
                    f"the {_type_name(value)} there is of a type that cannot be stored"
                )
            return converter(self, value)
        finally:
            self.above.discard(id(value))

    def spend(self, parts_count: int) -> None:
        if self.parts_left is not None:
            self.parts_left -= parts_count + 1
            if self.parts_left < 0:
                raise BudgetExceededError


def _each(walk: _Walk, values: Collection[Any], step: str) -> list[Any]:
    walk.spend(len(values))
    items: list[Any] = []
    add = items.append
    try:
        for item in values:
            add(item if type(item) in LEAF_TYPES else walk.convert(item))
    except _Unstorable as error:
        error.steps.append(step.format(len(items)))
        raise
    return items


def _list(walk: _Walk, value: Any) -> list[Any]:
    return _each(walk, value, "[{}]")


def _tuple(walk: _Walk, value: Any) -> tuple[Any, ...]:
    return tuple(_each(walk, value, "[{}]"))


def _set(walk: _Walk, value: Any) -> Any:
    items = _each(walk, value, ".elements()[{}]")
    try:
        plain = (frozenset if isinstance(value, frozenset) else set)(items)
    except TypeError:
        return items  # models became dicts; parsing a set's type takes a list as well
    # Members that were different and have become equal, as an enum's value and that value.
    return plain if len(plain) == len(items) else items


def _dict(walk: _Walk, value: Any) -> dict[Any, Any]:
    walk.spend(2 * len(value))
    plain: dict[Any, Any] = {}
    key: Any = None
    try:
        for key, item in value.items():
            plain_key = key if type(key) in LEAF_TYPES else walk.convert(key)
            if _is_in(plain, plain_key):
                raise _Unstorable(f"two keys are both stored as {_short(plain_key)}")
            plain[plain_key] = item if type(item) in LEAF_TYPES else walk.convert(item)
    except _Unstorable as error:
        error.steps.append(f"[{_short(key)}]")
        raise
    return plain


def _is_in(plain: dict[Any, Any], key: Any) -> bool:
    try:
        return key in plain
    except TypeError as error:
        raise _Unstorable(f"the key is stored as something unhashable: {error}") from None


def _fields(walk: _Walk, fields: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Convert ``{stored name: (attribute, value)}``."""
    walk.spend(2 * len(fields))
    plain: dict[str, Any] = {}
    key = ""
    try:
        for key, (_, item) in fields.items():
            plain[key] = item if type(item) in LEAF_TYPES else walk.convert(item)
    except _Unstorable as error:
        error.steps.append(f".{fields[key][0]}")
        raise
    return plain


def _model(walk: _Walk, value: pydantic.BaseModel) -> Any:
    if isinstance(value, pydantic.RootModel):
        return walk.convert(value.root)
    try:
        fields = model_to_mapping(value)
    except pydantic_core.PydanticSerializationError as error:
        raise _Unstorable(f"the {_type_name(value)} there cannot be dumped: {error}") from None
    return _fields(walk, fields) if isinstance(fields, dict) else walk.convert(fields.value)


def _dataclass(walk: _Walk, value: Any) -> dict[str, Any]:
    missing = object()
    fields = {
        field.name: (field.name, getattr(value, field.name, missing))
        for field in dataclasses.fields(value)
    }
    # A field that was never set (init=False without a default) is not data.
    return _fields(walk, {name: pair for name, pair in fields.items() if pair[1] is not missing})


def _enum(walk: _Walk, value: Enum) -> Any:
    return walk.convert(value.value)


def _datetime(walk: _Walk, value: datetime) -> datetime:
    return _if_equal(datetime.combine(value.date(), value.timetz()), value)


def _date(walk: _Walk, value: date) -> date:
    return _if_equal(date(value.year, value.month, value.day), value)


def _timedelta(walk: _Walk, value: timedelta) -> timedelta:
    return _if_equal(timedelta(value.days, value.seconds, value.microseconds), value)


def _if_equal(plain: _Clock, value: _Clock) -> _Clock:
    """Refuse a conversion that would lose something, as the nanoseconds of a pandas Timestamp."""
    if plain != value:
        raise _Unstorable(f"the {_type_name(value)} there cannot be stored without loss")
    return plain


_Converter = Callable[[_Walk, Any], Any]

_CONTAINERS: dict[type, _Converter] = {
    dict: _dict,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
}

# For everything that is not of exactly one of the stored types; the first that fits.
_SUBCLASSES: tuple[tuple[type | tuple[type, ...], _Converter], ...] = (
    (Enum, _enum),
    (pydantic.BaseModel, _model),
    (int, lambda _, value: int(value)),
    (float, lambda _, value: float(value)),
    (complex, lambda _, value: complex(value)),
    (str, lambda _, value: str.__str__(value)),
    ((bytes, bytearray, memoryview), lambda _, value: bytes(value)),
    ((dict, MappingProxyType), _dict),
    ((list, deque), _list),
    (tuple, _tuple),
    ((set, frozenset), _set),
    (datetime, _datetime),
    (date, _date),
    (timedelta, _timedelta),
    (PurePath, lambda _, value: str(value)),
    ((pydantic_core.Url, pydantic_core.MultiHostUrl, pydantic.AnyUrl), lambda _, v: str(v)),
)


def _converter(value: Any) -> _Converter | None:
    if isinstance(value, (type, BaseException)):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, Enum):
        return _dataclass
    for kinds, converter in _SUBCLASSES:
        if isinstance(value, kinds):
            return converter
    return None


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{_type_name(value)}>"
    return text if len(text) <= 60 else f"{text[:57]}..."
