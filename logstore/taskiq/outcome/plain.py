"""Converting the return values of tasks to data that a store can keep.

Rules:

- Values of the supported types are passed on unchanged; see ``_codec/values.py``.
- Instances of a subclass of a supported type become that type; their attributes and the names of
  their items are lost.  Numbers of other libraries become equal built-in numbers.  A subclass of a
  container must iterate over the items that it contains.
- Pydantic models and dataclasses become dicts of their fields, enums their values, named tuples
  tuples, paths and URLs strings, bytearrays and memoryviews bytes, deques lists.  A set becomes a
  list if its converted elements are unhashable.  taskiq builds the same objects from this data when
  it parses the return type of a task.  The parts of a model that its own dump omits are lost:
  excluded fields, private attributes, computed fields, which fields were set.
- The ``enc_hook``, if there is one, converts all other types.
- Any other value raises :class:`~logstore.errors.UnserializableValueError`, which names the type
  and the path: a missing value (``pandas.NaT``), a field without a value (an expired row of a
  database), any exception from the code of a value.  Nothing is silently dropped, guessed or stored
  as its ``repr``.
- Nesting is bounded, cycles are errors.  No I/O; any thread.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from itertools import islice, zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple

import pydantic
import pydantic_core

from logstore._codec.hints import is_missing
from logstore._codec.hooks import EncHook
from logstore._codec.numbers import exact
from logstore._codec.path import Refused
from logstore.errors import UnserializableValueError
from logstore.taskiq.outcome.bases import BASES, OTHERS
from logstore.taskiq.outcome.models import model_to_mapping
from logstore.taskiq.outcome.walk import (
    DEPTH_MAX,
    LEAF_TYPES,
    Converter,
    Walk,
    convert_dict,
    convert_list,
    convert_pairs,
    convert_set,
    convert_tuple,
)

__all__ = ["DEPTH_MAX", "LEAF_TYPES", "Converted", "convert", "to_plain"]


def to_plain(
    value: Any,
    name: str = "result",
    *,
    on_loop: bool = False,
    enc_hook: EncHook | None = None,
) -> Any:
    """Return ``value`` as data of the supported types.

    ``name`` is the first part of the path in an error.  Raises
    :class:`~logstore.errors.UnserializableValueError` for a value that cannot be stored, and with
    ``on_loop`` :class:`BudgetExceededError` when the value has many parts or needs the hook.
    """
    return convert(value, name, on_loop=on_loop, enc_hook=enc_hook).plain


class Converted(NamedTuple):
    """A converted value."""

    plain: Any
    same_kind: bool  # every type in it is the original type, a base of it, or made by a hook


def convert(
    value: Any,
    name: str = "result",
    *,
    on_loop: bool = False,
    enc_hook: EncHook | None = None,
) -> Converted:
    """Return the result of :func:`to_plain`, and whether it is of the same kind as ``value``.

    An instance of a subclass and the instance of its base are of the same kind; an enum and its
    value are not.
    """
    walk = Walk(_converter, on_loop, enc_hook)
    try:
        return Converted(walk.convert(value), walk.same_kind)
    except Refused as refused:
        raise UnserializableValueError(refused.message(name)) from refused.__cause__


# -- fields ----------------------------------------------------------------------------------------


def _fields(walk: Walk, fields: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Convert ``{stored name: (attribute, value)}``."""
    walk.spend(2 * len(fields))
    plain: dict[str, Any] = {}
    key = ""
    try:
        for key, (_, item) in fields.items():
            plain[key] = item if type(item) in LEAF_TYPES else walk.convert(item)
    except Refused as refused:
        refused.steps.append(f".{fields[key][0]}")
        raise
    return plain


def _model(walk: Walk, value: pydantic.BaseModel) -> Any:
    try:
        fields = model_to_mapping(value)
    except pydantic_core.PydanticSerializationError as error:
        raise Refused.failed(value, error, "cannot be dumped:") from error
    return _fields(walk, fields) if isinstance(fields, dict) else walk.convert(fields.value)


def _dataclass(walk: Walk, value: Any) -> dict[str, Any]:
    fields: dict[str, tuple[str, Any]] = {}
    for field in dataclasses.fields(value):
        try:
            fields[field.name] = (field.name, getattr(value, field.name))
        except Exception as error:  # an unset field, a property, or a column of a row
            reason = f"has no value in its field {field.name!r}:"
            raise Refused.failed(value, error, reason) from error
    return _fields(walk, fields)


def _enum(walk: Walk, value: Enum) -> Any:
    return walk.convert(value.value)


# -- subclasses of containers ----------------------------------------------------------------------


def _sub_dict(walk: Walk, value: Any) -> dict[Any, Any]:
    shown = []
    for key, item in value.items():
        if issubclass(type(value), dict):
            _check_same(dict.get(value, key, _NOTHING), item)
        shown.append((key, item))
    if issubclass(type(value), dict):
        _check_same(dict.__len__(value), len(shown))
    return convert_pairs(walk, shown)


def _sub_set(walk: Walk, value: Any) -> Any:
    kind: Any = frozenset if isinstance(value, frozenset) else set
    if not issubclass(type(value), kind):
        return convert_set(walk, kind(value))
    count = kind.__len__(value)
    shown = list(islice(value, count + 1))  # in any order
    _check_same(count, sum(kind.__contains__(value, item) for item in shown))
    _check_same(count, len(shown))
    return convert_set(walk, kind(shown))


def _shown(base: type, value: Any) -> Collection[Any]:
    """Return the items of an instance of a subclass, or of a proxy for one."""
    if not issubclass(type(value), base):
        return list(value)
    held: Iterable[Any] = vars(base)["__iter__"](value)
    shown = []
    for one, other in zip_longest(held, value, fillvalue=_NOTHING):
        _check_same(one, other)
        shown.append(other)
    return shown


def _check_same(held: Any, shown: Any) -> None:
    if held is not shown and held != shown:
        raise ValueError("it iterates over other items than it contains; convert it first")


# -- which converter -------------------------------------------------------------------------------

_NOTHING = object()


def _scalar(base: type, convert: Callable[[Any], Any]) -> Converter:
    def convert_scalar(walk: Walk, value: Any) -> Any:
        if issubclass(type(value), base):
            return convert(value)
        return exact(base, value)  # a proxy, which only claims to be an instance

    return convert_scalar


# For objects that are not exactly of a supported type; the first match counts.
_SUBCLASSES: tuple[tuple[type, Converter], ...] = (
    (Enum, _enum),
    (pydantic.RootModel, lambda walk, value: walk.convert(value.root)),
    (pydantic.BaseModel, _model),
    *((kind, _scalar(kind, convert)) for kind, convert in BASES),
    (dict, _sub_dict),
    (list, lambda walk, value: convert_list(walk, _shown(list, value))),
    (tuple, lambda walk, value: convert_tuple(walk, _shown(tuple, value))),
    (set, _sub_set),
    (frozenset, _sub_set),
    (MappingProxyType, convert_dict),
    (deque, convert_list),
    *((kind, _scalar(kind, convert)) for kind, convert in OTHERS),
)


def _converter(kind: type, value: Any) -> Converter | None:
    if isinstance(value, (type, BaseException)) or is_missing(kind):
        return None
    found = next((converter for base, converter in _SUBCLASSES if isinstance(value, base)), None)
    if not dataclasses.is_dataclass(value) or found is _enum:
        return found
    if found is not None:
        raise ValueError("it is a dataclass and a subclass of a stored type; convert it first")
    return _dataclass
