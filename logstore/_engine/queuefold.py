"""Folding what the log says about queues into the table.

Rules: part of a compaction's transaction.  A message that was enqueued and settled within one log
never reaches the table.  Folding the same frames twice changes nothing.  Each message has a record
under its sequence, and a key by its task; each live one has a key in one index of delivery.
"""

from __future__ import annotations

from collections.abc import Iterable

from logstore._engine import messages, records, schedules
from logstore._engine.frames import SETTLED, Entry
from logstore._engine.messages import Message
from logstore._engine.overlay import Queued
from logstore._engine.records import TIME
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


class QueueFold:
    """What one compaction does to the queues' databases, which it makes if there are none."""

    def __init__(self, table: Table, txn: Txn) -> None:
        self._table = table
        self._txn = txn
        self._db = table.make_queues(txn)
        self._seed = table.seed

    def apply(self, queued: Queued) -> None:
        """Bring each message to the state that the frames of an epoch leave it in."""
        new: list[Message] = []
        for sequence, (key, entry) in sorted(queued.messages.items()):
            message = messages.decode_message(key, entry)
            change = queued.changes.get(sequence)
            if change is None:
                new.append(message)
            elif change[1].kind != SETTLED:
                new.append(messages.after(message, change[1]))
        enqueued = queued.messages
        for sequence, (_, change_entry) in sorted(queued.changes.items()):
            known = self._load(sequence)
            if known is None:
                continue  # settled before, or it never got here
            self._remove(known)
            if change_entry.kind != SETTLED and sequence not in enqueued:
                new.append(messages.after(known, change_entry))
        self._put(new)
        for name, settings in queued.settings.items():
            record = self._encoded(name, settings._replace(time_us=messages.SETTINGS_TIME))
            self._txn.put(name, record, db=self._db[DB_QUEUES])
        for key, entry in queued.schedules.items():
            if schedules.decode_schedule(key, entry) is None:
                self._txn.delete(key, db=self._db[DB_SCHEDULES])
            else:
                record = self._encoded(key, entry._replace(time_us=messages.SETTINGS_TIME))
                self._txn.put(key, record, db=self._db[DB_SCHEDULES])

    def _encoded(self, key: bytes, entry: Entry) -> bytes:
        return records.encode_record(self._seed, key, entry)

    def _load(self, sequence: int) -> Message | None:
        time_key = TIME.pack(sequence)
        for name in (DB_MESSAGES, DB_DEAD):
            raw = self._txn.get(time_key, db=self._db[name])
            if raw is None:
                continue
            try:
                return messages.decode_stored(self._seed, sequence, raw, self._table.path)
            except CorruptRecordError:
                self._txn.delete(time_key, db=self._db[name])  # its index keys lead nowhere
        return None

    def _remove(self, message: Message) -> None:
        time_key = TIME.pack(message.sequence)
        txn, db = self._txn, self._db
        txn.delete(time_key, db=db[DB_DEAD if message.reason else DB_MESSAGES])
        for name, key in index_keys(message):
            txn.delete(key, db=db[name])

    def _put(self, new: Iterable[Message]) -> None:
        found: dict[bytes, list[tuple[bytes, bytes]]] = {
            name: [] for name in (DB_MESSAGES, DB_DEAD, DB_READY, DB_DUE, DB_HELD)
        }
        for message in new:
            record = self._encoded(message.key, messages.record_entry(message))
            stored = TIME.pack(message.sequence), record
            found[DB_DEAD if message.reason else DB_MESSAGES].append(stored)
            for name, key in index_keys(message):
                found[name].append((key, b""))
        for name, items in found.items():
            with self._txn.cursor(db=self._db[name]) as cursor:
                cursor.putmulti(sorted(items))


def index_keys(message: Message) -> list[tuple[bytes, bytes]]:
    """Return in which indexes a message has a key, and which; a dead one is in no line."""
    found = [(DB_HELD, messages.held_key(message))]
    if not message.reason and message.due_us:
        found.append((DB_DUE, messages.due_key(message)))
    elif not message.reason:
        found.append((DB_READY, messages.ready_key(message)))
    return found
