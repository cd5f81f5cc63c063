from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore._codec.values import MAX_DEPTH
from logstore.errors import UnserializableValueError
from logstore.taskiq.results import tagged_json
from logstore.taskiq.results.tagged_json import from_jsonable, to_jsonable
from logstore.testing.conformance_cases.comparing import assert_same
from tests.taskiq.strategies import values


@given(values)
def test_a_value_round_trips_through_json_text(value: Any) -> None:
    text = json.dumps(to_jsonable(value), ensure_ascii=False, allow_nan=False).encode()
    assert_same(from_jsonable(json.loads(text)), value)


@pytest.mark.parametrize("value", [None, True, 1, -1.5, "text", [1, "a"], {"a": {"b": [None]}}])
def test_what_json_has_is_plain_json(value: Any) -> None:
    assert to_jsonable(value) == value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"rows": [1, object()]}, "result['rows'][1]"),
        ([{1: {"s": {2: open}}}], "result[0][1]['s'][2]"),
        ({"f": Fraction(1, 1 << (1 << 19))}, "result['f']"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        to_jsonable(value)
    assert f"cannot store {path}: " in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: (value,),
        lambda value: {"a": value},
        lambda value: {1: value},
        lambda value: frozenset((value,)),
    ],
    ids=["list", "tuple", "dict", "dict of pairs", "set"],
)
def test_nesting_is_bounded_both_ways(wrap: Callable[[Any], Any]) -> None:
    value: Any = Fraction(1, 2)
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert from_jsonable(to_jsonable(value)) == value
    with pytest.raises(UnserializableValueError, match="nested deeper"):
        to_jsonable(wrap(value))
    with pytest.raises(ValueError, match="nested deeper"):
        from_jsonable([to_jsonable(value)])


def test_the_nesting_of_a_key_is_bounded_both_ways() -> None:
    key: Any = Fraction(1, 2)
    for _ in range(MAX_DEPTH - 1):
        key = (key,)
    assert from_jsonable(to_jsonable({key: 1})) == {key: 1}
    with pytest.raises(UnserializableValueError, match="nested deeper"):
        to_jsonable({(key,): 1})
    with pytest.raises(ValueError, match="nested deeper"):
        from_jsonable([to_jsonable({key: 1})])


@pytest.mark.parametrize(
    "data",
    [
        {"$type": "os.system", "$value": "x"},
        {"$type": "tuple", "$value": [], "more": 1},
        {"$type": "tuple"},
        {"$type": ["tuple"], "$value": []},
        {"$type": "set", "$value": [1, 1]},
        {"$type": "set", "$value": [[1]]},
        {"$type": "dict", "$value": [[1, 2], [1, 3]]},
        {"$type": "dict", "$value": [[1]]},
        {"$type": "dict", "$value": 5},
        {"$type": "bytes", "$value": "!"},
        {"$type": "float", "$value": "1.5"},
        {"$type": "int", "$value": 5},
        {"$type": "datetime", "$value": 5},
        {"$type": "datetime", "$value": "yesterday"},
        {"$type": "Decimal", "$value": "x"},
        {"$type": "UUID", "$value": {"$type": "bytes", "$value": "AA=="}},
        {"$type": "Fraction", "$value": [1, 0]},
        {1: 2}.keys(),
    ],
    ids=str,
)
def test_what_is_never_written_is_a_value_error(data: Any) -> None:
    with pytest.raises(ValueError):
        from_jsonable(data)


def test_an_integer_of_any_size_round_trips_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (63, 64, 100_000):
        for value in ((1 << size) - 1, 1 << size, -(1 << size), 1 - (1 << size)):
            assert from_jsonable(to_jsonable(value)) == value
    assert to_jsonable((1 << 63) - 1) == (1 << 63) - 1
    assert to_jsonable(1 << 63) == {"$type": "int", "$value": hex(1 << 63)}
    assert to_jsonable(-(1 << 63)) == {"$type": "int", "$value": hex(-(1 << 63))}
    monkeypatch.setattr(tagged_json, "_INT_DIGITS_MAX", 4)
    assert from_jsonable({"$type": "int", "$value": "0xff"}) == 255
    with pytest.raises(ValueError, match="not a text in hexadecimal"):
        from_jsonable({"$type": "int", "$value": "0xfff"})


@given(
    st.recursive(
        st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.sampled_from(["nan", "AA=="]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.builds(
                lambda name, value: {"$type": name, "$value": value},
                st.sampled_from(
                    ["tuple", "set", "dict", "int", "datetime", "Fraction", "UUID", "str"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_a_value_or_a_value_error(data: Any) -> None:
    try:
        value = from_jsonable(data)
    except ValueError:
        return
    assert_same(from_jsonable(to_jsonable(value)), value)


def test_a_zone_with_a_name_keeps_it() -> None:
    zone = dt.timezone(dt.timedelta(hours=1), "Here")
    value = dt.datetime(2024, 1, 1, tzinfo=zone)
    assert from_jsonable(to_jsonable(value)).tzname() == "Here"
