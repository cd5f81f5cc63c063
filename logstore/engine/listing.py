"""Listing tasks by time, out of the overlay and the table's index together.

Rules: one overlay is taken at the start and hides the table's records of its keys, so that a
compaction meanwhile neither doubles nor loses a task.  The index is read in short batches, and a
few of many finished tasks are found without a look at the rest.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice

from logstore.codec_hooks import DecHook
from logstore.engine.frames import DELETED, EXPIRED, FAILED, HAD_RESULT, RESULT, Entry
from logstore.engine.reading import Reading
from logstore.engine.records import Record
from logstore.engine.states import is_live_result, is_running
from logstore.engine.table import GONE, RESULTS, RUNNING, Table
from logstore.progress import decode_progress
from logstore.types import Status, TaskInfo


def list_tasks(
    engine: Reading,
    status: Status | None,
    *,
    newest_first: bool,
    limit: int | None,
    dec_hook: DecHook | None = None,
) -> Iterator[TaskInfo]:
    """The tasks of one status, or finished and running ones, by time."""
    listing = _Listing(engine, newest_first, limit)
    streams: list[Iterator[Record]] = []
    if status in (None, "ready"):
        streams += listing.finished()
    if status in (None, "running"):
        streams += listing.running()
    if status in ("deleted", "expired"):
        streams += listing.gone(DELETED if status == "deleted" else EXPIRED)
    merged = heapq.merge(*streams, key=_time_us, reverse=newest_first)
    return map(partial(_info, dec_hook), islice(merged, limit))


class _Listing:
    """One listing's view: the overlay as it was, and the time that decides what has expired."""

    def __init__(self, engine: Reading, newest_first: bool, limit: int | None) -> None:
        view = engine.view()
        self._engine = engine
        self._newest_first = newest_first
        self._limit = limit
        self._now_us = time.time_ns() // 1000
        self._results = dict(view.results)
        self._progress = dict(view.progress)
        self._changed = list(view.changed)  # behind the others, so that it has all that they have

    def finished(self) -> list[Iterator[Record]]:
        """Tasks with a result."""
        in_log = (
            _record(key, entry)
            for key, entry in (reversed if self._newest_first else iter)(self._changed)
            if self._results.get(key) is entry and is_live_result(entry, self._now_us)
        )
        in_table = (
            record
            for record in self._in_table(RESULTS)
            if record.key not in self._results and is_live_result(record.entry, self._now_us)
        )
        return [in_log, in_table]

    def running(self) -> list[Iterator[Record]]:
        """Tasks with progress and no result."""
        in_log = [
            _record(key, entry)
            for key, entry in self._progress.items()
            if entry is not None and is_running(self._result(key), entry, self._now_us)
        ]
        in_table = (
            record
            for record in self._in_table(RUNNING)
            if record.key not in self._progress
            and is_running(self._result(record.key), record.entry, self._now_us)
        )
        return [self._ordered(in_log + self._run_again()), in_table]

    def _run_again(self) -> list[Record]:
        """Tasks in the table whose result has expired and whose progress is newer than that."""
        found: list[Record] = []
        for expired in self._expired():
            progress = self._engine.find_progress(expired.key)
            if (
                progress is not None
                and expired.key not in self._progress
                and is_running(expired.entry, progress, self._now_us)
            ):
                found.append(_record(expired.key, progress))
        return found

    def _expired(self) -> list[Record]:
        """Results in the table that have expired and are still there."""
        records = self._engine.from_table(lambda table: table.expired_results(self._now_us))
        return [record for record in records if record.key not in self._results]

    def gone(self, kind: int) -> list[Iterator[Record]]:
        """Tasks whose result was deleted or has expired."""
        found: list[Record] = []
        if kind == DELETED:
            found += [
                _record(key, entry)
                for key, entry in self._results.items()
                if entry.kind == DELETED and entry.flags & HAD_RESULT
            ]
        else:
            in_log = [_record(k, e) for k, e in self._results.items() if e.kind == RESULT]
            for key, entry, _ in in_log + self._expired():
                if not is_live_result(entry, self._now_us):
                    gone = Entry(EXPIRED, HAD_RESULT, entry.expires_us, entry.expires_us, b"")
                    found.append(_record(key, gone))
        in_table = (
            record
            for record in self._in_table(GONE)
            if record.key not in self._results
            and record.entry.kind == kind
            and record.entry.flags & HAD_RESULT
        )
        return [filter(self._rests, stream) for stream in (self._ordered(found), in_table)]

    def _rests(self, gone: Record) -> bool:
        """Whether a task whose result has gone is not running again."""
        progress = self._engine.find_progress(gone.key)
        return not is_running(gone.entry, progress, self._now_us)

    def _in_table(self, name: bytes) -> Iterator[Record]:
        return self._engine.listing(name, newest_first=self._newest_first, first=self._limit)

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
    """Microseconds since 1970 as an aware datetime."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=time_us)
