"""Listing tasks by time, out of the overlay and the table's index together.

Rules: one overlay is taken at the start and hides the table's records of its keys, so that a
compaction meanwhile neither doubles nor loses a task.  The index is read in short batches.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice

from logstore.engine.commit import is_live_result
from logstore.engine.engine import Engine
from logstore.engine.frames import DELETED, EXPIRED, FAILED, HAD_RESULT, RESULT, Entry
from logstore.engine.overlay import Overlay
from logstore.engine.records import GONE, RESULTS, RUNNING
from logstore.engine.table import Table
from logstore.progress import decode_progress
from logstore.types import Status, TaskInfo

_Item = tuple[int, bytes, Entry]  # time, key, record


def list_tasks(
    engine: Engine, status: Status | None, *, newest_first: bool, limit: int | None
) -> Iterator[TaskInfo]:
    """The tasks of one status, or finished and running ones, by time."""
    view = engine.view()
    now_us = time.time_ns() // 1000
    streams: list[Iterator[_Item]] = []
    if status in (None, "ready"):
        streams += _finished(engine, view, newest_first, now_us)
    if status in (None, "running"):
        streams += _running(engine, view, newest_first, now_us)
    if status in ("deleted", "expired"):
        streams += _gone(engine, view, newest_first, now_us, status)
    merged = heapq.merge(*streams, key=lambda item: item[0], reverse=newest_first)
    return map(_info, islice(merged, limit))


def _ordered(items: list[_Item], newest_first: bool) -> Iterator[_Item]:
    items.sort(key=lambda item: item[0], reverse=newest_first)
    return iter(items)


def _finished(
    engine: Engine, view: Overlay, newest_first: bool, now_us: int
) -> list[Iterator[_Item]]:
    def in_table() -> Iterator[_Item]:
        for time_us, key in engine.newest(RESULTS, newest_first=newest_first):
            if key in results:
                continue
            entry = engine.from_table(partial(Table.get_result, key=key))
            if entry is not None and entry.time_us == time_us and is_live_result(entry, now_us):
                yield time_us, key, entry

    results = dict(view.results)
    in_log = [(e.time_us, key, e) for key, e in results.items() if is_live_result(e, now_us)]
    return [_ordered(in_log, newest_first), in_table()]


def _running(
    engine: Engine, view: Overlay, newest_first: bool, now_us: int
) -> list[Iterator[_Item]]:
    def finished(key: bytes) -> bool:
        entry = results.get(key)
        if entry is None:
            entry = engine.from_table(lambda table: table.get_result(key))
        return is_live_result(entry, now_us)

    def live(entry: Entry | None) -> bool:
        return entry is not None and (not entry.expires_us or entry.expires_us > now_us)

    def in_table() -> Iterator[_Item]:
        for time_us, key in engine.newest(RUNNING, newest_first=newest_first):
            if key in progress or finished(key):
                continue
            entry = engine.from_table(partial(Table.get_progress, key=key))
            if entry is not None and entry.time_us == time_us and live(entry):
                yield time_us, key, entry

    results, progress = dict(view.results), dict(view.progress)
    in_log = [
        (entry.time_us, key, entry)
        for key, entry in progress.items()
        if entry is not None and live(entry) and not finished(key)
    ]
    return [_ordered(in_log, newest_first), in_table()]


def _gone(
    engine: Engine, view: Overlay, newest_first: bool, now_us: int, status: Status
) -> list[Iterator[_Item]]:
    wanted = DELETED if status == "deleted" else EXPIRED

    def in_table() -> Iterator[_Item]:
        for time_us, key in engine.newest(GONE, newest_first=newest_first):
            if key in results:
                continue
            entry = engine.from_table(partial(Table.get_gone, key=key))
            if entry is not None and entry.time_us == time_us and entry.kind == wanted:
                yield time_us, key, entry

    results = dict(view.results)
    in_log = []
    for key, entry in results.items():
        if wanted == DELETED and entry.kind == DELETED and entry.flags & HAD_RESULT:
            in_log.append((entry.time_us, key, entry))
        elif wanted == EXPIRED and entry.kind == RESULT and not is_live_result(entry, now_us):
            in_log.append((entry.expires_us, key, entry._replace(kind=EXPIRED)))
    return [_ordered(in_log, newest_first), in_table()]


_STATUS: dict[int, Status] = {RESULT: "ready", DELETED: "deleted", EXPIRED: "expired"}


def _info(item: _Item) -> TaskInfo:
    time_us, key, entry = item
    status = _STATUS.get(entry.kind, "running")
    return TaskInfo(
        task_id=key.decode(),
        status=status,
        time=utc(time_us),
        expires_at=utc(entry.expires_us) if entry.expires_us else None,
        failed=bool(entry.flags & FAILED) and status == "ready",
        size_bytes=len(entry.payload),
        progress=decode_progress(entry.payload) if status == "running" else None,
    )


def utc(time_us: int) -> datetime:
    """Microseconds since 1970 as an aware datetime."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=time_us)
