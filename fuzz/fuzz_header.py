"""Fuzzer of the shared header: any bytes in ``app.db-shm``.

Invariants:

- Of a store that is not open, the header says nothing: opening gives the same as without it,
  to read and to write, and leaves nothing of it.
- Beside a live store, a process that finds a header which no process of this boot has finished, one
  of another store, log or table, or one that says that the files were replaced, does not join, and
  changes nothing.
- One of the table that a vacuum has replaced, which then died, is joined.
- One that joins sees exactly what the logs hold up to the offsets that the header says are
  committed and sealed, and CorruptLogError if there is no whole frame up to one, or if the sealed
  log is none that can be beside the open one; never a value that was not written.
- What it then writes is there after everybody has died, with what it saw, unless the header spoke
  of less than had been published; nothing behind an append that was interrupted comes back.  If the
  header speaks of another transaction than the table's, the table has been overwritten: what the
  log holds, and what was acked, is in a rescued store.
- Whatever a header says: no signal, no hang, no error but a typed one.

The first byte of an input says which of the two; the rest is the header.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import logstore
from fuzz import fuzz_log, stores
from fuzz.command import main
from fuzz.target import Run, Target, expect
from logstore._engine import header, maintenance, metapages, system
from logstore._engine.frames import HEADER_BYTES

NEVER_S = 1e6
_JOIN_S = 2.0  # a busy machine does not keep a store from being joined
_DEAD, _LIVE = range(2)
FIELDS = {name: index for index, name in enumerate(header.FIELDS)}
_STATE_AT = FIELDS["state"] * 8
_INODE = 103
_PLACEHOLDERS = {"boot_low": 101, "boot_high": 102, "table_inode": _INODE}
# Two words of 4 bytes in each.
_COUNTERS = tuple(index // 2 for index in (header.SEQUENCE, header.RELEASES, header.FOLDS))
_NOT_TOLD = (
    *_COUNTERS,
    *(FIELDS[n] for n in ("nonce", "last_holder", "last_time_us", "log_id")),
)


@lru_cache(maxsize=1)
def base() -> tuple[bytes, dict[str, Any]]:
    """The header of a store, and what it holds; the same in every boot."""
    with stores.place() as directory:
        path = stores.make(directory, crashed=True)
        page = Path(f"{path}-shm").read_bytes()
        os.unlink(f"{path}-shm")
        with logstore.open(path) as store:
            return with_words(page[: header.SIZE], _PLACEHOLDERS), stores.contents(store)


def in_place(page: bytes, path: Path) -> bytes:
    """A header with this boot and the table's inode where they stand for themselves."""
    if len(page) < header.SIZE:
        return page
    boot = system.boot_id()
    actual = {"boot_low": int.from_bytes(boot[:8], "little")}
    actual["boot_high"] = int.from_bytes(boot[8:], "little")
    actual["table_inode"] = path.stat().st_ino
    kept = {name for name, value in _PLACEHOLDERS.items() if word(page, name) == value}
    return with_words(page, {name: value for name, value in actual.items() if name in kept})


@lru_cache(maxsize=1)
def committed() -> dict[int, list[fuzz_log.Found]]:
    """The values of STATE, or of SEALED, that fit a log, and the frames that are in it then."""
    _, sealed, epoch, open_ = fuzz_log.base()
    states: dict[int, list[fuzz_log.Found]] = {}
    for number, log in ((epoch, sealed), (epoch + 1, open_)):
        found, _, _ = fuzz_log.read_log(log, number)
        states[number << 32 | HEADER_BYTES] = []
        for count, frame in enumerate(found, start=1):
            states[number << 32 | frame.end] = found[:count]
    return states


def frames_in(state: int) -> list[fuzz_log.Found] | None:
    """The frames up to a state; None if they are not there."""
    return [] if state & 0xFFFFFFFF <= HEADER_BYTES else committed().get(state)


def shown(page: bytes, state: int) -> list[fuzz_log.Found] | None:
    """The frames of which a header says that they are not in the table, up to a state; None if
    it makes no sense."""
    sealed = word(page, "sealed")
    if sealed >> 32 == (state >> 32) - 1:
        first, second = frames_in(sealed), frames_in(state)
        return None if first is None or second is None else first + second
    return frames_in(state) if sealed == 0 or sealed >> 32 == state >> 32 else None


def word(page: bytes, field: str) -> int:
    """A field of a header, 0 behind its end."""
    at = 8 * FIELDS[field]
    return int.from_bytes(page[at : at + 8], "little")


def with_words(page: bytes, words: dict[str, int]) -> bytes:
    """A header with other values in some fields."""
    changed = bytearray(page)
    for field, value in words.items():
        struct.pack_into("<Q", changed, 8 * FIELDS[field], value)
    return bytes(changed)


_FIXED = (
    *("magic", "ready", "boot_low", "boot_high", "incarnation"),
    *("table_inode", "uuid_low", "uuid_high"),
)
# The table at the path is the one behind that of the header, and an exchange is under way.
_VACUUMED = {"writing": 1, "incarnation": 0}


def seeds() -> Sequence[bytes]:
    """Headers of this boot and store, finished and not, and of others; during every append."""
    page = base()[0]
    pages = [page, bytes(4096), b"\xff" * 4096, b"", page[:100], page * 2]
    raised = ("writing", "log_failed", "held_by_vacuum", "replaced", "folding")
    pages += [with_words(page, {"ready": 0}), *(with_words(page, {name: 1}) for name in raised)]
    others = (*_FIXED, "log_id")
    pages += [with_words(page, {name: word(page, name) + (1 << 40)}) for name in others]
    txn = word(page, "table_txn")
    pages += [with_words(page, {"table_txn": number}) for number in (txn - 1, txn + 1)]
    pages += [with_words(page, _VACUUMED | {"table_inode": inode}) for inode in (1, _INODE)]
    sealed = word(page, "sealed")
    for other in (0, 1, sealed + 1, sealed - (1 << 32), sealed + (1 << 32), *committed()):
        pages += [with_words(page, {"sealed": other})]
    for state in (*committed(), max(committed()) + 1):
        words = {"state": state, "synced": state & 0xFFFFFFFF}
        pages += [with_words(page, words | {"writing": number}) for number in (0, 1)]
        pages += [with_words(page, words | {"writing": 1, "appended": state})]
    kinds = (_DEAD, _LIVE)
    return [bytes((kind,)) + data for kind in kinds for data in pages]


def set_word(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Another value in a word that means something."""
    at = 1 + 8 * rng.randrange(len(FIELDS))
    if at + 8 <= len(data):
        (old,) = struct.unpack_from("<Q", data, at)
        small = rng.choice((0, 1, 2, 1 << 32, 4096, rng.getrandbits(13)))
        value = rng.choice((small, old + 1, old - 1, old ^ small, rng.getrandbits(64)))
        struct.pack_into("<Q", data, at, value % (1 << 64))


def set_state(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A committed offset at the end of a frame or beside it, in this epoch or another."""
    if len(data) >= 4097:
        state = rng.choice(list(committed())) + rng.choice((0, 0, 0, 1, -1, 1 << 32, -1 << 32))
        struct.pack_into("<Q", data, 1 + _STATE_AT, state)
        if rng.random() < 0.7:
            struct.pack_into("<Q", data, 1 + 8 * FIELDS["synced"], state & 0xFFFFFFFF)


def set_sealed(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Another log that is sealed, or none."""
    if len(data) >= 4097:
        sealed = rng.choice((0, *committed())) + rng.choice((0, 0, 0, 1, 1 << 32))
        struct.pack_into("<Q", data, 1 + 8 * FIELDS["sealed"], sealed)


def dead_vacuum(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A vacuum has put its table in place, and said all of it, its inode only, or nothing."""
    if len(data) >= 4097:
        words = _VACUUMED | {"table_inode": rng.choice((_INODE, _INODE, 1, rng.getrandbits(9)))}
        if rng.random() < 0.3:
            del words[rng.choice(list(words))]
        data[1:] = with_words(bytes(data[1:]), words)


def this_boot(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Make it look like a finished header of this boot."""
    if len(data) >= 4097:
        data[1 : 1 + _STATE_AT] = base()[0][:_STATE_AT]


class Headers:
    """Headers beside one and the same table and logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, data: bytes) -> str:
        """Open a store beside a header."""
        if not data:
            return "empty"
        place = self.directory / "store"
        place.mkdir()
        try:
            path = place / stores.NAME
            lay_out(path)
            page = in_place(data[1:], path)
            Path(f"{path}-shm").write_bytes(page)
            return (dead, live)[data[0] % 2](path, page)
        finally:
            shutil.rmtree(place)


def lay_out(path: Path) -> None:
    """Put table and logs there."""
    path.write_bytes(fuzz_log.base().table)
    fuzz_log.log_at(path, sealed=True).write_bytes(fuzz_log.base().sealed)
    fuzz_log.log_at(path, sealed=False).write_bytes(fuzz_log.base().open)


def dead(path: Path, page: bytes) -> str:
    """No process is there: the header is not looked at."""
    with logstore.open(path, mode="r") as store:
        found = stores.read_everything(store)
        expect(found == base()[1], "reading believes the header")
    expect(Path(f"{path}-shm").read_bytes() == page, "reading wrote a header")
    with logstore.open(path, write_timeout_s=stores.WRITE_TIMEOUT_S) as store:
        expect_rebuilt(path, store.stats().epoch)
        found = stores.read_everything(store)
        expect(found == base()[1], "recovery believes the header")
        stores.use(store)
        expect(store.check().ok, f"the check finds {store.check().problems}")
        expect(store.stats().recoveries == 0, "recovered from what the header says")
    expect([entry.name for entry in path.parent.iterdir()] == [stores.NAME], "more than one file")
    return "dead"


def expect_rebuilt(path: Path, epoch: int) -> None:
    """Nothing of an older header is in that of a store that was just opened."""
    page = Path(f"{path}-shm").read_bytes()
    told = in_place(base()[0], path)
    expected = {FIELDS[name]: word(told, name) for name in _FIXED}
    expected |= {FIELDS[name]: epoch << 32 | HEADER_BYTES for name in ("state", "appended")}
    expected |= {FIELDS[name]: HEADER_BYTES for name in ("synced", "unsynced")}
    expected[FIELDS["table_txn"]] = last_transaction(path)
    for index in range(header.SIZE // 8):
        if index not in _NOT_TOLD:
            found = int.from_bytes(page[8 * index : 8 * index + 8], "little")
            expect(found == expected.get(index, 0), f"word {index} of a new header is {found}")


def last_transaction(path: Path) -> int:
    """The number of the newest transaction in a table."""
    data = path.read_bytes()
    page_bytes = metapages.decode(data).page_bytes
    return max(metapages.decode(data[at:]).txn_id for at in (0, page_bytes))


def live(path: Path, page: bytes) -> str:
    """A process seems to be there: the next one joins, or does not."""
    expected = may_join(path, page)
    with present(path):
        try:
            timeout_s = _JOIN_S if expected else 0.02
            store = logstore.open(path, write_timeout_s=timeout_s, sync_interval_s=NEVER_S)
        except logstore.LogstoreError as error:
            expect(not expected, f"did not join: {error}")
            expect_untouched(path, page)
            return type(error).__name__
        expect(expected, "joined a store whose header is not finished, or another's")
        try:
            label, left = join(store, page)
        finally:
            close(store)
    if left is not None:
        if is_overwritten(page):
            path = Path(f"{path}-rescued-{word(page, 'nonce'):016x}")
        expect(path.exists(), "nothing was rescued")
        with logstore.open(path) as store:
            found = stores.contents(store, (*stores.IDS, "new"))
            expect(found == left, f"{differing(found, left)} after all have died")
    return label


@contextmanager
def present(path: Path) -> Iterator[None]:
    """What a process that has the store open holds on its files."""
    fds = [os.open(f"{path}{end}", os.O_RDWR) for end in ("-shm", "")]
    try:
        for fd in fds:
            fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        for fd in fds:
            os.close(fd)


def may_join(path: Path, page: bytes) -> bool:
    """Whether a header is one that a process of this boot has finished for these files.

    The table at the path is the one that the header names, or it is the one
    behind it, and what put it there died before it said so.
    """
    vacuumed = {"incarnation": 0} | {"table_inode": word(page, "table_inode")}
    expected = in_place(with_words(base()[0], vacuumed if is_vacuumed(page) else {}), path)
    return word(page, "replaced") == 0 and all(
        word(page, name) == word(expected, name) for name in (*_FIXED, "log_id")
    )


def is_vacuumed(page: bytes) -> bool:
    """Whether the table is the one behind that of the header."""
    return word(page, "writing") != 0 and word(page, "incarnation") == 0


def is_overwritten(page: bytes) -> bool:
    """Whether a header that may be joined speaks of other transactions than the table has.

    A write that was cut short may have made more of them.
    """
    found, told = word(base()[0], "table_txn"), word(page, "table_txn")
    cut_short = word(page, "writing") or word(page, "folding")
    return not is_vacuumed(page) and (found < told or (found > told and not cut_short))


def expect_untouched(path: Path, page: bytes) -> None:
    """The files of a store that was not joined are as they were, but for zeros in a header."""
    table, sealed, _, open_ = fuzz_log.base()
    expect(path.read_bytes() == table, "the table of a store that was not joined changed")
    for is_sealed, log in ((True, sealed), (False, open_)):
        found = fuzz_log.log_at(path, sealed=is_sealed).read_bytes()
        expect(found == log, "the log of one changed")
    found, page = Path(f"{path}-shm").read_bytes()[: header.SIZE], page[: header.SIZE]
    expect(found in (page, page.ljust(header.SIZE, b"\0")), "the header of one changed")


def join(store: logstore.Store, page: bytes) -> tuple[str, dict[str, Any] | None]:
    """Read and write beside a header; what must be there when all have died, if that is known."""
    state = word(page, "state")
    frames = shown(page, state)
    if frames is None:
        seen: dict[str, Any] = dict.fromkeys(stores.IDS, logstore.CorruptLogError)
    else:
        seen = fuzz_log.replayed(frames)
    found = stores.read_everything(store)
    expect(found == seen, f"{differing(found, seen)}, as the log up to the committed offset")
    try:
        store.set_result("new", 1)
    except logstore.StoreReplacedError:
        expect(is_overwritten(page), "a table that is the one of the header was given up")
        return "joined StoreReplacedError", in_logs(page, stores.NOT_THERE)
    except logstore.LogstoreError as error:
        return f"joined {type(error).__name__}", None
    expect(store.status("new") == "ready", "what was written is not there")
    found = stores.contents(store)
    if appended(page) != state:  # the write has published what was appended
        frames = shown(page, appended(page))
        if frames is None:
            return "joined, appended", None
        seen = fuzz_log.replayed(frames)
    state = appended(page)
    expect(found == seen, f"{differing(found, seen)} after a write")
    if is_overwritten(page):
        return "joined, overwritten", in_logs(page, 1)
    recovered = word(page, "writing") or word(page, "log_failed")
    whole = all(word(page, name) == word(base()[0], name) for name in ("appended", "sealed"))
    whole = whole and state == word(base()[0], "state")
    newest = state >> 32 == fuzz_log.base().epoch + 1
    known = whole or (recovered and newest and state in committed())
    kind = "vacuumed" if is_vacuumed(page) else bool(recovered)
    return f"joined {kind} {whole}", seen | {"new": 1} if known else None


def appended(page: bytes) -> int:
    """The state up to which a write beside this header publishes."""
    state, found = word(page, "state"), word(page, "appended")
    same = found >> 32 == state >> 32 and not word(page, "log_failed")
    return max(found, state) if same else state


def in_logs(page: bytes, new: Any) -> dict[str, Any] | None:
    """What a store holds of which only the logs up to what is committed were left."""
    state = appended(page)
    frames = shown(page, state) if state in committed() else None
    return None if frames is None else fuzz_log.replayed(frames, table=()) | {"new": new}


def differing(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first id whose value is not what was expected."""
    task_id = next((name for name in expected if found[name] != expected[name]), None)
    if task_id is None:
        return ""
    return f"{task_id!r} is {found[task_id]!r}, expected {expected[task_id]!r}"


def close(store: logstore.Store) -> None:
    """Close, which may fail for the same reason as what came before."""
    try:
        store.close()
    except logstore.LogstoreError:
        pass


@contextmanager
def session() -> Iterator[Run]:
    """A directory in memory; what is done to a store is done by the calls alone."""
    base()
    with stores.place() as directory, mock.patch.object(maintenance, "IDLE_S", NEVER_S):
        yield Headers(directory).run


TARGET = Target(
    "header",
    seeds,
    session,
    batch=20,
    bytes_max=1 << 13,
    memory_base_bytes=64 << 20,
    mutations=(set_word, set_word, set_state, set_state, set_sealed, dead_vacuum, this_boot),
)

if __name__ == "__main__":
    main(TARGET)
