"""From what a task returns to data that a store can keep.

Rules:

- Values of the store's own types are passed on as they are; see :mod:`logstore.codec`.
- Instances of a subclass of a stored type become that type: its attributes, and a name that it has
  for its items, are not kept.  Numbers of other libraries become the built-in number that they
  equal.  What a subclass of a container shows must be what it holds.
- Pydantic models and dataclasses become dicts of their fields, enums their values, named tuples
  tuples, paths and URLs strings, bytearrays and memoryviews bytes, deques lists, and sets of what
  has become unhashable lists: data that taskiq's parsing of a task's return type builds the same
  objects from again.  Of a model, what its own dump leaves out (excluded fields, private
  attributes, computed fields, which fields were set) is not kept.
- Everything else is asked of the ``enc_hook``, if there is one.
- What is left raises :class:`~logstore.errors.UnserializableValueError`, which names the type and
  the path inside the value: a value without a time (``pandas.NaT``), a field without a value (an
  expired row of a database), whatever the code of a value raises.  Nothing is dropped in silence,
  guessed or stored by its ``repr``.
- Nesting is bounded, cycles are errors.  Nothing here does I/O; it may run in any thread.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple

import pydantic
import pydantic_core

from logstore.backends.bases import BASES, OTHERS
from logstore.backends.models import IncompleteError, model_to_mapping
from logstore.codec import MAX_DEPTH
from logstore.codec_hints import advice, is_missing
from logstore.codec_hooks import EncHook, call_enc_hook, hooked
from logstore.codec_numbers import converter_for, exact
from logstore.codec_path import Refused
from logstore.codec_tags import LEAVES
from logstore.codec_text import TEXT_CHARS_MAX, bases_of, describe, text_of, type_name
from logstore.errors import UnserializableValueError

DEPTH_MAX = MAX_DEPTH - 8
"""How deep a value may be nested: what the codec allows, less what a result is wrapped in."""

LEAF_TYPES: frozenset[type] = frozenset(
    {type(None), bool, int, float, str, bytes, *(leaf.kind for leaf in LEAVES)}
)

_REPR_CHARS_MAX = 60


class BudgetExceededError(Exception):
    """Converting the value may take longer than the caller wants to wait on this thread."""


class _Unstorable(Exception):
    """Carries the path, innermost step first, up to where it is complete."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []


def to_plain(
    value: Any,
    name: str = "result",
    *,
    parts_max: int | None = None,
    enc_hook: EncHook | None = None,
) -> Any:
    """Return ``value`` as data of the store's own types.

    ``name`` stands at the head of the path in an error.  Raises
    :class:`~logstore.errors.UnserializableValueError` for what cannot be stored, and
    :class:`BudgetExceededError` when the value has more than ``parts_max`` parts or needs the hook.
    """
    return convert(value, name, parts_max=parts_max, enc_hook=enc_hook).plain


class Converted(NamedTuple):
    """What a value has become."""

    plain: Any
    same_kind: bool  # every type in it is what it was, or its base, or made by a hook


def convert(
    value: Any,
    name: str = "result",
    *,
    parts_max: int | None = None,
    enc_hook: EncHook | None = None,
) -> Converted:
    """Return what :func:`to_plain` does, and whether it is still of the same kind.

    An instance of a subclass that has become its base is still of the same kind; an enum that has
    become its value is not.
    """
    walk = _Walk(parts_max, enc_hook)
    try:
        return Converted(walk.convert(value), walk.same_kind)
    except _Unstorable as error:
        path = name + "".join(reversed(error.steps))
        raise UnserializableValueError(f"cannot store {path}: {error.reason}") from error.__cause__


class _Walk:
    """One pass over one value."""

    def __init__(self, parts_max: int | None, enc_hook: EncHook | None) -> None:
        self.parts_left = parts_max
        self.enc_hook = enc_hook
        self.above: set[int] = set()
        self.same_kind = True

    def convert(self, value: Any) -> Any:
        kind = type(value)
        try:
            if kind in LEAF_TYPES:
                return value
            if len(self.above) >= DEPTH_MAX:
                raise _Unstorable(f"it is nested deeper than {DEPTH_MAX} levels")
            if id(value) in self.above:
                raise _Unstorable(f"the {type_name(kind)} there holds itself")
            self.above.add(id(value))
            try:
                converter = _CONTAINERS.get(kind)
                if converter is not None:
                    return converter(self, value)
                return self._of_other_type(kind, value)
            finally:
                self.above.discard(id(value))
        except (_Unstorable, BudgetExceededError):
            raise
        except Exception as error:
            raise _failed(f"the {type_name(kind)} there cannot be converted", error) from error

    def _of_other_type(self, kind: type, value: Any) -> Any:
        converter = _converter(kind, value)
        if converter is not None:
            plain = converter(self, value)
            if type(plain) not in bases_of(kind):
                self.same_kind = False
            return plain
        number = converter_for(kind)
        if number is not None:
            return exact(number, value)
        if self.enc_hook is None:
            raise _Unstorable(f"the {type_name(kind)} there {advice(kind)}")
        if self.parts_left is not None:
            raise BudgetExceededError
        try:
            made = call_enc_hook(self.enc_hook, value)
        except Refused as refused:
            reason = f"the {type_name(kind)} there {refused.reason}"
            raise _Unstorable(reason) from refused.__cause__
        return hooked(kind, self.convert(made))

    def spend(self, parts_count: int) -> None:
        if self.parts_left is not None:
            self.parts_left -= parts_count + 1
            if self.parts_left < 0:
                raise BudgetExceededError


def _failed(reason: str, error: Exception) -> _Unstorable:
    return _Unstorable(f"{reason}: {describe(error)}")


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
        plain = set()  # models became dicts; parsing a set's type takes a list as well
    # Or members that were different have become equal, as an enum's value and that value.
    if len(plain) == len(items):
        return plain
    walk.same_kind = False
    return items


def _dict(walk: _Walk, value: Any) -> dict[Any, Any]:
    return _pairs(walk, value.items())


def _pairs(walk: _Walk, pairs: Collection[tuple[Any, Any]]) -> dict[Any, Any]:
    walk.spend(2 * len(pairs))
    plain: dict[Any, Any] = {}
    key: Any = None
    try:
        for key, item in pairs:
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


# -- fields ----------------------------------------------------------------------------------------


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
    try:
        fields = model_to_mapping(value)
    except IncompleteError as error:
        raise _Unstorable(str(error)) from None
    except pydantic_core.PydanticSerializationError as error:
        raise _failed(f"the {type_name(type(value))} there cannot be dumped", error) from error
    return _fields(walk, fields) if isinstance(fields, dict) else walk.convert(fields.value)


def _dataclass(walk: _Walk, value: Any) -> dict[str, Any]:
    fields: dict[str, tuple[str, Any]] = {}
    for field in dataclasses.fields(value):
        try:
            fields[field.name] = (field.name, getattr(value, field.name))
        except Exception as error:  # never set, or a property, or a column of a row
            failed = _failed(f"the field of the {type_name(type(value))} there has no value", error)
            failed.steps.append(f".{field.name}")
            raise failed from error
    return _fields(walk, fields)


def _enum(walk: _Walk, value: Enum) -> Any:
    return walk.convert(value.value)


# -- subclasses of containers ----------------------------------------------------------------------


def _sub_dict(walk: _Walk, value: Any) -> dict[Any, Any]:
    shown = []
    for key, item in value.items():
        if issubclass(type(value), dict):
            _check_same(dict.get(value, key, _NOTHING), item)
        shown.append((key, item))
    if issubclass(type(value), dict):
        _check_same(dict.__len__(value), len(shown))
    return _pairs(walk, shown)


def _sub_list(walk: _Walk, value: Any) -> list[Any]:
    return _list(walk, _shown(list, value))


def _sub_tuple(walk: _Walk, value: Any) -> tuple[Any, ...]:
    return tuple(_list(walk, _shown(tuple, value)))


def _sub_set(walk: _Walk, value: Any) -> Any:
    kind = frozenset if isinstance(value, frozenset) else set
    return _set(walk, kind(_shown(kind, value)))


def _shown(base: type, value: Any) -> Collection[Any]:
    """The items of an instance of a subclass; of what only says that it is one, those it shows."""
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
        raise ValueError("it shows other items than it holds; write the ones that you mean")


# -- which converter -------------------------------------------------------------------------------

_NOTHING = object()
_Converter = Callable[[_Walk, Any], Any]

_CONTAINERS: dict[type, _Converter] = {
    dict: _dict,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
}


def _scalar(base: type, convert: Callable[[Any], Any]) -> _Converter:
    def convert_scalar(walk: _Walk, value: Any) -> Any:
        if issubclass(type(value), base):
            return convert(value)
        return exact(base, value)  # a proxy, which only says that it is one

    return convert_scalar


# For everything that is not of exactly one of the stored types; the first that fits.
_SUBCLASSES: tuple[tuple[type, _Converter], ...] = (
    (Enum, _enum),
    (pydantic.RootModel, lambda walk, value: walk.convert(value.root)),
    (pydantic.BaseModel, _model),
    *((kind, _scalar(kind, convert)) for kind, convert in BASES),
    (dict, _sub_dict),
    (list, _sub_list),
    (tuple, _sub_tuple),
    (set, _sub_set),
    (frozenset, _sub_set),
    (MappingProxyType, _dict),
    (deque, _list),
    *((kind, _scalar(kind, convert)) for kind, convert in OTHERS),
)


def _converter(kind: type, value: Any) -> _Converter | None:
    if isinstance(value, (type, BaseException)) or is_missing(kind):
        return None
    found = next((converter for base, converter in _SUBCLASSES if isinstance(value, base)), None)
    if not dataclasses.is_dataclass(value) or found is _enum:
        return found
    if found is not None:
        raise ValueError("it has fields and is a subclass of a stored type; write one of the two")
    return _dataclass


def _short(value: Any) -> str:
    text = text_of(repr, value, TEXT_CHARS_MAX)
    return text if len(text) <= _REPR_CHARS_MAX else f"{text[: _REPR_CHARS_MAX - 3]}..."
