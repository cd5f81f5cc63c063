"""A taskiq result as one value of the store's own types, and back.

The value is a dict of ``taskiq`` (the version of this form, 1), ``is_err``, ``return_value``,
``execution_time``, ``log``, ``labels`` and ``error`` (None, or the records of
``exceptions.py``).

Rules: a return value that cannot be stored becomes an error result that says so, because a
worker that only logs the failure leaves its waiter waiting for ever.  A label that cannot be
stored is stored by its ``repr``.  Encoding raises nothing else, whatever the code of a value, a
label or an error does.  Decoding trusts nothing: what is not such a dict raises
:class:`~logstore.taskiq.errors.ResultDamagedError`.
"""

from __future__ import annotations

from typing import Any

from taskiq.result import TaskiqResult

from logstore._codec.hooks import EncHook
from logstore._codec.text import TEXT_CHARS_MAX, text_of
from logstore.errors import UnserializableValueError
from logstore.taskiq.errors import ResultDamagedError
from logstore.taskiq.outcome.exceptions import brief_error, encode_error
from logstore.taskiq.outcome.plain import BudgetExceededError, to_plain
from logstore.taskiq.outcome.revival import Allowed, decode_error

VERSION = 1


def encode_outcome(
    result: TaskiqResult[Any], *, parts_max: int | None = None, enc_hook: EncHook | None = None
) -> dict[str, Any]:
    """Return ``result`` as data; its error, or the lack of one, stands under ``is_err``.

    Raises :class:`BudgetExceededError` when the return value has more
    than ``parts_max`` parts, or something may need the hook.
    """
    if parts_max is not None and enc_hook is not None and result.error is not None:
        raise BudgetExceededError
    try:
        return_value = to_plain(result.return_value, parts_max=parts_max, enc_hook=enc_hook)
    except UnserializableValueError as error:
        return unstorable_outcome(result, error)
    return outcome_around(result, return_value, enc_hook)


def outcome_around(
    result: TaskiqResult[Any], return_value: Any, enc_hook: EncHook | None = None
) -> dict[str, Any]:
    """Return ``result`` as data, with a return value that has been converted already."""
    error = result.error
    return {
        "taskiq": VERSION,
        "is_err": bool(result.is_err),
        "return_value": return_value,
        "execution_time": float(result.execution_time),
        "log": result.log,
        "labels": {_label_name(name): _label(label) for name, label in result.labels.items()},
        "error": None if error is None else encode_error(error, enc_hook=enc_hook),
    }


def unstorable_outcome(result: TaskiqResult[Any], reason: Exception) -> dict[str, Any]:
    """Return the error result that takes the place of one that cannot be stored.

    ``reason`` becomes the error; or a note to the error, if the task had failed anyway.
    """
    if result.error is None:
        error = encode_error(reason)
        error[0].pop("traceback", None)  # of the store's code, which tells the waiter nothing
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
    """Return the error result for a place where :func:`unstorable_outcome` is too large, too."""
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

    Raises :class:`~logstore.taskiq.errors.ResultDamagedError` when it describes none.
    """
    if not isinstance(data, dict) or "taskiq" not in data:
        raise ResultDamagedError(
            f"what is stored is a plain {type(data).__name__}, not the result of a taskiq task; "
            "read it with logstore.open()"
        )
    if data["taskiq"] != VERSION:
        raise ResultDamagedError(
            f"the result is in version {data['taskiq']!r} of the form, this program knows "
            f"{VERSION}: it was written by a newer logstore"
        )
    for name, kinds in _FIELDS.items():
        value = data.get(name, ...)
        # A serializer may have kept a subclass; a bool is not a number here.
        if type(value) not in kinds and (type(value) is bool or not isinstance(value, kinds)):
            raise ResultDamagedError(f"the field {name!r} of the result is not as it was stored")
    error = data["error"]
    # Not validated by pydantic: the values are what the worker returned, and an exception that is
    # falsy, or of any class, is still the exception.
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


# A copy of it takes half the time of a construction.
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


def _label(label: Any) -> Any:
    if type(label) is str:
        return label
    try:
        return to_plain(label)
    except UnserializableValueError:
        return text_of(repr, label, TEXT_CHARS_MAX)
