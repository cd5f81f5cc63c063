"""Counts of what this process has done to a store since it opened it, for ``stats()``.

Rules: counters are changed by the thread that has ``commit_lock``, by one that folds a sealed log,
or by the one thread that opens the store: of two changes at a time one may be lost.  They are
read without a lock: a reader may see one counter of an event changed and another not yet.
"""

from __future__ import annotations

from collections import deque

GROUP_SIZES_KEPT = 512


class Counters:
    """Counts since this process opened the store; pauses are in seconds."""

    def __init__(self) -> None:
        self.commits = 0
        self.writes = 0
        self.flushes = 0
        self.group_size_max = 0
        self._group_sizes: deque[int] = deque(maxlen=GROUP_SIZES_KEPT)  # of the last groups
        self.compactions = 0
        self.compaction_errors = 0
        self.compaction_pause_max_s = 0.0
        self.compaction_pause_total_s = 0.0
        self.last_compaction_error: str | None = None
        self.recoveries = 0
        self.recovered_frames = 0
        self.torn_tails = 0
        self.vacuums = 0

    def count_group(self, writes: int) -> None:
        """Count a group that has been published."""
        self.commits += 1
        self.writes += writes
        if writes > self.group_size_max:
            self.group_size_max = writes
        self._group_sizes.append(writes)

    def group_size_mean(self) -> float:
        """Return the mean size of the last groups; 0 if there were none."""
        sizes = self._group_sizes.copy()
        return sum(sizes) / len(sizes) if sizes else 0.0

    def count_compaction(self, pause_s: float = 0.0) -> None:
        """Count a compaction, and how long it held the locks of writers."""
        self.compactions += 1
        self.flushes += 2
        self.compaction_pause_total_s += pause_s
        self.compaction_pause_max_s = max(self.compaction_pause_max_s, pause_s)
