"""What callers pass in, checked: task ids, times to live.

Rules: nothing is written when one of these raises; times are microseconds since 1970.
"""

from __future__ import annotations

import time

from logstore.engine.frames import KEY_BYTES_MAX


def task_key(task_id: str) -> bytes:
    """A task id as the store's key.  Raises ValueError for one that cannot be stored."""
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


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def expiry_us(ttl_s: float | None) -> int:
    """When something with this time to live expires, 0 for never."""
    return 0 if ttl_s is None else now_us() + max(1, int(ttl_s * 1e6))


def positive(name: str, seconds: float) -> None:
    """Raise ValueError unless an option is a sensible number of seconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ValueError(f"{name} must be a number of seconds, not {type(seconds).__name__}")
    if not 0 < seconds < 1e10:
        raise ValueError(f"{name} must be above zero and below 1e10 seconds, not {seconds}")
