"""What a handler of all errors is not for: an interrupt, wherever a signal handler raises it."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NoReturn

import cbor2
import pytest

from logstore import DecodeError, TaskProgress
from logstore._codec import text, values
from logstore._codec.hooks import Revival
from logstore._codec.weight import weigh


def interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


class Interrupted(type):
    """The class of classes that cannot be looked up."""

    __hash__ = interrupted


class Thing(metaclass=Interrupted):
    """An object of an unknown type."""


class Pairs(dict[str, int]):
    """A dict that cannot be read."""

    __iter__ = keys = interrupted


@numbers.Real.register
class Number:
    """A number that cannot be converted."""

    __float__ = __int__ = __index__ = interrupted


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (text, "_module_of", lambda: text.class_names(int)),
        (None, "", lambda: text.text_of(interrupted, 1, 100)),
        (values, "dumps", lambda: values.encode_value(1)),
        (values, "lower", lambda: values.encode_value({1: 2})),
        (values, "CBORDecoder", lambda: values.decode_value(b"\1")),
        (None, "", lambda: weigh([Thing()])),
        (None, "", lambda: TaskProgress(meta=Pairs())),
        (None, "", lambda: TaskProgress(Number())),  # type: ignore[arg-type]
    ],
)
def test_an_interrupt_passes(
    owner: Any, name: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if owner is not None:
            patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            call()


def test_an_interrupt_behind_a_failure_of_the_hook_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while the failure is on its way through the decoder."""

    def readers(revival: Revival) -> dict[int, Any]:
        revival.failure = DecodeError("the hook has failed")
        return {}

    decoders: list[Any] = [interrupted, cbor2.CBORDecoder]
    monkeypatch.setattr(values, "_readers_with", readers)
    monkeypatch.setattr(values, "CBORDecoder", lambda *a, **b: decoders.pop(0)(*a, **b))
    with pytest.raises(KeyboardInterrupt):
        values.decode_value(b"\1", lambda *_: None)
