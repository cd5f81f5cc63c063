"""Listing tasks by time, from the overlay and the table together.

Rules: a listing uses one overlay from its start, which hides the table's records of the same tasks,
so that a concurrent compaction neither duplicates nor loses a task.  The table is read in short
batches, in the order of the list, so that a limit is reached without reading the rest.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import chain, islice

from logstore._codec.hooks import DecHook
from logstore._engine.clock import end_us, now_us
from logstore._engine.frames import DELETED, EXPIRED, FAILED, HAD_RESULT, RESULT, Entry
from logstore._engine.reading import BaseEngine
from logstore._engine.records import Record
from logstore._engine.table import DB_GONE, DB_RESULTS, DB_RUNNING, LISTING_KEYS, Table
from logstore._engine.taskstatus import is_live_progress, is_live_result, is_running
from logstore.errors import CorruptRecordError
from logstore.progress import decode_progress
from logstore.types import Status, TaskInfo


def list_tasks(
    engine: BaseEngine,
    status: Status | None,
    *,
    newest_first: bool,
    limit: int | None,
    dec_hook: DecHook | None = None,
) -> Iterator[TaskInfo]:
    """Yield the tasks of one status, or those that are ready or running, by time."""
    listing = _Listing(engine, newest_first, limit)
    streams: list[Iterator[Record]] = []
    rest: Iterable[Record] = ()
    if status in (None, "ready"):
        streams += listing.finished()
    if status in (None, "running"):
        streams += listing.running()
    if status == "deleted":
        streams += listing.deleted()
    if status == "expired":
        streams += listing.expired()
        rest = listing.taken_away()
    merged = heapq.merge(*streams, key=_time_us, reverse=newest_first)
    return map(partial(_info, dec_hook), islice(chain(merged, rest), limit))


class _Listing:
    """The view of one listing: the overlay, and the time that decides what has expired."""

    _start_us: int  # the newest record in the table at the start

    def __init__(self, engine: BaseEngine, newest_first: bool, limit: int | None) -> None:
        view = engine.view()
        self._engine = engine
        self._newest_first = newest_first
        self._limit = limit
        self._now_us = now_us()
        self._results: dict[bytes, Entry] = {}
        self._progress: dict[bytes, Entry | None] = {}
        parts = view.parts()
        for part in parts:
            self._results.update(dict(part.results))
            self._progress.update(dict(part.progress))
        self._listed: set[bytes] = set()  # the expired results listed from the table
        # Last, so that it has all that the others have.
        self._changed = [change for part in parts for change in list(part.changed)]

    def finished(self) -> list[Iterator[Record]]:
        """Return streams of the tasks with a result."""
        in_log = (
            _record(key, entry)
            for key, entry in (reversed if self._newest_first else iter)(self._changed)
            if self._results.get(key) is entry and is_live_result(entry, self._now_us)
        )
        in_table = (
            record
            for record in self._hidden(self._in_table(DB_RESULTS, alive_us=self._now_us))
            if is_live_result(record.entry, self._now_us)
        )
        return [in_log, in_table]

    def running(self) -> list[Iterator[Record]]:
        """Return streams of the tasks with progress and no result."""
        in_log = [
            _record(key, entry)
            for key, entry in self._progress.items()
            if entry is not None and self._is_running(key, entry)
        ]
        in_table = (
            record
            for record in self._in_table(DB_RUNNING, alive_us=self._now_us)
            if record.key not in self._progress and self._is_running(record.key, record.entry)
        )
        return [self._ordered(in_log), in_table]

    def deleted(self) -> list[Iterator[Record]]:
        """Return streams of the tasks whose result was deleted."""
        in_log = [
            _record(key, entry)
            for key, entry in self._results.items()
            if entry.kind == DELETED and entry.flags & HAD_RESULT
        ]
        in_table = (
            record
            for record in self._in_table(DB_GONE, kind=DELETED)
            if record.entry.flags & HAD_RESULT
        )
        return [self._gone(stream) for stream in (self._ordered(in_log), self._hidden(in_table))]

    def expired(self) -> list[Iterator[Record]]:
        """Return streams of the tasks whose result has expired, removed yet or not."""
        self._start_us = self._engine.from_table(Table.newest_time_us)
        in_log = [
            _expired(_record(key, entry))
            for key, entry in self._results.items()
            if entry.kind == RESULT and not is_live_result(entry, self._now_us)
        ]
        in_log += [
            _record(key, entry) for key, entry in self._results.items() if entry.kind == EXPIRED
        ]
        in_table = (
            record
            for record in self._in_table(DB_GONE, kind=EXPIRED)
            if record.entry.time_us <= self._start_us
        )
        streams = (
            self._ordered(in_log),
            map(_expired, self._noted(self._hidden(self._expired_in_table()))),
            self._hidden(in_table),
        )
        return [self._gone(stream) for stream in streams]

    def taken_away(self) -> Iterator[Record]:
        """Yield expired results that compactions removed before they were listed.

        They got new times, which the lists may have passed.
        """
        found: list[Record] = []
        for record in self._engine.listing(DB_GONE, kind=EXPIRED):
            if record.entry.time_us <= self._start_us:
                break
            if record.key not in self._listed:
                found.append(
                    _record(record.key, record.entry._replace(time_us=end_us(record.entry)))
                )
        yield from self._gone(self._hidden(self._ordered(found)))

    def _noted(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._listed.add(record.key)
            yield record

    def _hidden(self, records: Iterator[Record]) -> Iterator[Record]:
        """Those of which the log says nothing."""
        return (record for record in records if record.key not in self._results)

    def _gone(self, records: Iterator[Record]) -> Iterator[Record]:
        """Leave out the tasks that are running again."""
        return filter(self._is_over, records)

    def _expired_in_table(self) -> Iterator[Record]:
        """Yield the expired results that are still in the table, in batches of short reads."""
        after: bytes | None = None
        size = LISTING_KEYS if self._limit is None else max(self._limit, 1)
        while True:
            read = partial(
                Table.expired_results,
                now_us=self._now_us,
                newest_first=self._newest_first,
                after=after,
                limit=min(size, LISTING_KEYS),
            )
            batch, after = self._engine.from_table(read)
            yield from batch
            if after is None:
                return

    def _is_running(self, key: bytes, progress: Entry) -> bool:
        """Return whether a task runs; False if its result is damaged, as in every list."""
        if not is_live_progress(progress, self._now_us):
            return False
        try:
            return is_running(self._result(key), progress, self._now_us)
        except CorruptRecordError:
            return False

    def _is_over(self, gone: Record) -> bool:
        """Return whether a task whose result was removed is not running again."""
        progress = self._engine.find_progress(gone.key)
        return not is_running(gone.entry, progress, self._now_us)

    def _in_table(self, name: bytes, *, alive_us: int = 0, kind: int = 0) -> Iterator[Record]:
        return self._engine.listing(
            name,
            newest_first=self._newest_first,
            first=self._limit,
            alive_us=alive_us,
            kind=kind,
        )

    def _ordered(self, found: list[Record]) -> Iterator[Record]:
        found.sort(key=_time_us, reverse=self._newest_first)
        return iter(found)

    def _result(self, key: bytes) -> Entry | None:
        entry = self._results.get(key)
        if entry is None:
            entry = self._engine.from_table(partial(Table.get_result, key=key))
        return entry


def _record(key: bytes, entry: Entry) -> Record:
    return Record(key, entry, len(entry.payload))


def _expired(record: Record) -> Record:
    """Return the record that a compaction will leave of an expired result."""
    entry = record.entry
    gone = Entry(EXPIRED, HAD_RESULT, entry.expires_us, end_us(entry), b"")
    return _record(record.key, gone)


def _time_us(record: Record) -> int:
    return record.entry.time_us


_STATUS: dict[int, Status] = {RESULT: "ready", DELETED: "deleted", EXPIRED: "expired"}


def _info(dec_hook: DecHook | None, record: Record) -> TaskInfo:
    key, entry, size = record
    status = _STATUS.get(entry.kind, "running")
    return TaskInfo(
        task_id=key.decode(),
        status=status,
        time=utc(entry.time_us),
        expires_at=utc(entry.expires_us) if entry.expires_us and status != "expired" else None,
        failed=bool(entry.flags & FAILED) and status == "ready",
        size_bytes=size,
        progress=decode_progress(entry.payload, dec_hook) if status == "running" else None,
    )


def utc(time_us: int) -> datetime:
    """Return microseconds since 1970 as an aware datetime."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=time_us)
