"""A taskiq result to data and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskiq import ResultGetError, TaskiqResult

from logstore.backends.errors import ResultDamagedError
from logstore.backends.outcome import decode_outcome, encode_outcome, unstorable_outcome
from logstore.backends.revival import exception_policy
from logstore.codec import decode_value, encode_value
from logstore.errors import UnserializableValueError
from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.conformance_cases.runner import failed, ok
from tests.backends.strategies import texts, values

FAITHFUL = exception_policy("faithful")

results = st.builds(
    TaskiqResult,
    is_err=st.booleans(),
    log=st.none() | texts,
    return_value=values,
    execution_time=st.floats(0, 1e9),
    labels=st.dictionaries(texts, values, max_size=3),
)


class FalsyError(Exception):
    """An error that is false."""

    def __bool__(self) -> bool:
        return False


def back(result: TaskiqResult[Any], *, with_logs: bool = True) -> TaskiqResult[Any]:
    data = decode_value(encode_value(encode_outcome(result)))
    return decode_outcome(data, FAITHFUL, with_logs=with_logs)


@given(results)
def test_a_result_round_trips(result: TaskiqResult[Any]) -> None:
    assert_same(vars(back(result)), vars(result))


@given(results)
def test_the_log_is_left_out_unless_asked_for(result: TaskiqResult[Any]) -> None:
    assert back(result, with_logs=False).log is None


def test_an_error_that_is_false_is_an_error() -> None:
    result: TaskiqResult[Any] = TaskiqResult.model_construct(
        **{**vars(failed(ValueError())), "error": FalsyError(1)}
    )
    assert type(back(result).error) is FalsyError


def test_a_label_that_cannot_be_stored_is_stored_by_its_repr() -> None:
    assert back(ok(1, labels={"a": int, "b": 2})).labels == {"a": "<class 'int'>", "b": 2}


def test_what_cannot_be_stored_becomes_an_error_that_says_so() -> None:
    found = back(ok({"rows": [1, object()]}, log="log", labels={"x": 1}, execution_time=2.5))
    assert (found.is_err, found.return_value, found.log) == (True, None, None)
    assert (found.labels, found.execution_time) == ({"x": 1}, 2.5)
    assert isinstance(found.error, UnserializableValueError)
    assert "result['rows'][1]: the builtins.object" in str(found.error)
    assert not hasattr(found.error, "__notes__")


def test_a_failure_that_cannot_be_stored_whole_keeps_its_class() -> None:
    result = failed(KeyError("k"), labels={"long": "x" * 10_000, "short": "x"})
    data = unstorable_outcome(result, ValueError("too large"))
    found = decode_outcome(data, FAITHFUL, with_logs=True)
    assert isinstance(found.error, KeyError)
    assert found.error.__notes__ == [  # type: ignore[attr-defined]
        "the result could not be stored whole: too large"
    ]
    assert found.labels == {"short": "x"}


@pytest.mark.parametrize(
    "damage",
    [
        {"taskiq": 2},
        {"taskiq": None},
        {"is_err": 1},
        {"execution_time": "1"},
        {"execution_time": True},
        {"log": 5},
        {"labels": []},
        {"error": {}},
        {"error": []},
        {"error": [{}]},
    ],
    ids=str,
)
def test_a_field_of_another_type_is_a_damaged_result(damage: dict[str, Any]) -> None:
    with pytest.raises(ResultDamagedError) as caught:
        decode_outcome({**encode_outcome(ok(1)), **damage}, FAITHFUL, with_logs=True)
    assert isinstance(caught.value, ResultGetError)


def test_fields_of_subclasses_are_the_fields() -> None:
    class Text(str):
        pass

    class Seconds(float):
        pass

    class Labels(dict[str, int]):
        pass

    data = {"log": Text("log"), "execution_time": Seconds(0.5), "labels": Labels(a=1)}
    found = decode_outcome({**encode_outcome(ok(1)), **data}, FAITHFUL, with_logs=True)
    assert (found.log, found.execution_time, found.labels) == ("log", 0.5, {"a": 1})


@pytest.mark.parametrize("name", ["taskiq", "is_err", "execution_time", "log", "labels", "error"])
def test_a_field_that_is_missing_is_a_damaged_result(name: str) -> None:
    data = encode_outcome(ok(1))
    del data[name]
    with pytest.raises(ResultDamagedError):
        decode_outcome(data, FAITHFUL, with_logs=True)


@given(values)
def test_a_plain_value_is_no_result(value: Any) -> None:
    with pytest.raises(ResultDamagedError, match=r"logstore\.open\(\)"):
        decode_outcome(value, FAITHFUL, with_logs=True)
