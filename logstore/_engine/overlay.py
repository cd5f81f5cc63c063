"""The overlay: the newest frame per task of the current epoch, in memory.

Rules: an overlay belongs to one epoch and only grows; a new epoch gets a new overlay, and readers
that still hold the old one keep a consistent view.  Behind it may be the overlay of the epoch
before, whose log is sealed and being folded into the table.  It may stay there when that is done:
the table has the same then.  An overlay is changed under the engine's view lock and read without
it: a single dictionary look-up is atomic.  :class:`Unpublished` holds what is in the log behind the
overlay; conditional writes see it, readers do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from logstore._engine.frames import KEEPS_PROGRESS, PROGRESS, RESULT, Entry
from logstore._engine.log import FIRST_OFFSET

Batch = tuple[Mapping[bytes, Entry], Mapping[bytes, "Entry | None"]]  # results, progress


class Overlay:
    """Entries by key.  ``state`` is the value of ``header.state`` for which it is complete."""

    __slots__ = ("applied", "changed", "epoch", "progress", "results", "sealed", "state")

    def __init__(self, epoch: int, sealed: Overlay | None = None) -> None:
        self.epoch = epoch
        self.sealed = sealed  # of the epoch before; complete, with none behind it
        self.applied = FIRST_OFFSET  # it has everything in the log below this offset
        self.state = epoch << 32 | FIRST_OFFSET
        self.results: dict[bytes, Entry] = {}  # RESULT, DELETED and EXPIRED entries
        self.progress: dict[bytes, Entry | None] = {}  # None: cleared with the result
        self.changed: list[tuple[bytes, Entry]] = []  # in the order of the log

    def apply(self, entries: Sequence[tuple[bytes, Entry]], applied: int) -> None:
        """Add the entries of frames that end at ``applied``, in the order of the log.

        If there is no memory for it, or a signal handler raises, the same call is made again: it
        is not done before the last three steps, and between these nothing can fail.
        """
        state = self.epoch << 32 | applied
        results, progress, changed = self.results, self.progress, self.changed
        for key, entry in entries:
            kind = entry[0]
            if kind == PROGRESS:
                progress[key] = entry
            else:
                results[key] = entry
                if kind != RESULT and not entry[1] & KEEPS_PROGRESS:
                    progress[key] = None
        changed += entries
        self.applied = applied
        self.state = state

    def result(self, key: bytes) -> Entry | None:
        """Return the newest RESULT, DELETED or EXPIRED entry of a task."""
        entry = self.results.get(key)
        if entry is None:
            sealed = self.sealed
            if sealed is not None:
                entry = sealed.results.get(key)
        return entry

    def find_progress(self, key: bytes) -> tuple[bool, Entry | None]:
        """Return whether there is anything about the progress of a task, and what."""
        sealed = self.sealed
        for part in (self,) if sealed is None else (self, sealed):
            if key in part.progress:
                return True, part.progress[key]
        return False, None

    def changes(self) -> list[tuple[bytes, Entry]]:
        """Return all entries, the sealed ones too, in the order of the log."""
        return [change for part in self.parts() for change in list(part.changed)]

    def newer_than(self, epoch: int) -> list[Batch]:
        """Return what a table of this epoch lacks, in the order in which it is to be folded."""
        return [(part.results, part.progress) for part in self.parts() if part.epoch >= epoch]

    def parts(self) -> tuple[Overlay, ...]:
        """Return the sealed overlay, if there is one, and this one."""
        sealed = self.sealed
        return (self,) if sealed is None else (sealed, self)

    def frozen(self) -> Overlay:
        """Return an overlay that has the same and does not grow."""
        copy: Overlay | None = None
        for part in self.parts():
            copy = Overlay(part.epoch, copy)
            copy.apply(list(part.changed), part.applied)
        assert copy is not None
        return copy

    def last_time_us(self) -> int:
        """Return the time of the newest entry, 0 if there is none."""
        changes = self.changes()
        return changes[-1][1].time_us if changes else 0

    def __bool__(self) -> bool:
        return bool(self.changed or self.sealed)


class Unpublished:
    """The frames behind an overlay, in the order of the log, without a gap.

    A signal handler may interrupt each method: what it has done then is done again.
    """

    def __init__(self) -> None:
        # Where the frames of a group begin, where they end, and their entries.
        self._groups: deque[tuple[int, int, Sequence[tuple[bytes, Entry]]]] = deque()
        self._index: Overlay | None = None  # of all groups, made when it is asked for

    def end(self, overlay: Overlay) -> int:
        """Return the offset behind the last frame, of the overlay or of this."""
        return max(overlay.applied, self._groups[-1][1]) if self._groups else overlay.applied

    def add(self, entries: Sequence[tuple[bytes, Entry]], start: int, end: int) -> None:
        """Take in the entries of the frames between two offsets; writer lock held."""
        self._index = None
        self._groups.append((start, end, entries))

    def move_to(self, overlay: Overlay, committed: int) -> None:
        """Move the frames up to ``committed`` into the overlay, as far as there is no gap."""
        groups = self._groups
        self._index = None
        while groups and groups[0][1] <= committed:
            start, end, entries = groups[0]
            if start == overlay.applied:
                overlay.apply(entries, end)
            groups.popleft()

    def clear(self) -> None:
        """Forget everything: a new epoch has begun."""
        self._groups.clear()
        self._index = None

    def index(self) -> Overlay:
        """Return the newest entries by key; not to be changed."""
        index = self._index
        if index is None:
            index = Overlay(0)
            for _, end, entries in tuple(self._groups):  # a reader may move some meanwhile
                index.apply(entries, end)
            self._index = index
        return index
