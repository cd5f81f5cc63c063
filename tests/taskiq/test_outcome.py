"""A taskiq result to data and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskiq import ResultGetError, TaskiqResult

from logstore._codec.values import decode_value, encode_value
from logstore._codec.weight import BudgetExceededError
from logstore.errors import UnserializableValueError
from logstore.taskiq.errors import ResultDamagedError
from logstore.taskiq.outcome.outcome import (
    brief_outcome,
    decode_outcome,
    encode_outcome,
    unstorable_outcome,
)
from logstore.taskiq.outcome.revival import exception_policy
from logstore.testing.conformance_cases.comparing import assert_same
from logstore.testing.conformance_cases.runner import failed, ok
from tests.taskiq.strategies import texts, values

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


class Rude:
    """Whose texts cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Broken(list[int]):
    def __iter__(self) -> Any:
        raise RuntimeError("gone")


def odd_labels() -> dict[Any, Any]:
    return {"a": Broken([1]), "b": Rude(), Rude(): 1, 5: "x", "fine": (1, 2)}


def test_no_label_costs_a_result() -> None:
    result: TaskiqResult[Any] = TaskiqResult.model_construct(
        **{**vars(ok(1)), "labels": odd_labels()}
    )
    for found in (back(result), decode_outcome(brief(result), FAITHFUL, with_logs=True)):
        assert not {type(name) for name in found.labels} - {str}
    labels = back(result).labels
    assert labels["fine"] == (1, 2)
    assert labels["5"] == "x"
    assert labels["b"] == "<Rude; its repr() raised RuntimeError>"
    assert labels["<Rude; its str() raised RuntimeError>"] == 1
    unstorable = unstorable_outcome(result, ValueError("no"))
    assert unstorable["labels"] == {"5": "x", "<Rude; its str() raised RuntimeError>": 1}


def test_an_interrupt_while_a_label_is_converted_is_one() -> None:
    class Interrupted(list[int]):
        def __iter__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_outcome(ok(1, labels={"a": Interrupted([1])}))


def test_the_cause_of_a_refusal_comes_back_with_it() -> None:
    found = back(ok([Broken([1])]))
    assert isinstance(found.error, UnserializableValueError)
    assert "result[0]: the tests.taskiq.test_outcome.Broken there" in str(found.error)
    assert isinstance(found.error.__cause__, RuntimeError)
    assert str(found.error.__cause__) == "gone"


def brief(result: TaskiqResult[Any]) -> dict[str, Any]:
    return brief_outcome(result, ValueError("too large" * 1000))


def test_a_brief_outcome_fits_into_a_kilobyte_and_keeps_class_and_text() -> None:
    error = KeyError("k" * 100_000)
    error.__cause__ = ValueError("c" * 100_000)
    long = {"x" * 10_000: "y" * 10_000}
    data = brief(failed(error, labels=long, log="l" * 10_000))
    assert len(encode_value(data)) < 1000
    found = decode_outcome(data, FAITHFUL, with_logs=True)
    assert isinstance(found.error, KeyError)
    assert str(found.error).startswith("'kkkk")
    assert vars(found.error)["__notes__"][0].startswith("the result could not be stored whole")
    found = decode_outcome(brief(ok("x" * 100_000)), FAITHFUL, with_logs=True)
    assert found.is_err
    assert "too large" in str(found.error)


def test_a_failed_result_is_not_converted_where_time_is_short_if_there_is_a_hook() -> None:
    result = failed(ValueError(1))
    assert encode_outcome(result, on_loop=True)["is_err"]
    with pytest.raises(BudgetExceededError):
        encode_outcome(result, on_loop=True, enc_hook=lambda value: 1)


def test_a_large_label_is_not_converted_where_time_is_short() -> None:
    result = ok(1, labels={"small": [1], "large": [1] * 1000})
    assert encode_outcome(result)["labels"] == result.labels
    with pytest.raises(BudgetExceededError):
        encode_outcome(result, on_loop=True)


def test_the_hook_is_asked_of_what_an_error_holds() -> None:
    data = encode_outcome(failed(ValueError(Rude())), enc_hook=lambda value: ["rude"])
    found = decode_outcome(decode_value(encode_value(data)), FAITHFUL, with_logs=True)
    assert isinstance(found.error, ValueError)
    assert found.error.args == (["rude"],)


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
