"""Results through a taskiq serializer, for those who ask for one.

A serialized result is a dict of ``taskiq`` (1), ``is_err``, ``serializer`` (the name of its class)
and ``data``, the bytes it made of a result in the form of ``outcome.py``.

Rules: the return value is given to the serializer as it is, then as plain data, then as the JSON
types of that; what it takes first is stored, so that pickle keeps objects and JSON gets what it can
hold.  What has no plain form, and is not taken as it is, becomes an error result.
Bytes are only ever read by the serializer that wrote them: nothing reaches ``pickle.loads`` because
of what stands in a file.
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
    """Return the record for ``result``; an error result if the serializer takes no form of it."""
    for form in _forms(result):
        record = _record_or_none(serializer, form)
        if record is not None:
            return record
    return _record(serializer, unstorable_outcome(result, _reason(result, serializer)))


def is_serialized(data: Any) -> bool:
    """Return whether what is stored is a record of :func:`serialize_outcome`."""
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
    outcome = outcome_around(result, result.return_value)
    yield outcome
    try:
        plain = {**outcome, "return_value": to_plain(result.return_value)}
    except UnserializableValueError:
        return  # of the value itself, pydantic would drop in silence what it does not find
    yield plain
    try:
        yield pydantic_core.to_jsonable_python(plain, bytes_mode="base64")
    except (ValueError, RecursionError):
        pass


def _record_or_none(serializer: TaskiqSerializer, form: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return _record(serializer, form)
    except Exception:  # whatever a serializer raises: it does not take this form
        return None


def _reason(result: TaskiqResult[Any], serializer: TaskiqSerializer) -> Exception:
    """An error that names the type and the path, if there is one."""
    try:
        to_plain(result.return_value)
    except UnserializableValueError as error:
        return error
    return UnserializableValueError(f"{type(serializer).__qualname__} cannot store the result")
