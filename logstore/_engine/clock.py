"""The two times of a store: wall time and record time, both in microseconds since 1970.

Rules: *wall time* is the system's clock, limited to what can be stored; it decides what has
expired.  *Record time* orders the records: each record has its own, at least the wall time at which
it was written, and later than all before it.  After the clock has been set back, record times are
ahead of it until it has caught up.  The two are not compared, with one exception: whether progress
is newer than the end of a result, which :func:`end_us` gives in record time.
"""

from __future__ import annotations

import time

from logstore._engine.frames import RESULT, TIME_MAX, Entry

# A later clock is wrong.  The rest, up to TIME_MAX, is for the record times of later records.
WALL_MAX = TIME_MAX - 10**15


def now_us() -> int:
    """Return the wall time now."""
    return min(max(time.time_ns() // 1000, 1), WALL_MAX)


def expiry_us(ttl_s: float | None) -> int:
    """Return the wall time at which a record with this time to live expires, 0 for never."""
    return 0 if ttl_s is None else min(now_us() + max(1, int(ttl_s * 1e6)), TIME_MAX)


def end_us(result: Entry) -> int:
    """Return the end of a result in record time; progress up to it is older than the end.

    Never before the result's own time, which may be ahead of the clock that its expiry is from.
    The EXPIRED record that a compaction leaves has the end as its expiry.
    """
    return max(result.expires_us, result.time_us if result.kind == RESULT else 0)


def runs_again(result: Entry, progress_us: int) -> bool:
    """Return whether progress of this time is newer than the end of a result, past or future."""
    return bool(result.expires_us) and progress_us > end_us(result)
