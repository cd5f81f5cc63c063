"""Putting compactions off: while a copy of the table advances, or readers of an old snapshot read.

Rules: a copy says in the shared header until when compactions are put off, and repeats that at each
step.  One that is stopped or dead does not, and compactions go on.  The log is bounded: when it has
COPY_LOG_FACTOR times its limit, the copies are overtaken.  Used without any lock: a race costs a
copy that begins again, or a compaction that comes a little later.
"""

from __future__ import annotations

import time

from logstore._engine.frames import OFFSET_MAX
from logstore._engine.header import COPIES, Copy, SharedHeader

COPY_LOG_FACTOR = 64  # while a copy advances, the log may grow to this many times its limit
HOLD_NS = 10 * 10**9  # a copy whose step takes longer does not advance
PUT_OFF_S = 0.25  # after readers have put a compaction off, the next is tried so much later


class Deferral:
    """What one process knows about it, and says.  Safe to use from any thread."""

    def __init__(self, header: SharedHeader, compact_at: int) -> None:
        self._header = header
        self._compact_at = compact_at
        self._held_until_ns = 0  # what this process last wrote to put compactions off
        self._put_off_until = 0.0

    def hold(self, by: Copy) -> None:
        """Put compactions off for HOLD_NS, for a copy, which repeats the call."""
        self._held_until_ns = time.monotonic_ns() + HOLD_NS
        self._header.hold_until(by, self._held_until_ns)

    def let_go_on(self, by: Copy) -> None:
        """Undo :meth:`hold`, unless another process has called it since."""
        if self._header.held_until_ns(by) == self._held_until_ns:
            self._header.hold_until(by, 0)

    def is_held(self, by: Copy | None = None) -> bool:
        """Return whether a copy of this kind, or of any, advances in any process."""
        now_ns = time.monotonic_ns()
        return any(
            0 < self._header.held_until_ns(each) - now_ns <= HOLD_NS
            for each in (COPIES if by is None else (by,))
        )

    def put_off(self) -> None:
        """Note that readers of an old snapshot have put a compaction of this process off."""
        self._put_off_until = time.monotonic() + PUT_OFF_S

    def applies(self, coming_bytes: int = 0) -> bool:
        """Return whether to put a compaction off, although so many bytes are to be appended.

        If the log may not grow, the copies are overtaken: they do not count until they go on.
        """
        if time.monotonic() < self._put_off_until:
            return True
        if not self.is_held():
            return False
        end = (self._header.appended & OFFSET_MAX) + coming_bytes
        if end <= self._compact_at * COPY_LOG_FACTOR:
            return True
        for by in COPIES:
            self._header.hold_until(by, 0)
        return False
