"""The two times of a store: the wall clock's, and those of its records.

Rules: *wall time* is what the system's clock says, held between the limits of what can be stored;
it decides what has expired.  *Record time* orders the records: each has its own, at least the
wall time at which it was written, and later than all before it.  So once the clock is set back,
record times run ahead of it until it has caught up; the two are not compared, except to ask
whether progress is newer than a result's end, for which :func:`end_us` is the result's in record
time.  Both are microseconds since 1970.
"""

from __future__ import annotations

import time

from logstore._engine.frames import RESULT, TIME_MAX, Entry

# A clock that says more is wrong.  Record times may go on from there for as many records.
WALL_MAX = TIME_MAX - 10**15


def now_us() -> int:
    """The wall time now."""
    return min(max(time.time_ns() // 1000, 1), WALL_MAX)


def expiry_us(ttl_s: float | None) -> int:
    """The wall time at which something with this time to live expires, 0 for never."""
    return 0 if ttl_s is None else min(now_us() + max(1, int(ttl_s * 1e6)), TIME_MAX)


def end_us(result: Entry) -> int:
    """Up to which record time progress is older than the end of a result that has one.

    Never before the result's own time, for that may be ahead of the clock that its expiry is of.
    What a compaction leaves of an expired result has it in its expiry.
    """
    return max(result.expires_us, result.time_us if result.kind == RESULT else 0)


def runs_again(result: Entry, progress_us: int) -> bool:
    """Whether progress of this record time is newer than the end that a result has or will have."""
    return bool(result.expires_us) and progress_us > end_us(result)
