"""From the records of a failure to an exception, without running anybody's code.

A record (see :mod:`logstore.backends.failures`) is a dict of::

    module, class      where the class is found
    message            str() of it on the worker
    args               a list of entries
    members, state     entries by name: slots and C attributes; the instance's __dict__
    notes, traceback   texts
    cause, context     indexes of records
    suppress_context, cut   True, or absent

and an entry is ``{"value": v}``, ``{"repr": text}``, ``{"error": index}`` or ``{"errors":
[indexes], "tuple": bool}``.

Rules:

- A class is only looked up, never imported: its module must be in ``sys.modules``, and the name
  must lead to a subclass of ``BaseException`` without any ``__getattr__`` being run.
- An instance is made by the ``__new__`` of the built-in exception it descends from; then its
  ``args``, slots and ``__dict__`` are filled in.  No ``__init__``, ``__new__``, ``__setattr__``,
  ``__setstate__`` or ``__reduce__`` of the class is called.
- What the policy does not allow, or cannot be found or made, becomes an inert
  :class:`~logstore.backends.errors.RemoteError`.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterable
from typing import Any

from logstore.backends.errors import RemoteError, ResultDamagedError
from logstore.backends.failures import GROUP, c_members, unicode_fields

TRACEBACK_NOTE = "Traceback on the worker (most recent call last):"
_CUT_NOTE = "further exceptions of this chain were not stored"
_RECORDS_MAX = 1000

Allowed = Callable[[type[BaseException]], bool]


def exception_policy(exceptions: str | Iterable[str | type[BaseException]]) -> Allowed | None:
    """Return the test that a class must pass to be rebuilt; None means that none is.

    ``exceptions`` is ``"faithful"`` (every exception class that is already imported),
    ``"inert"`` (none) or an allow-list of classes, which allow their subclasses, and dotted names
    of classes (``"app.errors.QuotaError"``) or of modules (``"app.errors"``, with all below).

    Raises ``ValueError`` or ``TypeError`` for anything else.
    """
    if isinstance(exceptions, str):
        if exceptions == "faithful":
            return lambda kind: True
        if exceptions == "inert":
            return None
        raise ValueError(
            f"exceptions is 'faithful', 'inert' or a list of what to allow, not {exceptions!r}"
        )
    classes: list[type[BaseException]] = []
    names: list[str] = []
    for entry in exceptions:
        if isinstance(entry, str):
            names.append(entry)
        elif isinstance(entry, type) and issubclass(entry, BaseException):
            classes.append(entry)
        else:
            raise TypeError(f"exceptions allows classes and dotted names, not {entry!r}")
    prefixes = tuple(f"{name}." for name in names)

    def allowed(kind: type[BaseException]) -> bool:
        name = f"{kind.__module__}.{kind.__qualname__}"
        return issubclass(kind, tuple(classes)) or name in names or name.startswith(prefixes)

    return allowed


def decode_error(records: Any, allowed: Allowed | None) -> BaseException:
    """Return the exception that ``records`` describe.

    Raises :class:`~logstore.backends.errors.ResultDamagedError` when they are not records.
    """
    try:
        if not isinstance(records, list) or not 0 < len(records) <= _RECORDS_MAX:
            raise TypeError("no list of records")
        return _Revival(records, allowed).run()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ResultDamagedError(
            f"the stored error is not one of this version's: {type(error).__name__}: {error}"
        ) from error


def find_class(module: str, qualname: str) -> type[BaseException] | None:
    """Return the exception class of that name, if its module is imported and has it."""
    found: Any = sys.modules.get(module)
    try:
        for name in qualname.split("."):
            # Not getattr: a module's __getattr__, or a lazy module's, may import anything.
            found = object.__getattribute__(found, "__dict__").get(name)
    except AttributeError:
        return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


class _Revival:
    """One graph of exceptions on its way back."""

    def __init__(self, records: list[dict[str, Any]], allowed: Allowed | None) -> None:
        self.records = records
        self.allowed = allowed
        self.made: dict[int, BaseException] = {}
        self.inert: set[int] = set()
        self.under_way: set[int] = set()

    def run(self) -> BaseException:
        for index in range(len(self.records)):
            self.error(index)
        for index, record in enumerate(self.records):
            self.link(index, record)
        return self.made[0]

    def error(self, index: int) -> BaseException:
        if type(index) is not int or not 0 <= index < len(self.records):
            raise IndexError(f"no record {index!r}")
        if index not in self.made:
            record = self.records[index]
            if index in self.under_way:  # a group within itself, which nothing can build
                return _inert(record)
            self.under_way.add(index)
            error = self.revive(record)
            self.under_way.discard(index)
            if error is None:
                self.inert.add(index)
                error = _inert(record)
            self.made[index] = error
        return self.made[index]

    def revive(self, record: dict[str, Any]) -> BaseException | None:
        """Make the exception, with only so much in it as C code relies on."""
        kind = find_class(record["module"], record["class"])
        if kind is None or not self.allows(kind):
            return None
        if GROUP is not None and issubclass(kind, GROUP):
            return self.group(kind, record)
        error = _instance(kind)
        fields = unicode_fields(kind)
        if error is None or not fields:
            return error
        members = record.get("members", {})
        base: Any = next(owner for owner in kind.__mro__ if _is_builtin(owner))
        try:
            # Checks the types, which printing such an error relies on.
            base.__init__(error, *(self.entry(members[name]) for name in fields))
        except (TypeError, KeyError):
            return None
        return error

    def allows(self, kind: type[BaseException]) -> bool:
        return kind is RemoteError or (self.allowed is not None and self.allowed(kind))

    def group(self, kind: type[BaseException], record: dict[str, Any]) -> BaseException | None:
        message, members = (self.entry(entry) for entry in record["args"])
        constructor: Any = GROUP.__new__
        try:
            error = constructor(kind, message, members)
        except (TypeError, ValueError):  # a member came back as what this group cannot hold
            return None
        return error if isinstance(error, BaseException) else None

    def link(self, index: int, record: dict[str, Any]) -> None:
        """Fill in the rest; now that all exceptions exist, they may refer to each other."""
        error = self.made[index]
        if index not in self.inert:
            self.fill(error, record)
        notes = list(record.get("notes", ()))
        if record.get("traceback"):
            notes.append(f"{TRACEBACK_NOTE}\n{record['traceback']}")
        if record.get("cut"):
            notes.append(_CUT_NOTE)
        if notes:
            error.__dict__["__notes__"] = notes
        base: Any = BaseException
        for name in ("context", "cause"):
            if record.get(name) is not None:
                getattr(base, f"__{name}__").__set__(error, self.error(record[name]))
        base.__suppress_context__.__set__(error, bool(record.get("suppress_context", False)))

    def fill(self, error: BaseException, record: dict[str, Any]) -> None:
        args: Any = BaseException.args
        args.__set__(error, tuple(self.entry(entry) for entry in record["args"]))
        members = record.get("members", {})
        for name, descriptor in c_members(type(error)):
            if name in members:
                try:
                    descriptor.__set__(error, self.entry(members[name]))
                except (AttributeError, TypeError, ValueError):
                    continue  # read only, or of another type in this version of the class
        state = record.get("state", {})
        if state:
            error.__dict__.update({name: self.entry(entry) for name, entry in state.items()})

    def entry(self, entry: dict[str, Any]) -> Any:
        if "value" in entry:
            return entry["value"]
        if "error" in entry:
            return self.error(entry["error"])
        if "errors" in entry:
            errors = [self.error(index) for index in entry["errors"]]
            return tuple(errors) if entry["tuple"] else errors
        return entry["repr"]


def _instance(kind: type[BaseException]) -> BaseException | None:
    """Make an empty instance by a built-in ``__new__``; None if no such one will do."""
    owner: Any
    for owner in kind.__mro__:
        if _is_builtin(owner) and "__new__" in vars(owner) and owner is not object:
            try:
                error: Any = owner.__new__(kind)
            except TypeError:
                continue  # another base decides how instances are laid out
            return error if isinstance(error, BaseException) else None
    return None


def _is_builtin(kind: type) -> bool:
    return vars(builtins).get(kind.__name__) is kind


def _inert(record: dict[str, Any]) -> RemoteError:
    return RemoteError(
        f"{record['module']}.{record['class']}", record["message"], record.get("traceback")
    )
