"""Values and their types; models that taskiq rebuilds; large values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import numbers
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from typing import Any, NamedTuple
from uuid import UUID

import pydantic
import pytest
from taskiq import AsyncTaskiqTask
from typing_extensions import TypedDict

from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case, failed, ok

_VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "int": -7,
    "big-int": 2**200,
    "float": 0.1,
    "negative-zero": -0.0,
    "nan": float("nan"),
    "infinity": float("-inf"),
    "complex": complex(1.5, -2),
    "str": "text",
    "unicode": "Ünïcödé 🚀 \u0000 \u2028",
    "surrogate": "a\ud800b",
    "bytes": b"\x00\xff bytes",
    "list": [1, "a", None],
    "tuple": (1, (2, "b")),
    "empty-containers": [[], (), {}, set(), frozenset(), "", b""],
    "dict": {"b": 1, "a": {"c": [1.5]}},
    "int-keys": {1: "a", 2: "b"},
    "mixed-keys": {None: 0, (1, 2): "t", "s": 1.5, 3: b"x"},
    "set": {1, 2, 3},
    "frozenset": frozenset({"a", "b"}),
    "naive-datetime": dt.datetime(2024, 2, 29, 12, 30, 15, 123456),
    "aware-datetime": dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5.5))),
    "utc-datetime": dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    "date": dt.date(2024, 2, 29),
    "time": dt.time(23, 59, 59, 999999),
    "timedelta": dt.timedelta(days=-1, microseconds=1),
    "decimal": Decimal("1.1000"),
    "fraction": Fraction(1, 3),
    "uuid": UUID(int=5),
    "ipv4": IPv4Address("10.0.0.1"),
    "ipv6": IPv6Address("fe80::1"),
    "nested": {"rows": [{"id": (1, "a"), "when": dt.date(2024, 1, 1)}], "tags": {"x"}},
    "dollar-type": {"$type": "tuple", "$value": [1]},
    "looks-like-a-result": {"taskiq": 1, "is_err": True, "error": []},
}


class Colour(enum.Enum):
    """An enum with text values."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """An enum that is an int."""

    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    """A dataclass with an enum field."""

    x: int
    y: float
    colour: Colour = Colour.RED


class Item(pydantic.BaseModel):
    """A model with types that JSON does not have."""

    name: str
    price: Decimal
    made: dt.datetime
    at: Point
    tags: set[str] = set()


class Renamed(pydantic.BaseModel):
    """A model with a field alias."""

    kind: str = pydantic.Field(alias="type")
    items: list[Item] = []


class Pair(NamedTuple):
    """A named tuple with types."""

    left: int
    right: str


class Row(TypedDict):
    """A typed dict."""

    id: int
    when: dt.date


_ITEM = Item(
    name="n",
    price=Decimal("9.90"),
    made=dt.datetime(2024, 1, 2, 3, 4, 5),
    at=Point(1, 2.5, Colour.BLUE),
    tags={"a", "b"},
)

_MODELS: dict[str, tuple[Any, Any]] = {
    "model": (Item, _ITEM),
    "alias": (Renamed, Renamed(type="k", items=[_ITEM])),
    "list-of-models": (list[Item], [_ITEM, _ITEM]),
    "dict-of-models": (dict[str, Item], {"a": _ITEM}),
    "optional-model": (Item | None, _ITEM),
    "dataclass": (Point, Point(1, 2.5, Colour.BLUE)),
    "list-of-dataclasses": (list[Point], [Point(1, 2.0), Point(3, 4.0)]),
    "enum": (Colour, Colour.BLUE),
    "int-enum": (Level, Level.HIGH),
    "set-of-enums": (set[Colour], {Colour.RED, Colour.BLUE}),
    "dict-by-enum": (dict[Colour, Level], {Colour.RED: Level.LOW}),
    "named-tuple": (Pair, Pair(1, "r")),
    "tuple": (tuple[int, str], (1, "a")),
    "set": (set[int], {1, 2}),
    "bytes": (bytes, b"abc"),
    "typed-dict": (Row, {"id": 1, "when": dt.date(2024, 1, 1)}),
    "datetime": (dt.datetime, dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)),
    "uuid": (UUID, UUID(int=9)),
}


class Id(UUID):
    """As asyncpg's UUID."""


class Moment(dt.datetime):
    """As pandas' Timestamp and pendulum's DateTime."""


class NoMoment(dt.datetime):
    """As pandas' NaT: equal to no value; most datetime methods raise."""

    __hash__ = dt.datetime.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def _refuse(self, *args: object) -> Any:
        raise ValueError("NoMoment does not support this")

    isoformat = utcoffset = timetz = date = time = _refuse  # type: ignore[assignment]


class Whole:
    """An integer that is not an int, as numpy's."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self.number == other

    def __hash__(self) -> int:
        return hash(self.number)


numbers.Integral.register(Whole)


class Gone(list[int]):
    """As the rows of a query whose connection is closed."""

    def __iter__(self) -> Any:
        raise RuntimeError("the connection is closed")


@dataclasses.dataclass
class Expired:
    """As a row of a database after its session."""

    name: str

    def __getattribute__(self, name: str) -> Any:
        if name == "name":
            raise RuntimeError("the row has expired")
        return super().__getattribute__(name)


class Hollow(pydantic.BaseModel):
    """A model without one of its fields, as an expired row of SQLModel."""

    name: str


class Warned(pydantic.BaseModel):
    """A model whose dump does not fit its field types."""

    number: int

    @pydantic.field_serializer("number")
    def _dump(self, number: int) -> int:
        return str(number)  # type: ignore[return-value]


class Endless(list[int]):
    """An infinite iterable."""

    def __iter__(self) -> Any:
        return iter(self)


def _released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


_BREAKING: dict[str, Any] = {
    "no-moment": lambda: NoMoment(2024, 1, 1),
    "iterator": lambda: Gone([1, 2]),
    "field": lambda: Expired("n"),
    "lost-field": lambda: Hollow.model_construct(),
    "dump": lambda: Warned(number=1),
    "recursion": lambda: Endless([1]),
    "released-memory": _released,
}

_SUBCLASSES: dict[str, Any] = {
    "uuid": Id(int=5),
    "decimal": type("Money", (Decimal,), {})("1.50"),
    "fraction": type("Share", (Fraction,), {})(1, 3),
    "datetime": Moment(2024, 1, 2, 3, 4, 5, 6, dt.timezone.utc, fold=1),
    "date": type("Day", (dt.date,), {})(2024, 1, 2),
    "time": type("Clock", (dt.time,), {})(1, 2, 3, 4),
    "timedelta": type("Span", (dt.timedelta,), {})(1, 2, 3),
    "ipv4": type("Host", (IPv4Address,), {})("10.0.0.1"),
    "ipv4-network": type("Net", (IPv4Network,), {})("10.0.0.0/8"),
    "ipv4-interface": type("Port", (IPv4Interface,), {})("10.0.0.1/8"),
    "ipv6": type("Host6", (IPv6Address,), {})("fe80::1"),
    "str": type("Name", (str,), {})("n"),
    "int": type("Count", (int,), {})(5),
    "float": type("Ratio", (float,), {})(0.5),
    "complex": type("Phase", (complex,), {})(1 + 2j),
    "bytes": type("Blob", (bytes,), {})(b"b"),
    "named-tuple": Pair(1, "a"),
    "int-enum": Level.HIGH,
    "registered-integer": Whole(1 << 70),
}

_LARGE: dict[str, Any] = {
    "text-1-MiB": "x" * (1 << 20),
    "text-4-bytes-each": "🚀" * 300_000,
    "bytes-4-MiB": bytes(range(256)) * (4 << 12),
    "list-of-50000": list(range(50_000)),
    "dict-of-20000": {f"key-{number}": number / 3 for number in range(20_000)},
}


class ValueCases(ConformanceSuite):
    """Stored values are returned unchanged."""

    @case("types", value=_VALUES)
    async def test_value_round_trips(self, kit: Kit, value: Any) -> None:
        result = await kit.stored(ok(value))
        assert not result.is_err, f"stored as an error: {result.error!r}"
        assert_same(result.return_value, value)

    @case("types", value=_SUBCLASSES)
    async def test_a_subclass_comes_back_as_what_it_equals(self, kit: Kit, value: Any) -> None:
        result = await kit.stored(ok({"rows": [value]}))
        assert not result.is_err, f"stored as an error: {result.error!r}"
        found = result.return_value["rows"][0]
        assert found == value
        assert isinstance(value, type(found)) or isinstance(found, (bool, int, float))

    @case("worker", make=_BREAKING)
    async def test_a_value_that_breaks_is_an_error_with_its_place(
        self, kit: Kit, make: Any
    ) -> None:
        value = make()
        await kit.backend.set_result("t", ok({"rows": [1, value]}))
        assert await kit.backend.is_result_ready("t")
        result = await kit.backend.get_result("t")
        if not result.is_err:  # kept as an object
            assert type(result.return_value["rows"][1]) is type(value)
            return
        with pytest.raises(TypeError) as caught:
            result.raise_for_error()
        assert type(value).__name__ in str(caught.value)
        assert "result['rows'][1]" in str(caught.value)

    @case("worker", make=_BREAKING)
    async def test_a_label_that_breaks_costs_no_result(self, kit: Kit, make: Any) -> None:
        result = ok(1)
        result.labels["odd"] = make()
        assert (await kit.stored(result)).return_value == 1

    @case("worker", make=_BREAKING)
    async def test_an_error_with_what_breaks_is_an_error(self, kit: Kit, make: Any) -> None:
        error = KeyError("k", make())
        error.more = make()  # type: ignore[attr-defined]
        await kit.backend.set_result("t", failed(error))
        found = (await kit.backend.get_result("t")).error
        assert isinstance(found, KeyError)
        assert found.args[0] == "k"

    @case("types")
    async def test_labels_round_trip(self, kit: Kit) -> None:
        labels = {"text": "a", "int": 1, "float": 1.5, "bool": True, "bytes": b"x"}
        await kit.backend.set_result("t", ok(1, labels=labels))
        assert_same((await kit.backend.get_result("t")).labels, labels)

    @case("models", model=_MODELS)
    async def test_a_model_is_rebuilt(self, kit: Kit, model: tuple[Any, Any]) -> None:
        kind, value = model
        await kit.backend.set_result("t", ok(value))
        result = await AsyncTaskiqTask("t", kit.backend, kind).get_result()
        assert not result.is_err, f"stored as an error: {result.error!r}"
        assert type(result.return_value) is type(value)
        assert result.return_value == value

    @case("large", value=_LARGE)
    async def test_a_large_value_round_trips(self, kit: Kit, value: Any) -> None:
        assert (await kit.stored(ok(value))).return_value == value

    @case("large", depth={"10": 10, "40": 40})
    async def test_a_deep_value_round_trips(self, kit: Kit, depth: int) -> None:
        value: Any = "bottom"
        for level in range(depth):
            value = [value] if level % 2 else {"k": value}
        assert (await kit.stored(ok(value))).return_value == value

    @case("large")
    async def test_many_results_are_all_there(self, kit: Kit) -> None:
        for number in range(80):
            await kit.backend.set_result(f"t{number}", ok("x" * 1000 + str(number)))
        for number in range(80):
            assert await kit.value(f"t{number}") == "x" * 1000 + str(number)
