"""Converting a pydantic model to a mapping from which validation builds an equal model.

Rules: a field is stored under the name that validation expects: its validation alias, unless the
model accepts field names.  Its Python value is stored, so that a ``datetime`` keeps its type.
pydantic dumps only models and fields with a custom serializer or ``Json``; its warnings are errors.
A field without a value, as in an expired row of a database, is an error too: pydantic would omit
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from logstore._codec.path import Refused

_SERIALIZERS = (pydantic.PlainSerializer, pydantic.WrapSerializer, pydantic.Json)


@dataclass(frozen=True)
class Dumped:
    """The dump of a model with a custom serializer; it may be any value."""

    value: Any


@dataclass(frozen=True)
class _Shape:
    """The stored names of a model class, and the fields that pydantic must dump."""

    dumps_itself: bool
    stored_names: dict[str, str]
    dumped_fields: frozenset[str]


def model_to_mapping(model: pydantic.BaseModel) -> dict[str, tuple[str, Any]] | Dumped:
    """Return ``{stored name: (field, value)}``; the values are not yet converted.

    Fields that are excluded from dumps are omitted, extra fields are included.  Raises
    :class:`Refused`, and errors of pydantic and of the serializers of the model.
    """
    shape = _shape(type(model))
    if shape.dumps_itself:
        check_complete(model)
        return Dumped(_dump(model, by_alias=True))
    dumped: dict[str, Any] = {}
    values = model.__dict__
    if shape.dumped_fields:
        check_complete([values.get(name) for name in shape.dumped_fields])
        dumped = _dump(model, by_alias=False, include=set(shape.dumped_fields))
    mapping: dict[str, tuple[str, Any]] = {}
    for name, stored_name in shape.stored_names.items():
        if name not in values:
            raise _without_value(model, name)
        found = dumped if name in shape.dumped_fields else values
        mapping[stored_name] = (name, found[name])
    for name, value in (model.model_extra or {}).items():
        if name in mapping:
            raise Refused(model, f"has two fields {name!r}")
        mapping[name] = (name, value)
    return mapping


def check_complete(value: Any) -> None:
    """Raise :class:`Refused` if a model in ``value`` lacks a field that pydantic dumps."""
    seen: dict[int, Any] = {}
    left = [value]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part  # kept alive, so that the id is not reused
        if isinstance(part, pydantic.BaseModel):
            for name in _shape(type(part)).stored_names:
                if name not in part.__dict__:
                    raise _without_value(part, name)
            left += part.__dict__.values()
        elif type(part) is dict:
            left += part.values()
        elif type(part) in (list, tuple, set, frozenset):
            left += part


def _dump(model: pydantic.BaseModel, **options: Any) -> Any:
    return model.model_dump(mode="python", round_trip=True, warnings="error", **options)


def _without_value(model: pydantic.BaseModel, name: str) -> Refused:
    why = ""
    if "_sa_instance_state" in model.__dict__:
        why = ": the row has expired; refresh it, or read its fields within its session"
    return Refused(model, f"has no value in its field {name!r}{why}")


@lru_cache(maxsize=512)
def _shape(kind: type[pydantic.BaseModel]) -> _Shape:
    decorators = kind.__pydantic_decorators__
    takes_names = bool(
        kind.model_config.get("populate_by_name") or kind.model_config.get("validate_by_name")
    )
    serialized = {
        field
        for decorator in decorators.field_serializers.values()
        for field in decorator.info.fields
    }
    fields = {name: field for name, field in kind.model_fields.items() if not field.exclude}
    return _Shape(
        dumps_itself=bool(decorators.model_serializers),
        stored_names={
            name: name if takes_names else _stored_name(name, field)
            for name, field in fields.items()
        },
        dumped_fields=frozenset(
            name
            for name, field in fields.items()
            if name in serialized or "*" in serialized or _has_serializer(field)
        ),
    )


def _stored_name(name: str, field: FieldInfo) -> str:
    """Return the key that validation accepts; a path into nested data cannot be a single key."""
    alias: Any = field.validation_alias if field.validation_alias is not None else field.alias
    choices = alias.choices if isinstance(alias, pydantic.AliasChoices) else [alias]
    for choice in choices:
        if isinstance(choice, str):
            return choice
        if isinstance(choice, pydantic.AliasPath) and len(choice.path) == 1:
            return str(choice.path[0])
    return name


def _has_serializer(field: FieldInfo) -> bool:
    return field.annotation is pydantic.Json or any(
        isinstance(entry, _SERIALIZERS) or entry is pydantic.Json for entry in field.metadata
    )
