"""Fuzzer of the shared header: any bytes in ``app.db-shm``.

Invariants:

- Of a store that nobody has open, the header says nothing: opening gives the same as without it,
  to read and to write.
- Beside a live store, a process that finds a header which no process of this boot has finished
  does not join: it gives up with StoreBusyError.  One that is finished, and wrong, costs at most a
  typed error: no signal, no hang, and no value that was never written under its id.

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

import logstore
from fuzz import stores
from fuzz.command import main
from fuzz.target import Run, Target, expect
from logstore.engine import header, osdep

_DEAD, _LIVE = range(2)
_STATE_AT = header.STATE * 8


@lru_cache(maxsize=1)
def base() -> tuple[bytes, bytes, bytes, dict[str, Any]]:
    """Table, log and header of a store, and what it holds."""
    with stores.place() as directory:
        path = stores.make(directory, crashed=True)
        files = [Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-log", "-shm")]
        with logstore.open(path) as store:
            return files[0], files[1], files[2], stores.contents(store)


def seeds() -> Sequence[bytes]:
    """Headers of this boot, finished and not; other sizes."""
    page = base()[2]
    ready = bytearray(page)
    struct.pack_into("<Q", ready, header.W_READY * 8, 0)
    writing = bytearray(page)
    struct.pack_into("<Q", writing, header.WRITING * 8, 1)
    pages = (page, ready, writing, bytes(4096), b"\xff" * 4096, b"", page[:100], bytes(page) * 2)
    return [bytes((kind,)) + bytes(data) for kind in (_DEAD, _LIVE) for data in pages]


def set_word(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Another value in a word that means something."""
    at = 1 + 8 * rng.randrange(header.LAST_TIME + 1)
    if at + 8 <= len(data):
        (old,) = struct.unpack_from("<Q", data, at)
        small = rng.choice((0, 1, 2, 1 << 32, 4096, rng.getrandbits(13)))
        value = rng.choice((small, old + 1, old - 1, old ^ small, rng.getrandbits(64)))
        struct.pack_into("<Q", data, at, value % (1 << 64))


def this_boot(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """Make it look like a finished header of this boot."""
    if len(data) >= 4097:
        data[1 : 1 + _STATE_AT] = base()[2][:_STATE_AT]


class Headers:
    """Headers beside one and the same table and log."""

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
            path.write_bytes(base()[0])
            Path(f"{path}-log").write_bytes(base()[1])
            Path(f"{path}-shm").write_bytes(data[1:])
            return (dead, live)[data[0] % 2](path, data[1:])
        finally:
            shutil.rmtree(place)


def dead(path: Path, page: bytes) -> str:
    """Nobody is there: the header is not looked at."""
    with logstore.open(path, mode="r") as store:
        found = stores.read_everything(store)
        expect(found == base()[3], "reading believes the header")
    expect(Path(f"{path}-shm").read_bytes() == page, "reading wrote a header")
    with logstore.open(path, write_timeout_s=stores.WRITE_TIMEOUT_S) as store:
        found = stores.read_everything(store)
        expect(found == base()[3], "recovery believes the header")
        stores.use(store)
        expect(store.check().ok, f"the check finds {store.check().problems}")
    expect([entry.name for entry in path.parent.iterdir()] == [stores.NAME], "more than one file")
    return "dead"


def live(path: Path, page: bytes) -> str:
    """Somebody seems to be there: whoever comes next joins, or does not."""
    fd = os.open(f"{path}-shm", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        finished = (
            len(page) >= _STATE_AT
            and page[:8] == base()[2][:8]
            and page[8:16] == (1).to_bytes(8, "little")
            and page[16:32] == osdep.boot_id()
        )
        try:
            store = logstore.open(path, write_timeout_s=0.02)
        except logstore.LogstoreError as error:
            return type(error).__name__
        expect(finished, "joined a store whose header was not finished")
        try:
            stores.expect_versions(stores.read_everything(store))
            store.set_result("new", 1)
            expect(store.get_result("new") == 1, "what was written is not there")
            label = "joined"
        except logstore.LogstoreError as error:
            label = f"joined {type(error).__name__}"
        finally:
            close(store)
        return label
    finally:
        os.close(fd)


def close(store: logstore.Store) -> None:
    """Close, which may fail for the same reason as what came before."""
    try:
        store.close()
    except logstore.LogstoreError:
        pass


@contextmanager
def session() -> Iterator[Run]:
    """A directory in memory."""
    base()
    with stores.place() as directory:
        yield Headers(directory).run


TARGET = Target(
    "header",
    seeds,
    session,
    batch=20,
    bytes_max=1 << 13,
    memory_base_bytes=64 << 20,
    mutations=(set_word, set_word, this_boot),
)

if __name__ == "__main__":
    main(TARGET)
