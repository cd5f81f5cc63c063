"""Converting a worker's exception to data, to rebuild it in another process.

Rules:

- The exception and all exceptions that it refers to (cause, context, members of a group,
  exceptions in arguments and attributes) become one flat list of records that refer to each other
  by index.  This keeps cycles and shared exceptions, and the nesting does not grow with the chain.
- There are at most :data:`RECORDS_MAX` records, nearest first.  Texts are truncated to
  :data:`~logstore._codec.text.TEXT_CHARS_MAX`.  Every omission is marked at its place.
- Encoding never fails.  It runs ``__str__`` and ``__repr__`` of an exception and of its parts, and
  the code of values that ``plain.py`` runs.
- An argument or attribute that would be read as another kind of object (an enum as its value, a
  response as its ``repr``) is stored as its two texts instead.
- ``revival.py`` does the reverse; its docstring describes the records.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from logstore._codec.hooks import EncHook
from logstore._codec.text import (
    TEXT_CHARS_MAX,
    bases_of,
    class_names,
    namespace_of,
    safe_text,
    text_of,
    type_name,
)
from logstore.errors import UnserializableValueError
from logstore.taskiq.errors import RemoteObject
from logstore.taskiq.outcome.plain import convert

RECORDS_MAX = 100
NOTES_MAX = 100
_REPR_CHARS_MAX = 2000
_SLIM_CHARS_MAX = 1000
_BRIEF_CHARS_MAX = 250
_FRAMES_MAX = 100

# None in Python 3.10, which has no exception groups.
GROUP: type[BaseException] | None = getattr(builtins, "BaseExceptionGroup", None)

# AttributeError keeps the object without the attribute: it may have any type and size, and is not
# part of the error.
_MEMBERS_LEFT_OUT = frozenset({"obj"})

# Not error.args: a class may have overridden these names.
_get: dict[str, Any] = {
    name: vars(BaseException)[name].__get__
    for name in ("args", "__cause__", "__context__", "__suppress_context__", "__traceback__")
}
dict_of: Callable[[BaseException], dict[str, Any]] = vars(BaseException)["__dict__"].__get__
"""Returns the attributes in the ``__dict__`` of an exception."""


def encode_error(
    error: BaseException, *, slim: bool = False, enc_hook: EncHook | None = None
) -> list[dict[str, Any]]:
    """Return the records of ``error``, itself first.

    ``slim`` is for an exception that is too large to be stored: it omits long attributes and
    stores long arguments as their texts.
    """
    graph = _Graph(enc_hook)
    graph.index_of(error)
    records: list[dict[str, Any]] = []
    while len(records) < len(graph.errors):  # encoding an error may add others
        records.append(_record(graph, graph.errors[len(records)], slim))
    return records


def brief_error(error: BaseException, note: str) -> list[dict[str, Any]]:
    """Return a minimal record of ``error``, of a few hundred bytes."""
    module, name = class_names(type(error))
    return [
        {
            "module": safe_text(module, _REPR_CHARS_MAX),
            "class": safe_text(name, _REPR_CHARS_MAX),
            "message": text_of(str, error, _BRIEF_CHARS_MAX),
            "args": [],
            "notes": [safe_text(note, _BRIEF_CHARS_MAX)],
        }
    ]


def c_members(kind: type[BaseException]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes outside ``__dict__``: slots, and attributes of C types.

    Examples are ``OSError.errno`` and each name in ``__slots__``.
    """
    for owner in bases_of(kind):
        if owner is BaseException or owner is GROUP or owner is UnicodeError:
            continue
        if issubclass(owner, UnicodeError):
            continue  # rebuilt by its constructor, see unicode_fields()
        for name, descriptor in namespace_of(owner).items():
            if (
                isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType))
                and not (name.startswith("__") and name.endswith("__"))
                and name not in _MEMBERS_LEFT_OUT
            ):
                yield name, descriptor


def unicode_fields(kind: type[BaseException]) -> tuple[str, ...]:
    """Return the arguments of the C constructor of a Unicode error; empty for other classes."""
    if issubclass(kind, UnicodeTranslateError):
        return ("object", "start", "end", "reason")
    if issubclass(kind, (UnicodeDecodeError, UnicodeEncodeError)):
        return ("encoding", "object", "start", "end", "reason")
    return ()


class _Graph:
    """The exceptions found so far, each with its index."""

    def __init__(self, enc_hook: EncHook | None) -> None:
        self.enc_hook = enc_hook
        self.errors: list[BaseException] = []  # keeps them alive, so that ids are not reused
        self._indexes: dict[int, int] = {}

    def index_of(self, error: BaseException) -> int | None:
        """Return the index of the record of ``error``, or None if there are too many records."""
        index = self._indexes.get(id(error))
        if index is None and len(self.errors) < RECORDS_MAX:
            index = self._indexes[id(error)] = len(self.errors)
            self.errors.append(error)
        return index


def _record(graph: _Graph, error: BaseException, slim: bool) -> dict[str, Any]:
    kind = type(error)
    module, name = class_names(kind)
    args = [_entry(graph, arg, slim) for arg in _args(error)]
    members = {n: _entry(graph, v, slim) for n, v in members_of(error)}
    state = {n: _entry(graph, v, slim) for n, v in _state(error) if not slim or _is_short(v)}
    record: dict[str, Any] = {
        "module": safe_text(module, TEXT_CHARS_MAX),
        "class": safe_text(name, TEXT_CHARS_MAX),
        "message": text_of(str, error, TEXT_CHARS_MAX),
        "repr": text_of(repr, error, _REPR_CHARS_MAX),
        "args": args,
    }
    _add(record, "members", members)
    _add(record, "state", state)
    _add(record, "notes", [text_of(str, note, TEXT_CHARS_MAX) for note in _notes(error)])
    _add(record, "traceback", _traceback_text(error))
    cut = any("cut" in entry for entry in (*args, *members.values(), *state.values()))
    for name in ("cause", "context"):
        other = _get[f"__{name}__"](error)
        if other is not None:
            index = graph.index_of(other)
            cut = cut or index is None
            _add(record, name, index)
    if _get["__suppress_context__"](error):
        record["suppress_context"] = True
    if cut:
        record["cut"] = True
    return record


def _add(record: dict[str, Any], name: str, value: Any) -> None:
    if value is not None and value != {} and value != [] and value != "":
        record[name] = value


def _args(error: BaseException) -> tuple[Any, ...]:
    args: tuple[Any, ...] = _get["args"](error)
    if GROUP is not None and issubclass(type(error), GROUP):
        message, members = (vars(GROUP)[name].__get__(error) for name in ("message", "exceptions"))
        if len(args) != 2 or args[0] is not message or not _are_errors(args[1]):
            return message, list(members)
    return args


def members_of(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield the slots and C attributes of an exception, except those that are None."""
    kind = type(error)
    for name, descriptor in c_members(kind):
        try:
            value = descriptor.__get__(error)
        except Exception:
            continue  # an empty slot
        if value is not None:
            yield name, value
    for name in unicode_fields(kind):
        owner = next(base for base in bases_of(kind) if name in namespace_of(base))
        try:
            value = namespace_of(owner)[name].__get__(error)
        except Exception:
            return  # the error was never initialised
        yield name, value


def _state(error: BaseException) -> Iterator[tuple[str, Any]]:
    for name, value in dict_of(error).items():
        if type(name) is str and not (name.startswith("__") and name.endswith("__")):
            yield safe_text(name, TEXT_CHARS_MAX), value


def _notes(error: BaseException) -> Sequence[Any]:
    notes: Any = dict_of(error).get("__notes__")
    return notes[:NOTES_MAX] if type(notes) in (list, tuple) else []


def _entry(graph: _Graph, value: Any, slim: bool) -> dict[str, Any]:
    """Return the entry of an argument or attribute: a value, an index or indexes, or texts."""
    kind = type(value)
    if issubclass(kind, BaseException):
        index = graph.index_of(value)
        return {**_texts(value), "cut": True} if index is None else {"error": index}
    if _are_errors(value):
        indexes = [graph.index_of(item) for item in value[: RECORDS_MAX + 1]]
        entry: dict[str, Any] = {"errors": [index for index in indexes if index is not None]}
        if kind is tuple:
            entry["tuple"] = True
        if len(entry["errors"]) < len(value):
            entry["cut"] = True
        return entry
    if slim and not _is_short(value):
        return _texts(value)
    if kind is not RemoteObject:
        try:
            plain, same_kind = convert(value, enc_hook=graph.enc_hook)
        except UnserializableValueError:
            return _texts(value)
        if same_kind or type(plain) in bases_of(kind):
            return {"value": plain}
    return _texts(value)


def _are_errors(value: Any) -> bool:
    return (
        type(value) in (list, tuple)
        and len(value) > 0
        and all(issubclass(type(item), BaseException) for item in value)
    )


def _is_short(value: Any) -> bool:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value) <= _SLIM_CHARS_MAX
    if kind is int:
        return bool(value.bit_length() <= _SLIM_CHARS_MAX)
    return value is None or kind is bool or kind is float


def _texts(value: Any) -> dict[str, Any]:
    name = value.type if type(value) is RemoteObject else type_name(type(value))
    text = text_of(str, value, _REPR_CHARS_MAX)
    if issubclass(type(value), BaseException):
        shown = f"{name}: {text}"  # the repr of a group is recursive
    else:
        shown = text_of(repr, value, _REPR_CHARS_MAX)
    return {"type": name, "repr": shown, **({} if text == shown else {"str": text})}


def _traceback_text(error: BaseException) -> str | None:
    frames = _get["__traceback__"](error)
    if frames is None:
        return None
    try:
        lines = traceback.format_tb(frames)
    except Exception as failure:  # a source file or a loader failed
        return f"<the traceback cannot be formatted: {type_name(type(failure))}>"
    if len(lines) > _FRAMES_MAX:
        left_out = len(lines) - _FRAMES_MAX
        half = _FRAMES_MAX // 2
        lines = [*lines[:half], f"  [{left_out} frames left out]\n", *lines[-half:]]
    return safe_text("".join(lines), TEXT_CHARS_MAX).rstrip("\n")
