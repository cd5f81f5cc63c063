"""A pydantic model as the mapping that validation builds the same model from.

Rules: a field is stored under the name that validation looks for (its validation alias, unless
the model takes field names), and as its Python value, so that a ``datetime`` stays one.  Only
where a model says itself how it is dumped (a serializer, ``Json``) is pydantic asked to dump it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

_SERIALIZERS = (pydantic.PlainSerializer, pydantic.WrapSerializer, pydantic.Json)


@dataclass(frozen=True)
class Dumped:
    """What a model with a serializer of its own was dumped to: any value."""

    value: Any


@dataclass(frozen=True)
class _Shape:
    """What is to be known of a model class: stored names, and the fields pydantic must dump."""

    dumps_itself: bool
    stored_names: dict[str, str]
    dumped_fields: frozenset[str]


def model_to_mapping(model: pydantic.BaseModel) -> dict[str, tuple[str, Any]] | Dumped:
    """Return ``{stored name: (field, value)}``, values not yet converted.

    Fields that are excluded from dumps are left out, extra fields are included.
    """
    shape = _shape(type(model))
    if shape.dumps_itself:
        return Dumped(model.model_dump(mode="python", round_trip=True, by_alias=True))
    dumped: dict[str, Any] = {}
    if shape.dumped_fields:
        dumped = model.model_dump(
            mode="python", round_trip=True, by_alias=False, include=set(shape.dumped_fields)
        )
    values = model.__dict__
    mapping: dict[str, tuple[str, Any]] = {}
    for name, stored_name in shape.stored_names.items():
        if name in dumped:
            mapping[stored_name] = (name, dumped[name])
        elif name in values:  # model_construct() may leave fields out
            mapping[stored_name] = (name, values[name])
    for name, value in (model.model_extra or {}).items():
        mapping.setdefault(name, (name, value))
    return mapping


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
    """The key that validation takes; a path into something nested cannot be one key."""
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
