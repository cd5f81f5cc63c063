"""How far a task has got: :class:`TaskProgress` and its bytes.

Rules: immutable and validated when made, so that whatever is stored or read back is valid; pure
functions; any thread.  The bytes are an array, encoded by ``_codec/values.py``: progress, status,
current, total, meta.  A reader ignores further items, which a later version may write.
"""

from __future__ import annotations

from typing import Any

from logstore._codec.hooks import DecHook, EncHook
from logstore._codec.numbers import converter_for, exact
from logstore._codec.text import describe
from logstore._codec.values import decode_value, encode_small, encode_value
from logstore.errors import DecodeError, UnserializableValueError

_FIELDS = ("progress", "status", "current", "total", "meta")
_set = object.__setattr__


class TaskProgress:
    """How far a task has got.

    ``progress`` is a fraction from 0.0 to 1.0 (an int 0 or 1 becomes a float), ``status`` a text
    for people, ``current`` and ``total`` numbers of items or None, ``meta`` a dict or None (any
    value in one made by :meth:`from_state`).  ``meta`` is kept by reference, so change it no more.
    Instances of subclasses of str, int, float and dict are taken as what they are underneath,
    numbers of other libraries as the int or float that they equal.

    Raises ``ValueError`` naming the field for a wrong type, a nan, a fraction outside 0..1 or a
    negative count.  A bool is not a number here.
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
        # Most are right as they are; only what has to be converted is.
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
        return _restore, (type(self), self.to_list())

    @classmethod
    def from_state(cls, state: str, meta: object = None) -> TaskProgress:
        """Return the progress of a tracker that knows a state and any ``meta``, as taskiq's does.

        ``state`` (a str, or an enum member that is one) becomes the status.  ``meta`` may be any
        value, not just a dict; whether it can be stored is seen when it is.  Raises
        ``ValueError`` when ``state`` is not a str.
        """
        return cls.with_any_meta(0.0, _text("state", state), None, None, meta)

    @classmethod
    def with_any_meta(
        cls, progress: float, status: str, current: int | None, total: int | None, meta: object
    ) -> TaskProgress:
        """Return the progress with these fields; ``meta`` may be any value.

        Raises ``ValueError`` for the others as the constructor does.
        """
        made = cls(progress=progress, status=status, current=current, total=total)
        _set(made, "meta", meta)
        return made

    @property
    def state(self) -> str:
        """The status, under the name that taskiq has for it."""
        return self.status

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict, from which :meth:`from_dict` makes an equal object.

        Where ``meta`` is neither a dict nor None there is a key ``state`` too: it says that the
        object came from :meth:`from_state`.
        """
        fields = {name: getattr(self, name) for name in _FIELDS}
        if self.meta is not None and type(self.meta) is not dict:
            fields["state"] = self.status
        return fields

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TaskProgress:
        """Return the object with the fields in ``data``; those missing have their defaults.

        Unknown keys are ignored; with a key ``state``, ``meta`` may be any value.  Raises
        ``ValueError`` as the constructor does, and when ``data`` is not a dict.
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
    progress: TaskProgress, *, max_bytes: int = 1 << 30, enc_hook: EncHook | None = None
) -> bytes:
    """Return the bytes of ``progress``.

    Raises :class:`UnserializableValueError`, with a path as ``progress.meta['rows'][3]``, and
    :class:`ValueTooLargeError`, as :func:`logstore._codec.values.encode_value` does.
    """
    try:
        return encode_value(
            progress.to_list(), max_bytes=max_bytes, root="progress", enc_hook=enc_hook
        )
    except UnserializableValueError:
        # Says it with this path.
        encode_value(progress.meta, max_bytes=max_bytes, root="progress.meta", enc_hook=enc_hook)
        raise  # the meta alone would have fitted, with the array around it it is too deep


def encode_small_progress(progress: TaskProgress) -> bytes | None:
    """Return the bytes of ``progress`` if it is small and plain, else None.

    See ``encode_small``.
    """
    return encode_small(progress.to_list()) if isinstance(progress, TaskProgress) else None


def decode_progress(data: bytes | memoryview, dec_hook: DecHook | None = None) -> TaskProgress:
    """Return the progress that ``data`` holds, trusting nothing in it.

    ``dec_hook`` is that of :func:`logstore._codec.values.decode_value`, for the meta.  Raises
    :class:`DecodeError` for anything that :func:`encode_progress` would not write, or as that does.
    """
    values = decode_value(data, dec_hook)
    if type(values) is not list or len(values) < len(_FIELDS):
        raise DecodeError(f"the {len(data)} bytes of a progress are not an array of its fields")
    progress, status, current, total, meta = values[: len(_FIELDS)]
    try:
        return TaskProgress.with_any_meta(progress, status, current, total, meta)
    except ValueError as error:
        raise DecodeError(f"the {len(data)} bytes of a progress: {error}") from error


def _restore(cls: type[TaskProgress], values: list[Any]) -> TaskProgress:
    """What a pickle or a copy is made of."""
    return cls.with_any_meta(*values)


# -- validation -----------------------------------------------------------------------------------


def _wrong(name: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{name} must be {expected}, not of type {type(value).__name__}")


def _fraction(value: object) -> float:
    number = _number("progress", value, (int, float), "a float from 0.0 to 1.0")
    if not 0 <= number <= 1:  # a nan is neither
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
    """What a number is underneath: an instance of a subclass, or one of another library."""
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
