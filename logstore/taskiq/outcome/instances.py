"""Making exceptions without running the code of their classes.

An instance is made by the ``__new__`` of the built-in exception that its class descends from, and
then filled in.  No ``__init__``, ``__new__``, ``__setattr__``, ``__setstate__`` or ``__reduce__``
of the class is called.

An exception whose ``str()`` is not what it was on the worker is made with the worker's text.
Python looks ``__str__`` up in the class, so that an instance alone cannot be given a text: it is
made of a subclass, made for it alone, under the same name.  ``except`` and ``isinstance`` take it
for what it was, and it prints as it did; ``type(error) is Class`` is false.  What does not work
instead: other arguments, because many classes make their text of attributes; a ``RemoteError``,
because ``except Class`` misses it; assigning ``__class__`` later, because built-in classes do not
let it be assigned.  A class that would run code of its own when a subclass is made (a metaclass,
``__init_subclass__``) gets none, but for those of the standard library, which do no harm.
"""

from __future__ import annotations

import builtins
import typing
from abc import ABCMeta
from typing import Any, NamedTuple

from logstore._codec.text import bases_of, class_names, namespace_of
from logstore.taskiq.outcome.exceptions import GROUP, c_members, members_of, unicode_fields

_METACLASSES = (type, ABCMeta)
_INIT_SUBCLASSES = (object, typing.Generic)


class Contents(NamedTuple):
    """What is in an exception: arguments, slots and C attributes, and its ``__dict__``."""

    args: tuple[Any, ...]
    members: dict[str, Any]
    state: dict[str, Any]


def contents_of(error: BaseException) -> Contents:
    """Return what is in an exception."""
    return Contents(error.args, dict(members_of(error)), dict(vars(error)))


def new_instance(kind: type[BaseException], contents: Contents) -> BaseException | None:
    """Make an instance with so much in it as C code relies on; None if it cannot be made."""
    if GROUP is not None and issubclass(kind, GROUP):
        return _new_group(kind, contents.args)
    error = _empty(kind)
    fields = unicode_fields(kind)
    if error is None or not fields:
        return error
    base: Any = next(owner for owner in bases_of(kind) if is_builtin(owner))
    try:
        # Checks the types, which printing such an error relies on.
        base.__init__(error, *(contents.members[name] for name in fields))
    except (TypeError, KeyError):
        return None
    return error


def fill(error: BaseException, contents: Contents) -> None:
    """Put the rest into an exception that :func:`new_instance` has made."""
    args: Any = vars(BaseException)["args"]
    args.__set__(error, contents.args)
    for name, descriptor in c_members(type(error)):
        if name in contents.members:
            try:
                descriptor.__set__(error, contents.members[name])
            except (AttributeError, TypeError, ValueError):
                continue  # read only, or of another type in this version of the class
    _dict_of(error).update(contents.state)


def set_notes(error: BaseException, notes: list[str]) -> None:
    """Give an exception its notes."""
    _dict_of(error)["__notes__"] = notes


def with_text(kind: type[BaseException], text: str, shown: str | None) -> Any:
    """Return a subclass whose ``str()`` is ``text`` and ``repr()`` is ``shown``.

    None if there can be none.  Without ``shown`` the ``repr()`` is that of ``kind``.
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
    except TypeError:  # a class that lets itself not be subclassed
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
                continue  # another base decides how instances are laid out
            return error if issubclass(type(error), BaseException) else None
    return None


def _new_group(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException | None:
    constructor: Any = GROUP.__new__
    try:
        error = constructor(kind, *args)
    except (TypeError, ValueError):  # no member, or one that came back as what it cannot hold
        return None
    return error if issubclass(type(error), BaseException) else None


def _dict_of(error: BaseException) -> dict[str, Any]:
    state: dict[str, Any] = vars(BaseException)["__dict__"].__get__(error)
    return state


def _restore(
    kind: type[BaseException], text: str, shown: str | None, contents: Contents
) -> BaseException:
    """What a pickle or a copy of an exception with a fixed text is made of."""
    error = new_instance(with_text(kind, text, shown), contents)
    assert error is not None  # there was one
    fill(error, contents)
    return error
