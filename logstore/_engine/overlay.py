"""The overlay: the newest frame per task of the current epoch, in memory.

Rules: an overlay belongs to one epoch and only grows; a new epoch gets a new overlay, and the old
one stays a consistent view for its readers.  It is changed under the engine's view lock and read
without it: a single dictionary look-up is atomic.
"""

from __future__ import annotations

from collections.abc import Sequence

from logstore._engine.frames import DELETED, PROGRESS, Entry
from logstore._engine.log import FIRST_OFFSET


class Overlay:
    """Entries by key.  ``state`` is the value of ``header.state`` for which it is complete."""

    __slots__ = ("applied", "changed", "epoch", "progress", "results", "state")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.applied = FIRST_OFFSET  # it has everything in the log below this offset
        self.state = epoch << 32 | FIRST_OFFSET
        self.results: dict[bytes, Entry] = {}  # RESULT and DELETED entries
        self.progress: dict[bytes, Entry | None] = {}  # None: cleared by a deletion
        self.changed: list[tuple[bytes, Entry]] = []  # in the order of the log

    def apply(self, entries: Sequence[tuple[bytes, Entry]], applied: int) -> None:
        """Add the entries of frames that end at ``applied``, in the order of the log."""
        results, progress, changed = self.results, self.progress, self.changed
        for key, entry in entries:
            kind = entry[0]
            if kind == PROGRESS:
                progress[key] = entry
            else:
                results[key] = entry
                if kind == DELETED:
                    progress[key] = None
        changed += entries
        self.applied = applied
        self.state = self.epoch << 32 | applied

    def last_time_us(self) -> int:
        """Return the time of the newest entry, 0 if there is none."""
        return self.changed[-1][1].time_us if self.changed else 0

    def __bool__(self) -> bool:
        return bool(self.changed)
