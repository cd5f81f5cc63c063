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

from logstore._engine.frames import (
    KEEPS_PROGRESS,
    MESSAGE,
    PROGRESS,
    QUEUE,
    RESULT,
    SCHEDULE,
    Entry,
)
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.messages import sequence_of

Change = tuple[bytes, Entry]
Batch = tuple[Mapping[bytes, Entry], Mapping[bytes, "Entry | None"]]  # results, progress


class Queued:
    """What the frames of an epoch say about queues."""

    __slots__ = ("changes", "held", "messages", "order", "schedules", "settings")

    def __init__(self) -> None:
        self.messages: dict[int, tuple[bytes, Entry]] = {}  # enqueued in this epoch, by sequence
        self.held: dict[bytes, list[int]] = {}  # their sequences, by task id
        self.changes: dict[int, tuple[bytes, Entry]] = {}  # the newest other frame of a message
        self.settings: dict[bytes, Entry] = {}  # by the queue's name
        self.schedules: dict[bytes, Entry] = {}  # by their ids
        # All frames, in the order of the log; one may be there twice.
        self.order: list[tuple[bytes, Entry]] = []

    def apply(self, entries: Sequence[tuple[bytes, Entry]]) -> None:
        """Add entries in the order of the log; to do it again changes nothing that counts."""
        for change in entries:
            key, entry = change
            if entry[0] == MESSAGE:
                self.messages[entry[2]] = change
                self.held.setdefault(key, []).append(entry[2])
            elif entry[0] == QUEUE:
                self.settings[key] = entry
            elif entry[0] == SCHEDULE:
                self.schedules[key] = entry
            else:
                self.changes[sequence_of(entry)] = change
        self.order += entries


class Overlay:
    """Entries by key.  ``state`` is the value of ``header.state`` for which it is complete."""

    __slots__ = ("applied", "changed", "epoch", "progress", "queued", "results", "sealed", "state")

    def __init__(self, epoch: int, sealed: Overlay | None = None) -> None:
        self.epoch = epoch
        self.sealed = sealed  # of the epoch before; complete, with none behind it
        self.applied = FIRST_OFFSET  # it has everything in the log below this offset
        self.state = epoch << 32 | FIRST_OFFSET
        self.results: dict[bytes, Entry] = {}  # RESULT, DELETED and EXPIRED entries
        self.progress: dict[bytes, Entry | None] = {}  # None: cleared with the result
        self.changed: list[tuple[bytes, Entry]] = []  # of tasks, in the order of the log
        self.queued: Queued | None = None  # None: nothing about queues

    def apply(self, entries: Sequence[tuple[bytes, Entry]], applied: int) -> None:
        """Add the entries of frames that end at ``applied``, in the order of the log.

        If there is no memory for it, or a signal handler raises, the same call is made again: it
        is not done before the last three steps, and between these nothing can fail.
        """
        state = self.epoch << 32 | applied
        results, progress, changed = self.results, self.progress, self.changed
        queued: list[tuple[bytes, Entry]] = []
        for key, entry in entries:
            kind = entry[0]
            if kind >= MESSAGE:
                queued.append((key, entry))
            elif kind == PROGRESS:
                progress[key] = entry
            else:
                results[key] = entry
                if kind != RESULT and not entry[1] & KEEPS_PROGRESS:
                    progress[key] = None
        if queued:
            if self.queued is None:
                self.queued = Queued()
            self.queued.apply(queued)
            entries = [each for each in entries if each[1][0] < MESSAGE]
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

    def entries(self) -> list[tuple[bytes, Entry]]:
        """Return all entries without the sealed ones: those of tasks, then those about queues."""
        return [*self.changed, *(self.queued.order if self.queued is not None else ())]

    def newer_than(self, epoch: int) -> list[Batch]:
        """Return what a table of this epoch lacks, in the order in which it is to be folded."""
        return [(part.results, part.progress) for part in self.parts() if part.epoch >= epoch]

    def queued_since(self, epoch: int) -> list[Queued]:
        """Return what a table of this epoch lacks about queues, in the order of the logs."""
        return [part.queued for part in self.parts() if part.epoch >= epoch and part.queued]

    def find_message(self, sequence: int) -> tuple[Change | None, Change | None]:
        """Return the frame that enqueued a message, and the newest other one about it."""
        message = change = None
        for part in reversed(self.parts()):
            queued = part.queued
            if queued is not None:
                message = message or queued.messages.get(sequence)
                change = change or queued.changes.get(sequence)
        return message, change

    def held(self, key: bytes) -> list[int]:
        """Return the sequences of the messages of a task that were enqueued, settled ones too."""
        of_parts = (part.queued.held.get(key, []) for part in self.parts() if part.queued)
        return [sequence for sequences in of_parts for sequence in sequences]

    def find_settings(self, queue: bytes) -> Entry | None:
        """Return the newest settings of a queue."""
        for part in reversed(self.parts()):
            if part.queued is not None and queue in part.queued.settings:
                return part.queued.settings[queue]
        return None

    def find_schedule(self, key: bytes) -> Entry | None:
        """Return the newest frame of a schedule."""
        for part in reversed(self.parts()):
            if part.queued is not None and key in part.queued.schedules:
                return part.queued.schedules[key]
        return None

    def parts(self) -> tuple[Overlay, ...]:
        """Return the sealed overlay, if there is one, and this one."""
        sealed = self.sealed
        return (self,) if sealed is None else (sealed, self)

    def frozen(self) -> Overlay:
        """Return an overlay that has the same and does not grow."""
        copy: Overlay | None = None
        for part in self.parts():
            copy = Overlay(part.epoch, copy)
            copy.apply(part.entries(), part.applied)
        assert copy is not None
        return copy

    def last_time_us(self) -> int:
        """Return the time of the newest entry, 0 if there is none."""
        last = self.changes()[-1:]
        last += [change for part in self.queued_since(0) for change in part.order[-1:]]
        return max((entry.time_us for _, entry in last), default=0)

    def __bool__(self) -> bool:
        return bool(self.changed or self.sealed or self.queued)


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
