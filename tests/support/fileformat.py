"""The files of a store, read and written as ``logstore/FORMAT.md`` describes them.

Rules: nothing of the package is used, so that a test which reads what a store wrote, or forges what
it reads, compares the package with the document.  A store whose table is edited is not open.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb

VERSION = 2
FIRST_OFFSET = 4096  # of a frame
RESULT, PROGRESS, DELETED, EXPIRED, START = 1, 2, 3, 4, 5
MORE = 128  # a flag
TIME_MAX = 253_402_300_799_999_999
STATE, SYNCED, APPENDED = 5, 6, 21  # words of the shared header

_LOG_HEADER = struct.Struct("<8sII16sQ")  # these without their checksum
_FRAME = struct.Struct("<IIIBBHQQ")
_META = struct.Struct("<II16sQQQB3xI")
_RECORD = struct.Struct("<BBHQ")
_TIME = struct.Struct(">Q")
_CRC = struct.Struct("<I")


def log_of(path: Path) -> Path:
    """Return the path of a store's log."""
    return path.with_name(path.name + "-log")


def _checked(body: bytes, seed: int = 0, place: bytes = b"") -> bytes:
    """Put the checksum of a body and its place in front of the body."""
    return _CRC.pack(zlib.crc32(body + place, seed)) + body


# -- the log -----------------------------------------------------------------------------------


class Frame(NamedTuple):
    """Where a frame is in the log, and its key."""

    offset: int
    end: int
    key: bytes


def log_header(uuid: bytes, *, version: int = VERSION) -> bytes:
    """Return page 0 of a log."""
    body = _LOG_HEADER.pack(b"LOGSTORE", version, 0, uuid, 1)
    return (body + _CRC.pack(zlib.crc32(body))).ljust(FIRST_OFFSET, b"\0")


def frame(
    uuid: bytes,
    epoch: int,
    key: bytes,
    payload: bytes,
    *,
    kind: int = RESULT,
    time_us: int = 1,
    expires_us: int = 0,
    flags: int = 0,
    synced: int = FIRST_OFFSET,
) -> bytes:
    """Return a frame with a right checksum."""
    length = 4 + _FRAME.size + len(key) + len(payload)
    head = _FRAME.pack(length, epoch, synced, kind, flags, len(key), time_us, expires_us)
    return _checked(head + key + payload, zlib.crc32(uuid))


def frames_in(path: Path) -> list[Frame]:
    """Return the frames of the epoch of a store's table."""
    meta = meta_of(path)
    data = log_of(path).read_bytes()
    found: list[Frame] = []
    at = FIRST_OFFSET
    while at + 4 + _FRAME.size <= len(data):
        length, epoch, _, _, _, key_length, _, _ = _FRAME.unpack_from(data, at + 4)
        body = data[at + 4 : at + length]
        if epoch != meta.epoch or _checked(body, zlib.crc32(meta.uuid)) != data[at : at + length]:
            break
        key_at = at + 4 + _FRAME.size
        found.append(Frame(at, at + length, data[key_at : key_at + key_length]))
        at += length
    return found


def append_to_log(path: Path, *raw: bytes) -> int:
    """Put frames behind those of a store that was left by a crash; return where they begin."""
    found = frames_in(path)
    at = found[-1].end if found else FIRST_OFFSET
    with open(log_of(path), "r+b") as log:
        log.seek(at)
        log.write(b"".join(raw))
    return at


def log_version(path: Path) -> int:
    """Return the version in page 0 of a store's log."""
    page = log_of(path).read_bytes()[:44]
    assert page[40:] == _CRC.pack(zlib.crc32(page[:40]))
    return int(_LOG_HEADER.unpack(page[:40])[1])


# -- the table ---------------------------------------------------------------------------------


class Meta(NamedTuple):
    """The meta record."""

    version: int
    data_format: int
    uuid: bytes
    epoch: int
    incarnation: int
    data_bytes: int
    clean: int
    features: int


@contextmanager
def editing(path: object, database: bytes) -> Iterator[lmdb.Transaction[bytes]]:
    """Open a write transaction on one database of the table."""
    env = lmdb.open(str(path), subdir=False, lock=False, max_dbs=16, lib_version=0)
    try:
        with env.begin(write=True, db=env.open_db(database, create=False)) as txn:
            yield txn
    finally:
        env.close()


def get(path: Path, database: bytes, key: bytes) -> bytes:
    """Return what the table has for a key."""
    env = lmdb.open(str(path), subdir=False, lock=False, max_dbs=16, lib_version=0)
    try:
        db = env.open_db(database, create=False)
        with env.begin(db=db) as txn:
            raw = txn.get(key)
            assert raw is not None
            return raw
    finally:
        env.close()


def put(path: Path, database: bytes, key: bytes, raw: bytes) -> None:
    """Put something into the table."""
    with editing(path, database) as txn:
        txn.put(key, raw)


def meta_of(path: Path) -> Meta:
    """Return the meta record of a table."""
    raw = get(path, b"meta", b"header")
    assert raw[-4:] == _CRC.pack(zlib.crc32(raw[:-4]))
    return Meta(*_META.unpack(raw[:-4]))


def put_meta(path: Path, meta: Meta) -> None:
    """Put another meta record into a table."""
    body = _META.pack(*meta)
    put(path, b"meta", b"header", body + _CRC.pack(zlib.crc32(body)))


def time_key(time_us: int) -> bytes:
    """Return the key of the record of a time."""
    return _TIME.pack(time_us)


def result_time(path: Path, key: bytes) -> int:
    """Return the time of a task's result, as its mark has it."""
    raw = get(path, b"ids", key)
    assert raw[4] & 1
    return int(_TIME.unpack_from(raw, 5)[0])


def put_result(
    path: Path, key: bytes, payload: bytes, time_us: int, *, expires_us: int = 0
) -> None:
    """Put the record of a result, with a right checksum, at its time."""
    body = _RECORD.pack(RESULT, 0, len(key), expires_us) + key + payload
    raw = _checked(body, zlib.crc32(meta_of(path).uuid), _TIME.pack(time_us))
    put(path, b"results", _TIME.pack(time_us), raw)


def put_mark(path: Path, key: bytes, time_us: int) -> None:
    """Put the mark of a task that has a result, with a right checksum."""
    seed = zlib.crc32(meta_of(path).uuid)
    put(path, b"ids", key, _checked(b"\1" + _TIME.pack(time_us), seed, key))


def tree_roots(path: Path) -> set[int]:
    """Return the pages of an LMDB file that are the roots of its two trees."""
    data = path.read_bytes()
    newest = max((0, 4096), key=lambda page: struct.unpack_from("<Q", data, page + 144)[0])
    return {struct.unpack_from("<Q", data, newest + at)[0] for at in (80, 128)}


# -- the shared header -------------------------------------------------------------------------


@contextmanager
def header_words(path: object) -> Iterator[memoryview[int]]:
    """Map the words of 8 bytes of the shared header."""
    with (
        open(f"{path}-shm", "r+b") as file,
        mmap.mmap(file.fileno(), 0) as mapped,
        memoryview(mapped) as view,
        view.cast("Q") as words,
    ):
        yield words
