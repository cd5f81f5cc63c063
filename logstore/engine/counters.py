"""What one process has done to a store since it opened it, for ``stats()``.

Rules: counters are changed under the writer lock, or by the one thread that opens the store, and
read without a lock: a reader may see one event counted and its neighbour not yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GROUP_SIZES_KEPT = 512


@dataclass(slots=True)
class Counters:
    """Counts since this process opened the store; pauses are in seconds."""

    commits: int = 0
    writes: int = 0
    flushes: int = 0
    group_size_max: int = 0
    group_sizes: list[int] = field(default_factory=list)  # the last ones
    compactions: int = 0
    compaction_errors: int = 0
    compaction_pause_max_s: float = 0.0
    compaction_pause_total_s: float = 0.0
    last_compaction_error: str | None = None
    recoveries: int = 0
    recovered_frames: int = 0
    torn_tails: int = 0
    vacuums: int = 0

    def count_group(self, writes: int) -> None:
        """A group has been published."""
        self.commits += 1
        self.writes += writes
        if writes > self.group_size_max:
            self.group_size_max = writes
        sizes = self.group_sizes
        sizes.append(writes)
        if len(sizes) >= 2 * GROUP_SIZES_KEPT:
            del sizes[:GROUP_SIZES_KEPT]

    def count_compaction(self, pause_s: float) -> None:
        """The log has been folded into the table."""
        self.compactions += 1
        self.flushes += 2
        self.compaction_pause_total_s += pause_s
        self.compaction_pause_max_s = max(self.compaction_pause_max_s, pause_s)
