from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
from collections import Counter, OrderedDict, deque
from datetime import datetime
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any

import pydantic
import pydantic_core
import pytest
from hypothesis import given
from taskiq.compat import parse_obj_as

from logstore._codec.tags import LEAVES
from logstore._codec.values import decode_value, encode_value
from logstore._codec.weight import PARTS_MAX, BudgetExceededError
from logstore.errors import UnserializableValueError
from logstore.taskiq.outcome.plain import DEPTH_MAX, LEAF_TYPES, to_plain
from logstore.testing.conformance_cases.comparing import assert_same
from tests.taskiq.strategies import values


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
        (
            {Kind.A: 1, "a": 2},
            "result['a']: the builtins.str there and another key are both stored as 'a'",
        ),
        ({frozenset({object()})}, ".elements()[0].elements()[0]: the builtins.object there"),
    ],
    ids=str,
)
def test_what_cannot_be_stored_is_refused_with_type_and_path(value: Any, path: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        to_plain(value)
    assert path in str(caught.value)


def test_a_class_an_error_and_a_missing_value_are_refused_whatever_else_they_are() -> None:
    @dataclasses.dataclass
    class Point:
        x: int = 1

    @dataclasses.dataclass
    class PointError(Exception):
        x: int = 1

    not_a_time = type("NaTType", (datetime,), {"__module__": "pandas._libs.tslibs.nattype"})
    for value in (Point, PointError(), not_a_time(2020, 1, 1)):
        with pytest.raises(UnserializableValueError, match="of a type that cannot be stored"):
            to_plain(value)


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


# -- subclasses ----------------------------------------------------------------------------------


class Extended(OrderedDict[str, int]):
    pass


class Renamed(dict[str, list[int]]):
    """As a MultiDict: shows the first of many values."""

    def items(self) -> Any:
        return [(key, values[0]) for key, values in super().items()]


class Hiding(list[int]):
    def __iter__(self) -> Any:
        return iter(())


class Repeating(tuple[int, ...]):
    """Its iterator has no end."""

    __slots__ = ()

    def __iter__(self) -> Any:
        return itertools.repeat(1)


class Naming(set[int]):
    """Shows names for what it holds."""

    def __iter__(self) -> Any:
        return map(str, set.__iter__(self))


class Partial(dict[str, int]):
    def items(self) -> Any:
        return []


class Sorted(set[int]):
    """Shows what it holds in an order of its own."""

    def __iter__(self) -> Any:
        return iter(sorted(set.__iter__(self)))


class Equal(dict[str, int]):
    """Shows other objects, which are equal."""

    def items(self) -> Any:
        return [(key, float(value)) for key, value in super().items()]


@dataclasses.dataclass
class Both(dict[str, int]):
    """Has fields, and could have items."""

    x: int = 1


def moved() -> OrderedDict[str, int]:
    value = OrderedDict(a=1, b=2)
    value.move_to_end("a")  # in its own order, not in that of the dict underneath
    return value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Extended(b=1, a=2), {"b": 1, "a": 2}),
        (moved(), {"b": 2, "a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (Sorted({8, 1, 3}), {1, 3, 8}),
        (Equal(a=1), {"a": 1.0}),
        (MappingProxyType({"a": (1,)}), {"a": (1,)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_of_a_container_is_what_it_shows_and_holds(value: Any, plain: Any) -> None:
    assert_same(to_plain([value]), [plain])


@pytest.mark.parametrize(
    "value",
    [Renamed(a=[1, 2]), Hiding([1]), Repeating((1, 1)), Naming({1, 2}), Partial(a=1)],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_that_shows_other_items_than_it_holds_is_refused(value: Any) -> None:
    with pytest.raises(UnserializableValueError, match=r"\['k'\].*iterates over other items"):
        to_plain({"k": value})


def test_fields_and_items_at_once_are_refused() -> None:
    with pytest.raises(UnserializableValueError, match="is a dataclass and a subclass"):
        to_plain([Both()])


@pytest.mark.parametrize(
    "value",
    [5, "text", 1.5, b"x", [1, 2], {"a": 1}, (1,), {1, 2}, frozenset((3,))],
    ids=repr,
)
def test_a_proxy_is_what_it_stands_for(value: Any) -> None:
    class Proxy:
        """As wrapt's and Django's lazy objects: says that it is of the class of what it holds."""

        def __getattribute__(self, name: str) -> Any:
            return getattr(value, name)

        def __int__(self) -> int:
            return int(value)

        def __float__(self) -> float:
            return float(value)

        def __str__(self) -> str:
            return str(value)

        def __bytes__(self) -> bytes:
            return bytes(value)

        def __len__(self) -> int:
            return len(value)

        def __iter__(self) -> Any:
            return iter(value)

        def __eq__(self, other: object) -> bool:
            return bool(value == other)

        __hash__ = None  # type: ignore[assignment]

    assert_same(to_plain([Proxy()]), [value])


# -- models and fields ---------------------------------------------------------------------------


class Row(pydantic.BaseModel):
    """As a row of SQLModel; an expired one has lost its fields."""

    id: int | None = None
    name: str


class Shelf(pydantic.BaseModel):
    """Dumps itself, and the rows in it."""

    rows: list[Row]

    @pydantic.model_serializer(mode="wrap")
    def _dump(self, dump: Any) -> Any:
        return dump(self)


class Box(pydantic.BaseModel):
    """Dumps one of its fields."""

    row: Any
    count: int = 0

    @pydantic.field_serializer("row")
    def _dump(self, row: Any) -> Any:
        return row.model_dump()


class Loose(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    kind: str = pydantic.Field(validation_alias="type")


def expired() -> Row:
    row = Row(id=1, name="n")
    row.__dict__.clear()
    row.__dict__["_sa_instance_state"] = object()
    return row


def renamed() -> Loose:
    model = Loose.model_validate({"type": "a"})
    assert model.model_extra is not None
    model.model_extra["type"] = "b"
    return model


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (expired(), "result: the {}.Row there has no value in its field 'id': the row has expired"),
        ({"a": [expired()]}, "result['a'][0]: the {}.Row there has no value"),
        (Node("n", below=[expired()]), "result.below[0]: the {}.Row there has no value"),  # type: ignore[list-item]
        (Shelf.model_construct(rows=[expired()]), "the {}.Row there has no value"),
        (Box.model_construct(row=expired()), "the {}.Row there has no value"),
        (Box.model_construct(count=1), "the {}.Box there has no value in its field 'row'"),
        (Row.model_construct(id=1), "the {}.Row there has no value in its field 'name'"),
        (renamed(), "has two fields 'type'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_model_without_a_value_in_a_field_is_refused(value: Any, told: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        to_plain(value)
    assert told.format(__name__) in str(caught.value)


class Priced(pydantic.BaseModel):
    """Dumps a field that has another name outside."""

    price: Any = pydantic.Field(alias="cost")

    @pydantic.field_serializer("price")
    def _dump(self, price: Any) -> Any:
        return f"{price} EUR"


class Spelled(pydantic.BaseModel):
    """Dumps each of its fields."""

    one: Any
    two: Any

    @pydantic.field_serializer("*")
    def _dump(self, value: Any) -> Any:
        return str(value)


def test_whole_models_are_dumped_as_they_say() -> None:
    assert to_plain(Priced(cost=5)) == {"cost": "5 EUR"}
    assert to_plain(Spelled(one=1, two=2)) == {"one": "1", "two": "2"}
    assert to_plain(Shelf(rows=[Row(name="n")])) == {"rows": [{"id": None, "name": "n"}]}
    assert to_plain(Box(row=Row(name="n"))) == {"row": {"id": None, "name": "n"}, "count": 0}


class Broken(pydantic.BaseModel):
    number: int
    raises: bool = False

    @pydantic.field_serializer("number")
    def _dump(self, number: int) -> int:
        if self.raises:
            raise LookupError("in the serializer")
        return str(number)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Broken(number=1), "Expected `int`"),
        (Broken(number=1, raises=True), "in the serializer"),
    ],
    ids=["warns", "raises"],
)
def test_a_dump_that_fails_or_would_warn_is_refused(value: Any, told: str) -> None:
    with pytest.raises(
        UnserializableValueError, match=r"result\[0\]: the .*cannot be dumped"
    ) as caught:
        to_plain([value])
    assert told in str(caught.value)
    assert isinstance(caught.value.__cause__, pydantic_core.PydanticSerializationError)


@dataclasses.dataclass
class Late:
    name: str
    later: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Detached:
    """As a mapped dataclass of SQLAlchemy after its session."""

    name: str

    def __getattribute__(self, name: str) -> Any:
        if name == "name":
            raise LookupError("not bound to a Session")
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            Late("n"),
            "result[0]: the {}.Late there has no value in its field 'later': AttributeError: ",
        ),
        (
            Detached("n"),
            "result[0]: the {}.Detached there has no value in its field 'name': LookupError: not",
        ),
    ],
    ids=["never-set", "detached"],
)
def test_a_field_without_a_value_is_refused(value: Any, told: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        to_plain([value])
    assert told.format(__name__) in str(caught.value)


# -- what breaks ---------------------------------------------------------------------------------


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError

    __hash__ = object.__hash__


@pytest.mark.parametrize("value", [{Rude(): 1}, {"a": {Rude()}}], ids=["key", "element"])
def test_a_path_is_told_whatever_its_keys_print(value: Any) -> None:
    with pytest.raises(UnserializableValueError, match="Rude there is of a type that cannot"):
        to_plain(value)


def test_what_was_raised_is_the_cause() -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(
        UnserializableValueError, match=r"result\[1\]: the builtins\.memory"
    ) as caught:
        to_plain([1, view])
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_interrupt_is_no_refusal() -> None:
    class Interrupted(list[int]):
        def __iter__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_plain([Interrupted([1])])


# -- the hook ------------------------------------------------------------------------------------


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


def enc_hook(value: Any) -> Any:
    if type(value) is Money:
        return Node("money", below=[]) if value.amount == 0 else (value.amount,)
    raise NotImplementedError


def test_the_hook_is_asked_of_what_nothing_else_converts() -> None:
    found = to_plain({"a": [Money(5), Kind.A, Node("n")]}, enc_hook=enc_hook)
    assert found["a"][1:] == ["a", {"name": "n", "kind": "a", "below": []}]
    assert decode_value(encode_value(found))["a"][0] == (5,)
    made = to_plain(Money(0), enc_hook=enc_hook)
    assert decode_value(encode_value(made)) == {"name": "money", "kind": "a", "below": []}


def test_what_the_hook_does_not_support_is_refused_with_its_place() -> None:
    with pytest.raises(
        UnserializableValueError, match=r"result\['a'\]: .*enc_hook does not support"
    ):
        to_plain({"a": object()}, enc_hook=enc_hook)
    with pytest.raises(UnserializableValueError, match=r"result\[0\]: .*ZeroDivision") as caught:
        to_plain([object()], enc_hook=lambda value: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(UnserializableValueError, match="nested deeper"):
        to_plain(object(), enc_hook=lambda value: object())


def test_a_value_that_needs_the_hook_exceeds_any_budget() -> None:
    assert to_plain([1], on_loop=True, enc_hook=enc_hook) == [1]
    with pytest.raises(BudgetExceededError):
        to_plain([Money(5)], on_loop=True, enc_hook=enc_hook)


def test_a_value_of_many_parts_exceeds_a_budget() -> None:
    for small, large in (
        ([[1] * 40, [1] * (PARTS_MAX - 45)], [[1] * 40, [1] * (PARTS_MAX - 44)]),
        # A dict, its keys and its values.
        ({"a": dict.fromkeys(range(PARTS_MAX // 2 - 2))}, {"a": dict.fromkeys(range(PARTS_MAX))}),
    ):
        assert to_plain(small, on_loop=True) == small
        with pytest.raises(BudgetExceededError):
            to_plain(large, on_loop=True)


@pytest.mark.parametrize("excess", [0, 1])
def test_a_long_key_is_cut_in_a_path(excess: int) -> None:
    key = "k" * (58 + excess)  # 60 characters with its quotes
    with pytest.raises(UnserializableValueError) as caught:
        to_plain({key: object()})
    shown = repr(key) if not excess else f"{repr(key)[:57]}..."
    assert f"result[{shown}]: " in str(caught.value)
