"""Fuzzer of the table: the bytes of ``app.db``, of a store that was closed.

Invariants:

- Opening a file, to read or to write, and every method, give a value that was written under its id
  or a typed error.
- A file whose pages and records are whole can be written, compacted, closed and opened again.

LMDB trusts the pages of its tree and may end the process with a signal when they are damaged.
What is tested here is that this is so only for files that ``lmdb.verify`` refuses, which reads
them without LMDB: see :func:`dies_in_lmdb`.  (:mod:`fuzz.fuzz_check` holds ``logstore.check()`` to
more.)
"""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from lmdb.verify import verify

import logstore
from fuzz import stores
from fuzz.command import main
from fuzz.target import Run, Target, expect
from logstore.errors import MissingLogError

_PAGE = 4096


@lru_cache(maxsize=1)
def base() -> bytes:
    """The table of a closed store."""
    with stores.place() as directory:
        return stores.make(directory, crashed=False).read_bytes()


def seeds() -> Sequence[bytes]:
    """A whole table and cut ones."""
    return [base(), base()[: 4 * _PAGE], base()[: 2 * _PAGE], base()[:200], b""]


# -- mutations of pages ------------------------------------------------------------------------


def swap_page(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """One page in place of another."""
    if len(data) >= 2 * _PAGE:
        source, target = (_PAGE * rng.randrange(len(data) // _PAGE) for _ in range(2))
        data[target : target + _PAGE] = data[source : source + _PAGE]


def lose_sector(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A sector, or a whole page, of zeros."""
    size = rng.choice((512, _PAGE))
    if len(data) >= size:
        at = size * rng.randrange(len(data) // size)
        data[at : at + size] = bytes(size)


def change_page_head(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A field of a page's head, or one of its first pointers to nodes."""
    if len(data) >= _PAGE:
        at = _PAGE * rng.randrange(len(data) // _PAGE) + 2 * rng.randrange(20)
        value = rng.choice((0, 1, 2, 4, 8, 16, 0xFFFF, rng.getrandbits(16), rng.randrange(_PAGE)))
        struct.pack_into("<H", data, at, value)


def change_node(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """The head of a node: sizes, flags, or the page that it points to."""
    if len(data) < _PAGE:
        return
    page = _PAGE * rng.randrange(len(data) // _PAGE)
    lower = struct.unpack_from("<H", data, page + 12)[0]
    count = min(max(lower - 16, 0) // 2, 500)
    if count:
        node = page + struct.unpack_from("<H", data, page + 16 + 2 * rng.randrange(count))[0]
        if node + 8 <= len(data):
            value = rng.choice((0, 1, 2, 4, 7, 8, 9, 0xFFFF, rng.getrandbits(16)))
            struct.pack_into("<H", data, node + 2 * rng.randrange(4), value)


# -- one execution -----------------------------------------------------------------------------


class Tables:
    """Tables at one path."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / stores.NAME

    def run(self, data: bytes) -> str:
        """Open to read, to write, and once more."""
        self.path.write_bytes(data)
        return f"{self.read(data)} {self.write(data)}"

    def read(self, data: bytes) -> str:
        """Nothing but what was written comes out, and nothing is written."""
        try:
            with logstore.open(self.path, mode="r") as store:
                found = stores.read_everything(store)
                stores.expect_versions(found)
                label = damage(found)
        except logstore.LogstoreError as error:
            label = type(error).__name__
        expect(self.path.read_bytes() == data, "reading changed the table")
        return label

    def write(self, data: bytes) -> str:
        """Writing works, or says why not."""
        try:
            with logstore.open(self.path, write_timeout_s=stores.WRITE_TIMEOUT_S) as store:
                whole = store.check().ok and not is_refused(data)
                stores.expect_versions(stores.read_everything(store))
                stores.use(store)
        except MissingLogError:
            return "MissingLogError"
        except logstore.LogstoreError as error:
            return type(error).__name__
        if whole:
            with logstore.open(self.path) as store:
                expect(store.get_result("new") == "value", "what was written is gone")
        return "whole" if whole else "written"


def damage(found: dict[str, object]) -> str:
    """How much of the store is an error."""
    return "some" if any(isinstance(value, type) for value in found.values()) else "all"


def dies_in_lmdb(data: bytes, problem: str) -> str:
    """A signal or a hang over a file that ``lmdb.verify`` refuses is LMDB's own."""
    died = problem in ("signal", "hang")
    return "LMDB trusts pages that lmdb.verify refuses" if died and is_refused(data) else ""


def is_refused(data: bytes) -> bool:
    """Whether ``lmdb.verify`` finds fault with a file."""
    with tempfile.NamedTemporaryFile(prefix="logstore-fuzz-") as file:
        file.write(data)
        file.flush()
        try:
            return bool(verify(file.name, subdir=False))  # type: ignore[no-untyped-call]
        except Exception:
            return True


@contextmanager
def session() -> Iterator[Run]:
    """A directory in memory."""
    with stores.place() as directory:
        yield Tables(directory).run


MUTATIONS = (swap_page, lose_sector, change_page_head, change_node)
TARGET = Target(
    "table",
    seeds,
    session,
    batch=1,
    bytes_max=1 << 17,
    memory_base_bytes=64 << 20,
    mutations=MUTATIONS,
    known=dies_in_lmdb,
)

if __name__ == "__main__":
    main(TARGET)
