"""Reading the queues' databases.

Rules: one short transaction each; what is returned is copied.  A damaged record is left out where
many are read, and raises CorruptRecordError where one is asked for.  See messages.py for the keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import lmdb

from logstore._engine import messages, records
from logstore._engine.frames import SCHEDULE, SETTLED, Entry
from logstore._engine.messages import Message, Settings
from logstore._engine.overlay import Change
from logstore._engine.reading import BaseEngine
from logstore._engine.records import TIME
from logstore._engine.schedules import Schedule, decode_schedule
from logstore._engine.table import (
    DB_DEAD,
    DB_DUE,
    DB_HELD,
    DB_MESSAGES,
    DB_QUEUES,
    DB_READY,
    DB_SCHEDULES,
    Table,
    Txn,
)
from logstore.errors import CorruptRecordError


def message(table: Table, sequence: int) -> Message | None:
    """Return a message, live or dead.  Raises CorruptRecordError."""

    def visit(txn: Txn) -> Message | None:
        for name in (DB_MESSAGES, DB_DEAD):
            raw = txn.get(TIME.pack(sequence), db=table.db[name])
            if raw is not None:
                return messages.decode_stored(table.seed, sequence, raw, table.path)
        return None

    return table.read(visit) if table.has_queues() else None


def listed(table: Table, after: int, limit: int) -> tuple[list[Message], int | None]:
    """Return messages by sequence, live and dead, behind ``after``, and where to go on.

    Both are of one moment: a message that moves from one to the other is neither missed nor
    returned twice.
    """

    def visit(txn: Txn) -> tuple[list[Message], int | None]:
        found: list[Message] = []
        last = after
        with (
            txn.cursor(db=table.db[DB_MESSAGES]) as live,
            txn.cursor(db=table.db[DB_DEAD]) as dead,
        ):
            stored = heapq.merge(_behind(live, after), _behind(dead, after))
            for last, raw in islice(stored, limit):
                with suppress(CorruptRecordError):
                    found.append(messages.decode_stored(table.seed, last, raw, table.path))
            return found, last if next(stored, None) is not None else None

    return table.read(visit) if table.has_queues() else ([], None)


def _behind(cursor: lmdb.Cursor[Any], after: int) -> Iterator[tuple[int, bytes]]:
    placed = cursor.set_range(TIME.pack(after + 1))
    while placed:
        yield TIME.unpack(cursor.key())[0], bytes(cursor.value())
        placed = cursor.next()


def levels(table: Table, queue: bytes) -> list[int]:
    """Return the priorities of which there are ready messages, the highest first."""
    prefix = messages.queue_prefix(queue)
    found: list[int] = []

    def visit(txn: Txn) -> None:
        with txn.cursor(db=table.db[DB_READY]) as cursor:
            placed = cursor.set_range(prefix)
            while placed and bytes(cursor.key()).startswith(prefix):
                priority, _ = messages.split_ready(bytes(cursor.key()))
                found.append(priority)
                if not priority:
                    return
                placed = cursor.set_range(prefix + bytes((messages.PRIORITY_MAX - priority + 1,)))

    if table.has_queues():
        table.read(visit)
    return found


def ready(table: Table, queue: bytes, priority: int, after: int, limit: int) -> list[int]:
    """Return the sequences of ready messages of a priority, behind ``after``."""
    prefix = messages.queue_prefix(queue) + bytes((messages.PRIORITY_MAX - priority,))
    first = prefix + TIME.pack(after + 1)

    def visit(txn: Txn) -> list[int]:
        keys = _keys(txn, table, DB_READY, first, prefix, limit)
        return [messages.split_ready(key)[1] for key in keys]

    return table.read(visit) if table.has_queues() else []


def due(table: Table, queue: bytes, after: bytes | None, limit: int) -> list[bytes]:
    """Return the keys of delayed messages in the order of their times, behind a key."""
    prefix = messages.queue_prefix(queue)
    first = prefix if after is None else after + b"\0"

    def visit(txn: Txn) -> list[bytes]:
        return list(_keys(txn, table, DB_DUE, first, prefix, limit))

    return table.read(visit) if table.has_queues() else []


def held(table: Table, key: bytes) -> list[int]:
    """Return the sequences of the messages of a task, live and dead."""
    prefix = key + b"\0"  # all times begin so; the ids of other tasks may begin with this one

    def visit(txn: Txn) -> list[int]:
        keys = _keys(txn, table, DB_HELD, prefix, prefix, messages.ATTEMPTS_MAX)
        return [TIME.unpack(k[-TIME.size :])[0] for k in keys if len(k) == len(key) + TIME.size]

    return table.read(visit) if table.has_queues() else []


def settings(table: Table, queue: bytes) -> Settings:
    """Return what is set for a queue.  Raises CorruptRecordError."""

    def visit(txn: Txn) -> Settings:
        raw = txn.get(queue, db=table.db[DB_QUEUES])
        if raw is None:
            return Settings()
        record = records.decode_record(table.seed, messages.SETTINGS_TIME, raw, table.path)
        return messages.decode_settings(record.entry.payload)

    return table.read(visit) if table.has_queues() else Settings()


def schedule(table: Table, key: bytes) -> Schedule | None:
    """Return a schedule.  Raises CorruptRecordError."""

    def visit(txn: Txn) -> Schedule | None:
        raw = txn.get(key, db=table.db[DB_SCHEDULES])
        return None if raw is None else _decoded_schedule(table, key, raw)

    return table.read(visit) if table.has_queues() else None


def schedules(table: Table) -> list[Schedule]:
    """Return all schedules."""
    found: list[Schedule] = []

    def visit(txn: Txn) -> None:
        with txn.cursor(db=table.db[DB_SCHEDULES]) as cursor:
            for key, raw in cursor.iternext():
                with suppress(CorruptRecordError):
                    found.append(_decoded_schedule(table, bytes(key), raw))

    if table.has_queues():
        table.read(visit)
    return found


def _decoded_schedule(table: Table, key: bytes, raw: bytes | memoryview) -> Schedule:
    record = records.decode_record(table.seed, messages.SETTINGS_TIME, raw, table.path)
    is_right = (record.key, record.entry.kind) == (key, SCHEDULE)
    found = decode_schedule(key, record.entry) if is_right else None
    if found is None:
        raise CorruptRecordError(
            f"{table.path}: the schedule {key!r} has a record of {record.key!r}; set it again"
        )
    return found


def _keys(
    txn: Txn, table: Table, name: bytes, first: bytes, prefix: bytes, limit: int
) -> Iterator[bytes]:
    with txn.cursor(db=table.db[name]) as cursor:
        placed = cursor.set_range(first)
        for _ in range(limit):
            if not placed:
                return
            key = bytes(cursor.key())
            if not key.startswith(prefix):
                return
            yield key
            placed = cursor.next()


def schedule_in(engine: BaseEngine, key: bytes, newest: Entry | None) -> Schedule | None:
    """Return a schedule as the logs leave it that have this newest frame of it, or none.

    Raises CorruptRecordError.
    """
    if newest is not None:
        return decode_schedule(key, newest)
    return engine.from_table(partial(schedule, key=key))


def all_schedules(engine: BaseEngine) -> list[Schedule]:
    """Return all schedules, in the order of their ids; damaged ones are left out."""
    view = engine.view()
    found = {one.key: one for one in engine.from_table(schedules)}
    for queued in view.queued_since(0):
        for key, entry in list(queued.schedules.items()):
            one = decode_schedule(key, entry)
            if one is None:
                found.pop(key, None)
            else:
                found[key] = one
    return [found[key] for key in sorted(found)]


def message_in(
    engine: BaseEngine, sequence: int, enqueued: Change | None, change: Change | None
) -> Message | None:
    """Return a message as the logs leave it that have these frames of it, live or dead.

    None if it is settled or unknown.  Raises CorruptRecordError.
    """
    if change is not None and change[1].kind == SETTLED:
        return None
    if enqueued is not None:
        found: Message | None = messages.decode_message(*enqueued)
    else:
        found = engine.from_table(partial(message, sequence=sequence))
    if found is None or change is None:
        return found
    return messages.after(found, change[1])
