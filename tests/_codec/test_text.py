"""Texts about objects whose own code fails."""

from __future__ import annotations

from typing import Any

import pytest

from logstore._codec.text import class_names, describe, safe_text, text_of, type_name


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Endless:
    def __repr__(self) -> str:
        return repr(self)


class NoText:
    def __repr__(self) -> Any:
        return 5


class Shout(str):
    """Whose own methods are not to be trusted."""

    __slots__ = ()

    def encode(self, *args: Any) -> Any:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError


class Loud:
    def __str__(self) -> str:
        return Shout("loud")


class Meta(type):
    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise AssertionError


class Hidden(metaclass=Meta):
    pass


def test_the_name_of_a_class_is_read_without_its_code() -> None:
    nowhere = type("Nowhere", (), {"__module__": 5})
    assert class_names(int) == ("builtins", "int")
    assert type_name(Hidden) == f"{__name__}.Hidden"
    assert type_name(nowhere) == "?.Nowhere"
    assert len(type_name(type("x" * 1000, (), {}))) < 300
    type_name(type("x", (), {"__module__": "\ud800"})).encode()


@pytest.mark.parametrize("value", [Rude(), Endless(), NoText()], ids=lambda v: type(v).__name__)
def test_a_repr_that_fails_is_told(value: Any) -> None:
    kind = type(value).__name__
    assert text_of(repr, value, 100).startswith(f"<{kind}; its repr() raised ")


def test_a_text_of_a_subclass_of_str_is_its_text() -> None:
    assert type(text_of(str, Loud(), 100)) is str
    assert text_of(str, Loud(), 100) == "loud"


def test_a_text_is_cut_and_can_be_encoded() -> None:
    assert safe_text("abcdef", 4) == "abcd [2 more characters]"
    assert safe_text("a\ud800", 10) == "a\\ud800"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("a", 1)) == "ValueError: ('a', 1)"
    assert describe(ValueError("x" * 500)) == f"ValueError: {'x' * 500}"
    assert describe(ValueError("x" * 501)) == f"ValueError: {'x' * 500} [1 more characters]"
    long = type("x" * 201, (ValueError,), {"__module__": "y" * 200})
    assert describe(long()) == "x" * 200 + " [1 more characters]"
    assert type_name(long) == f"{'y' * 200}.{'x' * 200} [1 more characters]"
