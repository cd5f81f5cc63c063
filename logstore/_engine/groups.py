"""Committing a group of writes: what is logged for each write, and what each caller gets.

Rules: called by the thread that leads.  It appends the group under the writer lock, gives that
back, and then flushes and publishes, with what other processes have appended meanwhile.  A large
write goes into the table by itself, the others into the log together.  A write with a condition is
judged by all writes before it, those that are not published yet included; so its caller gets the
outcome only when all of these are published.  Behind the acknowledgement, where the maintenance
thread cannot keep up, it removes results that are due.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator

import lmdb

from logstore._engine import clock, retention, sealing
from logstore._engine.engine import Engine, Keyed
from logstore._engine.frames import MORE, OFFSET_MAX, PROGRESS, RESULT, TIME_MAX, Entry
from logstore._engine.log import FIRST_OFFSET
from logstore._engine.messages import Message
from logstore._engine.options import LARGE_BYTES
from logstore._engine.overlay import Overlay
from logstore._engine.readers import OldReadersError
from logstore._engine.records import Mark
from logstore._engine.schedules import Schedule
from logstore._engine.shelter import is_interrupt
from logstore._engine.systemerrors import write_error
from logstore._engine.table import Table
from logstore._engine.writes import INTERRUPTED, Lookup, Write
from logstore.errors import LogstoreError, WriteError

PARTS = 16  # of a log: after each, the writers see to it that removals keep up with results
REMOVED_MAX = 2000  # by one writer behind one commit, which takes a tenth of a second

Segment = tuple[list[Write], int, bool]  # where it ends in the log, whether it needs a flush


def commit_group(engine: Engine, group: list[Write], ack: Callable[[], object] = bool) -> None:
    """Commit a group; every write gets its outcome or its error.

    ``ack`` is called as soon as these are set; a compaction that is due comes after it.
    """

    def commit(deadline: float) -> None:
        _commit(engine, group, deadline)
        ack()
        _keep_up(engine)
        sealing.compact_if_due(engine)

    try:
        engine.in_turn(commit)
    except Exception as exc:
        if is_interrupt(exc):
            raise
        _fail(group, write_error(engine.path, exc))


def _commit(engine: Engine, group: list[Write], deadline: float) -> None:
    for segment in engine.appending(lambda: _append(engine, group, deadline), deadline):
        _publish(engine, segment, deadline)


def remove_due(engine: Engine, timeout_s: float) -> bool:
    """Remove some results that have expired or are over a limit; False if there are none.

    Raises LogstoreError.
    """

    def remove(deadline: float) -> bool:
        removed = _remove_some(engine, deadline)
        sealing.compact_if_due(engine, timeout_s)
        return removed > 0

    return engine.in_turn(remove, timeout_s)


def _remove_some(engine: Engine, deadline: float) -> int:
    """Return how many writes there were."""
    group = next(retention.removals(engine), [])
    if group:
        _commit(engine, group, deadline)
    for write in group:
        if write.error is not None:
            raise write.error
    return len(group)


def _keep_up(engine: Engine) -> None:
    """Remove a few more results than the log has brought, if so many are due.

    Usually the maintenance thread has done so, with pauses.  Where it cannot keep up, the writers
    do it in small parts, or the table would grow without end.  As
    :func:`~logstore._engine.sealing.compact_if_due`.
    """
    appended, options = engine.header.appended, engine.options
    before = max(engine.kept_up_at, appended & ~OFFSET_MAX | FIRST_OFFSET)
    if appended - before < options.compact_at // PARTS:
        return
    engine.kept_up_at = appended
    deadline = time.monotonic() + options.write_timeout_s
    try:
        if engine.deferral.applies() or not engine.expiry_due():
            return
        kinds = [entry.kind for entry in list(engine.view().results.values())]
        brought = kinds.count(RESULT)
        wanted = min(brought + brought // 4 - (len(kinds) - brought), REMOVED_MAX)
        while wanted > 0 and (removed := _remove_some(engine, deadline)):
            wanted -= removed
    except (OSError, lmdb.Error, LogstoreError) as exc:
        engine.counters.compaction_errors += 1
        engine.note_error(exc)


def _append(engine: Engine, group: list[Write], deadline: float) -> list[Segment]:
    """Put a group into the log, and its large writes into the table.  Writer lock held.

    Returns the writes that are in the log and may not be published yet.
    """
    appended: list[Segment] = []
    for writes in _segments(group):
        try:
            if engine.must_recover():  # also if the segment before this one has failed
                engine.settled_within(lambda: None, deadline)
            resolved, flush = _resolve(engine, writes)
            if _goes_to_table(engine, resolved):
                if _fold(engine, resolved[0], deadline):
                    _succeed(writes)
                    continue
                resolved, flush = _resolve(engine, writes)  # later than what was just expired
            point = engine.append(resolved, sync=flush, deadline=deadline)
            appended.append((writes, point, flush))
        except Exception as exc:
            if is_interrupt(exc):
                raise
            _fail(writes, write_error(engine.path, exc))
    return appended


def _fold(engine: Engine, large: Keyed, deadline: float) -> bool:
    """Put a large record into the table; return False if readers have put that off."""

    def fold() -> bool:
        try:
            engine.fold_large(*large)
        except OldReadersError:
            return False
        return True

    return engine.settled_within(fold, deadline)


def _publish(engine: Engine, segment: Segment, deadline: float) -> None:
    """Publish some writes; each gets its outcome or its error.  No lock of processes is held."""
    writes, point, flush = segment
    try:
        # Also if none of them writes anything: it acknowledges all before it as durable.
        engine.publish(point, deadline, flush=flush)
    except Exception as exc:
        if is_interrupt(exc):
            raise
        _fail(writes, write_error(engine.path, exc))
    else:
        _succeed(writes)


def _succeed(writes: list[Write]) -> None:
    for write in writes:
        write.error = write.refusal


def _resolve(engine: Engine, writes: list[Write]) -> tuple[list[Keyed], bool]:
    """Return the entries to log, with their times, and whether they need a flush.

    Sets the errors of failed conditions.
    """
    header = engine.header
    now_us = clock.now_us()
    time_us = max(now_us, header.last_time_us)
    resolved: list[Keyed] = []
    flush = False
    pending: _Pending | None = None  # made for the first write with a condition
    for write in writes:
        flush = flush or write.sync
        if type(write) is Write and pending is None:  # most are, and need no list
            time_us += 1
            entry = write.entry
            entry = Entry(entry[0], entry[1], time_us, entry[3], entry[4])
            resolved.append((write.key, entry))
            continue
        if pending is None:
            pending = _Pending(engine, resolved)
        try:
            chain = write.resolve_all(pending, now_us, time_us + 1)
        except Exception as exc:
            if is_interrupt(exc):
                raise
            write.refusal = exc
            continue
        left = len(chain)
        for key, entry in chain:
            time_us += 1
            left -= 1
            flags = entry[1] | MORE if left else entry[1]
            entry = Entry(entry[0], flags, time_us, entry[3], entry[4])
            resolved.append((key, entry))
            pending.add(key, entry)
    if time_us > TIME_MAX:
        raise WriteError(errno.EOVERFLOW, f"{engine.path}: no times are left")
    header.last_time_us = time_us
    return resolved, flush


def _goes_to_table(engine: Engine, resolved: list[Keyed]) -> bool:
    """Return whether to put a large record into the table and not into the log."""
    if len(resolved) != 1:
        return False
    entry = resolved[0][1]
    size = len(entry.payload)
    return size > LARGE_BYTES and entry.kind <= PROGRESS and not engine.deferral.applies(size)


class _Pending(Lookup):
    """The store as the next write of a group sees it."""

    def __init__(self, engine: Engine, resolved: list[Keyed]) -> None:
        self._engine = engine
        self._group = Overlay(0)  # what the writes before it in the group leave
        self._table_epoch: int | None = None
        self._group.apply(resolved, 0)

    def add(self, key: bytes, entry: Entry) -> None:
        self._group.apply([(key, entry)], 0)

    def result(self, key: bytes) -> Entry | None:
        entry = self._group.result(key)
        return self._engine.latest_trace(key) if entry is None else entry

    def progress(self, key: bytes) -> Entry | None:
        is_known, progress = self._group.find_progress(key)
        return progress if is_known else self._engine.latest_progress(key)

    def mark(self, key: bytes) -> Mark:
        return self._engine.latest_mark(key, self._group)

    def message(self, sequence: int) -> Message | None:
        return self._engine.latest_message(sequence, self._group)

    def has_message(self, key: bytes) -> bool:
        return self._engine.has_message(key, self._group)

    def schedule(self, key: bytes) -> Schedule | None:
        return self._engine.latest_schedule(key, self._group)

    def table_epoch(self) -> int:
        if self._table_epoch is None:
            self._table_epoch = self._engine.from_table(Table.read_meta).epoch
        return self._table_epoch


def _segments(group: list[Write]) -> Iterable[list[Write]]:
    """Split a group, in its order, so that each large write is alone."""
    return (group,) if len(group) == 1 else _split(group)


def _split(group: list[Write]) -> Iterator[list[Write]]:
    segment: list[Write] = []
    for write in group:
        if len(write.entry.payload) > LARGE_BYTES:
            if segment:
                yield segment
            yield [write]
            segment = []
        else:
            segment.append(write)
    if segment:
        yield segment


def _fail(writes: list[Write], error: BaseException) -> None:
    for write in writes:
        if write.error is INTERRUPTED:
            write.error = error
