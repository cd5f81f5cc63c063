"""A unique file name for any task id.

Rules: lower-case letters, digits, ``-`` and ``_`` are kept.  Every other byte of the id in UTF-8
becomes ``%`` and two hexadecimal digits.  So a name has no separator and no dot, and path traversal
is impossible.  Ids that differ only in case or in their Unicode form get different names on every
file system.  A long name is truncated and ends in ``~`` and a hash of the whole id; no other name
contains ``~``.
"""

from __future__ import annotations

from hashlib import sha256

NAME_CHARS_MAX = 200
"""The maximum length of a name; file systems allow 255 bytes, and a suffix follows."""

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_HASH_CHARS = 32
# Device names on Windows, with any suffix.
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)


def file_name(task_id: str) -> str:
    """Return the name for ``task_id``, without a suffix.

    Raises ``ValueError`` if the id is not a str.  Every str has a name, including the empty one.
    """
    if not isinstance(task_id, str):
        raise ValueError(f"a task id must be a str, not {type(task_id).__name__}")
    data = task_id.encode("utf-8", "surrogatepass")
    name = "".join(chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in data)
    if not name:
        return "%"
    if name in _RESERVED:
        return f"%{data[0]:02x}{name[1:]}"
    if len(name) <= NAME_CHARS_MAX:
        return name
    return f"{name[: NAME_CHARS_MAX - _HASH_CHARS - 1]}~{sha256(data).hexdigest()[:_HASH_CHARS]}"
