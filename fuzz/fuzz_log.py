"""Fuzzer of a crashed store's log: the bytes of ``app.db-log`` beside an ``app.db`` not closed.

Invariants:

- Opening, to read or to write, gives what a second reader of the log, written from FORMAT.md,
  finds; or it raises CorruptLogError, MissingLogError or FormatVersionError, and all files are as
  they were.  If a whole frame says that a damaged place had been synced, it does raise.
- A value is one that was written under its id.
- A store that was opened passes its check, can be written, closes to one file and opens again.
- Of a log with forged frames (sealed again by a mutation, and at odds with the others) only this
  holds: typed errors, no signal, no hang; it can be written, closed and opened again.
- ``check()`` says so without writing a byte; with ``salvage`` the store can be opened afterwards,
  and holds the newest of every whole frame.  Of a log whose header is whole and of another version
  or store, or that is newer than the table, a salvage touches nothing.
- A frame of a later version, where frames are looked for, lets nothing open or salvage the log.
- A log that is newer than the table raises StaleTableError; without it the table is as it was, and
  the log is kept aside.
"""

from __future__ import annotations

import random
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import logstore
from fuzz import stores
from fuzz.command import main
from fuzz.fuzz_frames import YEAR_9999_US, can_be_a_task_id
from fuzz.target import Run, Target, expect
from logstore._codec.values import decode_value
from logstore._engine.frames import HEADER_BYTES
from logstore._engine.records import META

_HEAD = struct.Struct("<IIIIBBHQQ")
_UUID = bytes(range(16))
_SEED = zlib.crc32(_UUID)
_EXPECTED = (
    *(logstore.CorruptLogError, logstore.MissingLogError, logstore.FormatVersionError),
    logstore.StaleTableError,
)


@lru_cache(maxsize=1)
def base() -> tuple[bytes, bytes, int]:
    """The table, the log and its epoch."""
    with stores.place() as directory:
        path = stores.make(directory, crashed=True)
        log = Path(f"{path}-log").read_bytes()
        epoch = struct.unpack_from("<I", log, HEADER_BYTES + 8)[0]
        return path.read_bytes(), log, epoch


def seeds() -> Sequence[bytes]:
    """The whole log, one that is torn, some that hold little, of another version, store, epoch."""
    _, log, epoch = base()
    foreign = []
    for at in (8, 16):
        page = log[:at] + bytes((log[at] + 1,)) + log[at + 1 : 40]
        foreign.append(page + struct.pack("<I", zlib.crc32(page)) + log[44:])
    first = log[:8] + b"\1" + log[9:40]
    foreign.append(first + struct.pack("<I", zlib.crc32(first)) + log[44:])
    foreign += [with_byte(log, offset, value) for offset, value in ((16, 6), (17, 128), (17, 4))]
    short = [log[: HEADER_BYTES + 300], log[:HEADER_BYTES], log[:40], b""]
    newer, torn = bytearray(log), bytearray(log)
    set_epoch(newer, HEADER_BYTES, epoch + 1)
    set_epoch(torn, HEADER_BYTES, epoch + 2)
    torn[HEADER_BYTES] ^= 1
    set_epoch(torn, HEADER_BYTES + frame_bytes(log, HEADER_BYTES), epoch + 1)
    return [log, log[: len(log) // 2], *short, *foreign, bytes(newer), bytes(torn)]


def with_byte(log: bytes, offset: int, value: int) -> bytes:
    """The log with another byte in the head of its third frame."""
    changed, at = bytearray(log), HEADER_BYTES
    for _ in range(2):
        at += frame_bytes(log, at)
    changed[at + offset] = value
    body = changed[at + 4 : at + frame_bytes(log, at)]
    struct.pack_into("<I", changed, at, zlib.crc32(body, _SEED))
    return bytes(changed)


def frame_bytes(log: bytes | bytearray, at: int) -> int:
    """The length of the frame at an offset."""
    length: int = struct.unpack_from("<I", log, at + 4)[0]
    return length


def set_epoch(log: bytearray, at: int, epoch: int) -> None:
    """Make the frame at an offset one of another epoch."""
    struct.pack_into("<I", log, at + 8, epoch)
    body = log[at + 4 : at + frame_bytes(log, at)]
    struct.pack_into("<I", log, at, zlib.crc32(body, _SEED))


def seal(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Put the checksums of the header and of the frames right as far as their lengths lead."""
    if len(data) < HEADER_BYTES:
        return
    struct.pack_into("<I", data, 40, zlib.crc32(data[:40]))
    at = HEADER_BYTES
    while at + _HEAD.size <= len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        if not _HEAD.size <= length <= len(data) - at:
            return
        struct.pack_into("<I", data, at, zlib.crc32(data[at + 4 : at + length], _SEED))
        at += length


def change_field(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Another value in a field of a frame's head, mostly with the checksum put right."""
    at = HEADER_BYTES
    while at + _HEAD.size <= len(data):
        fields = list(_HEAD.unpack_from(data, at))
        length = fields[1]
        if not _HEAD.size <= length <= len(data) - at:
            return
        if rng.random() < 0.2:
            index = rng.randrange(1, 9)
            width = (32, 32, 32, 32, 8, 8, 16, 64, 64)[index]
            value = rng.choice(
                (0, 1, 2, 3, 4, 5, 128, 255, fields[index] + 1, rng.getrandbits(width))
            )
            fields[index] = value % (1 << width)
            _HEAD.pack_into(data, at, *fields)
            if rng.random() < 0.7:
                struct.pack_into("<I", data, at, zlib.crc32(data[at + 4 : at + length], _SEED))
            return
        at += length


@lru_cache(maxsize=1)
def written() -> frozenset[bytes]:
    """The frames that a store has written."""
    return frozenset(frame.raw for frame in read_log(base()[1])[0])


# -- a second reader ---------------------------------------------------------------------------


class Found(NamedTuple):
    """A whole frame."""

    start: int
    end: int
    synced: int
    kind: int
    flags: int
    expiry: int
    key: bytes
    payload: bytes
    raw: bytes


class NewerError(Exception):
    """A whole frame of a later version."""


def decode(data: bytes, at: int, epoch: int | None = None) -> Found | None:
    """The frame at an offset, or None; of the table's epoch, if no other is given.

    Raises NewerError.
    """
    if len(data) - at < _HEAD.size:
        return None
    head = _HEAD.unpack_from(data, at)
    crc, length, found, synced, kind, flags, key_length, time_us, expiry = head
    if length < _HEAD.size + key_length or at + length > len(data):
        return None
    if found != (base()[2] if epoch is None else epoch):
        return None
    body = data[at + 4 : at + length]
    if kind == 0 or not 1 <= key_length <= 480 or synced > at:
        return None
    if zlib.crc32(body, _SEED) != crc:
        return None
    if not 1 <= time_us <= YEAR_9999_US or expiry > YEAR_9999_US:
        return None
    if not can_be_a_task_id(body[32 : 32 + key_length]):
        return None
    key, payload = body[32 : 32 + key_length], body[32 + key_length :]
    if kind > 5 or flags & 0x7C:
        raise NewerError
    if kind == 5 and (key, len(payload)) != (b"-", 8):
        return None
    return Found(at, at + length, synced, kind, flags, expiry, key, payload, data[at : at + length])


def read_log(data: bytes) -> tuple[list[Found], bool, list[Found]]:
    """The frames up to the first bad place, whether what follows proves damage, and all frames.

    Without those of chains that have no end.  Raises NewerError.
    """
    found, at = [], HEADER_BYTES
    while (frame := decode(data, at)) is not None:
        found.append(frame)
        at = frame.end
    stop, everything, damaged = at, list(found), False
    while at + _HEAD.size <= len(data):
        frame = decode(data, at)
        if frame is None:
            at += 1
            continue
        everything.append(frame)
        damaged = damaged or frame.synced > stop
        at = frame.end
    return in_chains(found), damaged, in_chains(everything)


def in_chains(frames: Sequence[Found]) -> list[Found]:
    """The frames of whole chains."""
    whole: list[Found] = []
    chain: list[Found] = []
    for frame in frames:
        if chain and chain[-1].end != frame.start:
            chain = []
        chain.append(frame)
        if frame.flags < 128:
            whole += chain
            chain = []
    return whole


def is_newer(data: bytes) -> bool:
    """Whether the log is of a later epoch than the table."""
    if len(data) < HEADER_BYTES + _HEAD.size:
        return False
    claimed: int = struct.unpack_from("<I", data, HEADER_BYTES + 8)[0]
    for epoch in (claimed, claimed - 1):
        places = range(HEADER_BYTES, len(data))
        if epoch > 0 and any(decode(data, at, epoch) is not None for at in places):
            return epoch > base()[2]
    return False


def replayed(
    frames: Sequence[Found], *, table: Sequence[tuple[str, Any]] = stores.IN_TABLE
) -> dict[str, Any]:
    """What a store should say of each id."""
    state: dict[bytes, Any] = {}
    for task_id, value in table:
        state[task_id.encode()] = value
    for frame in frames:
        if frame.kind == 1:
            live = frame.expiry == 0 or frame.expiry > 4e15
            try:
                state[frame.key] = decode_value(frame.payload) if live else None
            except logstore.DecodeError as error:
                state[frame.key] = type(error)
        elif frame.kind in (3, 4):
            state[frame.key] = None
    return {
        task_id: stores.NOT_THERE if (value := state.get(task_id.encode())) is None else value
        for task_id in stores.IDS
    }


# -- one execution -----------------------------------------------------------------------------


class Logs:
    """Logs beside one and the same table."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0

    def lay_out(self, log: bytes) -> Path:
        """The files of the crashed store with this log."""
        self.count += 1
        place = self.directory / str(self.count)
        place.mkdir()
        path = place / stores.NAME
        path.write_bytes(base()[0])
        Path(f"{path}-log").write_bytes(log)
        return path

    def run(self, data: bytes) -> str:
        """Open to read, to write and after a salvage."""
        try:
            return self.check(data)
        finally:
            for place in self.directory.iterdir():
                shutil.rmtree(place)

    def check(self, data: bytes) -> str:
        """Hold what the store says against what is in the log."""
        try:
            frames, damaged, everything = read_log(data)
            is_newer(data)
        except NewerError:
            return refused(self.lay_out(data), data)
        genuine = all(frame.raw in written() for frame in everything)
        path = self.lay_out(data)
        label = read_only(path, data, replayed(frames), damaged, genuine)
        expect((label == "StaleTableError") == is_newer(data), f"opening a newer log: {label}")
        opened = read_and_write(path, data, replayed(frames), genuine)
        expect(label == opened, f"mode='r' says {label}, mode='rw' says {opened}")
        salvage(self.lay_out(data), data, replayed(everything), genuine)
        if is_newer(data):
            go_without(path, data)
        counts = f"{min(len(frames), 3)} {min(len(everything) - len(frames), 2)}"
        return f"{label} {counts} {'genuine' if genuine else 'forged'}"


def refused(path: Path, log: bytes) -> str:
    """A log with a frame of a later version is not opened, salvaged or changed."""
    labels = []
    for mode in ("r", "rw"):
        try:
            logstore.open(path, mode=mode).close()
            raise AssertionError("opened in spite of a frame of a later version")
        except _EXPECTED as error:
            labels.append(type(error).__name__)
            expect(str(path) in str(error), "the message names no file")
    expect(labels[0] == labels[1], f"mode='r' says {labels[0]}, mode='rw' says {labels[1]}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    try:
        report = logstore.check(path, salvage=True)
        expect(not report.ok, "salvaged in spite of a frame of a later version")
    except logstore.FormatVersionError:
        pass
    expect(Path(f"{path}-log").read_bytes() == log, "a refused log was changed")
    expect(path.read_bytes() == base()[0], "the table of a refused log was changed")
    Path(f"{path}-shm").unlink(missing_ok=True)
    expect(len(list(path.parent.iterdir())) == 2, "a refused log left files")
    return f"{labels[0]} newer"


def read_only(
    path: Path, log: bytes, expected: dict[str, Any], damaged: bool, genuine: bool
) -> str:
    """Reading writes nothing, and finds what is there."""
    try:
        with logstore.open(path, mode="r") as store:
            compare(stores.read_everything(store, genuine=genuine), expected, genuine)
            expect(store.check().ok, f"the check finds {store.check().problems}")
            expect(not damaged, "damage below what had been synced was not seen")
            label = "opened"
    except _EXPECTED as error:
        label = type(error).__name__
        expect(str(path) in str(error), "the message names no file")
    try:
        report = logstore.check(path)
        expect(report.ok == (label == "opened"), f"opening: {label}; check: {report.problems}")
    except logstore.FormatVersionError:
        expect(label == "FormatVersionError", f"opening says {label}")
    expect(Path(f"{path}-log").read_bytes() == log, "reading changed the log")
    expect(path.read_bytes() == base()[0], "reading changed the table")
    expect(len(list(path.parent.iterdir())) == 2, "reading made files")
    return label


def read_and_write(path: Path, log: bytes, expected: dict[str, Any], genuine: bool) -> str:
    """Recovery keeps what is there, and the store goes on."""
    try:
        with logstore.open(path, write_timeout_s=stores.WRITE_TIMEOUT_S) as store:
            compare(stores.read_everything(store, genuine=genuine), expected, genuine)
            stores.use(store)
            check(store, genuine)
    except _EXPECTED as error:
        expect(Path(f"{path}-log").read_bytes() == log, "a refused log was changed")
        expect(path.read_bytes() == base()[0], "the table of a refused log was changed")
        return type(error).__name__
    expect([entry.name for entry in path.parent.iterdir()] == [stores.NAME], "more than one file")
    with logstore.open(path) as store:
        compare(stores.contents(store), expected, genuine)
        expect(store.get_result("new") == "value", "what was written is gone")
    return "opened"


def salvage(path: Path, log: bytes, expected: dict[str, Any], genuine: bool) -> None:
    """After a salvage every whole frame is in the store, and the log is kept aside."""
    foreign = is_foreign(log)
    try:
        report = logstore.check(path, salvage=True)
        expect(foreign != "version", "a log of another version was salvaged")
    except logstore.FormatVersionError:
        expect(foreign == "version", "a log of this version was refused")
    if foreign or is_newer(log):
        expect(foreign == "version" or not report.ok, "another store's or a newer log was salvaged")
        expect(Path(f"{path}-log").read_bytes() == log, "a refused log was changed")
        expect(path.read_bytes() == base()[0], "the table of a refused log was changed")
        expect(len(list(path.parent.iterdir())) == 2, "a refused salvage left files")
        return
    expect(report.ok or not genuine, f"after a salvage the check finds {report.problems}")
    if report.kept_log is not None:
        expect(Path(report.kept_log).read_bytes() == log, "the log that was kept is another")
    with logstore.open(path) as store:
        compare(stores.read_everything(store, genuine=genuine), expected, genuine)
        stores.use(store)
        check(store, genuine)


def go_without(path: Path, log: bytes) -> None:
    """A table that is older than its log can be opened without it."""
    with logstore.open(path, accept_log_loss=True) as store:
        compare(stores.read_everything(store), replayed([]), True)
        stores.use(store)
        check(store, True)
    kept = [entry for entry in path.parent.iterdir() if entry != path]
    expect([entry.read_bytes() for entry in kept] == [log], "the log was not kept")


def is_foreign(log: bytes) -> str:
    """What a whole header says that is not this store's."""
    if len(log) < 44 or log[:8] != b"LOGSTORE":
        return ""
    _, version, _, uuid, _, crc = struct.unpack_from("<8sII16sQI", log)
    if crc != zlib.crc32(log[:40]):
        return ""
    return "version" if version not in (1, 2) else "store" if uuid != _UUID else ""


def check(store: logstore.Store, genuine: bool) -> None:
    """Nothing is out of step, unless frames contradict each other."""
    problems = store.check().problems
    expect(not problems or not genuine, f"the check finds {problems}")


def compare(found: dict[str, Any], expected: dict[str, Any], genuine: bool) -> None:
    """Every id has the value that it should have."""
    if not genuine:
        return
    stores.expect_versions(found)
    differing = ", ".join(
        f"{task_id!r}: {found[task_id]!r}, expected {expected[task_id]!r}"
        for task_id in stores.IDS
        if found[task_id] != expected[task_id]
    )
    expect(not differing, differing[:500])


@contextmanager
def session() -> Iterator[Run]:
    """A directory in memory."""
    assert META.size == 60
    base()
    with stores.place() as directory:
        yield Logs(directory).run


TARGET = Target(
    "log",
    seeds,
    session,
    batch=20,
    bytes_max=1 << 14,
    memory_base_bytes=64 << 20,
    mutations=(seal, change_field),
)

if __name__ == "__main__":
    main(TARGET)
