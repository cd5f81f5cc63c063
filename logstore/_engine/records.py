"""The table's records, marks and index keys to and from bytes.  See FORMAT.md, "The table".

Rules: pure functions on bytes.  Records are ordered by their times, which only grow, so that new
records are appended; a mark per task id has the times of its records.  The checksum of a record
covers its time and its task id, that of a mark its task id, so that a record or mark in the wrong
place is found as damage.  So are values that no writer writes, whatever the checksum.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from logstore._engine.frames import (
    BURIED,
    DELETED,
    EXPIRED,
    KEY_BYTES_MAX,
    MESSAGE,
    PROGRESS,
    QUEUE,
    RECORD_FLAGS,
    RESULT,
    SCHEDULE,
    TIME_MAX,
    Entry,
    is_text,
)
from logstore.errors import CorruptRecordError, CorruptTableError

RECORD = struct.Struct("<IBBHQ")  # crc32, kind, flags, key length, expiry; then key, payload
RECORD_BODY = struct.Struct("<BBHQ")
MARK = struct.Struct("<IB")  # crc32, state; then the times that belong to the state
META = struct.Struct("<II16sQQQB3xII")
# format version, LMDB data format, uuid, epoch, incarnation, data bytes, clean, features, crc32
assert RECORD.size == 16
assert RECORD_BODY.size == RECORD.size - 4
assert MARK.size == 5
assert META.size == 60

QUEUES = 1  # there are the databases of queues
FEATURES = QUEUES  # the bits that this version knows

TIME = struct.Struct(">Q")  # big-endian, so that keys sort as times do
EXPIRY = struct.Struct(">QBQ")  # expiry, kind of the record, its time
assert TIME.size == 8
assert EXPIRY.size == 17

# Bits of a mark's state.
HAS_RESULT = 1
HAS_GONE = 2  # never together with HAS_RESULT
HAS_PROGRESS = 4

_KIND_AND_EXPIRY = struct.Struct("<4xB3xQ").unpack_from
_RESULT_MARK = struct.Struct(">BQ")
_KINDS = frozenset((RESULT, PROGRESS, DELETED, EXPIRED, MESSAGE, BURIED, QUEUE, SCHEDULE))

# The times in a mark, by its state.
_TIMES = {
    state: struct.Struct(f">{state.bit_count()}Q")
    for state in (
        HAS_RESULT,
        HAS_GONE,
        HAS_PROGRESS,
        HAS_RESULT | HAS_PROGRESS,
        HAS_GONE | HAS_PROGRESS,
    )
}


class Record(NamedTuple):
    """A record of the table."""

    key: bytes
    entry: Entry
    size: int  # of the payload, which listings leave out


class Mark(NamedTuple):
    """The times of the records of a task id; 0 for none."""

    result_us: int = 0
    gone_us: int = 0
    progress_us: int = 0


def mark_of(result: Entry) -> Mark:
    """Return the mark of a task with this record of a result: RESULT, DELETED or EXPIRED."""
    return Mark(result.time_us, 0) if result.kind == RESULT else Mark(0, result.time_us)


def encode_record(seed: int, key: bytes, entry: Entry) -> bytes:
    """Encode the value that the table has under the entry's time."""
    kind, flags, time_us, expires_us, payload = entry
    head = RECORD_BODY.pack(kind, flags, len(key), expires_us)
    # A large payload is copied once only.
    crc = zlib.crc32(payload, zlib.crc32(key, zlib.crc32(head, seed)))
    crc = zlib.crc32(TIME.pack(time_us), crc)
    return b"".join((crc.to_bytes(4, "little"), head, key, payload))


def decode_record(
    seed: int, time_us: int, raw: bytes | memoryview, path: str, *, with_payload: bool = True
) -> Record:
    """Decode the record in a value.  Raises CorruptRecordError if it is damaged."""
    if len(raw) < RECORD.size:
        raise _damaged(path, time_us, f"at least {RECORD.size} bytes", f"{len(raw)}")
    crc, kind, flags, key_length, expires_us = RECORD.unpack_from(raw)
    found = zlib.crc32(TIME.pack(time_us), zlib.crc32(memoryview(raw)[4:], seed))
    if found != crc:
        raise _damaged(path, time_us, f"checksum {crc:08x}", f"{found:08x}")
    payload_at = RECORD.size + key_length
    key = bytes(raw[RECORD.size : payload_at])
    if (
        kind not in _KINDS
        or flags > RECORD_FLAGS
        or not 0 < key_length <= KEY_BYTES_MAX
        or payload_at > len(raw)
        or not 0 < time_us <= TIME_MAX
        or expires_us > TIME_MAX
        or not is_text(key)
    ):
        found_fields = f"{kind}, {flags}, {key[:40]!r} of {key_length}, {time_us}, {expires_us}"
        expected = "kind, flags, key, time and expiry that are written"
        raise _damaged(path, time_us, expected, found_fields)
    payload = bytes(raw[payload_at:]) if with_payload else b""
    entry = Entry(kind, flags, time_us, expires_us, payload)
    return Record(key, entry, len(raw) - payload_at)


def is_left_out(raw: bytes | memoryview, alive_us: int, kind: int) -> bool:
    """Return whether a record has expired or is of another kind, by its unverified head.

    This skips many records quickly.  A ``kind`` of 0 is any.
    """
    if len(raw) < RECORD.size:
        return False
    its_kind, expires_us = _KIND_AND_EXPIRY(raw)
    return 0 < expires_us <= alive_us or (kind != 0 and kind != its_kind)


def _damaged(path: str, time_us: int, expected: str, found: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"{path}: the record of time {time_us} is damaged: expected {expected}, found {found}; "
        f"delete or overwrite its task, or restore a backup; other records are not affected"
    )


def encode_mark(seed: int, key: bytes, mark: tuple[int, int, int]) -> bytes:
    """Encode the value that the table has under a task id."""
    result_us, gone_us, progress_us = mark
    if gone_us or progress_us:
        state = HAS_RESULT * bool(result_us) | HAS_GONE * bool(gone_us)
        state |= HAS_PROGRESS * bool(progress_us)
        body = bytes((state,)) + b"".join([TIME.pack(time_us) for time_us in mark if time_us])
    else:
        body = _RESULT_MARK.pack(HAS_RESULT, result_us)
    return zlib.crc32(key, zlib.crc32(body, seed)).to_bytes(4, "little") + body


def decode_mark(seed: int, key: bytes, raw: bytes, path: str) -> Mark:
    """Decode the mark in a value.  Raises CorruptRecordError if it is damaged."""
    body = raw[4:]
    found = zlib.crc32(key, zlib.crc32(body, seed))
    expected = int.from_bytes(raw[:4], "little")
    if found != expected or not body:
        raise _damaged_mark(path, key, f"checksum {expected:08x}", f"{found:08x}")
    state = body[0]
    if state == HAS_RESULT and len(body) == _RESULT_MARK.size:  # most are
        _, result_us = _RESULT_MARK.unpack(body)
        if 0 < result_us <= TIME_MAX:
            return Mark(result_us)
    layout = _TIMES.get(state)
    if layout is None or len(body) != 1 + layout.size:
        expected_times = "a known state and its times"
        raise _damaged_mark(path, key, expected_times, f"{state} and {len(body) - 1} bytes")
    times = layout.unpack_from(body, 1)
    if min(times) == 0 or max(times) > TIME_MAX:
        raise _damaged_mark(path, key, "times from 1 to the year 9999", f"{times}")
    ended_us = times[0] if state != HAS_PROGRESS else 0
    return Mark(
        ended_us if state & HAS_RESULT else 0,
        ended_us if state & HAS_GONE else 0,
        times[-1] if state & HAS_PROGRESS else 0,
    )


def _damaged_mark(path: str, key: bytes, expected: str, found: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"{path}: the mark of task {key!r} is damaged: expected {expected}, found {found}; "
        f"overwrite this task, or restore a backup; others are not affected"
    )


# -- the table's own header ----------------------------------------------------------------------


class Meta(NamedTuple):
    """The meta record of the table."""

    version: int
    data_format: int  # of LMDB
    uuid: bytes
    epoch: int
    incarnation: int
    data_bytes: int  # keys and payloads of results and progress
    clean: bool  # closed cleanly: a log beside it has nothing new
    features: int = 0  # bits: what else is in the file


def encode_meta(meta: Meta) -> bytes:
    """Encode the meta record."""
    body = META.pack(*meta, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def decode_meta(raw: bytes, path: str) -> Meta:
    """Decode the meta record.  Raises CorruptTableError if it is damaged."""
    if len(raw) != META.size or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise CorruptTableError(f"{path}: the table's header is damaged; restore a backup")
    meta = Meta(*META.unpack(raw)[:-1])
    return meta._replace(clean=bool(meta.clean))
