"""Numbers of other libraries; the classes here look to the codec as numpy's do."""

from __future__ import annotations

import numbers
from fractions import Fraction
from typing import Any

import pytest

from logstore import TaskProgress, UnserializableValueError
from logstore._codec.values import decode_value, encode_value


def numpys(name: str, *bases: type) -> Any:
    """A class of numpy's, by its name."""
    return type(name, bases, {"__module__": "numpy"})


class _Scalar:
    def __init__(self, number: Any) -> None:
        self.number = number

    def __int__(self) -> int:
        return int(self.number)

    def __float__(self) -> float:
        return float(self.number)

    def __complex__(self) -> complex:
        return complex(self.number)

    def __bool__(self) -> bool:
        return bool(self.number)

    def __eq__(self, other: object) -> bool:
        return bool(self.number == other)

    def __hash__(self) -> int:
        return hash(self.number)


Generic = numpys("generic", _Scalar)
Int64 = numpys("int64", Generic)
Float32 = numpys("float32", Generic)
Float64 = numpys("float64", float, numpys("generic"))
Complex64 = numpys("complex64", Generic)
Bool = numpys("bool", Generic)
OldBool = numpys("bool_", Generic)
TimeDelta = numpys("timedelta64", Int64)
DateTime = numpys("datetime64", Generic)
Text = numpys("str_", str, numpys("generic"))

numbers.Integral.register(Int64)
numbers.Real.register(Float32)
numbers.Real.register(Float64)
numbers.Complex.register(Complex64)


class Ratio(_Scalar):
    """As gmpy2's mpq."""

    @property
    def numerator(self) -> Any:
        return Int64(self.number.numerator)

    @property
    def denominator(self) -> Any:
        return Int64(self.number.denominator)


numbers.Rational.register(Ratio)


class Celsius(float):
    """A subclass of a stored type: it says more than a number does."""


@pytest.mark.parametrize(
    ("number", "plain"),
    [
        (Int64(-(1 << 63)), -(1 << 63)),
        (Float32(0.1), 0.1),
        (Float32(float("inf")), float("inf")),
        (Float64(2.5), 2.5),
        (Complex64(1 + 2j), 1 + 2j),
        (Bool(1), True),
        (OldBool(0), False),
        (Ratio(Fraction(1, 3)), Fraction(1, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_number_is_kept_as_the_built_in_one_that_it_equals(number: Any, plain: Any) -> None:
    for value, expected in (
        (number, plain),
        ({"rows": [number]}, {"rows": [plain]}),
        ({number: (number,)}, {plain: (plain,)}),
    ):
        found = decode_value(encode_value(value))
        assert found == expected
    assert type(decode_value(encode_value(number))) is type(plain)


def test_a_nan_is_a_nan() -> None:
    found = decode_value(encode_value(Float32(float("nan"))))
    assert type(found) is float
    assert found != found


class Longer(_Scalar):
    """A number with more digits than a float has, as numpy's longdouble."""

    def __float__(self) -> float:
        return float(self.number) + 1.0


class Broken(_Scalar):
    def __int__(self) -> int:
        raise RuntimeError("the library is not initialised")


numbers.Real.register(Longer)
numbers.Integral.register(Broken)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (Longer(0.1), "no float equals it"),
        (Broken(1), "RuntimeError: the library is not initialised"),
        (TimeDelta(5), "write value.item() instead"),
        (DateTime(5), "write value.item() instead"),
        (Text("a"), "is a subclass of str"),
        (Celsius(1.5), "is a subclass of float"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_built_in_number_equals_is_refused_with_its_place(number: Any, told: str) -> None:
    with pytest.raises(UnserializableValueError) as caught:
        encode_value({"rows": [1, number]})
    assert f"result['rows'][1]: the {type(number).__module__}.{type(number).__name__} there" in (
        str(caught.value)
    )
    assert told in str(caught.value)


def test_keys_that_become_equal_are_refused() -> None:
    class Loose(_Scalar):
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return type(other) is int and other == self.number

    numbers.Integral.register(Loose)
    with pytest.raises(UnserializableValueError, match="keys or elements"):
        encode_value({Loose(1): "a", Loose(True): "b"})


def test_progress_takes_numbers_of_other_libraries() -> None:
    progress = TaskProgress(Float32(0.5), "s", Int64(3), Int64(5))
    assert progress == TaskProgress(0.5, "s", 3, 5)
    assert [type(part) for part in progress.to_list()[2:4]] == [int, int]
    assert type(TaskProgress(Int64(1)).progress) is float
    wrong: Any
    for wrong in (Bool(1), TimeDelta(1), Ratio(Fraction(1, 2)), Broken(1), Longer(0.5)):
        with pytest.raises(ValueError, match=r"^progress must be a float"):
            TaskProgress(wrong)
    for wrong in (Bool(1), Float32(0.5), Broken(1)):
        with pytest.raises(ValueError, match=r"^total must be an int"):
            TaskProgress(total=wrong)
