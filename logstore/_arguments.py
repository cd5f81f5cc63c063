"""Checking arguments: paths, task ids, times to live.

Rules: nothing is written when a check raises.  Times are microseconds since 1970.
"""

from __future__ import annotations

import os
from typing import TypeAlias

from logstore._engine.frames import KEY_BYTES_MAX
from logstore._engine.systemerrors import raise_open_error
from logstore.errors import NotAStoreError

FilePath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"


def file_path(path: FilePath) -> str:
    """Return the absolute path of a file; bytes that are not UTF-8 become surrogates.

    Raises ValueError for an invalid path, NotAStoreError for the path of a directory.
    """
    name = os.fsdecode(path)
    if not name or "\0" in name:
        raise ValueError(f"a path must not be empty or contain a zero byte: {name!r}")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as exc:
        raise ValueError(f"the path {name!r} cannot be encoded: {exc}") from None
    if os.path.basename(name) in ("", os.curdir, os.pardir):
        raise NotAStoreError(f"{name}: a directory, expected a logstore file")
    try:
        return os.path.abspath(name)
    except OSError as exc:  # the current directory is gone
        raise_open_error(name, exc)


def store_path(path: FilePath) -> str:
    """Return the path of :func:`file_path` with symbolic links resolved."""
    return os.path.realpath(file_path(path))


def time_out(timeout_s: float | None, timeout: float | None) -> float | None:
    """Return the time-out in seconds, from one of its two names.  Raises TypeError for both."""
    if timeout is None:
        return timeout_s
    if timeout_s is not None:
        raise TypeError("give timeout_s or timeout, not both")
    return timeout


def task_key(task_id: str) -> bytes:
    """Return the key of a task id.  Raises ValueError for an id that cannot be stored."""
    if not isinstance(task_id, str):
        raise ValueError(f"a task id must be a str, not {type(task_id).__name__}")
    try:
        key = task_id.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"a task id must be encodable in UTF-8: {exc}") from None
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise ValueError(
            f"a task id must have from 1 to {KEY_BYTES_MAX} bytes in UTF-8, not {len(key)}"
        )
    return key


def whole(name: str, number: int, low: int, high: int | None = None) -> None:
    """Raise ValueError unless an option is an int in the valid range."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"{name} must be an int, not {type(number).__name__}")
    if high is not None and not low <= number <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {number}")
    if number < low:
        raise ValueError(f"{name} must be at least {low}, not {number}")


def positive(name: str, seconds: float) -> None:
    """Raise ValueError unless an option is a number of seconds in the valid range."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ValueError(f"{name} must be a number of seconds, not {type(seconds).__name__}")
    if not 0 < seconds < 1e10:
        raise ValueError(f"{name} must be above zero and below 1e10 seconds, not {seconds}")
