"""The log's bytes: its header page and its frames.  See FORMAT.md, "The log".

Rules: pure functions on bytes; nothing here opens a file.  Bytes are not trusted: a length is
checked against its bounds before it is used, and a frame is returned only if its checksum matches
and a writer could have written it.  The checksum is seeded with the UUID of the store, so that
frames of another store never match.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

FORMAT_VERSION = 1
MAGIC = b"LOGSTORE"

HEADER_BYTES = 4096  # page 0 of the log; the frames follow
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
EXPIRED = 4  # only in the table: a result that expired or was evicted
START = 5  # only in the log: the first frame behind a sealed log, with where that ends

# Flags of a record.
FAILED = 1  # the result is an error
HAD_RESULT = 2  # a deletion removed a result, not only progress
FLAGS_MAX = FAILED | HAD_RESULT


class Entry(NamedTuple):
    """One record without its key, as in the overlay and in the table."""

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
    """Return the start value of all checksums of the store with this UUID."""
    return zlib.crc32(uuid)


# -- page 0 ------------------------------------------------------------------------------------


def encode_log_header(uuid: bytes, log_id: int) -> bytes:
    """Encode page 0 of a log: 4096 bytes."""
    body = LOG_HEADER.pack(MAGIC, FORMAT_VERSION, 0, uuid, log_id, 0)[:-4]
    return (body + struct.pack("<I", zlib.crc32(body))).ljust(HEADER_BYTES, b"\0")


class LogHeader(NamedTuple):
    """The fields of page 0."""

    version: int
    uuid: bytes
    log_id: int


def decode_log_header(page: bytes) -> LogHeader | None:
    """Decode page 0; return None if it is damaged or not of a log."""
    if len(page) < LOG_HEADER.size:
        return None
    magic, version, _, uuid, log_id, crc = LOG_HEADER.unpack_from(page)
    if magic != MAGIC or crc != zlib.crc32(page[: LOG_HEADER.size - 4]):
        return None
    return LogHeader(version, uuid, log_id)


# -- frames ------------------------------------------------------------------------------------


def encode_frame(seed: int, epoch: int, synced_through: int, key: bytes, entry: Entry) -> bytes:
    """Encode one frame."""
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


def encode_start(seed: int, epoch: int, offset: int, sealed_end: int, time_us: int) -> bytes:
    """Encode the first frame of an epoch behind a sealed log that ends at ``sealed_end``."""
    entry = Entry(START, 0, max(time_us, 1), 0, sealed_end.to_bytes(8, "little"))
    return encode_frame(seed, epoch, offset, b"-", entry)


def sealed_end(frame: Frame) -> int | None:
    """Return where the sealed log before a frame ends, None if it is no first frame."""
    if frame.entry.kind != START:
        return None
    return int.from_bytes(frame.entry.payload, "little")


def records(found: list[Frame]) -> list[tuple[bytes, Entry]]:
    """Return the keys and entries of frames; the first frame behind a sealed log is no record."""
    return [(frame.key, frame.entry) for frame in found if frame.entry.kind != START]


def decode_frame(data: bytes, at: int, base: int, seed: int, epoch: int) -> Frame | None:
    """Decode the frame of ``epoch`` at index ``at`` of ``data``; None if there is no whole one.

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
        or not (RESULT <= kind <= DELETED or kind == START)
        or flags > FLAGS_MAX
        or not 0 < time_us <= TIME_MAX
        or expires_us > TIME_MAX
        or synced > base + at  # what comes after a frame was not synced before it
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
    """Return whether a key is UTF-8."""
    if not key.isascii():
        try:
            key.decode()
        except UnicodeDecodeError:
            return False
    return True


def decode_epoch(data: bytes, at: int) -> int:
    """Return the epoch in the head of a frame at index ``at``, whole or not; 0 at the end."""
    return STAMP.unpack_from(data, at + 4)[1] if at + FRAME.size <= len(data) else 0


def newest_epoch(data: bytes, base: int, seed: int) -> int:
    """Return the epoch of the newest whole frame in a log that begins with ``data[0]``, or 0.

    Each epoch overwrites the one before it from the beginning, so the first frame is of the newest.
    If it is torn, later frames of its epoch are looked for, then those of the epoch before.
    """
    claimed = decode_epoch(data, 0)
    for epoch in (claimed, claimed - 1):
        if 0 < epoch <= EPOCH_MAX and next(find_frames(data, 0, base, seed, epoch), None):
            return epoch
    return 0


def scan(data: bytes, base: int, seed: int, epoch: int) -> tuple[list[Frame], int]:
    """Return all whole frames from ``data[0]`` on, and the offset at which they end."""
    frames: list[Frame] = []
    at = 0
    while (frame := decode_frame(data, at, base, seed, epoch)) is not None:
        frames.append(frame)
        at = frame.end - base
    return frames, base + at


def find_frames(data: bytes, start: int, base: int, seed: int, epoch: int) -> Iterator[Frame]:
    """Yield every whole frame of ``epoch`` at or after index ``start``, wherever it begins.

    This finds frames after damage: the bytes between two frames are skipped.
    """
    needle = struct.pack("<I", epoch)
    in_frame = 8  # crc32 and length come before the epoch
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
    """Return a later frame that proves that the bytes at index ``stop`` had been synced, or None.

    With None, the bytes there are the tail of an interrupted append: nothing from there on was
    ever acknowledged as durable.
    """
    for frame in find_frames(data, stop, base, seed, epoch):
        if frame.synced_through > base + stop:
            return frame
    return None
