"""The log's bytes: its header page and its frames.  See FORMAT.md, "The log".

Rules: pure functions on bytes; nothing here opens a file.  Bytes are not trusted: a length is
checked against its bounds before it is used, and a frame is returned only if its checksum matches
and a writer could have written it.  The checksum is seeded with the UUID of the store, so that
frames of another store never match.  A frame of which only the kind or a flag is unknown was
written by a later version: it is never taken for damage or for the tail of an interrupted append.
Frames of a chain (the flag MORE) are found together or not at all.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from logstore.errors import FormatVersionError

FORMAT_VERSION = 2
OLDEST_VERSION = 1  # that is read
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
EXPIRED = 4  # a result that expired or was evicted
# Kinds of frame that are no record.
START = 5  # the first frame behind a sealed log: says where that ends
# Kinds about the queues, in frames; MESSAGE and BURIED are kinds of record, too.  See messages.py.
MESSAGE = 6  # a message that was enqueued; its time is its sequence, its expiry when it is due
SETTLED = 7  # it is done with
RETURNED = 8  # it is delivered again
BURIED = 9  # it is not delivered again, and kept
QUEUE = 10  # the settings of a queue
SCHEDULE = 11  # what is to be sent again and again, and how far it has been
KIND_MAX = SCHEDULE

# Flags of a record.
FAILED = 1  # the result is an error
HAD_RESULT = 2  # a deletion removed a result, not only progress
RECORD_FLAGS = FAILED | HAD_RESULT
# Flags of a frame.
KEEPS_PROGRESS = 4  # the task runs again: its progress is newer than the end of what has expired
MORE = 128  # it stands or falls with the next frame
_ENTRY_FLAGS = RECORD_FLAGS | KEEPS_PROGRESS
_RARE_FLAGS = 255 & ~(RECORD_FLAGS | MORE)  # known of EXPIRED only, and only one of them

# Payloads of the kinds about queues.  See messages.py.
MESSAGE_HEAD = struct.Struct("<BHHBH")
# priority, attempts, the most of them (0: any number), lengths of the queue's name and the reason
SETTLED_PAYLOAD = struct.Struct("<QB")  # sequence, why
CHANGE_HEAD = struct.Struct("<QH")  # sequence, attempts
QUEUE_SETTINGS = struct.Struct("<BI")  # paused, how many may run at once (0: any number)
QUEUE_NAME_BYTES_MAX = 200
SCHEDULE_HEAD = struct.Struct("<QQ")  # from when on it counts, the newest slot sent

START_KEY = b"-"
_START = struct.Struct("<Q")  # payload of START: the end of the sealed log


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
    more: bool  # it belongs together with the next frame


class NewerFrameError(FormatVersionError):
    """A whole frame of a kind, or with a flag, that this version does not know."""


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


def encode_frame(
    seed: int, epoch: int, synced_through: int, key: bytes, entry: Entry, *, more: bool = False
) -> bytes:
    """Encode one frame.  With ``more`` it stands or falls with the next one."""
    kind, flags, time_us, expires_us, payload = entry
    body = b"".join(
        (
            STAMP.pack(
                FRAME.size + len(key) + len(payload),
                epoch,
                synced_through,
                kind,
                flags | MORE if more else flags,
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
    """Decode the frame of ``epoch`` at index ``at`` of ``data``; None if there is no whole one.

    ``base`` is the log offset of ``data[0]``.  Raises NewerFrameError.
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
        or kind < RESULT
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
    rare = flags & _RARE_FLAGS
    if kind > KIND_MAX or (rare and (rare, kind) != (KEEPS_PROGRESS, EXPIRED)):
        raise NewerFrameError(
            f"a frame of kind {kind} with flags {flags:#x} at offset {base + at}, written by a "
            f"newer version of logstore; use that version"
        )
    payload = data[key_at + key_length : end]
    if kind >= START and not _is_written(kind, key, payload):
        return None
    entry = Entry(kind, flags & _ENTRY_FLAGS, time_us, expires_us, payload)
    return Frame(base + at, base + end, synced, key, entry, flags >= MORE)


def _is_written(kind: int, key: bytes, payload: bytes) -> bool:
    """Return whether a writer writes such a frame, of a kind that is no record of a task."""
    if kind == START:
        return key == START_KEY and len(payload) == _START.size
    if kind == MESSAGE:
        return len(payload) >= MESSAGE_HEAD.size and _is_message(payload)
    if kind == QUEUE:
        return len(payload) == QUEUE_SETTINGS.size
    if kind == SCHEDULE:
        return len(payload) >= SCHEDULE_HEAD.size and _is_schedule(payload)
    least = SETTLED_PAYLOAD.size if kind == SETTLED else CHANGE_HEAD.size
    if len(payload) < least or (kind != BURIED and len(payload) > least):
        return False
    return 0 < int.from_bytes(payload[:8], "little") <= TIME_MAX and is_text(payload[least:])


def _is_message(payload: bytes) -> bool:
    *_, name_length, reason_length = MESSAGE_HEAD.unpack_from(payload)
    name_end = MESSAGE_HEAD.size + name_length
    body_at = name_end + reason_length
    return (
        0 < name_length <= QUEUE_NAME_BYTES_MAX
        and body_at <= len(payload)
        and is_text(payload[MESSAGE_HEAD.size : name_end])
        and is_text(payload[name_end:body_at])
    )


def _is_schedule(payload: bytes) -> bool:
    since_us, last_us = SCHEDULE_HEAD.unpack_from(payload)
    return bool(since_us <= TIME_MAX and last_us <= TIME_MAX)


def encode_start(seed: int, epoch: int, sealed_end: int) -> bytes:
    """Encode the first frame of an epoch behind a sealed log that ends at ``sealed_end``."""
    entry = Entry(START, 0, 1, 0, _START.pack(sealed_end))
    return encode_frame(seed, epoch, HEADER_BYTES, START_KEY, entry)


def sealed_end(frame: Frame) -> int | None:
    """Return where the sealed log before a frame ends, None if it is not of kind START."""
    if frame.entry.kind != START:
        return None
    end: int = _START.unpack(frame.entry.payload)[0]
    return end


def records_of(frames: Sequence[Frame]) -> list[tuple[bytes, Entry]]:
    """Return what some frames say: all of them but START."""
    return [(frame.key, frame.entry) for frame in frames if frame.entry.kind != START]


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

    Each epoch overwrites an older one from the beginning, so the first frame is of the newest.
    If it is torn, later frames of its epoch are looked for, then those of the two before it.
    """
    claimed = decode_epoch(data, 0)
    for epoch in (claimed, claimed - 1, claimed - 2):
        if 0 < epoch <= EPOCH_MAX and next(find_frames(data, 0, base, seed, epoch), None):
            return epoch
    return 0


def scan(data: bytes, base: int, seed: int, epoch: int) -> tuple[list[Frame], int]:
    """Return all whole frames from ``data[0]`` on, and the offset at which they end.

    A chain that has no end does not count.  Raises NewerFrameError.
    """
    frames: list[Frame] = []
    at = end = count = 0
    while (frame := decode_frame(data, at, base, seed, epoch)) is not None:
        frames.append(frame)
        at = frame.end - base
        if not frame.more:
            end, count = at, len(frames)
    del frames[count:]
    return frames, base + end


def find_frames(data: bytes, start: int, base: int, seed: int, epoch: int) -> Iterator[Frame]:
    """Yield every whole frame of ``epoch`` at or after index ``start``, wherever it begins.

    This finds frames after damage: the bytes between two frames are skipped.  Raises
    NewerFrameError.
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


def find_chains(data: bytes, start: int, base: int, seed: int, epoch: int) -> Iterator[Frame]:
    """Yield what :func:`find_frames` finds, without chains that have no end."""
    chain: list[Frame] = []
    for frame in find_frames(data, start, base, seed, epoch):
        if chain and chain[-1].end != frame.offset:
            chain.clear()
        chain.append(frame)
        if not frame.more:
            yield from chain
            chain.clear()


def damage_below_sync(data: bytes, stop: int, base: int, seed: int, epoch: int) -> Frame | None:
    """Return a later frame that proves that the bytes at index ``stop`` had been synced, or None.

    With None, the bytes there are the tail of an interrupted append: nothing from there on was
    ever acknowledged as durable.  Whole frames at ``stop``, of a chain without an end, are passed.
    """
    bad = base + stop
    for frame in find_frames(data, stop, base, seed, epoch):
        if frame.offset == bad:
            bad = frame.end
        elif frame.synced_through > bad:
            return frame
    return None
