"""Exceptions to data and back: failures.py and revival.py."""

from __future__ import annotations

import abc
import asyncio
import builtins
import copy
import enum
import pickle
import sys
import threading
import traceback
import types
from pathlib import PurePosixPath
from typing import Any, Generic, NamedTuple, TypeVar
from zipimport import ZipImportError

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore._codec.hooks import find_class
from logstore._codec.text import TEXT_CHARS_MAX
from logstore._codec.values import decode_value, encode_value
from logstore.taskiq.errors import RemoteError, RemoteObject, ResultDamagedError
from logstore.taskiq.outcome.exceptions import RECORDS_MAX, brief_error, encode_error
from logstore.taskiq.outcome.revival import (
    TRACEBACK_NOTE,
    decode_error,
    exception_policy,
)
from logstore.testing.conformance_cases.comparing import assert_same
from tests.taskiq.strategies import values

GROUP: Any = getattr(builtins, "ExceptionGroup", None)
needs_groups = pytest.mark.skipif(GROUP is None, reason="Python 3.10 has no exception groups")


class AppError(Exception):
    """With attributes that its constructor does not take."""


class TrapError(Exception):
    """All of its code is a trap."""

    sprung: list[str] = []  # noqa: RUF012 - shared on purpose

    def __new__(cls, *args: object) -> TrapError:
        cls.sprung.append("new")
        return super().__new__(cls, *args)

    def __init__(self, *args: object) -> None:
        self.sprung.append("init")

    def __setattr__(self, name: str, value: object) -> None:
        self.sprung.append("setattr")
        super().__setattr__(name, value)

    def __setstate__(self, state: object) -> None:
        self.sprung.append("setstate")

    def __reduce__(self) -> Any:
        self.sprung.append("reduce")
        return super().__reduce__()


class MixedError(AppError, OSError):
    """Laid out as an OSError, though another base comes first."""


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def back(error: BaseException, exceptions: Any = "faithful", *, slim: bool = False) -> Any:
    records = decode_value(encode_value(encode_error(error, slim=slim)))
    return decode_error(records, exception_policy(exceptions))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@given(st.lists(values, max_size=4), st.dictionaries(st.text(max_size=8), values, max_size=3))
def test_args_and_attributes_round_trip(args: list[Any], state: dict[str, Any]) -> None:
    error = AppError(*args)
    state = {name: value for name, value in state.items() if not name.startswith("__")}
    vars(error).update(state)
    found = back(error)
    assert type(found) is AppError
    assert_same(found.args, error.args)
    assert_same(dict(vars(found)), state)


class SlottedError(Exception):
    """Whose attribute ends as those of Python do."""

    __slots__ = ("value__",)


def test_only_names_with_underscores_on_both_sides_are_left_out() -> None:
    error = SlottedError("x")
    error.value__ = 1  # type: ignore[attr-defined]
    vars(error).update(__before=2, after__=3, __both__=4)
    found = back(error)
    assert found.value__ == 1
    assert vars(found) == {"__before": 2, "after__": 3}


@st.composite
def graphs(draw: st.DrawFn) -> BaseException:
    """Exceptions that refer to each other in any way, cycles included."""
    count = draw(st.integers(1, 6))
    errors = [AppError(number) for number in range(count)]
    index = st.none() | st.integers(0, count - 1)
    for error in errors:
        cause, context, held = draw(index), draw(index), draw(index)
        if cause is not None:
            error.__cause__ = errors[cause]
        if context is not None:
            error.__context__ = errors[context]
        if held is not None:
            vars(error)["held"] = errors[held]
        error.__suppress_context__ = draw(st.booleans())
    return errors[0]


@given(graphs())
def test_a_graph_of_errors_keeps_its_shape(error: BaseException) -> None:
    pairs: list[tuple[Any, Any]] = [(error, back(error))]
    partners: dict[int, Any] = {}
    while pairs:
        one, other = pairs.pop()
        if id(one) in partners:
            assert partners[id(one)] is other
            continue
        partners[id(one)] = other
        assert one.args == other.args
        assert one.__suppress_context__ == other.__suppress_context__
        for name in ("__cause__", "__context__"):
            assert (getattr(one, name) is None) == (getattr(other, name) is None)
            if getattr(one, name) is not None:
                pairs.append((getattr(one, name), getattr(other, name)))
        if "held" in vars(one):
            pairs.append((one.held, other.held))


def test_no_code_of_the_class_runs() -> None:
    error = raised(TrapError(1))
    records = encode_error(error)
    TrapError.sprung.clear()
    found = decode_error(records, exception_policy("faithful"))
    assert type(found) is TrapError
    assert found.args == (1,)
    assert TrapError.sprung == []


def test_a_class_that_is_laid_out_as_an_os_error_is_rebuilt() -> None:
    found = back(raised(MixedError(2, "no such file", "f")))
    assert type(found) is MixedError
    assert (found.errno, found.strerror, found.filename) == (2, "no such file", "f")


@pytest.mark.parametrize(
    "error",
    [
        UnicodeEncodeError("ascii", "é", 0, 1, "no"),
        UnicodeTranslateError("é", 0, 1, "no"),
        SyntaxError("bad", ("f.py", 3, 4, "x = = 1")),
        ImportError("no", name="module", path="p"),
        NameError("no", name="x"),
        BlockingIOError(11, "would block", 5),
        StopAsyncIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_builtin_error_prints_the_same(error: BaseException) -> None:
    found = back(error)
    assert type(found) is type(error)
    assert (str(found), repr(found)) == (str(error), repr(error))
    assert traceback.format_exception_only(found) == traceback.format_exception_only(error)


def test_the_workers_traceback_is_the_last_note() -> None:
    error = raised(AppError("x"))
    vars(error)["__notes__"] = ["mine"]
    notes = back(error).__notes__
    assert notes[0] == "mine"
    assert notes[1].startswith(TRACEBACK_NOTE)
    assert "in raised" in notes[1]
    assert len(notes) == 2


def test_a_record_holds_nothing_that_is_empty() -> None:
    error = AppError("x")
    record: dict[str, Any] = {"module": __name__, "class": "AppError", "message": "x"}
    record |= {"repr": "AppError('x')", "args": [{"value": "x"}]}
    assert encode_error(error) == [record]
    error.__cause__ = ValueError()
    cause: dict[str, Any] = {
        "module": "builtins",
        "class": "ValueError",
        "message": "",
        "repr": "ValueError()",
    }
    cause |= {"args": []}
    assert encode_error(error) == [{**record, "cause": 1, "suppress_context": True}, cause]


def test_an_error_that_was_never_raised_gets_no_note() -> None:
    assert "__notes__" not in vars(back(AppError("x")))


# -- what it prints ----------------------------------------------------------------------------


T = TypeVar("T")


class Code(enum.Enum):
    QUOTA = "quota"


class Where(NamedTuple):
    file: str
    line: int


class OwnTextError(Exception):
    """Its text needs its attribute as it was."""

    def __init__(self, code: Any) -> None:
        super().__init__("unused")
        self.code = code

    def __str__(self) -> str:
        return f"failed with {self.code.name}"


class OwnReprError(Exception):
    def __repr__(self) -> str:
        return f"<{self.args[0].name}>"


class WithSlotError(Exception):
    """Its text needs what is in a slot."""

    __slots__ = ("where",)
    where: Any

    def __str__(self) -> str:
        return f"{self.where.file}:{self.where.line}"


class AbstractError(OwnTextError, abc.ABC):
    pass


class GenericError(OwnTextError, Generic[T]):
    pass


class RegisteredError(OwnTextError):
    """Takes note of its subclasses."""

    known: list[type] = []  # noqa: RUF012 - shared on purpose

    def __init_subclass__(cls) -> None:
        RegisteredError.known.append(cls)


class Meta(type):
    pass


class WithMetaclassError(OwnTextError, metaclass=Meta):
    pass


class FalsyError(OwnTextError):
    """Is false, and equal to nothing."""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [RegisteredError, WithMetaclassError])
def test_a_class_that_has_a_say_in_its_subclasses_gets_none(kind: Any) -> None:
    found = back(kind(Code.QUOTA))
    assert type(found) is RemoteError
    assert (found.type, found.message) == (f"{__name__}.{kind.__name__}", "failed with QUOTA")
    assert RegisteredError.known == []


def with_slot() -> WithSlotError:
    error = WithSlotError(1)
    error.where = Where("a.py", 3)
    return error


class Chatty(list[int]):
    """Something to print that is not what it is stored as."""

    def __repr__(self) -> str:
        return "chatty"


class Loud:
    def __str__(self) -> str:
        return "loud"

    def __repr__(self) -> str:
        return "<Loud>"


@pytest.mark.parametrize(
    "error",
    [
        OwnTextError(Code.QUOTA),
        AbstractError(Code.QUOTA),
        GenericError(Code.QUOTA),
        FalsyError(Code.QUOTA),
        OwnReprError(Code.QUOTA),
        with_slot(),
        ValueError(Loud()),
        ValueError(Loud(), Code.QUOTA),
        ValueError({"code": Code.QUOTA}),
        ValueError(Chatty([1])),
        KeyError(Where("a.py", 3)),
        OSError(2, "no such file", PurePosixPath("f")),
        ImportError("no", name="n", path="p"),
        ValueError(OwnTextError(Code.QUOTA)),
        RuntimeError([OwnTextError(Code.QUOTA)], 1),
        ValueError(KeyboardInterrupt("x"), 1),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    ],
    ids=lambda error: f"{type(error).__name__}-{type(error.args[0]).__name__}",
)
@pytest.mark.parametrize("slim", [False, True], ids=["whole", "slim"])
def test_what_comes_back_prints_what_the_worker_printed(error: Any, slim: bool) -> None:
    found = back(error, slim=slim)
    assert isinstance(found, type(error))
    assert str(found) == str(error)
    if not isinstance(error.args[0], (KeyboardInterrupt, list)):
        assert repr(found) == repr(error) or isinstance(error, UnicodeError)
    assert type(found).__name__ == type(error).__name__
    assert type(found).__module__ == type(error).__module__


def test_a_class_whose_text_is_right_is_the_class_itself() -> None:
    class OnModule(NamedTuple):
        name: str

    error = OwnTextError(OnModule("x"))
    assert type(back(error)) is not OwnTextError
    for kept in (ValueError("a", 1, (2.5,)), ValueError({"b", "a", "c"}), StatusError(5)):
        found = back(kept)
        assert type(found) is type(kept)
        assert found.args == kept.args


class StatusError(Exception):
    """Its own text needs only what is kept."""

    def __str__(self) -> str:
        return f"status {self.args[0]}"


def test_a_text_of_another_version_of_the_class_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = encode_error(StatusError(5))
    for other in (lambda self: self.detail, lambda self: "other", lambda self: 5):
        monkeypatch.setattr(StatusError, "__str__", other)
        found = decode_error(records, exception_policy("faithful"))
        assert isinstance(found, StatusError)
        assert str(found) == "status 5"


def test_an_attribute_that_is_not_kept_comes_back_as_what_is_left_of_it() -> None:
    error = OwnTextError(Code.QUOTA)
    error.more = {"loud": Loud()}  # type: ignore[attr-defined]
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    error.path = PurePosixPath("/a")  # type: ignore[attr-defined]
    error.plain = {"a": (1, b"2")}  # type: ignore[attr-defined]
    found = back(error)
    assert found.plain == {"a": (1, b"2")}
    for name, kind in (
        ("code", f"{__name__}.Code"),
        ("more", "builtins.dict"),
        ("lock", "_thread.lock"),
        ("path", "pathlib.PurePosixPath"),
    ):
        left = vars(found)[name]
        assert type(left) is RemoteObject
        assert left.type.replace("_local.", "") == kind
        assert str(left) == str(vars(error)[name])
        assert repr(left) == repr(vars(error)[name])
    again = back(found)
    assert (again.code, again.path) == (found.code, found.path)
    assert (str(again), type(again).__name__) == (str(error), "OwnTextError")


def test_what_a_subclass_adds_is_not_kept_and_its_base_is() -> None:
    error = AppError(Where("a.py", 3))
    error.count = Chatty([1, 2])  # type: ignore[attr-defined]
    error.named = {"code": Code.QUOTA}  # type: ignore[attr-defined]
    found = back(error)
    assert (found.args, found.count) == ((("a.py", 3),), [1, 2])
    assert found.named == {"code": "quota"}
    assert str(found) == str(error)


def test_a_cycle_of_errors_whose_text_needs_the_workers_is_one() -> None:
    first, second = OwnTextError(Code.QUOTA), OwnTextError(Code.QUOTA)
    first.other, second.other = second, first  # type: ignore[attr-defined]
    found = back(first)
    assert found.other.other is found
    assert str(found) == str(found.other) == "failed with QUOTA"


@pytest.mark.parametrize(
    "remake", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_an_error_with_the_workers_text_can_be_copied_and_pickled(remake: Any) -> None:
    errors: list[Any] = [
        OwnTextError(Code.QUOTA),
        OSError(2, "no", PurePosixPath("f")),
        ValueError(Loud(), 1),
    ]
    for error in errors:
        found = back(raised(error))
        again = remake(found)
        assert isinstance(again, type(error))
        assert (str(again), repr(again), again.args) == (str(error), repr(found), found.args)
        assert getattr(again, "errno", None) == getattr(error, "errno", None)
        assert again.__notes__ == found.__notes__


# -- what is no Exception ----------------------------------------------------------------------


class StopAllError(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError("c"),
        StopAllError("s"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_exception_is_not_rebuilt_unless_it_is_named(error: BaseException) -> None:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    some: Any
    for some in ("faithful", "inert", ["builtins", "asyncio", __name__], [Exception]):
        found = back(raised(error), some)
        assert type(found) is RemoteError
        assert (found.type, found.message) == (name, str(error))
        assert "in raised" in (found.traceback or "")
    for some in ([type(error)], [BaseException], [name]):
        assert type(back(error, some)) is type(error)


def test_what_is_no_exception_in_a_chain_is_not_rebuilt_either() -> None:
    error = ValueError("late")
    error.__cause__ = KeyboardInterrupt("early")
    found = back(error)
    assert type(found) is ValueError
    assert type(found.__cause__) is RemoteError
    assert str(found.__cause__) == "builtins.KeyboardInterrupt: early"


@needs_groups
def test_a_group_of_what_is_no_exception_tells_its_members() -> None:
    kind: Any = getattr(builtins, "BaseExceptionGroup")  # noqa: B009 - not in Python 3.10
    found = back(kind("g", [KeyboardInterrupt(), ValueError("v")]))
    assert type(found) is RemoteError
    assert str(found) == "builtins.BaseExceptionGroup: g (2 sub-exceptions)"
    assert vars(found)["__notes__"] == [
        "with builtins.KeyboardInterrupt",
        "with builtins.ValueError: v",
    ]
    inner = back(GROUP("outer", [GROUP("inner", [ValueError(1)])]), [KeyError])
    assert type(inner) is RemoteError


# -- what is not rebuilt -----------------------------------------------------------------------


def test_a_module_that_is_not_imported_is_not_imported() -> None:
    records = encode_error(AppError("x"))
    records[0]["module"], records[0]["class"] = "antigravity", "FlyError"
    assert "antigravity" not in sys.modules
    found = decode_error(records, exception_policy("faithful"))
    assert isinstance(found, RemoteError)
    assert (found.type, found.message) == ("antigravity.FlyError", "x")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("builtins", "int"), ("builtins", "object"), ("", "")],
)
def test_what_is_no_exception_class_is_never_made(module: str, name: str) -> None:
    records = encode_error(AppError("x"))
    records[0]["module"], records[0]["class"] = module, name
    assert isinstance(decode_error(records, exception_policy("faithful")), RemoteError)


def test_looking_a_class_up_runs_no_getattr(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lazy_module")

    def trap(name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    vars(module)["__getattr__"] = trap
    monkeypatch.setitem(sys.modules, "lazy_module", module)
    assert find_class("lazy_module", "SomeError") is None
    assert find_class("lazy_module", "__getattr__.SomeError") is None


def test_a_class_that_nothing_can_make_comes_back_inert() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(int).validate_python("x")
    found = back(caught.value)
    assert isinstance(found, RemoteError)
    assert found.type.endswith("ValidationError")
    assert "valid integer" in found.message
    assert "in raised" not in (found.traceback or "")


def test_a_unicode_error_without_its_fields_comes_back_inert() -> None:
    records = encode_error(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"))
    for damage in ({}, {"object": {"value": 5}}, {"start": {"value": 1 << 70}}):
        members = {**records[0]["members"], **damage} if damage else {}
        found = decode_error([{**records[0], "members": members}], exception_policy("faithful"))
        assert isinstance(found, RemoteError)
        str(found)


def test_inert_rebuilds_nothing_but_keeps_what_is_told() -> None:
    error = raised(AppError("what"))
    error.__cause__ = KeyError("why")
    found = back(error, "inert")
    assert type(found) is RemoteError
    assert found.message == "what"
    assert "in raised" in (found.traceback or "")
    assert type(found.__cause__) is RemoteError
    assert str(found.__cause__) == "builtins.KeyError: 'why'"


@pytest.mark.parametrize(
    ("allowed", "rebuilt"),
    [
        ([AppError], {AppError, MixedError}),
        ([OSError, KeyError], {MixedError, KeyError}),
        (["builtins"], {KeyError}),
        ([f"{__name__}.MixedError"], {MixedError}),
        ([__name__], {AppError, MixedError}),
        (["build", f"{__name__}.App", __name__[:-1]], set()),
        ([], set()),
    ],
    ids=str,
)
def test_an_allow_list_allows_what_is_on_it(allowed: Any, rebuilt: set[type]) -> None:
    for kind in (AppError, MixedError, KeyError):
        assert (type(back(kind("x"), allowed)) is kind) == (kind in rebuilt)


@pytest.mark.parametrize("wrong", ["all", [3], [int], 5])
def test_a_policy_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        exception_policy(wrong)


def test_a_remote_error_that_is_stored_again_stays_the_same() -> None:
    first = RemoteError("app.Gone", "message", "traceback")
    for exceptions in ("faithful", "inert", [KeyError]):
        found = back(first, exceptions)
        assert (found.type, found.message, found.traceback) == first.args


# -- bounds ------------------------------------------------------------------------------------


def test_an_error_that_cannot_print_itself_is_stored() -> None:
    found = back(RudeError(RudeError(), object()))
    assert isinstance(found, RudeError)
    assert isinstance(found.args[0], RudeError)
    assert str(found) == "<RudeError; its str() raised RuntimeError>"
    assert repr(found) == "<RudeError; its repr() raised RuntimeError>"
    assert back(RudeError(1), "inert").message == "<RudeError; its str() raised RuntimeError>"


def test_a_long_chain_is_cut_and_says_so() -> None:
    error = AppError(0)
    for number in range(1, 3 * RECORDS_MAX):
        error, error.__context__ = AppError(number), error
    # The assignment above binds from left to right: each new error got the one before.
    records = encode_error(error)
    assert len(records) == RECORDS_MAX
    found = back(error)
    count = 0
    while found is not None:
        count += 1
        last, found = found, found.__context__
    assert count == RECORDS_MAX
    assert last.__notes__ == ["further exceptions of this chain were not stored"]


@pytest.mark.parametrize("excess", [0, 1])
def test_long_texts_are_cut(excess: int) -> None:
    kept = "x" * (1 << 16)
    record = encode_error(AppError(kept + "y" * excess))[0]
    assert record["message"] == kept + " [1 more characters]" * excess
    kept = "'" + "x" * 1999
    slim = encode_error(AppError("x" * (1998 + excess)), slim=True)[0]
    assert slim["args"][0]["repr"] == (f"{kept} [1 more characters]" if excess else f"{kept[:-1]}'")


def test_a_thousand_records_are_read_and_no_more() -> None:
    records = encode_error(AppError("x")) * 1000
    assert isinstance(decode_error(records, None), RemoteError)
    with pytest.raises(ResultDamagedError):
        decode_error([*records, records[0]], None)


@pytest.mark.parametrize("excess", [0, 1])
def test_the_texts_of_a_brief_error_are_cut(excess: int) -> None:
    kept, names = "x" * 250, "n" * 2000
    cut = " [1 more characters]" * excess
    kind = type(names + "m" * excess, (AppError,), {"__module__": names + "m" * excess})
    (record,) = brief_error(kind(kept + "y" * excess), kept + "z" * excess)
    assert record == {
        "module": names + cut,
        "class": names + cut,
        "message": kept + cut,
        "args": [],
        "notes": [kept + cut],
    }


@pytest.mark.parametrize("excess", [0, 1])
def test_only_what_is_short_is_kept_of_an_error_that_is_too_large(excess: int) -> None:
    values = ["x" * (1000 + excess), b"x" * (1000 + excess), 1 << (999 + excess)]
    for value in values:
        error = AppError(value)
        error.held = value  # type: ignore[attr-defined]
        (record,) = encode_error(error, slim=True)
        assert ("value" in record["args"][0]) is not bool(excess)
        assert ("held" in record.get("state", {})) is not bool(excess)


@pytest.mark.parametrize("value", [None, True, 0.5])
def test_what_has_no_length_is_kept_of_an_error_that_is_too_large(value: Any) -> None:
    error = AppError(value)
    error.held = value  # type: ignore[attr-defined]
    (record,) = encode_error(error, slim=True)
    assert record["args"] == [{"value": value}]
    assert record["state"] == {"held": {"value": value}}


def test_no_more_than_a_hundred_notes_are_kept() -> None:
    error = AppError("x")
    notes = [str(number) for number in range(101)]
    vars(error)["__notes__"] = notes
    assert encode_error(error)[0]["notes"] == notes[:100]


def test_a_traceback_that_cannot_be_formatted_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> list[str]:
        raise ZipImportError("the archive has gone")

    error = raised(AppError("x"))
    monkeypatch.setattr(traceback, "format_tb", fail)
    text = encode_error(error)[0]["traceback"]
    assert text == "<the traceback cannot be formatted: zipimport.ZipImportError>"


def test_a_deep_traceback_is_cut_in_its_middle() -> None:
    def here(depth: int) -> None:  # two functions: lines that repeat are folded anyway
        if depth == 0:
            raise AppError("bottom")
        there(depth - 1)

    def there(depth: int) -> None:
        here(depth)

    try:
        here(200)
    except AppError as error:
        text = encode_error(error)[0]["traceback"]
    before, _, after = text.partition("\n  [302 frames left out]\n")
    assert before.count("  File ") == after.count("  File ") == 50
    assert "bottom" in text
    assert len(text) < TEXT_CHARS_MAX


def test_texts_with_lone_surrogates_are_stored() -> None:
    found = back(raised(AppError("a\ud800b")))
    assert found.args == ("a\ud800b",)
    assert back(AppError("a\ud800b"), "inert").message == "a\\ud800b"


def with_frames_left(count: int, call: Any) -> Any:
    """Call it where Python's stack has room for so many frames only."""
    depth = 0
    frame: Any = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + count)
    try:
        return call()
    finally:
        sys.setrecursionlimit(limit)


def in_arguments(depth: int) -> BaseException:
    error: BaseException = ValueError("bottom")
    for number in range(depth):
        error = StatusError(number, error)
    return error


def in_groups(depth: int) -> BaseException:
    error: Any = ValueError("bottom")
    for number in range(depth):
        error = GROUP(f"g{number}", [error])
    return error  # type: ignore[no-any-return]


def in_causes(depth: int) -> BaseException:
    error: BaseException = ValueError("bottom")
    for number in range(depth):
        error, error.__cause__ = AppError(number), error
    return error


@pytest.mark.parametrize("depth", [1000, 100_000])
@pytest.mark.parametrize(
    "make", [in_arguments, in_causes, pytest.param(in_groups, marks=needs_groups)]
)
def test_no_depth_of_nesting_meets_the_end_of_the_stack(make: Any, depth: int) -> None:
    error = make(depth)
    records = with_frames_left(100, lambda: encode_error(error))
    assert len(records) == RECORDS_MAX
    found = with_frames_left(100, lambda: decode_error(records, exception_policy("faithful")))
    assert type(found) is type(error)
    count, last = 0, found
    while last is not None:
        count += 1
        told = last
        inner = last.args[-1]
        last = (
            inner[0]
            if isinstance(inner, list)
            else inner
            if make is in_arguments
            else last.__cause__
        )
        if not isinstance(last, BaseException):
            break
    assert count >= RECORDS_MAX - 1
    assert "further exceptions of this chain were not stored" in told.__notes__


@needs_groups
def test_a_wide_group_is_cut_and_prints_how_many_there_were() -> None:
    found = back(GROUP("g", [ValueError(number) for number in range(1000)]))
    assert isinstance(found, GROUP)
    assert str(found) == "g (1000 sub-exceptions)"
    assert [str(error) for error in found.exceptions] == [str(n) for n in range(RECORDS_MAX - 1)]
    assert found.__notes__ == ["further exceptions of this chain were not stored"]


def test_an_attribute_whose_conversion_never_ends_does_not_cost_the_error() -> None:
    class Endless(list[int]):
        def __iter__(self) -> Any:
            return iter(self)

        def __repr__(self) -> str:
            return repr(self)

    error = AppError("x")
    error.rows = Endless([1])  # type: ignore[attr-defined]
    found = back(error)
    assert found.args == ("x",)
    assert str(found.rows).endswith("Endless; its str() raised RecursionError>")


def test_an_error_whose_attributes_all_break_is_stored() -> None:
    class Hostile(Exception):
        @property
        def args(self) -> Any:  # type: ignore[override]
            raise RuntimeError

        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

        @property
        def __traceback__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

        __cause__ = __context__ = __suppress_context__ = __traceback__

        def __str__(self) -> str:
            return "what happened"

    found = back(raised(Hostile("x")), "inert")
    assert found.message == "what happened"
    assert "in raised" in (found.traceback or "")


# -- groups ------------------------------------------------------------------------------------


@needs_groups
def test_a_group_within_itself_is_no_endless_loop() -> None:
    records = encode_error(GROUP("g", [GROUP("h", [ValueError(1)])]))
    records[1]["args"][1]["errors"] = [0]
    found: Any = decode_error(records, exception_policy("faithful"))
    assert type(found) is GROUP
    assert isinstance(found.exceptions[0].exceptions[0], RemoteError)


@needs_groups
@pytest.mark.parametrize("args", [(), ("other", [KeyError(1)]), ("g", []), ("g", [KeyError(1)], 2)])
def test_a_group_is_its_message_and_members_whatever_its_arguments(args: Any) -> None:
    error = GROUP("g", [ValueError(1)])
    error.args = args
    found = back(error)
    assert type(found) is GROUP
    assert (found.message, repr(found.exceptions)) == ("g", repr((ValueError(1),)))


@needs_groups
def test_members_that_are_not_allowed_come_back_inert() -> None:
    found = back(GROUP("g", [AppError(1), ValueError(2)]), [GROUP, ValueError])
    assert [type(member) for member in found.exceptions] == [RemoteError, ValueError]


# -- damage ------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "module",
                        "class",
                        "message",
                        "args",
                        "members",
                        "state",
                        "notes",
                        "traceback",
                    ),
                    *("cause", "context", "suppress_context", "cut"),
                    *("value", "error", "errors", "tuple", "repr"),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(JUNK)
def test_junk_is_a_damaged_result(junk: Any) -> None:
    for records in (junk, [junk], [{"module": "builtins", "class": "ValueError", "args": junk}]):
        try:
            found = decode_error(records, exception_policy("faithful"))
        except ResultDamagedError:
            continue
        assert isinstance(found, BaseException)
        traceback.format_exception(found)


@given(st.data())
def test_a_damaged_record_is_a_damaged_result_or_an_error(data: st.DataObject) -> None:
    error = raised(MixedError(2, "no", "f"))
    error.__cause__ = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")
    records = encode_error(error)
    record = data.draw(st.sampled_from(records))
    name = data.draw(st.sampled_from(sorted(record)))
    record[name] = data.draw(JUNK)
    try:
        found = decode_error(records, exception_policy("faithful"))
    except ResultDamagedError:
        return
    str(found), repr(found)
