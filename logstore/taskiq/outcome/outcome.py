"""A taskiq result as one value of supported types, and back.

The value is a dict of ``taskiq`` (the version of this form, 1), ``is_err``, ``return_value``,
``execution_time``, ``log``, ``labels`` and ``error`` (None, or the records of
``exceptions.py``).

Rules: a return value that cannot be stored becomes an error result that says so; otherwise a caller
that waits for the task would wait without end.  A label that cannot be stored becomes its ``repr``.
Encoding raises only :class:`BudgetExceededError`, whatever the code of a value, a label or an error
does.  Decoding validates everything; other data raises
:class:`~logstore.taskiq.errors.ResultDamagedError`.
"""

from __future__ import annotations

from typing import Any

from taskiq.result import TaskiqResult

from logstore._codec.hooks import EncHook
from logstore._codec.text import TEXT_CHARS_MAX, text_of
from logstore._codec.weight import BudgetExceededError
from logstore.errors import UnserializableValueError
from logstore.taskiq.errors import ResultDamagedError
from logstore.taskiq.outcome.exceptions import brief_error, encode_error
from logstore.taskiq.outcome.plain import to_plain
from logstore.taskiq.outcome.revival import Allowed, decode_error

VERSION = 1


def encode_outcome(
    result: TaskiqResult[Any], *, on_loop: bool = False, enc_hook: EncHook | None = None
) -> dict[str, Any]:
    """Return ``result`` as data; an error result if its return value cannot be stored.

    With ``on_loop`` raises :class:`BudgetExceededError` when the return value is not small, or when
    the hook may be needed.
    """
    if on_loop and enc_hook is not None and result.error is not None:
        raise BudgetExceededError
    try:
        return_value = to_plain(result.return_value, on_loop=on_loop, enc_hook=enc_hook)
    except UnserializableValueError as error:
        return unstorable_outcome(result, error)
    return outcome_around(result, return_value, on_loop=on_loop, enc_hook=enc_hook)


def outcome_around(
    result: TaskiqResult[Any],
    return_value: Any,
    *,
    on_loop: bool = False,
    enc_hook: EncHook | None = None,
) -> dict[str, Any]:
    """Return ``result`` as data, with a return value that is already converted.

    With ``on_loop`` raises :class:`BudgetExceededError` when a label is not small.
    """
    error = result.error
    return {
        "taskiq": VERSION,
        "is_err": bool(result.is_err),
        "return_value": return_value,
        "execution_time": float(result.execution_time),
        "log": result.log,
        "labels": {
            _label_name(name): label if type(label) is str else _label(label, on_loop)
            for name, label in result.labels.items()
        },
        "error": None if error is None else encode_error(error, enc_hook=enc_hook),
    }


def unstorable_outcome(result: TaskiqResult[Any], reason: Exception) -> dict[str, Any]:
    """Return the error result that replaces a result that cannot be stored.

    ``reason`` becomes the error, or a note of the error if the task had failed.
    """
    if result.error is None:
        error = encode_error(reason)
        error[0].pop("traceback", None)  # a traceback of the store's code is of no use
    else:
        error = encode_error(result.error, slim=True)
        error[0].setdefault("notes", []).append(_not_whole(reason))
    labels = {
        _label_name(name): label
        for name, label in result.labels.items()
        if type(label) in (bool, int, float) or (type(label) is str and len(label) <= 1000)
    }
    return _failure(result, error, labels)


def brief_outcome(result: TaskiqResult[Any], reason: Exception) -> dict[str, Any]:
    """Return a short error result, for cases where :func:`unstorable_outcome` is too large."""
    error = reason if result.error is None else result.error
    return _failure(result, brief_error(error, _not_whole(reason)), {})


def _not_whole(reason: Exception) -> str:
    return f"the result could not be stored whole: {reason}"


def _failure(
    result: TaskiqResult[Any], error: list[dict[str, Any]], labels: dict[str, Any]
) -> dict[str, Any]:
    return {
        "taskiq": VERSION,
        "is_err": True,
        "return_value": None,
        "execution_time": float(result.execution_time),
        "log": None,
        "labels": labels,
        "error": error,
    }


def decode_outcome(data: Any, allowed: Allowed | None, *, with_logs: bool) -> TaskiqResult[Any]:
    """Return the result that ``data`` describes; ``log`` is None unless ``with_logs``.

    Raises :class:`~logstore.taskiq.errors.ResultDamagedError` when ``data`` is not a result.
    """
    if not isinstance(data, dict) or "taskiq" not in data:
        raise ResultDamagedError(
            f"the stored value is a plain {type(data).__name__}, not the result of a taskiq task; "
            "read it with logstore.open()"
        )
    if data["taskiq"] != VERSION:
        raise ResultDamagedError(
            f"the result has the format version {data['taskiq']!r}, this program knows only "
            f"{VERSION}: it was written by a newer logstore"
        )
    for name, kinds in _FIELDS.items():
        value = data.get(name, ...)
        # A serializer may return a subclass; a bool does not count as a number.
        if type(value) not in kinds and (type(value) is bool or not isinstance(value, kinds)):
            raise ResultDamagedError(f"the field {name!r} of the result is damaged")
    error = data["error"]
    # Not validated by pydantic: the values are those of the worker, and an exception may be falsy
    # or of any class.
    return _EMPTY.model_copy(
        update={
            "is_err": data["is_err"],
            "log": data["log"] if with_logs else None,
            "return_value": data.get("return_value"),
            "execution_time": data["execution_time"],
            "labels": data["labels"],
            "error": None if error is None else decode_error(error, allowed),
        }
    )


# Copying this result takes half the time of constructing one.
_EMPTY: TaskiqResult[Any] = TaskiqResult.model_construct(
    is_err=False, log=None, return_value=None, execution_time=0.0, labels={}, error=None
)
_FIELDS: dict[str, tuple[type, ...]] = {
    "is_err": (bool,),
    "execution_time": (float, int),
    "log": (str, type(None)),
    "labels": (dict,),
    "error": (list, type(None)),
}


def _label_name(name: Any) -> str:
    return name if type(name) is str else text_of(str, name, TEXT_CHARS_MAX)


def _label(label: Any, on_loop: bool) -> Any:
    try:
        return to_plain(label, on_loop=on_loop)
    except UnserializableValueError:
        return text_of(repr, label, TEXT_CHARS_MAX)
