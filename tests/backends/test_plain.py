from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections import OrderedDict, deque
from pathlib import PurePosixPath
from typing import Annotated, Any

import pydantic
import pytest
from hypothesis import given
from taskiq.compat import parse_obj_as

from logstore.backends.plain import DEPTH_MAX, LEAF_TYPES, BudgetExceededError, to_plain
from logstore.codec import encode_value
from logstore.codec_tags import LEAVES
from logstore.errors import UnserializableValueError
from logstore.testing.conformance_cases.comparing import assert_same
from tests.backends.strategies import values


class Kind(enum.Enum):
    A = "a"
    B = ("b", 2)


class Text(str):
    pass


@dataclasses.dataclass
class Node:
    name: str
    kind: Kind = Kind.A
    below: list[Node] = dataclasses.field(default_factory=list)


class Secret(pydantic.BaseModel):
    password: pydantic.SecretStr


class Odd(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    chosen: int = pydantic.Field(validation_alias=pydantic.AliasChoices("one", "two"))
    renamed: int = pydantic.Field(validation_alias="in", serialization_alias="out")
    parsed: pydantic.Json[list[int]]
    upper: str
    doubled: Annotated[int, pydantic.PlainSerializer(lambda number: number)]
    hidden: int = pydantic.Field(default=3, exclude=True)
    link: pydantic.HttpUrl
    path: PurePosixPath

    @pydantic.field_serializer("upper")
    def _upper(self, value: str) -> str:
        return value.upper()


class Wrapped(pydantic.RootModel[dict[str, Node]]):
    pass


@given(values)
def test_a_value_of_the_stores_types_is_itself(value: Any) -> None:
    assert_same(to_plain(value), value)


def test_the_leaf_types_are_those_of_the_codec() -> None:
    assert {leaf.kind for leaf in LEAVES} < LEAF_TYPES
    for kind in (int, float, str, bytes, bool):
        assert kind in LEAF_TYPES
        encode_value(kind())


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Kind.B, ("b", 2)),
        (Text("x"), "x"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (deque([1, 2]), [1, 2]),
        (bytearray(b"x"), b"x"),
        (PurePosixPath("/a/b"), "/a/b"),
        ({Kind.A: {Kind.A}}, {"a": {"a"}}),
        (Node("n", Kind.A, [Node("m")]), None),
        ([Node("n")], None),
    ],
    ids=repr,
)
def test_what_is_no_stored_type_becomes_data(value: Any, plain: Any) -> None:
    found = to_plain(value)
    encode_value(found)
    if plain is not None:
        assert_same(found, plain)
    else:
        assert parse_obj_as(type(value) if not isinstance(value, list) else list[Node], found) == (
            value
        )


def test_a_model_with_aliases_serializers_and_extras_is_rebuilt() -> None:
    model = Odd.model_validate(
        {
            "one": 1,
            "in": 2,
            "parsed": "[1, 2]",
            "upper": "UP",
            "doubled": 4,
            "link": "https://example.org/a",
            "path": "/x",
            "more": {"when": dt.date(2024, 1, 1)},
        }
    )
    found = to_plain(model)
    encode_value(found)
    assert "hidden" not in found
    assert found["more"] == {"when": dt.date(2024, 1, 1)}
    assert parse_obj_as(Odd, found) == model


class Aliased(pydantic.BaseModel):
    plain: int = pydantic.Field(alias="a")
    own: int = pydantic.Field(alias="not", validation_alias="b")
    path: int = pydantic.Field(validation_alias=pydantic.AliasPath("c"))
    choice: int = pydantic.Field(
        validation_alias=pydantic.AliasChoices(
            pydantic.AliasPath("d", "e"), pydantic.AliasPath("f"), "g"
        )
    )
    named: int


def test_a_field_is_stored_under_the_name_that_validation_takes() -> None:
    data = {"a": 1, "b": 2, "c": 3, "f": 4, "named": 5}
    assert to_plain(Aliased.model_validate(data)) == data


class Inner(pydantic.BaseModel):
    x: int = pydantic.Field(validation_alias="in")


class OneDumped(pydantic.BaseModel):
    inner: Inner
    text: str

    @pydantic.field_serializer("text")
    def _upper(self, value: str) -> str:
        return value.upper()


class AllDumped(pydantic.BaseModel):
    a: int
    b: int

    @pydantic.field_serializer("*")
    def _text(self, value: int) -> str:
        return f"{value}"


def test_pydantic_dumps_those_fields_alone_that_have_a_serializer() -> None:
    model = OneDumped(inner=Inner.model_validate({"in": 1}), text="a")
    assert to_plain(model) == {"inner": {"in": 1}, "text": "A"}
    assert to_plain(AllDumped(a=1, b=2)) == {"a": "1", "b": "2"}


def test_a_root_model_is_what_it_holds() -> None:
    model = Wrapped({"a": Node("n", Kind.B)})
    assert parse_obj_as(Wrapped, to_plain(model)) == model


def test_a_set_of_what_becomes_unhashable_is_a_list() -> None:
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        x: int

    assert sorted(to_plain({Frozen(1), Frozen(2)}), key=lambda item: item["x"]) == [
        {"x": 1},
        {"x": 2},
    ]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"rows": [1, 2, 3, object()]}, "result['rows'][3]: the builtins.object there"),
        (Node("n", below=[Node("m"), open]), "result.below[1]: the builtins.builtin_function"),  # type: ignore[list-item]
        ((1, {2: {3: int}}), "result[1][2][3]: the builtins.type there"),
        (ValueError("x"), "result: the builtins.ValueError there"),
        (Secret(password=pydantic.SecretStr("x")), "result.password: the pydantic.types.SecretStr"),
        ({Kind.A: 1, "a": 2}, "result['a']: two keys are both stored as 'a'"),
        ({frozenset({object()})}, ".elements()[0].elements()[0]: the builtins.object there"),
    ],
    ids=str,
)
def test_what_cannot_be_stored_is_refused_with_type_and_path(value: Any, path: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        to_plain(value)
    assert path in str(caught.value)


def test_a_value_in_itself_is_refused() -> None:
    value: list[Any] = []
    value.append({"again": value})
    with pytest.raises(UnserializableValueError, match="holds itself"):
        to_plain(value)


def test_the_same_object_twice_is_no_cycle() -> None:
    shared = [1]
    assert to_plain([shared, shared]) == [[1], [1]]


@pytest.mark.parametrize("excess", [0, 1])
def test_nesting_is_bounded(excess: int) -> None:
    value: Any = 0
    for _ in range(DEPTH_MAX + excess):
        value = [value]
    if excess:
        with pytest.raises(UnserializableValueError, match="nested deeper"):
            to_plain(value)
    else:
        assert to_plain(value) == value


def test_a_date_that_would_lose_something_is_refused() -> None:
    class Precise(dt.datetime):
        nanosecond = 5

        def __ne__(self, other: object) -> bool:
            return True

    with pytest.raises(UnserializableValueError, match="without loss"):
        to_plain([Precise(2024, 1, 1)])


def test_a_value_of_many_parts_exceeds_a_budget() -> None:
    lists = [[1] * 40] * 2
    parts = 1 + 2 + 2 * (1 + 40)  # a list, and what is in it
    assert to_plain(lists, parts_max=parts) == lists
    with pytest.raises(BudgetExceededError):
        to_plain(lists, parts_max=parts - 1)
    dicts = {"a": {"b": 1, "c": 2}}
    parts = 1 + 2 + 1 + 4  # a dict, its keys and its values
    assert to_plain(dicts, parts_max=parts) == dicts
    with pytest.raises(BudgetExceededError):
        to_plain(dicts, parts_max=parts - 1)


@pytest.mark.parametrize("excess", [0, 1])
def test_a_long_key_is_cut_in_a_path(excess: int) -> None:
    key = "k" * (58 + excess)  # 60 characters with its quotes
    with pytest.raises(UnserializableValueError) as caught:
        to_plain({key: object()})
    shown = repr(key) if not excess else f"{repr(key)[:57]}..."
    assert f"result[{shown}]: " in str(caught.value)
