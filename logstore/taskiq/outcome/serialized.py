"""Results in the format of a taskiq serializer, for backends with ``serializer=``.

A serialized result is a dict of ``taskiq`` (1), ``is_err``, ``serializer`` (the name of its class)
and ``data``, the serialized bytes of a result in the form of ``outcome.py``.

Rules: the serializer is tried with the original return value, then with plain data, then with the
JSON types of that data.  The first success is stored: so pickle keeps objects, and JSON gets types
that it supports.  A value without a plain form that the serializer refuses becomes an error result.
Only the serializer that wrote the bytes may read them: the content of a file can never cause a call
of ``pickle.loads``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pydantic_core
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.result import TaskiqResult

from logstore.errors import UnserializableValueError
from logstore.taskiq.errors import ResultDamagedError
from logstore.taskiq.outcome.outcome import VERSION, outcome_around, unstorable_outcome
from logstore.taskiq.outcome.plain import to_plain


def serialize_outcome(result: TaskiqResult[Any], serializer: TaskiqSerializer) -> dict[str, Any]:
    """Return the record for ``result``; an error result if the serializer refuses all forms."""
    reason = UnserializableValueError(f"{type(serializer).__qualname__} cannot store the result")
    try:
        for form in _forms(result):
            try:
                return _record(serializer, form)
            except Exception:  # any exception of a serializer means that it refuses this form
                continue
    except UnserializableValueError as error:
        reason = error  # it names the type and the path
    return _record(serializer, unstorable_outcome(result, reason))


def is_serialized(data: Any) -> bool:
    """Return whether ``data`` is a record of :func:`serialize_outcome`."""
    return isinstance(data, dict) and "taskiq" in data and "serializer" in data


def deserialize_outcome(data: dict[str, Any], serializer: TaskiqSerializer | None) -> Any:
    """Return the outcome in the record, for ``decode_outcome``.

    Raises :class:`~logstore.taskiq.errors.ResultDamagedError` when ``serializer`` did not write
    it or cannot read it.
    """
    written_by = data["serializer"]
    name = None if serializer is None else type(serializer).__qualname__
    if serializer is None or name != written_by:
        raise ResultDamagedError(
            f"the result was stored with the serializer {written_by!r}, this backend has "
            f"{name or 'none'!r}; give both sides the same"
        )
    try:
        return serializer.loadb(data["data"])
    except Exception as error:
        raise ResultDamagedError(f"{name} cannot read the result: {error!r}") from error


def _record(serializer: TaskiqSerializer, outcome: dict[str, Any]) -> dict[str, Any]:
    return {
        "taskiq": VERSION,
        "is_err": outcome["is_err"],
        "serializer": type(serializer).__qualname__,
        "data": serializer.dumpb(outcome),
    }


def _forms(result: TaskiqResult[Any]) -> Iterator[dict[str, Any]]:
    """Yield the forms to try.  Raises UnserializableValueError if there is no plain one."""
    outcome = outcome_around(result, result.return_value)
    yield outcome
    # No other form without it: pydantic would silently drop missing fields of the value itself.
    plain = {**outcome, "return_value": to_plain(result.return_value)}
    yield plain
    try:
        yield pydantic_core.to_jsonable_python(plain, bytes_mode="base64")
    except (ValueError, RecursionError):
        pass
