"""Fuzzer of what is in the table: records, marks and the header record.

Invariants: any bytes are what was written or a CorruptRecordError (of the header: a
CorruptTableError); what is accepted is written again as the same bytes, so nothing but what an
encoder wrote is accepted; it can be listed, its id as a str and its times as datetimes; a record
under another time and a mark under another task are refused.

The first byte of an input says what the rest is: a record, a mark or a header.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fuzz.child import error_label
from fuzz.command import main
from fuzz.target import Run, Target, expect
from logstore._engine import frames, records
from logstore._engine.frames import Entry
from logstore._engine.listing import utc
from logstore._engine.records import Mark, Meta
from logstore.errors import CorruptRecordError, CorruptTableError

UUID = bytes(range(16))
SEED = frames.checksum_seed(UUID)
TIME_US = 1_700_000_000_000_000
KEY = b"job-1"
_RECORD, _MARK, _META = range(3)


def seeds() -> Sequence[bytes]:
    """Each kind of record, each state of a mark, and a header."""
    found = [
        bytes((_RECORD,))
        + records.encode_record(SEED, KEY, Entry(kind, flags, TIME_US, end, payload))
        for kind, flags, end, payload in (
            (frames.RESULT, 0, 0, b"\x01"),
            (frames.RESULT, frames.FAILED, TIME_US + 5, b"x" * 100),
            (frames.PROGRESS, 0, 0, b"\x85" + b"\xf6" * 5),
            (frames.DELETED, frames.HAD_RESULT, 0, b""),
            (frames.EXPIRED, frames.HAD_RESULT, TIME_US, b""),
        )
    ]
    marks = (Mark(), Mark(1), Mark(0, 2), Mark(0, 0, 3), Mark(1, 0, 3), Mark(0, TIME_US, 3))
    found += [bytes((_MARK,)) + records.encode_mark(SEED, KEY, mark) for mark in marks]
    found.append(bytes((_META,)) + records.encode_meta(Meta(2, 0, UUID, 5, 1, 1000, True)))
    return found


def seal(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Put the checksum right, so that what is behind it is read."""
    body = bytes(data[5:])
    if data[0] % 3 == _RECORD:
        crc = zlib.crc32(struct.pack(">Q", TIME_US), zlib.crc32(body, SEED))
    elif data[0] % 3 == _MARK:
        crc = zlib.crc32(KEY, zlib.crc32(body, SEED))
    else:
        data[-4:] = struct.pack("<I", zlib.crc32(data[1:-4]))
        return
    data[1:5] = struct.pack("<I", crc)


def run(data: bytes) -> str:
    """Read the rest as what the first byte says."""
    if not data:
        return "empty"
    read = (_read_record, _read_mark, _read_meta)[data[0] % 3]
    return read(data[1:])


def shown(key: bytes, *times_us: int) -> None:
    """As a listing shows it: what is accepted can be."""
    expect(key.decode() != "", "an empty task id")
    for time_us in times_us:
        expect(utc(time_us) >= utc(0), "a time before 1970")


def _read_record(raw: bytes) -> str:
    try:
        record = records.decode_record(SEED, TIME_US, raw, "fuzz")
    except CorruptRecordError as error:
        expect("fuzz: " in str(error), "the message names no file")
        return error_label(error)
    expect(records.encode_record(SEED, record.key, record.entry) == raw, "not what was written")
    shown(record.key, record.entry.time_us, record.entry.expires_us)
    expect(record.size == len(record.entry.payload), "a wrong size")
    listed = records.decode_record(SEED, TIME_US, raw, "fuzz", with_payload=False)
    expect((listed.key, listed.size) == (record.key, record.size), "a listing differs")
    try:
        records.decode_record(SEED, TIME_US + 1, raw, "fuzz")
    except CorruptRecordError:
        return f"record of kind {record.entry.kind}"
    raise AssertionError("accepted under another time")


def _read_mark(raw: bytes) -> str:
    try:
        mark = records.decode_mark(SEED, KEY, raw, "fuzz")
    except CorruptRecordError as error:
        return error_label(error)
    expect(records.encode_mark(SEED, KEY, mark) == raw, "not what was written")
    shown(KEY, *mark)
    try:
        records.decode_mark(SEED, KEY + b"x", raw, "fuzz")
    except CorruptRecordError:
        return f"mark of {raw[4]}"
    raise AssertionError("accepted under another task")


def _read_meta(raw: bytes) -> str:
    try:
        meta = records.decode_meta(raw, "fuzz")
    except CorruptTableError as error:
        return error_label(error)
    body = records.encode_meta(meta)
    # The padding and the truth of "clean" are not shown.
    expect(body[:48] == raw[:48] and meta.clean == bool(raw[48]), "not what was written")
    expect(body[52:56] == raw[52:56], "not the features that were written")
    return "header"


@contextmanager
def session() -> Iterator[Run]:
    """Nothing to set up."""
    yield run


TARGET = Target("records", seeds, session, batch=500, bytes_max=2048, mutations=(seal,))

if __name__ == "__main__":
    main(TARGET)
