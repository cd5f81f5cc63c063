"""Fuzzer of a crashed store's logs, one sealed and one open, beside an ``app.db`` not closed.

Invariants:

- Opening, to read or to write, gives what a second reader of the logs, written from FORMAT.md,
  finds; or it raises CorruptLogError, MissingLogError or FormatVersionError, and all files are as
  they were.  If a whole frame says that a damaged place had been synced, or the open log that the
  sealed one ends elsewhere, or if a log is in the other one's place or the two are not of one pair,
  it does raise.
- A value is one that was written under its id.
- A store that was opened passes its check, can be written, closes to one file and opens again.
- Of a log with forged frames (sealed again by a mutation, and at odds with the others) only this
  holds: typed errors, no signal, no hang; it can be written, closed and opened again.
- ``check()`` says so without writing a byte; with ``salvage`` the store can be opened afterwards,
  and holds the newest of every whole frame, whichever of the two files it is in.  Of a log whose
  header is whole and of another version or store, or that is newer than the table, a salvage
  touches nothing.
- A frame of a later version, where frames are looked for, lets nothing open or salvage the log.
- A log that is newer than the table raises StaleTableError; without it the table is as it was, and
  the logs are kept aside.

An input is the length of the sealed log in 4 bytes, that log, and the open one.
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
from fuzz.fuzz_frames import YEAR_9999_US, can_be_a_task_id, is_written
from fuzz.target import Run, Target, expect
from logstore._codec.values import decode_value
from logstore._engine.frames import HEADER_BYTES
from logstore._engine.records import META

_HEAD = struct.Struct("<IIIIBBHQQ")
_UUID = bytes(range(16))
_SEED = zlib.crc32(_UUID)
_ENDS = ("-log", "-log2")
START = 5
Pair = tuple[bytes, bytes]
_EXPECTED = (
    *(logstore.CorruptLogError, logstore.MissingLogError, logstore.FormatVersionError),
    logstore.StaleTableError,
)


class Files(NamedTuple):
    """The table, whose log is sealed, that log, its epoch, and the log of the epoch behind it."""

    table: bytes
    sealed: bytes
    epoch: int
    open: bytes


@lru_cache(maxsize=1)
def base() -> Files:
    """The files of the crashed store."""
    with stores.place() as directory:
        path = stores.make(directory, crashed=True)
        even, odd = (Path(f"{path}{end}").read_bytes() for end in _ENDS)
        epoch = min(epoch_at(log, HEADER_BYTES) for log in (even, odd))
        sealed, open_ = (odd, even) if epoch % 2 else (even, odd)
        return Files(path.read_bytes(), sealed, epoch, open_)


def log_at(path: Path, *, sealed: bool) -> Path:
    """Where a log of the store is: that of even epochs, or that of odd ones."""
    return Path(f"{path}{_ENDS[base().epoch % 2 if sealed else 1 - base().epoch % 2]}")


def join(sealed: bytes, open_: bytes) -> bytes:
    """An input of two logs."""
    return struct.pack("<I", len(sealed)) + sealed + open_


def halves(data: bytes | bytearray) -> tuple[slice, slice]:
    """Where in an input the sealed log is, and where the open one."""
    size = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    return slice(4, 4 + size), slice(min(4 + size, len(data)), None)


def seeds() -> Sequence[bytes]:
    """Whole logs, and one beside others: torn, short, of another version, store or epoch."""
    sealed, epoch, open_ = base()[1:]
    page = open_[:HEADER_BYTES]
    no_start = with_byte(open_, 20, 1, frame=0)
    other_id = open_[:32] + b"\2" + open_[33:40]
    other_id += struct.pack("<I", zlib.crc32(other_id)) + open_[44:]
    pairs = [(sealed, page), (page, open_), (page, page), (sealed, no_start), (sealed, other_id)]
    pairs += [(open_, sealed), (open_, open_), (sealed, sealed), (page, sealed), (open_, page)]
    pairs += [(sealed, sealed[: len(sealed) // 2]), (page, other_id[:HEADER_BYTES])]
    pairs += [(other, open_) for other in variants(sealed, epoch)]
    pairs += [(sealed, other) for other in variants(open_, epoch + 1)]
    for end in (0, HEADER_BYTES, len(sealed)):
        start = with_start(open_, end)
        pairs += [(sealed, start), (page, start)]
    return [join(*pair) for pair in pairs] + [b"", b"\0"]


def with_start(log: bytes, end: int) -> bytes:
    """The open log, with a first frame that says another end of the sealed one."""
    changed = bytearray(log)
    length = frame_bytes(log, HEADER_BYTES)
    struct.pack_into("<Q", changed, HEADER_BYTES + length - 8, end)
    set_epoch(changed, HEADER_BYTES, epoch_at(log, HEADER_BYTES))
    return bytes(changed)


def variants(log: bytes, epoch: int) -> list[bytes]:
    """A log, one that is torn, some that hold little, of another version, store, epoch."""
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


def with_byte(log: bytes, offset: int, value: int, *, frame: int = 2) -> bytes:
    """The log with another byte in the head of a frame, which is its third one."""
    changed, at = bytearray(log), HEADER_BYTES
    for _ in range(frame):
        at += frame_bytes(log, at)
    changed[at + offset] = value
    body = changed[at + 4 : at + frame_bytes(log, at)]
    struct.pack_into("<I", changed, at, zlib.crc32(body, _SEED))
    return bytes(changed)


def epoch_at(log: bytes | bytearray, at: int) -> int:
    """The epoch of the frame at an offset."""
    epoch: int = struct.unpack_from("<I", log, at + 8)[0]
    return epoch


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
    """Put the checksums of the headers and of the frames right as far as their lengths lead."""
    for half in halves(data):
        log = bytearray(data[half])
        seal_log(log)
        data[half] = log


def seal_log(data: bytearray) -> None:
    """Do that to one log."""
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
    half = rng.choice(halves(data))
    log = bytearray(data[half])
    change_log(rng, log)
    data[half] = log


def change_end(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Another end of the sealed log in the first frame of the open one."""
    half = halves(data)[1]
    log = bytes(data[half])
    if len(log) > HEADER_BYTES + _HEAD.size + 9 and decode(log, HEADER_BYTES, base().epoch + 1):
        ends = [frame.end for frame in read_log(base().sealed, base().epoch)[0]]
        data[half] = with_start(log, rng.choice((0, HEADER_BYTES, *ends)))


def change_log(rng: random.Random, data: bytearray) -> None:
    """Change a field in one log."""
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
    sealed, epoch, open_ = base()[1:]
    found = read_log(sealed, epoch)[0] + read_log(open_, epoch + 1)[0]
    return frozenset(frame.raw for frame in found)


# -- a second reader ---------------------------------------------------------------------------


class Found(NamedTuple):
    """A whole frame."""

    start: int
    end: int
    synced: int
    time_us: int
    kind: int
    flags: int
    expiry: int
    key: bytes
    payload: bytes
    raw: bytes


class NewerError(Exception):
    """A whole frame of a later version."""


def decode(data: bytes, at: int, epoch: int) -> Found | None:
    """The frame of an epoch at an offset, or None.  Raises NewerError."""
    if len(data) - at < _HEAD.size:
        return None
    head = _HEAD.unpack_from(data, at)
    crc, length, found, synced, kind, flags, key_length, time_us, expiry = head
    if length < _HEAD.size + key_length or at + length > len(data):
        return None
    if found != epoch:
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
    if kind > 11 or flags & (0x78 if kind == 4 else 0x7C):
        raise NewerError
    if not is_written(kind, key, payload):
        return None
    raw = data[at : at + length]
    return Found(at, at + length, synced, time_us, kind, flags, expiry, key, payload, raw)


def read_log(data: bytes, epoch: int) -> tuple[list[Found], bool, list[Found]]:
    """The frames up to the first bad place, whether what follows proves damage, and all frames.

    Without those of chains that have no end.  Raises NewerError.
    """
    found, at = [], HEADER_BYTES
    while (frame := decode(data, at, epoch)) is not None:
        found.append(frame)
        at = frame.end
    stop, everything, damaged = at, list(found), False
    while at + _HEAD.size <= len(data):
        frame = decode(data, at, epoch)
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


def newest_epoch(data: bytes) -> int:
    """The epoch in the first frame, if a whole frame is of it, or of one of the two before it."""
    if len(data) < HEADER_BYTES + _HEAD.size:
        return 0
    claimed = epoch_at(data, HEADER_BYTES)
    places = range(HEADER_BYTES, len(data))
    for epoch in (claimed, claimed - 1, claimed - 2):
        if epoch > 0 and any(decode(data, at, epoch) is not None for at in places):
            return epoch
    return 0


def is_newer(data: bytes) -> bool:
    """Whether a log is of a later epoch than the table, and than the one behind a sealed log."""
    newest, behind = newest_epoch(data), base().epoch + 1
    if newest == behind:
        first = decode(data, HEADER_BYTES, behind)
        return first is not None and first.kind != START
    return newest > behind


class Page(NamedTuple):
    """What a whole page 0 says."""

    version: int
    uuid: bytes
    log_id: int


def page_of(log: bytes) -> Page | None:
    """Page 0 of a log, None if it is not whole."""
    if len(log) < 44 or log[:8] != b"LOGSTORE":
        return None
    _, version, _, uuid, log_id, crc = struct.unpack_from("<8sII16sQI", log)
    return Page(version, uuid, log_id) if crc == zlib.crc32(log[:40]) else None


def belong_together(even: bytes, odd: bytes) -> bool:
    """Whether two logs are each in its place, and of one pair.  Of damaged pages 0 it says so."""
    pages = page_of(even), page_of(odd)
    if None in pages or any(page[:2] not in ((1, _UUID), (2, _UUID)) for page in pages if page):
        return True
    newest = newest_epoch(even), newest_epoch(odd)
    for place, (page, epoch) in enumerate(zip(pages, newest, strict=True)):
        assert page is not None
        if epoch and place != (epoch % 2 if page.version == 2 else 0):
            return False
    first, second = pages
    assert first is not None
    assert second is not None
    if first.version != second.version or first.log_id == second.log_id:
        return True
    return newest[0] == 0 and newest[1] < base().epoch


class Contents(NamedTuple):
    """What a second reader finds in two logs: the frames that count, whether something is damaged
    that had been synced, and all frames, wherever they are."""

    frames: list[Found]
    damaged: bool
    everything: list[Found]


def read_logs(sealed: bytes, open_: bytes) -> Contents:
    """Read both logs.  Raises NewerError."""
    epoch = base().epoch
    even, odd = (open_, sealed) if epoch % 2 else (sealed, open_)
    if not belong_together(even, odd):
        return Contents([], True, wherever_they_are(sealed, open_))
    frames, damaged, _ = read_log(sealed, epoch)
    behind, damaged_behind, _ = read_log(open_, epoch + 1)
    first = decode(open_, HEADER_BYTES, epoch + 1)
    is_sealed = first is not None and first.kind == START
    end = frames[-1].end if frames else HEADER_BYTES
    if is_sealed:
        assert first is not None
        damaged = damaged or first.payload != struct.pack("<Q", end)
        frames = frames + behind
    return Contents(frames, damaged or damaged_behind, wherever_they_are(sealed, open_))


def wherever_they_are(sealed: bytes, open_: bytes) -> list[Found]:
    """All frames of both epochs, in the order of their times, each of them once."""
    epoch = base().epoch
    found: list[Found] = []
    for of in (epoch, epoch + 1):
        frames: dict[bytes, Found] = {}
        for log, by_name in ((sealed, epoch), (open_, epoch + 1)):
            newest = newest_epoch(log)
            if of == (newest if newest in (epoch, epoch + 1) else by_name):
                frames |= {frame.raw: frame for frame in read_log(log, of)[2]}
        found += sorted(frames.values(), key=lambda frame: frame.time_us)
    return found


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

    def lay_out(self, logs: Pair) -> Path:
        """The files of the crashed store with these logs."""
        self.count += 1
        place = self.directory / str(self.count)
        place.mkdir()
        path = place / stores.NAME
        path.write_bytes(base().table)
        log_at(path, sealed=True).write_bytes(logs[0])
        log_at(path, sealed=False).write_bytes(logs[1])
        return path

    def run(self, data: bytes) -> str:
        """Open to read, to write and after a salvage."""
        try:
            return self.check(data)
        finally:
            for place in self.directory.iterdir():
                shutil.rmtree(place)

    def check(self, data: bytes) -> str:
        """Hold what the store says against what is in the logs."""
        sealed, open_ = halves(data)
        logs = data[sealed], data[open_]
        try:
            frames, damaged, everything = read_logs(*logs)
            newer = any(map(is_newer, logs))
        except NewerError:
            return refused(self.lay_out(logs), logs)
        genuine = all(frame.raw in written() for frame in frames + everything)
        path = self.lay_out(logs)
        label = read_only(path, logs, replayed(frames), damaged, genuine)
        expect((label == "StaleTableError") == newer, f"opening a newer log: {label}")
        opened = read_and_write(path, logs, replayed(frames), genuine)
        expect(label == opened, f"mode='r' says {label}, mode='rw' says {opened}")
        salvage(self.lay_out(logs), logs, replayed(everything), genuine)
        if newer:
            go_without(path, logs)
        counts = f"{min(len(frames), 3)} {min(len(everything) - len(frames), 2)}"
        return f"{label} {counts} {'genuine' if genuine else 'forged'}"


def expect_untouched(path: Path, logs: Pair, what: str) -> None:
    """Nothing has changed, but for the shared header."""
    Path(f"{path}-shm").unlink(missing_ok=True)
    expect(log_at(path, sealed=True).read_bytes() == logs[0], f"{what} changed the sealed log")
    expect(log_at(path, sealed=False).read_bytes() == logs[1], f"{what} changed the open log")
    expect(path.read_bytes() == base().table, f"{what} changed the table")
    expect(len(list(path.parent.iterdir())) == 3, f"{what} made files")


def refused(path: Path, logs: Pair) -> str:
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
    expect_untouched(path, logs, "an opening that was refused")
    try:
        report = logstore.check(path, salvage=True)
        expect(not report.ok, "salvaged in spite of a frame of a later version")
    except logstore.FormatVersionError:
        pass
    expect_untouched(path, logs, "a salvage that was refused")
    return f"{labels[0]} newer"


def read_only(
    path: Path, logs: Pair, expected: dict[str, Any], damaged: bool, genuine: bool
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
    expect_untouched(path, logs, "reading")
    return label


def read_and_write(path: Path, logs: Pair, expected: dict[str, Any], genuine: bool) -> str:
    """Recovery keeps what is there, and the store goes on."""
    try:
        with logstore.open(path, write_timeout_s=stores.WRITE_TIMEOUT_S) as store:
            compare(stores.read_everything(store, genuine=genuine), expected, genuine)
            stores.use(store)
            check(store, genuine)
    except _EXPECTED as error:
        expect_untouched(path, logs, "an opening that was refused")
        return type(error).__name__
    expect([entry.name for entry in path.parent.iterdir()] == [stores.NAME], "more than one file")
    with logstore.open(path) as store:
        compare(stores.contents(store), expected, genuine)
        expect(store.get_result("new") == "value", "what was written is gone")
    return "opened"


def salvage(path: Path, logs: Pair, expected: dict[str, Any], genuine: bool) -> None:
    """After a salvage every whole frame is in the store, and the logs are kept aside."""
    foreign = next(filter(None, map(is_foreign, logs)), "")
    try:
        report = logstore.check(path, salvage=True)
        expect(foreign != "version", "a log of another version was salvaged")
    except logstore.FormatVersionError:
        expect(foreign == "version", "a log of this version was refused")
    if foreign or any(map(is_newer, logs)):
        expect(foreign == "version" or not report.ok, "another store's or a newer log was salvaged")
        expect_untouched(path, logs, "a salvage that was refused")
        return
    expect(report.ok or not genuine, f"after a salvage the check finds {report.problems}")
    kept = sorted(Path(each).read_bytes() for each in report.kept_logs)
    expect(kept == sorted(log for log in logs if any(log[HEADER_BYTES:])), "other logs were kept")
    with logstore.open(path) as store:
        compare(stores.read_everything(store, genuine=genuine), expected, genuine)
        stores.use(store)
        check(store, genuine)


def go_without(path: Path, logs: Pair) -> None:
    """A table that is older than its logs can be opened without them."""
    with logstore.open(path, accept_log_loss=True) as store:
        compare(stores.read_everything(store), replayed([]), True)
        stores.use(store)
        check(store, True)
    kept = sorted(entry.read_bytes() for entry in path.parent.iterdir() if entry != path)
    expect(kept == sorted(logs), "the logs were not kept")


def is_foreign(log: bytes) -> str:
    """What a whole header says that is not this store's."""
    page = page_of(log)
    if page is None:
        return ""
    return "version" if page.version not in (1, 2) else "store" if page.uuid != _UUID else ""


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
    mutations=(seal, change_field, change_end),
)

if __name__ == "__main__":
    main(TARGET)
