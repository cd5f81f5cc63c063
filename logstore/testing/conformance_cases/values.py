"""Values and their types; models that taskiq rebuilds; large values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple
from uuid import UUID

import pydantic
from taskiq import AsyncTaskiqTask
from typing_extensions import TypedDict

from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case, ok

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
    """An enum of texts."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """An enum that is an int."""

    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    """A dataclass with an enum in it."""

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
    """A model whose field has another name outside."""

    kind: str = pydantic.Field(alias="type")
    items: list[Item] = []


class Pair(NamedTuple):
    """A named tuple with types."""

    left: int
    right: str


class Row(TypedDict):
    """A dict with types."""

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

_LARGE: dict[str, Any] = {
    "text-1-MiB": "x" * (1 << 20),
    "text-4-bytes-each": "🚀" * 300_000,
    "bytes-4-MiB": bytes(range(256)) * (4 << 12),
    "list-of-50000": list(range(50_000)),
    "dict-of-20000": {f"key-{number}": number / 3 for number in range(20_000)},
}


class ValueCases(ConformanceSuite):
    """What goes in comes out."""

    @case("types", value=_VALUES)
    async def test_value_round_trips(self, kit: Kit, value: Any) -> None:
        await kit.backend.set_result("t", ok(value))
        result = await kit.backend.get_result("t")
        assert not result.is_err, f"stored as an error: {result.error!r}"
        assert_same(result.return_value, value)

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
        await kit.backend.set_result("t", ok(value))
        assert (await kit.backend.get_result("t")).return_value == value

    @case("large", depth={"10": 10, "40": 40})
    async def test_a_deep_value_round_trips(self, kit: Kit, depth: int) -> None:
        value: Any = "bottom"
        for level in range(depth):
            value = [value] if level % 2 else {"k": value}
        await kit.backend.set_result("t", ok(value))
        assert (await kit.backend.get_result("t")).return_value == value

    @case("large")
    async def test_many_results_are_all_there(self, kit: Kit) -> None:
        for number in range(80):
            await kit.backend.set_result(f"t{number}", ok("x" * 1000 + str(number)))
        for number in range(80):
            found = (await kit.backend.get_result(f"t{number}")).return_value
            assert found == "x" * 1000 + str(number)
