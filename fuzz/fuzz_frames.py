"""Fuzzer of the log's bytes, as pure functions read them.

Invariants: every frame returned checks, lies inside the bytes and says its own place; ``scan``
ends where there is no whole frame of the epoch, as a second reader, written from FORMAT.md alone,
finds it; ``find_frames`` finds at least what ``scan`` does, in order and without overlap; whatever
is found is written again as the same bytes, and can be listed.  Time is in proportion to the input.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from fuzz.command import main
from fuzz.fuzz_records import shown
from fuzz.target import Run, Target, expect
from logstore._engine import frames
from logstore._engine.frames import Entry

UUID = bytes(range(16))
SEED = frames.checksum_seed(UUID)
EPOCH = 7
BASE = frames.HEADER_BYTES
_HEAD = struct.Struct("<IIIIBBHQQ")
YEAR_9999_US = (datetime.max - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def frame(
    key: bytes, payload: bytes, *, kind: int = 1, epoch: int = EPOCH, synced: int = BASE
) -> bytes:
    """One frame."""
    entry = Entry(kind, 0, 1_700_000_000_000_000, 0, payload)
    return frames.encode_frame(SEED, epoch, synced, key, entry)


def seeds() -> Sequence[bytes]:
    """Logs in the states that they have, and one made to be slow to look through."""
    one = frame(b"job-1", b"\x01")
    many = b"".join(frame(b"k%d" % i, bytes(i), kind=1 + i % 3, synced=BASE + i) for i in range(12))
    return [
        *(b"", bytes(100), one, one + bytes(64), one[:-1], many, many[:-5] + bytes(80)),
        many + frame(b"old", b"x", epoch=EPOCH - 1),
        one + b"\xff" * 40 + frame(b"later", b"y", synced=BASE + 4000),
        b"".join(frame(b"k", b"") for _ in range(20)),
        struct.pack("<I", EPOCH) * 2000,
        frame(b"n", one + many),
        frame(b"k" * 480, b"x" * 3000),
        frames.encode_log_header(UUID, 5),
    ]


def seal(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Give a place the length and the checksum of a frame."""
    at = 0
    while at + _HEAD.size <= len(data) and rng.random() < 0.8:
        length = struct.unpack_from("<I", data, at + 4)[0]
        if not _HEAD.size <= length <= len(data) - at:
            length = rng.randint(_HEAD.size, len(data) - at)
            struct.pack_into("<II", data, at + 4, length, EPOCH)
        struct.pack_into("<I", data, at, zlib.crc32(data[at + 4 : at + length], SEED))
        at += length


def can_be_a_task_id(key: bytes) -> bool:
    """Whether it is UTF-8, by making it a str and back."""
    return key.decode(errors="replace").encode() == key


def reference(data: bytes) -> list[tuple[int, int]]:
    """Start and end of the frames from the beginning on, by FORMAT.md."""
    found, at = [], 0
    while len(data) - at >= _HEAD.size:
        head = _HEAD.unpack_from(data, at)
        crc, length, epoch, synced, kind, flags, key_length, time_us, expiry_us = head
        whole = data[at + 4 : at + length]
        if length < _HEAD.size + key_length or len(whole) != length - 4 or epoch != EPOCH:
            break
        if kind not in (1, 2, 3) or flags > 3 or not 1 <= key_length <= 480:
            break
        if synced > BASE + at or zlib.crc32(whole, SEED) != crc:
            break
        if not 1 <= time_us <= YEAR_9999_US or expiry_us > YEAR_9999_US:
            break
        if not can_be_a_task_id(whole[32 : 32 + key_length]):
            break
        found.append((at, at + length))
        at += length
    return found


def run(data: bytes) -> str:
    """Scan, and look past damage from everywhere."""
    found, end = frames.scan(data, BASE, SEED, EPOCH)
    expect([(f.offset - BASE, f.end - BASE) for f in found] == reference(data), "not what is there")
    expect(end == (found[-1].end if found else BASE), "a wrong end")
    later = list(frames.find_frames(data, 0, BASE, SEED, EPOCH))
    expect(later[: len(found)] == found, "a search finds less than a scan")
    position = BASE
    for item in later:
        expect(position <= item.offset < item.end <= BASE + len(data), "a frame out of place")
        again = frames.encode_frame(SEED, EPOCH, item.synced_through, item.key, item.entry)
        shown(item.key, item.entry.time_us, item.entry.expires_us)
        expect(again == data[item.offset - BASE : item.end - BASE], "not what was written")
        position = item.end
    proof = frames.damage_below_sync(data, end - BASE, BASE, SEED, EPOCH)
    expected = [item for item in later if item.offset >= end and item.synced_through > end]
    if len(later) > len(found) or proof is None:
        expect(proof == (expected[0] if expected else None), "another proof of damage")
    header = frames.decode_log_header(data)
    counts = f"{min(len(found), 4)} then {min(len(later) - len(found), 3)}"
    return f"{counts} {proof is None} {header is None}"


@contextmanager
def session() -> Iterator[Run]:
    """Nothing to set up."""
    yield run


TARGET = Target("frames", seeds, session, batch=500, bytes_max=1 << 13, mutations=(seal,))

if __name__ == "__main__":
    main(TARGET)
