"""The payloads of frames and records about queues, to and from bytes.  See FORMAT.md, "Queues".

Rules: pure functions on bytes.  A message is one sending of a task to a queue.  Its *sequence*, the
record time of its MESSAGE frame, names it for good; its task id may have other messages, too.  What
becomes of it later is in frames that name its sequence.  Only frames and records with a right
checksum come here; what no writer has written is damage all the same.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from logstore._engine.frames import (
    BURIED,
    CHANGE_HEAD,
    MESSAGE,
    MESSAGE_HEAD,
    QUEUE,
    QUEUE_SETTINGS,
    RETURNED,
    SETTLED,
    SETTLED_PAYLOAD,
    TIME_MAX,
    Entry,
)
from logstore._engine.records import decode_record
from logstore.errors import CorruptRecordError

PRIORITY_MAX = 255
ATTEMPTS_MAX = 0xFFFF
SETTINGS_TIME = 1  # of all records of settings, which are found by the queue's name

# Why a message is settled.
ACKED, CANCELLED, PURGED, SUPERSEDED = range(4)


class Message(NamedTuple):
    """One message as it is now."""

    key: bytes  # the task id
    sequence: int
    queue: bytes
    priority: int  # higher is first
    due_us: int  # 0: at once
    attempts: int  # how many deliveries have ended without an outcome
    attempts_max: int  # after so many it is dead; 0: never
    body: bytes
    reason: str = ""  # of a dead one


class Settings(NamedTuple):
    """What is set for a queue."""

    paused: bool = False
    running_max: int = 0  # 0: no limit


def message_entry(
    queue: bytes, body: bytes, *, priority: int = 0, due_us: int = 0, attempts_max: int = 0
) -> Entry:
    """Return the entry of a message that is enqueued; its time is set when it is written."""
    payload = MESSAGE_HEAD.pack(priority, 0, attempts_max, len(queue), 0) + queue + body
    return Entry(MESSAGE, 0, 0, due_us, payload)


def record_entry(message: Message) -> Entry:
    """Return the entry of a message as the table has it: dead if there is a reason."""
    reason = message.reason.encode()
    head = MESSAGE_HEAD.pack(
        message.priority,
        message.attempts,
        message.attempts_max,
        len(message.queue),
        len(reason),
    )
    payload = b"".join((head, message.queue, reason, message.body))
    kind = BURIED if reason else MESSAGE
    return Entry(kind, 0, message.sequence, message.due_us, payload)


def decode_message(key: bytes, entry: Entry) -> Message:
    """Decode a MESSAGE frame, or a record.  Raises CorruptRecordError."""
    payload = entry.payload
    try:
        priority, attempts, most, name_length, reason_length = MESSAGE_HEAD.unpack_from(payload)
        name_end = MESSAGE_HEAD.size + name_length
        body_at = name_end + reason_length
        if body_at > len(payload) or not name_length:
            raise ValueError("too short")
        queue = payload[MESSAGE_HEAD.size : name_end]
        reason = payload[name_end:body_at].decode()
        queue.decode()
    except (struct.error, ValueError) as exc:
        raise CorruptRecordError(
            f"the message of task {key!r} at {entry.time_us} is damaged: {exc}"
        ) from None
    body = payload[body_at:]
    return Message(
        key, entry.time_us, queue, priority, entry.expires_us, attempts, most, body, reason
    )


def decode_stored(seed: int, sequence: int, raw: bytes | memoryview, path: str) -> Message:
    """Decode the record of a message in a table.  Raises CorruptRecordError."""
    record = decode_record(seed, sequence, raw, path)
    return decode_message(record.key, record.entry)


def settled_entry(sequence: int, why: int) -> Entry:
    """Return the entry that settles a message."""
    return Entry(SETTLED, 0, 0, 0, SETTLED_PAYLOAD.pack(sequence, why))


def cancelled_entry(message: Message) -> Entry:
    """Return the entry that cancels a message."""
    return settled_entry(message.sequence, CANCELLED)


def returned_entry(sequence: int, attempts: int, due_us: int) -> Entry:
    """Return the entry that delivers a message again."""
    return Entry(RETURNED, 0, 0, due_us, CHANGE_HEAD.pack(sequence, attempts))


def buried_entry(sequence: int, attempts: int, reason: str) -> Entry:
    """Return the entry that makes a message a dead one."""
    return Entry(BURIED, 0, 0, 0, CHANGE_HEAD.pack(sequence, attempts) + reason.encode())


def sequence_of(entry: Entry) -> int:
    """Return the sequence of the message that a frame is about.  Raises CorruptRecordError."""
    if entry.kind == MESSAGE:
        return entry.time_us
    sequence = int.from_bytes(entry.payload[:8], "little")
    if len(entry.payload) < 9 or not 0 < sequence <= TIME_MAX:
        raise CorruptRecordError(f"a frame of kind {entry.kind} that names no message")
    return sequence


def after(message: Message, change: Entry) -> Message:
    """Return a message as a RETURNED or BURIED frame leaves it."""
    _, attempts = CHANGE_HEAD.unpack_from(change.payload)
    if change.kind == BURIED:
        reason = change.payload[CHANGE_HEAD.size :].decode("utf-8", "replace")
        return message._replace(attempts=attempts, reason=reason or "unknown")
    return message._replace(attempts=attempts, due_us=change.expires_us, reason="")


def settings_entry(settings: Settings) -> Entry:
    """Return the entry that sets what holds for a queue."""
    return Entry(QUEUE, 0, 0, 0, QUEUE_SETTINGS.pack(settings.paused, settings.running_max))


def decode_settings(payload: bytes) -> Settings:
    """Decode what is set for a queue; unset where there is nothing."""
    if len(payload) < QUEUE_SETTINGS.size:
        return Settings()
    paused, running_max = QUEUE_SETTINGS.unpack_from(payload)
    return Settings(bool(paused), running_max)


# -- keys of the indexes, which sort in the order of delivery ------------------------------------

_HELD = struct.Struct(">Q")
_READY = struct.Struct(">BQ")
_DUE = struct.Struct(">QBQ")


def queue_prefix(queue: bytes) -> bytes:
    """Return what the keys of a queue begin with."""
    return bytes((len(queue),)) + queue


def ready_key(message: Message) -> bytes:
    """Return the key of a message that is ready at once: by priority, then sequence."""
    return queue_prefix(message.queue) + _READY.pack(
        PRIORITY_MAX - message.priority, message.sequence
    )


def due_key(message: Message) -> bytes:
    """Return the key of a delayed message: by its time, then priority."""
    return queue_prefix(message.queue) + _DUE.pack(
        message.due_us, PRIORITY_MAX - message.priority, message.sequence
    )


def held_key(message: Message) -> bytes:
    """Return the key under which a task's messages are found."""
    return message.key + _HELD.pack(message.sequence)


def split_ready(key: bytes) -> tuple[int, int]:
    """Return priority and sequence of a key of a ready message."""
    level, sequence = _READY.unpack(key[-_READY.size :])
    return PRIORITY_MAX - level, sequence


def split_due(key: bytes) -> tuple[int, int, int]:
    """Return the time, priority and sequence of a key of a delayed message."""
    due_us, level, sequence = _DUE.unpack(key[-_DUE.size :])
    return due_us, PRIORITY_MAX - level, sequence
