"""Errors: class, arguments, attributes, chain, notes, groups, and traceback."""

from __future__ import annotations

import asyncio
import builtins
import json
import sys
import traceback
from pathlib import PurePosixPath
from typing import Any

import pytest
from taskiq.exceptions import TaskRejectedError, UnknownTaskError

from logstore.testing.conformance_cases.runner import ConformanceSuite, Kit, case, failed
from logstore.testing.conformance_cases.values import Colour, Level, Point


class QuotaError(Exception):
    """Has keyword arguments only, as many application errors."""

    def __init__(self, *, user: str, limit: int) -> None:
        super().__init__(f"{user} is over {limit}")
        self.user = user
        self.limit = limit


class SwappedError(Exception):
    """Has other ``args`` than its constructor's arguments."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class SlottedError(Exception):
    """Has an attribute outside its __dict__."""

    __slots__ = ("extra",)

    def __init__(self, extra: int) -> None:
        super().__init__("slotted")
        self.extra = extra


class StrictError(ValueError):
    """Cannot be constructed from its ``args``."""

    def __init__(self, number: int) -> None:
        if not isinstance(number, int):
            raise TypeError("a number, please")
        super().__init__(f"number {number} is not allowed")
        self.number = number


class ColourError(Exception):
    """Has a text that requires an enum attribute."""

    def __init__(self, colour: Colour) -> None:
        super().__init__(colour)
        self.colour = colour

    def __str__(self) -> str:
        return f"failed with {self.colour.name}"


class PlaceError(Exception):
    """Has a text that is not in its arguments."""

    def __init__(self, at: Point) -> None:
        super().__init__()
        self.at = at

    def __str__(self) -> str:
        return f"{self.at.x}:{self.at.y}"

    def __repr__(self) -> str:
        return f"<{self.at.x}>"


class Response:
    """An object with a text that no store can keep."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __str__(self) -> str:
        return f"status {self.status}"


class StatusError(Exception):
    """Has the response as an attribute, as the errors of HTTP clients."""

    def __init__(self, response: Response) -> None:
        super().__init__("bad status")
        self.response = response

    def __str__(self) -> str:
        return f"bad status {self.response.status}"


class CodeOnlyError(Exception):
    """Contains another error, and does not print it."""

    def __init__(self, number: int, inner: Exception) -> None:
        super().__init__(inner)
        self.number = number
        self.inner = inner

    def __str__(self) -> str:
        return f"code {self.number}"


class StopAllError(BaseException):
    """Is not a subclass of Exception."""


class Outer:
    """Contains a class with a dotted name."""

    class InnerError(Exception):
        """Has a dot in its qualified name."""


_ERRORS: dict[str, Any] = {
    "plain": lambda: ValueError("no"),
    "no-args": lambda: RuntimeError(),
    "several-args": lambda: RuntimeError("a", 2, None),
    "tuple-arg": lambda: RuntimeError((1, 2), {"k": b"v"}),
    "key": lambda: KeyError("k"),
    "os": lambda: FileNotFoundError(2, "No such file", "name.txt"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "stop": lambda: StopIteration(3),
    "json": lambda: json.JSONDecodeError("bad", "{doc", 1),
    "keywords": lambda: QuotaError(user="u", limit=3),
    "swapped": lambda: SwappedError(5, "detail"),
    "slots": lambda: SlottedError(7),
    "strict": lambda: StrictError(4),
    "nested-class": lambda: Outer.InnerError("in"),
    "taskiq": lambda: UnknownTaskError(task_name="t"),
    "taskiq-plain": lambda: TaskRejectedError(),
}

_WITH_TEXTS: dict[str, Any] = {
    "own-text-of-an-enum": lambda: ColourError(Colour.RED),
    "own-text-of-a-dataclass": lambda: PlaceError(Point(3, 1.5)),
    "own-text-of-a-response": lambda: StatusError(Response(503)),
    "an-object-with-a-text": lambda: ValueError(Response(503)),
    "an-enum": lambda: KeyError(Colour.RED, Level.HIGH),
    "a-path": lambda: FileNotFoundError(2, "No such file", PurePosixPath("name.txt")),
}

# Exceptions that end a program or a task.
_NO_EXCEPTIONS: dict[str, Any] = {
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "cancelled": lambda: asyncio.CancelledError("cancelled"),
    "generator-exit": lambda: GeneratorExit(),
    "own": lambda: StopAllError("stop"),
}


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Raise ``error`` and return it, with a traceback."""
    try:
        if cause is None:
            raise error
        raise error from cause
    except BaseException as caught:
        return caught


def _state(error: BaseException) -> dict[str, Any]:
    return {name: value for name, value in vars(error).items() if name != "__notes__"}


def _group(name: str) -> Any:
    if sys.version_info < (3, 11):
        pytest.skip("there are no exception groups before Python 3.11")
    return getattr(builtins, name)


async def _back(kit: Kit, error: BaseException) -> BaseException:
    result = await kit.stored(failed(error))
    assert result.is_err
    found = result.error
    assert isinstance(found, BaseException)
    return found


class ExceptionCases(ConformanceSuite):
    """The client catches the exception that the worker raised."""

    @case("exceptions", make=_ERRORS)
    async def test_an_error_round_trips(self, kit: Kit, make: Any) -> None:
        error = raised(make())
        found = await _back(kit, error)
        assert type(found) is type(error)
        assert found.args == error.args
        assert str(found) == str(error)
        assert _state(found) == _state(error)

    @case("exceptions", make=_WITH_TEXTS)
    async def test_an_error_keeps_its_text(self, kit: Kit, make: Any) -> None:
        error = raised(make())
        found = await _back(kit, error)
        assert isinstance(found, type(error))
        assert type(found).__name__ == type(error).__name__
        assert str(found) == str(error)
        printed = "".join(traceback.format_exception_only(error))
        assert "".join(traceback.format_exception_only(found)).startswith(printed)
        assert repr(found) == repr(error)

    @case("exceptions")
    async def test_what_is_kept_of_an_attribute_is_no_text_in_its_place(self, kit: Kit) -> None:
        found = await _back(kit, raised(StatusError(Response(503))))
        assert isinstance(found, StatusError)
        assert not isinstance(found.response, str)
        assert str(found.response) == "status 503"

    @case("exceptions", make=_NO_EXCEPTIONS)
    async def test_what_is_no_exception_does_not_end_the_client(self, kit: Kit, make: Any) -> None:
        error = raised(make())
        found = await _back(kit, error)
        assert isinstance(found, Exception)
        assert type(error).__qualname__ in str(found)
        assert str(error) in str(found)

    @case("exceptions")
    async def test_what_is_no_exception_in_a_group_does_not_end_the_client(self, kit: Kit) -> None:
        group = _group("BaseExceptionGroup")
        found = await _back(kit, raised(group("both", [ValueError(1), KeyboardInterrupt()])))
        assert isinstance(found, Exception)
        told = "".join([str(found), *traceback.format_exception(found)])
        assert "both" in told
        assert "KeyboardInterrupt" in told

    @case("exceptions", depth={"1000": 1000, "100000": 100_000})
    async def test_groups_in_groups_without_end_are_cut(self, kit: Kit, depth: int) -> None:
        group = _group("ExceptionGroup")
        error = ValueError("the bottom")
        for number in range(depth):
            error = group(f"g{number}", [error])
        found = await _back(kit, error)
        assert isinstance(found, group)
        assert str(found) == f"g{depth - 1} (1 sub-exception)"
        assert str(found.exceptions[0].exceptions[0]) == f"g{depth - 3} (1 sub-exception)"
        assert "g" in "".join(traceback.format_exception(found))

    @case("exceptions", depth={"1000": 1000, "100000": 100_000})
    async def test_errors_in_arguments_without_end_are_cut(self, kit: Kit, depth: int) -> None:
        error = Exception("the bottom")
        for number in range(depth):
            error = CodeOnlyError(number, error)
        found = await _back(kit, error)
        assert isinstance(found, CodeOnlyError)
        assert str(found) == f"code {depth - 1}"
        assert str(found.inner) == f"code {depth - 2}"

    @case("exceptions")
    async def test_a_slot_round_trips(self, kit: Kit) -> None:
        found = await _back(kit, raised(SlottedError(7)))
        assert isinstance(found, SlottedError)
        assert found.extra == 7

    @case("exceptions")
    async def test_the_fields_of_an_os_error_round_trip(self, kit: Kit) -> None:
        found = await _back(kit, raised(PermissionError(13, "denied", "a.txt")))
        assert isinstance(found, PermissionError)
        assert (found.errno, found.strerror, found.filename) == (13, "denied", "a.txt")

    @case("exceptions")
    async def test_the_cause_round_trips(self, kit: Kit) -> None:
        found = await _back(kit, raised(ValueError("late"), KeyError("early")))
        assert isinstance(found.__cause__, KeyError)
        assert found.__cause__.args == ("early",)
        assert found.__suppress_context__ is True

    @case("exceptions")
    async def test_the_context_round_trips(self, kit: Kit) -> None:
        try:
            try:
                raise KeyError("early")
            except KeyError:
                raise ValueError("late")  # noqa: B904 - the test needs a context
        except ValueError as error:
            found = await _back(kit, error)
        assert isinstance(found.__context__, KeyError)
        assert found.__cause__ is None
        assert found.__suppress_context__ is False

    @case("exceptions")
    async def test_a_suppressed_context_stays_suppressed(self, kit: Kit) -> None:
        try:
            try:
                raise KeyError("early")
            except KeyError:
                raise ValueError("late") from None
        except ValueError as error:
            found = await _back(kit, error)
        assert found.__suppress_context__ is True
        assert "early" not in "".join(traceback.format_exception(found))

    @case("exceptions")
    async def test_a_long_chain_keeps_its_near_end(self, kit: Kit) -> None:
        error: BaseException = ValueError(0)
        for number in range(1, 300):
            error = raised(ValueError(number), error)
        found: BaseException | None = await _back(kit, error)
        for number in range(299, 289, -1):
            assert isinstance(found, ValueError)
            assert found.args == (number,)
            found = found.__cause__

    @case("exceptions")
    async def test_errors_that_refer_to_each_other_are_stored(self, kit: Kit) -> None:
        first, second = ValueError("first"), KeyError("second")
        first.__cause__, second.__context__ = second, first
        found = await _back(kit, first)
        assert found.args == ("first",)
        assert found.__cause__ is not None
        assert found.__cause__.args == ("second",)

    @case("exceptions")
    async def test_notes_round_trip(self, kit: Kit) -> None:
        error = ValueError("no")
        error.__notes__ = ["first note", "second note"]  # type: ignore[attr-defined]
        found = await _back(kit, raised(error))
        assert getattr(found, "__notes__", [])[:2] == ["first note", "second note"]

    @case("exceptions")
    async def test_the_workers_traceback_is_told(self, kit: Kit) -> None:
        found = await _back(kit, raised(ValueError("no")))
        told = "".join([*traceback.format_exception(found), *getattr(found, "__notes__", [])])
        assert "in raised" in told

    @case("exceptions")
    async def test_an_argument_that_cannot_be_stored_does_not_cost_the_error(
        self, kit: Kit
    ) -> None:
        found = await _back(kit, raised(ValueError("no", open)))
        assert isinstance(found, ValueError)
        assert found.args[0] == "no"
        assert "open" in str(found.args[1])

    @case("exceptions")
    async def test_a_class_nobody_can_find_is_an_error_all_the_same(self, kit: Kit) -> None:
        class HiddenError(Exception):
            pass

        found = await _back(kit, raised(HiddenError("what happened")))
        assert "what happened" in str(found)
        assert "HiddenError" in f"{type(found).__name__} {found}"

    @case("exceptions")
    async def test_a_group_round_trips(self, kit: Kit) -> None:
        group = _group("ExceptionGroup")
        inner = group("inner", [KeyError("k")])
        found: Any = await _back(kit, raised(group("outer", [ValueError(1), inner])))
        assert type(found) is group
        assert found.message == "outer"
        assert [type(member) for member in found.exceptions] == [ValueError, group]
        assert repr(found.exceptions[1].exceptions) == repr(inner.exceptions)

    @case("exceptions")
    async def test_an_error_can_be_raised_twice(self, kit: Kit) -> None:
        await kit.backend.set_result("t", failed(raised(QuotaError(user="u", limit=3))))
        for _ in range(2):
            with pytest.raises(QuotaError) as caught:
                (await kit.backend.get_result("t")).raise_for_error()
            assert (caught.value.user, caught.value.limit) == ("u", 3)
