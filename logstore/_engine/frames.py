"""The log's bytes: its header page and its frames.  See FORMAT.md, "The log".

Rules: pure functions on bytes; nothing here touches a file.  Bytes are never believed: a length
is checked against its bounds before it is used, and nothing is returned whose checksum does not
match, nor any that says what no writer writes.  The checksum is seeded with the store's UUID, so
that frames of another store never match.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

FORMAT_VERSION = 1
MAGIC = b"LOGSTORE"

HEADER_BYTES = 4096  # page 0 of the log; frames begin behind it
LOG_HEADER = struct.Struct("<8sII16sQI")  # magic, version, reserved, uuid, log id, crc32
FRAME = struct.Struct("<IIIIBBHQQ")
# crc32, length, epoch, synced-through, kind, flags, key length, time, expiry
STAMP = struct.Struct("<IIIBBHQQ")  # the same without the checksum
assert LOG_HEADER.size == 44
assert FRAME.size == 36
assert STAMP.size == FRAME.size - 4

KEY_BYTES_MAX = 480
TIME_MAX = 253_402_300_799_999_999  # the last microsecond of the year 9999, as far as datetime goes
OFFSET_MAX = 0xFFFFFFFF
EPOCH_MAX = 0xFFFFFFFF

# Kinds of record, in frames and in the table.
RESULT = 1
PROGRESS = 2
DELETED = 3
EXPIRED = 4  # only in the table: what a result that has expired or was evicted leaves behind

# Flags of a record.
FAILED = 1  # the result is an error
HAD_RESULT = 2  # a deletion took away a result, not just progress
FLAGS_MAX = FAILED | HAD_RESULT


class Entry(NamedTuple):
    """One record without its key: what the overlay holds and the table stores."""

    kind: int
    flags: int
    time_us: int  # when it was written, since 1970
    expires_us: int  # 0: never
    payload: bytes


class Frame(NamedTuple):
    """A whole frame found in the log."""

    offset: int
    end: int
    synced_through: int
    key: bytes
    entry: Entry


def checksum_seed(uuid: bytes) -> int:
    """The start value of every checksum of the store with this UUID."""
    return zlib.crc32(uuid)


# -- page 0 ------------------------------------------------------------------------------------


def encode_log_header(uuid: bytes, log_id: int) -> bytes:
    """Page 0 of a log: 4096 bytes."""
    body = LOG_HEADER.pack(MAGIC, FORMAT_VERSION, 0, uuid, log_id, 0)[:-4]
    return (body + struct.pack("<I", zlib.crc32(body))).ljust(HEADER_BYTES, b"\0")


class LogHeader(NamedTuple):
    """What page 0 says."""

    version: int
    uuid: bytes
    log_id: int


def decode_log_header(page: bytes) -> LogHeader | None:
    """Page 0 as read, or None if it is damaged or not a log's."""
    if len(page) < LOG_HEADER.size:
        return None
    magic, version, _, uuid, log_id, crc = LOG_HEADER.unpack_from(page)
    if magic != MAGIC or crc != zlib.crc32(page[: LOG_HEADER.size - 4]):
        return None
    return LogHeader(version, uuid, log_id)


# -- frames ------------------------------------------------------------------------------------


def encode_frame(seed: int, epoch: int, synced_through: int, key: bytes, entry: Entry) -> bytes:
    """The bytes of one frame."""
    kind, flags, time_us, expires_us, payload = entry
    body = b"".join(
        (
            STAMP.pack(
                FRAME.size + len(key) + len(payload),
                epoch,
                synced_through,
                kind,
                flags,
                len(key),
                time_us,
                expires_us,
            ),
            key,
            payload,
        )
    )
    return zlib.crc32(body, seed).to_bytes(4, "little") + body


def decode_frame(data: bytes, at: int, base: int, seed: int, epoch: int) -> Frame | None:
    """The frame of ``epoch`` at index ``at`` of ``data``, or None if there is no whole one.

    ``base`` is the log offset of ``data[0]``.
    """
    if at + FRAME.size > len(data):
        return None
    fields = FRAME.unpack_from(data, at)
    crc, length, frame_epoch, synced, kind, flags, key_length, time_us, expires_us = fields
    end = at + length
    if (
        frame_epoch != epoch
        or length < FRAME.size + key_length
        or end > len(data)
        or not 0 < key_length <= KEY_BYTES_MAX
        or not RESULT <= kind <= DELETED
        or flags > FLAGS_MAX
        or not 0 < time_us <= TIME_MAX
        or expires_us > TIME_MAX
        or synced > base + at  # nothing behind a frame was synced before it
    ):
        return None
    if zlib.crc32(memoryview(data)[at + 4 : end], seed) != crc:
        return None
    key_at = at + FRAME.size
    key = data[key_at : key_at + key_length]
    if not is_text(key):
        return None
    payload = data[key_at + key_length : end]
    return Frame(
        base + at, base + end, synced, key, Entry(kind, flags, time_us, expires_us, payload)
    )


def is_text(key: bytes) -> bool:
    """Whether a key is UTF-8."""
    if not key.isascii():
        try:
            key.decode()
        except UnicodeDecodeError:
            return False
    return True


def decode_epoch(data: bytes, at: int) -> int:
    """The epoch that a frame at index ``at`` claims, whole or not; 0 where there is none."""
    return STAMP.unpack_from(data, at + 4)[1] if at + FRAME.size <= len(data) else 0


def newest_epoch(data: bytes, base: int, seed: int) -> int:
    """The epoch of the newest whole frame in a log whose frames begin with ``data[0]``, or 0.

    Each epoch overwrites the one before it from the beginning, so its first frame is the newest;
    only if that is torn is it looked for frames of the epoch that it claims, and the one before.
    """
    claimed = decode_epoch(data, 0)
    for epoch in (claimed, claimed - 1):
        if 0 < epoch <= EPOCH_MAX and next(find_frames(data, 0, base, seed, epoch), None):
            return epoch
    return 0


def scan(data: bytes, base: int, seed: int, epoch: int) -> tuple[list[Frame], int]:
    """All whole frames from ``data[0]`` on, and the offset at which they end."""
    frames: list[Frame] = []
    at = 0
    while (frame := decode_frame(data, at, base, seed, epoch)) is not None:
        frames.append(frame)
        at = frame.end - base
    return frames, base + at


def find_frames(data: bytes, start: int, base: int, seed: int, epoch: int) -> Iterator[Frame]:
    """Every whole frame of ``epoch`` at or behind index ``start``, wherever it begins.

    For looking past damage: the bytes between two frames found are skipped.
    """
    needle = struct.pack("<I", epoch)
    in_frame = 8  # crc32 and length stand before the epoch
    at = start
    while (hit := data.find(needle, at + in_frame)) >= 0:
        candidate = hit - in_frame
        frame = decode_frame(data, candidate, base, seed, epoch)
        if frame is None:
            at = candidate + 1
        else:
            yield frame
            at = frame.end - base


def damage_below_sync(data: bytes, stop: int, base: int, seed: int, epoch: int) -> Frame | None:
    """A later frame that proves the bytes at index ``stop`` had been synced, or None.

    None means that what stands there is the tail of an interrupted append: nothing behind it
    was ever acked as durable.
    """
    for frame in find_frames(data, stop, base, seed, epoch):
        if frame.synced_through > base + stop:
            return frame
    return None
