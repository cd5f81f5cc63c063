"""Building exceptions without running the code of their classes.

The ``__new__`` of the built-in base class constructs an instance; then its contents are set.  No
``__init__``, ``__new__``, ``__setattr__``, ``__setstate__`` or ``__reduce__`` of the class is
called.

If the ``str()`` of a rebuilt exception differs from its text on the worker, the exception is
rebuilt with the worker's text.  Python looks up ``__str__`` in the class, so the instance gets its
own subclass with the same name.  ``except``, ``isinstance`` and printing work as for the original;
only ``type(error) is Class`` is false.  Alternatives that do not work: other arguments, because
many classes build their text from attributes; a ``RemoteError``, because ``except Class`` does not
catch it; assigning ``__class__``, because built-in classes do not allow it.  No subclass is made of
a class that would run its own code for that (a metaclass, ``__init_subclass__``), except for the
harmless ones of the standard library.
"""

from __future__ import annotations

import builtins
import typing
from abc import ABCMeta
from typing import Any, NamedTuple

from logstore._codec.text import bases_of, class_names, namespace_of
from logstore.taskiq.outcome.exceptions import (
    GROUP,
    c_members,
    dict_of,
    members_of,
    unicode_fields,
)

_METACLASSES = (type, ABCMeta)
_INIT_SUBCLASSES = (object, typing.Generic)


class Contents(NamedTuple):
    """The contents of an exception: arguments, slots and C attributes, and its ``__dict__``."""

    args: tuple[Any, ...]
    members: dict[str, Any]
    state: dict[str, Any]


def contents_of(error: BaseException) -> Contents:
    """Return the contents of an exception."""
    return Contents(error.args, dict(members_of(error)), dict(vars(error)))


def new_instance(kind: type[BaseException], contents: Contents) -> BaseException | None:
    """Return a new instance with the contents that C code needs; None if that is impossible."""
    if GROUP is not None and issubclass(kind, GROUP):
        return _new_group(kind, contents.args)
    error = _empty(kind)
    fields = unicode_fields(kind)
    if error is None or not fields:
        return error
    base: Any = next(owner for owner in bases_of(kind) if is_builtin(owner))
    try:
        # Checks the types; printing such an error relies on them.
        base.__init__(error, *(contents.members[name] for name in fields))
    except (TypeError, KeyError, OverflowError):
        return None
    return error


def fill(error: BaseException, contents: Contents) -> None:
    """Set the rest of the contents of an exception that :func:`new_instance` returned."""
    args: Any = vars(BaseException)["args"]
    args.__set__(error, contents.args)
    for name, descriptor in c_members(type(error)):
        if name in contents.members:
            try:
                descriptor.__set__(error, contents.members[name])
            except (AttributeError, TypeError, ValueError, OverflowError):
                continue  # read-only, or of another type in this version of the class
    dict_of(error).update(contents.state)


def set_notes(error: BaseException, notes: list[str]) -> None:
    """Set the notes of an exception."""
    dict_of(error)["__notes__"] = notes


def with_text(kind: type[BaseException], text: str, shown: str | None) -> Any:
    """Return a subclass whose ``str()`` is ``text`` and ``repr()`` is ``shown``.

    Return None if no subclass can be made.  Without ``shown`` the ``repr()`` is that of ``kind``.
    """
    metaclass: Any = type(kind)
    owner = next(base for base in bases_of(kind) if "__init_subclass__" in namespace_of(base))
    if metaclass not in _METACLASSES or owner not in _INIT_SUBCLASSES:
        return None

    def reduce(error: BaseException) -> tuple[Any, ...]:
        return _restore, (kind, text, shown, contents_of(error))

    module, name = class_names(kind)
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__module__": module,
        "__qualname__": name,
        "__str__": lambda error: text,
        "__reduce__": reduce,
    }
    if shown is not None:
        namespace["__repr__"] = lambda error: shown
    try:
        return metaclass(kind.__name__, (kind,), namespace)
    except TypeError:  # a class that cannot be subclassed
        return None


def is_builtin(kind: type) -> bool:
    """Return whether ``kind`` is a class of the module builtins."""
    return vars(builtins).get(kind.__name__) is kind


def _empty(kind: type[BaseException]) -> BaseException | None:
    owner: Any
    for owner in bases_of(kind):
        if is_builtin(owner) and "__new__" in namespace_of(owner) and owner is not object:
            try:
                error: Any = owner.__new__(kind)
            except TypeError:
                continue  # another base decides the layout of instances
            return error if issubclass(type(error), BaseException) else None
    return None


def _new_group(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException | None:
    constructor: Any = GROUP.__new__
    try:
        error = constructor(kind, *args)
    except (TypeError, ValueError):  # no members, or a member of a type that it cannot contain
        return None
    return error if issubclass(type(error), BaseException) else None


def _restore(
    kind: type[BaseException], text: str, shown: str | None, contents: Contents
) -> BaseException:
    """Build an exception with a fixed text from a pickle, or as a copy."""
    error = new_instance(with_text(kind, text, shown), contents)
    assert error is not None  # it was built once before
    fill(error, contents)
    return error
