"""The progress of a task: :class:`TaskProgress` and its encoding.

Rules: objects are immutable and validated on construction, so that stored progress is always valid.
Functions are pure and may be called in any thread.  The encoding is an array, encoded by
``_codec/values.py``: progress, status, current, total, meta.  A reader ignores additional items,
which a later version may write.
"""

from __future__ import annotations

from typing import Any

from logstore._codec.hooks import DecHook, EncHook
from logstore._codec.numbers import converter_for, exact
from logstore._codec.text import describe
from logstore._codec.values import decode_value, encode_value
from logstore._codec.weight import Limit
from logstore.errors import DecodeError, UnserializableValueError

_FIELDS = ("progress", "status", "current", "total", "meta")
_set = object.__setattr__


class TaskProgress:
    """The progress of a task.

    ``progress`` is a fraction from 0.0 to 1.0 (an int 0 or 1 becomes a float).  ``status`` is a
    text for people.  ``current`` and ``total`` are numbers of items or None.  ``meta`` is a dict
    or None, or any value if :meth:`from_state` made the object.  ``meta`` is kept by reference: do
    not change it afterwards.  Instances of subclasses of str, int, float and dict are converted to
    the base class, numbers of other libraries to the int or float that they equal.

    Raises ``ValueError`` naming the field for a wrong type, a nan, a fraction outside 0..1 or a
    negative count.  A bool does not count as a number.
    """

    __slots__ = _FIELDS
    __match_args__ = ("progress", "status", "current", "total", "meta")

    progress: float
    status: str
    current: int | None
    total: int | None
    meta: Any

    def __init__(
        self,
        progress: float = 0.0,
        status: str = "PENDING",
        current: int | None = None,
        total: int | None = None,
        meta: Any = None,
    ) -> None:
        # The common case: the arguments are valid and nothing is converted.
        if type(progress) is not float or not 0.0 <= progress <= 1.0:
            progress = _fraction(progress)
        if type(status) is not str:
            status = _text("status", status)
        if current is not None:
            current = _count("current", current)
        if total is not None:
            total = _count("total", total)
        if meta is not None and type(meta) is not dict:
            meta = _dict("meta", meta)
        _set(self, "progress", progress)
        _set(self, "status", status)
        _set(self, "current", current)
        _set(self, "total", total)
        _set(self, "meta", meta)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a TaskProgress is immutable: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a TaskProgress is immutable: {name!r} cannot be deleted")

    def to_list(self) -> list[Any]:
        """Return the fields in their order: progress, status, current, total, meta."""
        return [self.progress, self.status, self.current, self.total, self.meta]

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        assert isinstance(other, TaskProgress)
        return self.to_list() == other.to_list()

    def __hash__(self) -> int:
        return hash(tuple(self.to_list()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _FIELDS)
        return f"{type(self).__name__}({shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).with_any_meta, tuple(self.to_list())

    @classmethod
    def from_state(cls, state: str, meta: object = None) -> TaskProgress:
        """Return the progress for a tracker with a state and any ``meta``, such as taskiq's.

        ``state`` (a str, or an enum member that is a str) becomes the status.  ``meta`` may be any
        value, not just a dict; whether it can be stored is checked on storing.  Raises
        ``ValueError`` when ``state`` is not a str.
        """
        return cls.with_any_meta(0.0, _text("state", state), None, None, meta)

    @classmethod
    def with_any_meta(
        cls, progress: float, status: str, current: int | None, total: int | None, meta: object
    ) -> TaskProgress:
        """Return the progress with these fields; ``meta`` may be any value.

        Raises ``ValueError`` for the other fields, like the constructor.
        """
        made = cls(progress=progress, status=status, current=current, total=total)
        _set(made, "meta", meta)
        return made

    @property
    def state(self) -> str:
        """The status, under taskiq's name."""
        return self.status

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict; :meth:`from_dict` makes an equal object of it.

        If ``meta`` is neither a dict nor None, the dict also has a key ``state``: it marks an
        object that came from :meth:`from_state`.
        """
        fields = {name: getattr(self, name) for name in _FIELDS}
        if self.meta is not None and type(self.meta) is not dict:
            fields["state"] = self.status
        return fields

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TaskProgress:
        """Return the object with the fields in ``data``; missing fields get their defaults.

        Unknown keys are ignored.  With a key ``state``, ``meta`` may be any value.  Raises
        ``ValueError`` like the constructor, and when ``data`` is not a dict.
        """
        if not isinstance(data, dict):
            raise ValueError(f"a progress must be a dict, not {type(data).__name__}")
        fields = {name: data[name] for name in _FIELDS if name in data}
        if "state" not in data:
            return cls(**fields)
        meta = fields.pop("meta", None)
        fields.setdefault("status", _text("state", data["state"]))
        made = cls(**fields)
        _set(made, "meta", meta)
        return made


def encode_progress(
    progress: TaskProgress,
    *,
    max_bytes: int = 1 << 30,
    enc_hook: EncHook | None = None,
    limit: Limit = "any",
) -> bytes:
    """Return the bytes of ``progress``.

    Raises :class:`UnserializableValueError`, with a path like ``progress.meta['rows'][3]``, and
    :class:`ValueTooLargeError`, like :func:`logstore._codec.values.encode_value`, and the errors of
    that function for a ``limit``.
    """
    values = progress.to_list()
    try:
        return encode_value(
            values, max_bytes=max_bytes, root="progress", enc_hook=enc_hook, limit=limit
        )
    except UnserializableValueError:
        # Raises the error with a better path.
        encode_value(progress.meta, max_bytes=max_bytes, root="progress.meta", enc_hook=enc_hook)
        raise  # the array around the meta makes it too deep


def decode_progress(data: bytes | memoryview, dec_hook: DecHook | None = None) -> TaskProgress:
    """Return the progress encoded in ``data``, which is validated.

    ``dec_hook`` is for the meta, as in :func:`logstore._codec.values.decode_value`.  Raises
    :class:`DecodeError` like that function, and for data that :func:`encode_progress` cannot write.
    """
    values = decode_value(data, dec_hook)
    if type(values) is not list or len(values) < len(_FIELDS):
        raise DecodeError(f"the {len(data)} bytes of a progress are not an array of its fields")
    progress, status, current, total, meta = values[: len(_FIELDS)]
    try:
        return TaskProgress.with_any_meta(progress, status, current, total, meta)
    except ValueError as error:
        raise DecodeError(f"the {len(data)} bytes of a progress: {error}") from error


# -- validation -----------------------------------------------------------------------------------


def _wrong(name: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{name} must be {expected}, not of type {type(value).__name__}")


def _fraction(value: object) -> float:
    number = _number("progress", value, (int, float), "a float from 0.0 to 1.0")
    if not 0 <= number <= 1:  # also true for a nan
        shown = "a very large number" if abs(number) >= 1 << 64 else number
        raise ValueError(f"progress must be a fraction from 0.0 to 1.0, not {shown}")
    return float(number)


def _text(name: str, value: object) -> str:
    if not issubclass(type(value), str):
        raise _wrong(name, "a str", value)
    return str.__str__(value)  # the text of a member of an enum, not its name


def _count(name: str, value: object) -> int:
    count = value if type(value) is int else _number(name, value, (int,), "an int or None")
    if count < 0:
        raise ValueError(f"{name} must not be negative")
    return int(count)


def _number(name: str, value: Any, kinds: tuple[type, ...], expected: str) -> int | float:
    """Return the int or float of an instance of a subclass or of a number of another library."""
    kind = type(value)
    try:
        for base, convert in ((int, int.__int__), (float, float.__float__)):
            if base in kinds and issubclass(kind, base) and kind is not bool:
                return convert(value)
        other = None if issubclass(kind, (int, float)) else converter_for(kind)
        plain = None if other is None else exact(other, value)
    except Exception as error:
        raise ValueError(f"{name} must be {expected}: {describe(error)}") from error
    if type(plain) is float and float in kinds:
        return plain
    if type(plain) is int:
        return plain
    raise _wrong(name, expected, value)


def _dict(name: str, value: Any) -> dict[Any, Any]:
    if not issubclass(type(value), dict):
        raise _wrong(name, "a dict or None", value)
    try:
        return dict(value)
    except Exception as error:
        raise ValueError(f"{name} must be a dict or None: {describe(error)}") from error
