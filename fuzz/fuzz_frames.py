"""Fuzzer of the log's bytes, as pure functions read them.

Invariants: every frame returned checks, lies inside the bytes and says its own place; ``scan``
ends where there is no whole frame of the epoch, or before the chain that it ends in, as a second
reader, written from FORMAT.md alone, finds it; a whole frame of a later version is an error where
it is met, and only there; ``find_frames`` finds at least what ``scan`` does, in order and without
overlap, and ``find_chains`` what of it is in whole chains; whatever is found is written again as
the same bytes, and can be listed.  Time is in proportion to the input.
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
    key: bytes,
    payload: bytes,
    *,
    kind: int = 1,
    epoch: int = EPOCH,
    synced: int = BASE,
    more: bool = False,
) -> bytes:
    """One frame."""
    entry = Entry(kind, 0, 1_700_000_000_000_000, 0, payload)
    return frames.encode_frame(SEED, epoch, synced, key, entry, more=more)


def seeds() -> Sequence[bytes]:
    """Logs in the states that they have, and one made to be slow to look through."""
    one = frame(b"job-1", b"\x01")
    many = b"".join(frame(b"k%d" % i, bytes(i), kind=1 + i % 4, synced=BASE + i) for i in range(12))
    chain = b"".join(frame(b"c%d" % i, b"z", more=i < 3) for i in range(4))
    return [
        *(b"", bytes(100), one, one + bytes(64), one[:-1], many, many[:-5] + bytes(80)),
        many + frame(b"old", b"x", epoch=EPOCH - 1),
        one + b"\xff" * 40 + frame(b"later", b"y", synced=BASE + 4000),
        b"".join(frame(b"k", b"") for _ in range(20)),
        struct.pack("<I", EPOCH) * 2000,
        frame(b"n", one + many),
        frame(b"k" * 480, b"x" * 3000),
        frames.encode_start(SEED, EPOCH, 1 << 20) + one,
        chain + one,
        one + chain[:-10],
        chain[:-10] + bytes(9) + frame(b"later", b"y", synced=BASE + 90),
        frame(b"id", struct.pack("<QQ", 9, 5) + b"definition", kind=11) + one,
        many + frame(b"newer", b"", kind=16) + one,
        one + bytes(9) + frame(b"newer", b"", kind=255),
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


def is_written(kind: int, key: bytes, payload: bytes) -> bool:
    """Whether a writer of version 2 writes such a frame, by FORMAT.md."""
    if kind == 5:
        return (key, len(payload)) == (b"-", 8)
    if kind == 6:
        if len(payload) < 8:
            return False
        name, reason = payload[5], int.from_bytes(payload[6:8], "little")
        texts = payload[8 : 8 + name], payload[8 + name : 8 + name + reason]
        fits = 1 <= name <= 200 and 8 + name + reason <= len(payload)
        return fits and all(map(_is_text, texts))
    if kind == 10:
        return len(payload) == 5
    if kind == 11:
        times = [int.from_bytes(payload[at : at + 8], "little") for at in (0, 8)]
        return len(payload) >= 16 and max(times) <= 253_402_300_799_999_999
    if kind in (7, 8, 9):
        sequence = int.from_bytes(payload[:8], "little")
        size = {7: 9, 8: 10, 9: 10}[kind]
        right = len(payload) >= size if kind == 9 else len(payload) == size
        return right and 1 <= sequence <= 253_402_300_799_999_999 and _is_text(payload[size:])
    return True


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def reference(data: bytes) -> tuple[list[tuple[int, int]], bool]:
    """Start and end of the frames from the beginning on, and whether one of a later version ends
    them, by FORMAT.md."""
    found: list[tuple[int, int]] = []
    at, whole, newer = 0, 0, False
    while len(data) - at >= _HEAD.size:
        head = _HEAD.unpack_from(data, at)
        crc, length, epoch, synced, kind, flags, key_length, time_us, expiry_us = head
        body = data[at + 4 : at + length]
        if length < _HEAD.size + key_length or len(body) != length - 4 or epoch != EPOCH:
            break
        if kind == 0 or not 1 <= key_length <= 480:
            break
        if synced > BASE + at or zlib.crc32(body, SEED) != crc:
            break
        if not 1 <= time_us <= YEAR_9999_US or expiry_us > YEAR_9999_US:
            break
        key, payload = body[32 : 32 + key_length], body[32 + key_length :]
        if not can_be_a_task_id(key):
            break
        newer = kind > 11 or flags not in (0, 1, 2, 3, 128, 129, 130, 131)
        if newer or not is_written(kind, key, payload):
            break
        found.append((at, at + length))
        at += length
        if flags < 128:
            whole = len(found)
    return found[:whole], newer


def run(data: bytes) -> str:
    """Scan, and look past damage from everywhere."""
    expected_frames, newer = reference(data)
    try:
        found, end = frames.scan(data, BASE, SEED, EPOCH)
        expect(not newer, "a frame of a later version was not seen")
    except frames.NewerFrameError:
        expect(newer, "a frame of this version was taken for one of a later")
        return "newer"
    expect([(f.offset - BASE, f.end - BASE) for f in found] == expected_frames, "not what is there")
    expect(end == (found[-1].end if found else BASE), "a wrong end")
    try:
        later = list(frames.find_frames(data, 0, BASE, SEED, EPOCH))
    except frames.NewerFrameError:
        return f"{min(len(found), 4)} then newer"
    expect(later[: len(found)] == found, "a search finds less than a scan")
    whole = list(frames.find_chains(data, 0, BASE, SEED, EPOCH))
    expect(whole == in_whole_chains(later), "a chain without an end was found")
    position = BASE
    for item in later:
        expect(position <= item.offset < item.end <= BASE + len(data), "a frame out of place")
        again = frames.encode_frame(
            SEED, EPOCH, item.synced_through, item.key, item.entry, more=item.more
        )
        shown(item.key, item.entry.time_us, item.entry.expires_us)
        expect(again == data[item.offset - BASE : item.end - BASE], "not what was written")
        position = item.end
    proof = frames.damage_below_sync(data, end - BASE, BASE, SEED, EPOCH)
    bad = end
    while (passed := next((item for item in later if item.offset == bad), None)) is not None:
        bad = passed.end
    expected = [item for item in later if item.offset >= bad and item.synced_through > bad]
    expect(proof == (expected[0] if expected else None), "another proof of damage")
    header = frames.decode_log_header(data)
    counts = f"{min(len(found), 4)} then {min(len(later) - len(found), 3)}"
    return f"{counts} {len(later) == len(whole)} {proof is None} {header is None}"


def in_whole_chains(found: Sequence[frames.Frame]) -> list[frames.Frame]:
    """Those whose chain has an end: each frame is followed to where it ends."""
    by_offset = {item.offset: item for item in found}

    def has_end(item: frames.Frame | None) -> bool:
        while item is not None and item.more:
            item = by_offset.get(item.end)
        return item is not None

    return [item for item in found if has_end(item)]


@contextmanager
def session() -> Iterator[Run]:
    """Nothing to set up."""
    yield run


TARGET = Target("frames", seeds, session, batch=500, bytes_max=1 << 13, mutations=(seal,))

if __name__ == "__main__":
    main(TARGET)
