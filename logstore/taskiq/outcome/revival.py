"""Rebuilding an exception from records; the only code of its class that runs is ``__str__``.

A record (see ``exceptions.py``) is a dict of::

    module, class      the name of the class
    message, repr      its str() and repr() on the worker; repr may be absent
    args               a list of entries
    members, state     entries by name: slots and C attributes; the instance's __dict__
    notes, traceback   texts
    cause, context     indexes of records
    suppress_context, cut   True, or absent

and an entry is one of::

    {"value": v}
    {"error": index}
    {"errors": [indexes]}               also "tuple": True, and "cut": True if there were more
    {"type": name, "repr": text}        of an unsupported type; also "str": text, if it differs

Rules:

- A class is only looked up, never imported: its module must be in ``sys.modules``, and the lookup
  runs no ``__getattr__``.  By default only subclasses of ``Exception`` are rebuilt: a
  ``KeyboardInterrupt`` of a worker must not end its client.
- ``instances.py`` describes how an instance is built.
- ``str()`` of a rebuilt exception is its text on the worker.  ``__str__`` and ``__repr__`` are
  called to check that.  If they fail, or the text differs, the exception is built with the text of
  the worker.  Another order of the same characters is accepted, because of sets.
- An exception that the policy does not allow, or that cannot be found or built, becomes an inert
  :class:`~logstore.taskiq.errors.RemoteError`.  An argument or attribute of an unsupported type
  becomes a :class:`~logstore.taskiq.errors.RemoteObject`.
- The depth of Python's stack does not grow with the nesting of the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from logstore._codec.hooks import find_class
from logstore._codec.text import TEXT_CHARS_MAX, safe_text
from logstore.taskiq.errors import RemoteError, RemoteObject, ResultDamagedError
from logstore.taskiq.outcome.instances import Contents, fill, new_instance, set_notes, with_text

TRACEBACK_NOTE = "Traceback on the worker (most recent call last):"
_CUT_NOTE = "further exceptions of this chain were not stored"
_RECORDS_MAX = 1000
_TOLD_CHARS_MAX = 500

Allowed = Callable[[type[BaseException]], bool]


class _Policy:
    """The test that a class must pass to be rebuilt.  A class, so that it can be pickled."""

    def __init__(self, classes: tuple[type[BaseException], ...], names: tuple[str, ...]) -> None:
        self.classes = classes
        self.names = names

    def __call__(self, kind: type[BaseException]) -> bool:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if issubclass(kind, self.classes) or name in self.names:
            return True
        # The name of a module allows only its subclasses of Exception.
        below = tuple(f"{name}." for name in self.names)
        return issubclass(kind, Exception) and name.startswith(below)


def exception_policy(exceptions: str | Iterable[str | type[BaseException]]) -> Allowed | None:
    """Return the test that a class must pass to be rebuilt; None means that no class is rebuilt.

    ``exceptions`` is ``"faithful"`` (every subclass of ``Exception`` that is already imported),
    ``"inert"`` (none) or an allow-list of classes, which allow their subclasses, and dotted names
    of classes (``"app.errors.QuotaError"``) or of modules (``"app.errors"``, with all subclasses of
    ``Exception`` below).

    Raises ``ValueError`` or ``TypeError`` for anything else.
    """
    if isinstance(exceptions, str):
        if exceptions == "faithful":
            return _Policy((Exception,), ())
        if exceptions == "inert":
            return None
        raise ValueError(
            "exceptions must be 'faithful', 'inert' or a list of classes and dotted names,"
            f" not {exceptions!r}"
        )
    classes: list[type[BaseException]] = []
    names: list[str] = []
    for entry in exceptions:
        if isinstance(entry, str):
            names.append(entry)
        elif isinstance(entry, type) and issubclass(entry, BaseException):
            classes.append(entry)
        else:
            raise TypeError(f"exceptions must list classes and dotted names, not {entry!r}")
    return _Policy(tuple(classes), tuple(names))


def decode_error(records: Any, allowed: Allowed | None) -> BaseException:
    """Return the exception that ``records`` describe.

    Raises :class:`~logstore.taskiq.errors.ResultDamagedError` when they are not valid records.
    """
    try:
        if not isinstance(records, list) or not 0 < len(records) <= _RECORDS_MAX:
            raise TypeError("no list of records")
        return _Revival(records, allowed).run()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ResultDamagedError(
            f"the stored error cannot be read: {type(error).__name__}: {error}"
        ) from error


class _Revival:
    """The rebuilding of one graph of exceptions."""

    def __init__(self, records: list[dict[str, Any]], allowed: Allowed | None) -> None:
        self.records = records
        self.allowed = allowed
        self.order = _children_first([self.references(record) for record in records])
        self.with_text: set[int] = set()  # records whose own str() differs from the worker's
        self.inert: set[int] = set()

    def run(self) -> BaseException:
        self.make_all()
        if not self.with_text.isdisjoint(self.in_cycle):
            self.make_all()  # again, because exceptions made early were made without their text
        for index, record in enumerate(self.records):
            self.link(self.made[index], index, record)
        return self.made[0]

    def make_all(self) -> None:
        self.made: dict[int, BaseException] = {}
        self.early: dict[int, BaseException] = {}
        self.in_cycle: set[int] = set()
        for index in self.order:
            error = self.make(index)
            if error is None:
                self.inert.add(index)
                error = _inert(self.records[index])
            self.made[index] = error

    def make(self, index: int) -> BaseException | None:
        record = self.records[index]
        kind = self.kind_of(index)
        if kind is None:
            return None
        contents = self.contents(record)
        error = self.early.pop(index, None)
        if error is None:
            error = new_instance(kind, contents)
        if error is None:
            return None
        fill(error, contents)
        if index in self.with_text or _prints_as_told(error, record):
            return error
        self.with_text.add(index)
        return self.make(index)

    def kind_of(self, index: int) -> Any:
        """Return the class of a record if it is imported and allowed, else None."""
        record = self.records[index]
        found = find_class(record["module"], record["class"])
        if found is None or not issubclass(found, BaseException):
            return None
        if found is not RemoteError and (self.allowed is None or not self.allowed(found)):
            return None
        if index in self.with_text:
            return with_text(found, _text(record["message"]), record.get("repr"))
        return found

    def error(self, index: int) -> BaseException:
        """Return the exception of a record; in a cycle, make it early and empty."""
        if index in self.made:
            return self.made[index]
        self.in_cycle.add(index)
        if index not in self.early:
            kind = self.kind_of(index)
            error = None if kind is None else new_instance(kind, Contents((), {}, {}))
            if error is None:  # such as a group that contains itself, which cannot be built
                return _inert(self.records[index])
            self.early[index] = error
        return self.early[index]

    def contents(self, record: dict[str, Any]) -> Contents:
        return Contents(
            tuple(self.entry(entry) for entry in record["args"]),
            {_text(n): self.entry(entry) for n, entry in record.get("members", {}).items()},
            {_text(n): self.entry(entry) for n, entry in record.get("state", {}).items()},
        )

    def entry(self, entry: dict[str, Any]) -> Any:
        if "value" in entry:
            return entry["value"]
        if "error" in entry:
            return self.error(entry["error"])
        if "errors" in entry:
            errors = [self.error(index) for index in entry["errors"]]
            return tuple(errors) if entry.get("tuple") else errors
        shown = _text(entry["repr"])
        return RemoteObject(_text(entry["type"]), _text(entry.get("str", shown)), shown)

    def references(self, record: dict[str, Any]) -> list[int]:
        """Return the indexes of the records that must be made before this one."""
        found: list[int] = []
        for entry in _entries(record):
            if "value" not in entry:
                found += [entry["error"]] if "error" in entry else entry.get("errors", [])
        return [self.checked(index) for index in found]

    def checked(self, index: int) -> int:
        if type(index) is not int or not 0 <= index < len(self.records):
            raise IndexError(f"no record {index!r}")
        return index

    def link(self, error: BaseException, index: int, record: dict[str, Any]) -> None:
        """Set the notes, the cause and the context of an exception."""
        notes = [_text(note) for note in record.get("notes", ())]
        if index in self.inert:
            notes += [f"with {_told(self.records[other])}" for other in self.references(record)]
        if record.get("traceback"):
            notes.append(f"{TRACEBACK_NOTE}\n{record['traceback']}")
        if record.get("cut"):
            notes.append(_CUT_NOTE)
        if notes:
            set_notes(error, notes)
        base: Any = BaseException
        for name in ("context", "cause"):
            if record.get(name) is not None:
                other = self.made[self.checked(record[name])]
                getattr(base, f"__{name}__").__set__(error, other)
        base.__suppress_context__.__set__(error, bool(record.get("suppress_context", False)))


def _children_first(references: list[list[int]]) -> list[int]:
    """Return all indexes; each comes after the indexes that it refers to, except in cycles."""
    order: list[int] = []
    seen: set[int] = set()
    for start in range(len(references)):
        under_way = [] if start in seen else [(start, iter(references[start]))]
        seen.add(start)
        while under_way:
            index, left = under_way[-1]
            child = next((other for other in left if other not in seen), None)
            if child is None:
                order.append(index)
                under_way.pop()
            else:
                seen.add(child)
                under_way.append((child, iter(references[child])))
    return order


def _prints_as_told(error: BaseException, record: dict[str, Any]) -> bool:
    told = _text(record["message"])
    try:
        repr(error)
        text = safe_text(str.__str__(str(error)), TEXT_CHARS_MAX)
    except Exception:
        return False
    return text == told or sorted(text) == sorted(told)  # a set may be in another order


def _entries(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from record["args"]
    yield from record.get("members", {}).values()
    yield from record.get("state", {}).values()


def _text(text: Any) -> str:
    if type(text) is not str:
        raise TypeError(f"expected a text, found {type(text).__name__}")
    return text


def _inert(record: dict[str, Any]) -> RemoteError:
    name = f"{_text(record['module'])}.{_text(record['class'])}"
    return RemoteError(name, _text(record["message"]), record.get("traceback"))


def _told(record: dict[str, Any]) -> str:
    """Return one line about an exception that an inert one referred to."""
    name = f"{record['module']}.{record['class']}"
    return safe_text(f"{name}: {record['message']}" if record["message"] else name, _TOLD_CHARS_MAX)
