"""The kinds of writes: what each puts into the log, and its outcome.

Rules: a write with a condition sees the store as the writes before it in its group leave it.  The
thread that commits the group sets outcome and error, before the caller goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from logstore._engine.clock import end_us, runs_again
from logstore._engine.frames import BURIED, DELETED, EXPIRED, HAD_RESULT, KEEPS_PROGRESS, Entry
from logstore._engine.messages import Message, sequence_of
from logstore._engine.records import Mark
from logstore._engine.schedules import Schedule, schedule_entry
from logstore._engine.taskstatus import is_known, is_live_result, missing_result
from logstore.errors import (
    CorruptRecordError,
    LogstoreError,
    MessageSettledError,
    WriteTimeoutError,
)

INTERRUPTED = WriteTimeoutError("the commit was interrupted; the write's outcome is unknown")


class Lookup:
    """The state of the store for a write with a condition, as of its place in the group."""

    def result(self, key: bytes) -> Entry | None:
        """Return the newest record of the result: RESULT, DELETED or EXPIRED, or None."""
        raise NotImplementedError

    def progress(self, key: bytes) -> Entry | None:
        """Return the newest progress record, expired or not, or None."""
        raise NotImplementedError

    def mark(self, key: bytes) -> Mark:
        """Return the times of the newest records, which are not read."""
        raise NotImplementedError

    def message(self, sequence: int) -> Message | None:
        """Return a message as it is now, live or dead; None if it is settled or unknown."""
        raise NotImplementedError

    def has_message(self, key: bytes) -> bool:
        """Return whether a task has a live message."""
        raise NotImplementedError

    def schedule(self, key: bytes) -> Schedule | None:
        """Return a schedule as it is now.  Raises CorruptRecordError."""
        raise NotImplementedError

    def table_epoch(self) -> int:
        """Return the epoch of the table."""
        raise NotImplementedError


class Write:
    """One write: its entry, and after the commit its outcome."""

    __slots__ = ("entry", "error", "key", "outcome", "refusal", "sync")

    def __init__(self, key: bytes, entry: Entry, *, sync: bool) -> None:
        self.key = key
        self.entry = entry
        self.sync = sync  # whether the group must be flushed before this is acknowledged
        self.outcome: object = None
        self.error: BaseException | None = INTERRUPTED  # None once it is committed
        self.refusal: BaseException | None = None  # its condition did not hold

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        """Return the entry to log, or None if there is nothing to write; may set the outcome.

        ``now_us`` is wall time; the entry will get the record time ``time_us``.
        """
        return self.entry

    def resolve_all(self, lookup: Lookup, now_us: int, time_us: int) -> list[tuple[bytes, Entry]]:
        """As :meth:`resolve`, for writes of several entries: all of them or none get into the log.

        Return them with their keys.
        """
        entry = self.resolve(lookup, now_us, time_us)
        return [] if entry is None else [(self.key, entry)]


class Delete(Write):
    """Delete a result and its progress; the outcome is whether there was a result."""

    __slots__ = ()

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        try:
            current = lookup.result(self.key)
            live, known = is_live_result(current, now_us), is_known(current)
            cleared = live or lookup.progress(self.key) is not None
        except CorruptRecordError:
            live = known = cleared = True  # a deletion removes damage
        self.outcome = live
        return self.entry._replace(flags=HAD_RESULT if known else 0) if cleared else None


class Pop(Write):
    """Delete a result and return its payload; the outcome is the entry that was there."""

    __slots__ = ()

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        current = lookup.result(self.key)
        if current is None or not is_live_result(current, now_us):
            self.refusal = missing_result(self.key, current)
            return None
        self.outcome = current
        return self.entry._replace(flags=HAD_RESULT)


class Retire(Write):
    """Replace a result that has expired by what an expired result leaves, or evict one.

    ``result`` is the record that is meant, whose payload does not matter: it is not read again, as
    it may be large.  Nothing is written if the task has a newer one.  An eviction is flushed before
    it is seen, because a crash must not bring the result back; one that has expired stays so.  It
    has the epoch of the table in which there were too many results: a later one has others.
    """

    __slots__ = ("counted_in", "result")

    def __init__(self, key: bytes, result: Entry, *, counted_in: int | None = None) -> None:
        evicts = counted_in is not None
        super().__init__(key, Entry(EXPIRED, HAD_RESULT, 0, 0, b""), sync=evicts)
        self.result = result
        self.counted_in = counted_in  # None: it has expired

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        evicts = self.counted_in is not None
        if evicts and lookup.table_epoch() != self.counted_in:
            return None
        if not evicts and is_live_result(self.result, now_us):
            return None
        try:
            mark = lookup.mark(self.key)
        except CorruptRecordError:
            return None  # for a check to find
        if mark.result_us != self.result.time_us:
            return None
        entry = self.entry._replace(expires_us=time_us if evicts else end_us(self.result))
        if runs_again(entry, mark.progress_us):
            return entry._replace(flags=HAD_RESULT | KEEPS_PROGRESS)
        return entry


class Put(Write):
    """Enqueue a message, unless its task has one; the outcome is whether it was enqueued."""

    __slots__ = ()

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        self.outcome = not lookup.has_message(self.key)
        return self.entry if self.outcome else None


class Change(Write):
    """Settle, return or bury a message; the outcome is whether it was there.

    A dead message can be settled, and returned, but not buried again.  With ``must`` it is refused
    where there is no such message: what is written with it is not written then.
    """

    __slots__ = ("must",)

    def __init__(self, key: bytes, entry: Entry, *, must: bool = False) -> None:
        super().__init__(key, entry, sync=True)
        self.must = must

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        message = lookup.message(sequence_of(self.entry))
        self.outcome = message is not None and not (self.entry.kind == BURIED and message.reason)
        if self.must and not self.outcome:
            self.refusal = MessageSettledError(
                f"the message of task {self.key.decode('utf-8', 'replace')!r} was settled meanwhile"
            )
        return self.entry if self.outcome else None


class PutSchedule(Write):
    """Add a schedule or change it; the outcome is whether there was anything to change.

    One that is new, or ``restarts``, is sent for slots at ``since_us`` or later; otherwise it goes
    on where it was.
    """

    __slots__ = ("definition", "restarts", "since_us")

    def __init__(self, key: bytes, definition: bytes, since_us: int, *, restarts: bool) -> None:
        super().__init__(key, schedule_entry(definition, since_us, since_us - 1), sync=True)
        self.definition = definition
        self.since_us = since_us
        self.restarts = restarts

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        try:
            current = lookup.schedule(self.key)
        except CorruptRecordError:
            current = None  # it replaces damage
        self.outcome = current is None or current.definition != self.definition
        if not self.outcome:
            return None
        if current is None:
            return self.entry
        if self.restarts:
            last_us = max(self.since_us - 1, current.last_us)
            return schedule_entry(self.definition, self.since_us, last_us)
        return schedule_entry(self.definition, current.since_us, current.last_us)


class RemoveSchedule(Write):
    """Remove a schedule; the outcome is whether there was one."""

    __slots__ = ()

    def __init__(self, key: bytes) -> None:
        super().__init__(key, schedule_entry(b"", 0, 0), sync=True)

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        try:
            self.outcome = lookup.schedule(self.key) is not None
        except CorruptRecordError:
            self.outcome = True  # a removal removes damage
        return self.entry if self.outcome else None


class SlotTakenError(LogstoreError):
    """A slot of a schedule was sent by another process, or the schedule has changed."""


class Claim(Write):
    """Take a slot of a schedule, for the message that is written together with this.

    It is refused if the schedule has another definition by now, or this slot or a later one was
    taken; one later than ``ahead_us`` is no evidence, because the clock was wrong then.  With
    ``once`` the schedule is removed.
    """

    __slots__ = ("ahead_us", "once", "schedule", "slot_us")

    def __init__(
        self, schedule: Schedule, slot_us: int, *, ahead_us: int, once: bool = False
    ) -> None:
        definition = b"" if once else schedule.definition
        super().__init__(
            schedule.key, schedule_entry(definition, schedule.since_us, slot_us), sync=True
        )
        self.schedule = schedule
        self.slot_us = slot_us
        self.ahead_us = ahead_us
        self.once = once

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        current = lookup.schedule(self.key)
        if (
            current is None
            or current.definition != self.schedule.definition
            or self.slot_us <= current.last_us <= self.ahead_us
        ):
            name = self.key.decode("utf-8", "replace")
            self.refusal = SlotTakenError(
                f"this slot of the schedule {name!r} was sent by another process, or the schedule "
                f"has changed"
            )
            return None
        definition = b"" if self.once else current.definition
        return schedule_entry(definition, current.since_us, self.slot_us)


class Together(Write):
    """Several writes, of which all or none are in the log after any crash.

    If one of them is refused, none is written, and this has its error.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Write]) -> None:
        largest = max(parts, key=lambda part: len(part.entry.payload))
        super().__init__(largest.key, largest.entry, sync=any(part.sync for part in parts))
        self.parts = parts

    def resolve_all(self, lookup: Lookup, now_us: int, time_us: int) -> list[tuple[bytes, Entry]]:
        found: list[tuple[bytes, Entry]] = []
        for part in self.parts:
            entry = part.resolve(lookup, now_us, time_us + len(found))
            if part.refusal is not None:
                self.refusal = part.refusal
                return []
            if entry is not None:
                found.append((part.key, entry))
        return found


class Flush(Write):
    """Sync everything acknowledged so far."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(b"", Entry(DELETED, 0, 0, 0, b""), sync=True)

    def resolve(self, lookup: Lookup, now_us: int, time_us: int) -> Entry | None:
        return None
