"""The content of a file of the file backend.

It is one JSON object: ``logstore`` (``"result"`` or ``"progress"``), ``version`` (1), ``task_id``,
``crc32`` and ``content``, in the form of ``tagged_json.py``.

Rules: the checksum is that of the content as ``json.dumps`` writes it in one line: reformatting the
file does not invalidate it, any other change does.  A file that is truncated, damaged, of another
task or another format raises :class:`~logstore.taskiq.errors.ResultDamagedError`.
"""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

from logstore.taskiq.errors import ResultDamagedError
from logstore.taskiq.results.tagged_json import from_jsonable, to_jsonable

VERSION = 1
_INDENTED_CHARS_MAX = 1 << 16


def render(kind: str, task_id: str, content: dict[str, Any]) -> bytes:
    """Return the bytes of the file for ``content``.

    Raises :class:`~logstore.errors.UnserializableValueError`; its path names the return value of
    a result ``result``.
    """
    lowered = {
        key: to_jsonable(value, "result" if key == "return_value" else key)
        for key, value in content.items()
    }
    line = _one_line(lowered)
    document = {
        "logstore": kind,
        "version": VERSION,
        "task_id": to_jsonable(task_id),
        "crc32": _checksum(line),
        "content": lowered,
    }
    # A large file has one line: Python's encoder is many times slower with an indent.
    indent = 2 if len(line) <= _INDENTED_CHARS_MAX else None
    return (json.dumps(document, ensure_ascii=False, indent=indent) + "\n").encode()


def parse(data: bytes, kind: str, task_id: str, where: str) -> dict[str, Any]:
    """Return the content of a file; ``where`` names it in errors.

    Raises :class:`~logstore.taskiq.errors.ResultDamagedError` unless it is a valid file of this
    kind for this task.
    """
    try:
        document = json.loads(data)
        found = document["logstore"], document["version"]
        owner = from_jsonable(document["task_id"])
        content, checksum = document["content"], document["crc32"]
        actual = _checksum(_one_line(content))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultDamagedError(
            f"{where}: not a {kind} file of logstore, or truncated "
            f"({type(error).__name__}: {error}); delete it to go on without it"
        ) from error
    if found != (kind, VERSION):
        raise ResultDamagedError(
            f"{where}: expected a {kind} in version {VERSION}, found a {found[0]} in version "
            f"{found[1]}"
        )
    if owner != task_id:
        raise ResultDamagedError(f"{where}: expected task {task_id!r}, found task {owner!r}")
    if checksum != actual:
        raise ResultDamagedError(
            f"{where}: the content was changed: its checksum is {actual}, "
            f"expected {checksum}; delete it to go on without it"
        )
    try:
        raised = from_jsonable(content)
    except ValueError as error:
        raise ResultDamagedError(f"{where}: {error}") from error
    if not isinstance(raised, dict):
        raise ResultDamagedError(f"{where}: the content is a {type(raised).__name__}")
    return raised


def _one_line(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _checksum(line: str) -> str:
    return f"{crc32(line.encode('utf-8', 'surrogatepass')):08x}"
