"""From a worker's exception to data: everything that is needed to build it again elsewhere.

Rules:

- The exception and all it refers to (cause, context, members of a group, exceptions among its
  arguments and attributes) become one flat list of records that refer to each other by index, so
  that cycles and two names for one exception are kept, and nesting does not grow with the chain.
- At most :data:`RECORDS_MAX` records, nearest first; texts are cut at :data:`TEXT_CHARS_MAX`.
- Encoding never fails and never calls what a user wrote, except ``__str__`` and ``__repr__``.
- :mod:`logstore.backends.revival` is the way back; what is in a record stands in its docstring.
"""

from __future__ import annotations

import builtins
import contextlib
import traceback
from collections.abc import Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from logstore.backends.plain import to_plain
from logstore.errors import UnserializableValueError

RECORDS_MAX = 100
TEXT_CHARS_MAX = 1 << 16
_REPR_CHARS_MAX = 2000
_FRAMES_MAX = 100

# None in Python 3.10, which has no groups.
GROUP: type[BaseException] | None = getattr(builtins, "BaseExceptionGroup", None)

# AttributeError keeps the object that lacked the attribute: anything, of any size, and not part
# of what was raised.
_MEMBERS_LEFT_OUT = frozenset({"obj"})


def encode_error(error: BaseException, *, slim: bool = False) -> list[dict[str, Any]]:
    """Return the records of ``error``, itself first.

    ``slim`` leaves out attributes and stores arguments by their ``repr``: for an exception that
    is itself too large to be stored.
    """
    graph = _Graph()
    graph.index_of(error)
    records: list[dict[str, Any]] = []
    while len(records) < len(graph.errors):  # encoding one may add others
        records.append(_record(graph, graph.errors[len(records)], slim))
    return records


def c_members(kind: type[BaseException]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that instances keep outside ``__dict__``: slots, and those of C types.

    ``OSError.errno`` is one, and so is each name in ``__slots__``.
    """
    for owner in kind.__mro__:
        if owner is BaseException or owner is GROUP or owner is UnicodeError:
            continue
        if issubclass(owner, UnicodeError):
            continue  # rebuilt by its constructor, see unicode_fields()
        for name, descriptor in vars(owner).items():
            if (
                isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType))
                and not (name.startswith("__") and name.endswith("__"))
                and name not in _MEMBERS_LEFT_OUT
            ):
                yield name, descriptor


def unicode_fields(kind: type[BaseException]) -> tuple[str, ...]:
    """The arguments of the C constructor of a Unicode error; empty for all other classes."""
    if issubclass(kind, UnicodeTranslateError):
        return ("object", "start", "end", "reason")
    if issubclass(kind, (UnicodeDecodeError, UnicodeEncodeError)):
        return ("encoding", "object", "start", "end", "reason")
    return ()


class _Graph:
    """The exceptions met so far, each with its index."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []  # keeps them alive, so that ids stay theirs
        self._indexes: dict[int, int] = {}

    def index_of(self, error: BaseException) -> int | None:
        """The index of ``error``'s record, or None when there are enough records already."""
        index = self._indexes.get(id(error))
        if index is None and len(self.errors) < RECORDS_MAX:
            index = self._indexes[id(error)] = len(self.errors)
            self.errors.append(error)
        return index


def _record(graph: _Graph, error: BaseException, slim: bool) -> dict[str, Any]:
    kind = type(error)
    record: dict[str, Any] = {
        "module": safe_text(kind.__module__),
        "class": safe_text(kind.__qualname__),
        "message": _text_of(str, error),
        "args": [_entry(graph, arg, slim) for arg in error.args],
    }
    _add(record, "members", {} if slim else dict(_members(graph, error)))
    _add(record, "state", {} if slim else dict(_state(graph, error)))
    _add(record, "notes", [_text_of(str, note) for note in _notes(error)])
    _add(record, "traceback", _traceback_text(error))
    cut = False
    for name, other in (("cause", error.__cause__), ("context", error.__context__)):
        if other is not None:
            index = graph.index_of(other)
            cut = cut or index is None
            _add(record, name, index)
    if error.__suppress_context__:
        record["suppress_context"] = True
    if cut:
        record["cut"] = True
    return record


def _add(record: dict[str, Any], name: str, value: Any) -> None:
    if value is not None and value != {} and value != [] and value != "":
        record[name] = value


def _members(graph: _Graph, error: BaseException) -> Iterator[tuple[str, Any]]:
    for name, descriptor in c_members(type(error)):
        try:
            value = descriptor.__get__(error)
        except AttributeError:
            continue  # a slot that was never filled
        if value is not None:
            yield name, _entry(graph, value, False)
    with contextlib.suppress(AttributeError, TypeError):  # it may never have been initialised
        for name in unicode_fields(type(error)):
            yield name, _entry(graph, getattr(error, name), False)


def _state(graph: _Graph, error: BaseException) -> Iterator[tuple[str, Any]]:
    for name, value in _instance_dict(error).items():
        if isinstance(name, str) and not (name.startswith("__") and name.endswith("__")):
            yield safe_text(name), _entry(graph, value, False)


def _instance_dict(error: BaseException) -> dict[Any, Any]:
    state = getattr(error, "__dict__", None)
    return dict(state) if isinstance(state, dict) else {}


def _notes(error: BaseException) -> list[Any]:
    notes = _instance_dict(error).get("__notes__")
    return list(notes) if isinstance(notes, (list, tuple)) else []


def _entry(graph: _Graph, value: Any, slim: bool) -> dict[str, Any]:
    """One argument or attribute: its value, or an exception's index, or else its ``repr``."""
    if isinstance(value, BaseException):
        index = graph.index_of(value)
        return {"repr": _text_of(repr, value)} if index is None else {"error": index}
    if (
        type(value) in (list, tuple)
        and value
        and all(isinstance(item, BaseException) for item in value)
    ):
        indexes = [graph.index_of(item) for item in value]
        if None not in indexes:
            return {"errors": indexes, "tuple": type(value) is tuple}
    if not slim:
        try:
            return {"value": to_plain(value)}
        except (UnserializableValueError, RecursionError):
            pass
    return {"repr": _text_of(repr, value, _REPR_CHARS_MAX)}


def _traceback_text(error: BaseException) -> str | None:
    if error.__traceback__ is None:
        return None
    try:
        lines = traceback.format_tb(error.__traceback__)
    except Exception as failure:  # a source file or a loader that cannot be read
        return f"<the traceback cannot be formatted: {type(failure).__qualname__}>"
    if len(lines) > _FRAMES_MAX:
        left_out = len(lines) - _FRAMES_MAX
        half = _FRAMES_MAX // 2
        lines = [*lines[:half], f"  [{left_out} frames left out]\n", *lines[-half:]]
    return safe_text("".join(lines)).rstrip("\n")


def _text_of(function: Any, value: Any, chars_max: int = TEXT_CHARS_MAX) -> str:
    """``str`` or ``repr`` of anything, whatever its own code does."""
    try:
        return safe_text(function(value), chars_max)
    except Exception as failure:
        kind = type(value).__qualname__
        return f"<{kind}; its {function.__name__}() raised {type(failure).__qualname__}>"


def safe_text(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Text that every encoding can hold, of bounded length."""
    if len(text) > chars_max:
        text = f"{text[:chars_max]} [{len(text) - chars_max} more characters]"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
