"""A record of the table to and from bytes, and the keys of its indexes.  See FORMAT.md.

Rules: pure functions on bytes.  A record's checksum covers its key, so that a record found under
another key's place is damage too.  Index keys sort as their times do.
"""

from __future__ import annotations

import struct
import zlib

from logstore.engine.frames import DELETED, EXPIRED, PROGRESS, RESULT, Entry
from logstore.errors import CorruptRecordError

RECORD = struct.Struct("<IBBHQQ")  # crc32, kind, flags, reserved, time, expiry
RECORD_BODY = struct.Struct("<BBHQQ")
META = struct.Struct("<II16sQQQB7xI")
# format version, LMDB data format, uuid, epoch, incarnation, data bytes, clean, crc32
assert RECORD.size == 24
assert RECORD_BODY.size == RECORD.size - 4
assert META.size == 60

_TIME = struct.Struct(">Q")
assert _TIME.size == 8

# Classes of index keys.
RESULTS = b"R"  # results by the time they were stored
RUNNING = b"P"  # ids that have progress but no result, by the time of that progress
GONE = b"G"  # deleted and expired ids, by the time they went

_KINDS = frozenset((RESULT, PROGRESS, DELETED, EXPIRED))


def encode_record(seed: int, key: bytes, entry: Entry) -> bytes:
    """The table's value for an entry."""
    kind, flags, time_us, expires_us, payload = entry
    body = RECORD_BODY.pack(kind, flags, 0, time_us, expires_us) + payload
    return zlib.crc32(key, zlib.crc32(body, seed)).to_bytes(4, "little") + body


def decode_record(seed: int, key: bytes, raw: bytes, path: str) -> Entry:
    """The entry in a table's value.  Raises CorruptRecordError if it is damaged."""
    if len(raw) < RECORD.size:
        raise CorruptRecordError(
            f"{path}: record of {key!r}: expected at least {RECORD.size} bytes, found {len(raw)}"
        )
    crc, kind, flags, _, time_us, expires_us = RECORD.unpack_from(raw)
    found = zlib.crc32(key, zlib.crc32(memoryview(raw)[4:], seed))
    if found != crc or kind not in _KINDS:
        raise CorruptRecordError(
            f"{path}: record of {key!r}: expected checksum {crc:08x}, found {found:08x}; delete "
            f"or overwrite this id, or restore a backup; other records are not affected"
        )
    return Entry(kind, flags, time_us, expires_us, raw[RECORD.size :])


def time_key(index_class: bytes, time_us: int, key: bytes) -> bytes:
    """A key of the index by time."""
    return index_class + _TIME.pack(time_us) + key


def split_time_key(raw: bytes) -> tuple[int, bytes]:
    """Time and task key out of a key of the index by time."""
    return _TIME.unpack_from(raw, 1)[0], raw[9:]


def expiry_key(expires_us: int, index_class: bytes, key: bytes) -> bytes:
    """A key of the index by expiry."""
    return _TIME.pack(expires_us) + index_class + key


def split_expiry_key(raw: bytes) -> tuple[int, bytes, bytes]:
    """Expiry, class and task key out of a key of the index by expiry."""
    return _TIME.unpack_from(raw)[0], raw[8:9], raw[9:]
