"""Any task id as a file name, and no two ids as the same.

Rules: lower-case letters, digits, ``-`` and ``_`` stand for themselves; every other byte of the
id's UTF-8 is ``%`` and two hexadecimal digits.  So there is no separator and no dot to traverse
with, and ids that differ in case or in their Unicode form stay different on file systems that
ignore either.  A name that would be too long is cut, and ends in ``~`` and a hash of the whole id:
``~`` stands in no other name.
"""

from __future__ import annotations

from hashlib import sha256

NAME_CHARS_MAX = 200
"""How long a name may be; file systems allow 255, and a suffix follows."""

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_HASH_CHARS = 32
# Devices on Windows, whatever suffix follows.
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)


def file_name(task_id: str) -> str:
    """Return the name for ``task_id``, without a suffix.

    Raises ``ValueError`` for what is not a string; every string has a name, the empty one too.
    """
    if not isinstance(task_id, str):
        raise ValueError(f"a task id is a str, not {type(task_id).__name__}")
    data = task_id.encode("utf-8", "surrogatepass")
    name = "".join(chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in data)
    if not name:
        return "%"
    if name in _RESERVED:
        return f"%{data[0]:02x}{name[1:]}"
    if len(name) <= NAME_CHARS_MAX:
        return name
    return f"{name[: NAME_CHARS_MAX - _HASH_CHARS - 1]}~{sha256(data).hexdigest()[:_HASH_CHARS]}"
