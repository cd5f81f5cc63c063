"""Copies of a table's pages: whole, or void because the table was written to; damage is said.

Rules: what a copy holds is compared with what LMDB read in the source, and every page of it is
verified by py-lmdb's own verifier, which knows nothing of the code under test.
"""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
from lmdb.verify import verify

from logstore._engine import metapages, pages
from logstore._engine.lmdbfile import inspect_file
from logstore._engine.pages import OvertakenError, copy_pages
from logstore.errors import CorruptTableError, LogstoreError, TruncatedFileError

Contents = dict[bytes, dict[bytes, bytes]]

DATABASES = (b"ids", b"results", b"empty")
_EMPTY_META = struct.Struct("<QHHHH IIQQ IHHQQQQQ IHHQQQQQ QQ")
_NO_PAGE = (1 << 64) - 1


def make_file(path: Path, page_bytes: int) -> None:
    """An empty LMDB file with pages of any size; LMDB itself takes the machine's."""
    free, main = (page_bytes, 8, 0, 0, 0, 0, 0, _NO_PAGE), (0, 0, 0, 0, 0, 0, 0, _NO_PAGE)
    metas = [
        _EMPTY_META.pack(n, 0, 8, 0, 0, 0xBEEFC0DE, 1, 0, 1 << 30, *free, *main, 1, 0)
        for n in (0, 1)
    ]
    path.write_bytes(b"".join(meta.ljust(page_bytes, b"\0") for meta in metas))


class Source:
    """An LMDB file that is open, as a store's table is, and can be copied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = lmdb.open(
            str(path), subdir=False, max_dbs=8, map_size=1 << 30, lib_version=0, sync=False
        )
        self.databases = {name: self.env.open_db(name) for name in DATABASES}

    def put(self, items: dict[bytes, bytes]) -> None:
        """Put some values into two databases, in one transaction."""
        with self.env.begin(write=True) as txn:
            for key, value in items.items():
                txn.put(key, value, db=self.databases[b"results"])
                txn.put(key, value[:20], db=self.databases[b"ids"])

    def delete(self, keys: list[bytes]) -> None:
        """Delete some keys from both, in one transaction."""
        with self.env.begin(write=True) as txn:
            for key in keys:
                for name in (b"results", b"ids"):
                    txn.delete(key, db=self.databases[name])

    def contents(self) -> Contents:
        """Everything in it."""
        with self.env.begin() as txn:
            return {name: dict(txn.cursor(db=db)) for name, db in self.databases.items()}

    def copy(self, path: Path, pulse: Callable[[int], None] = lambda _: None) -> None:
        """Copy it to a new file."""
        with open(self.path, "rb") as source, open(path, "xb") as target:
            with self.env.begin() as txn:
                number = txn.id()
            copy_pages(source.fileno(), str(self.path), number, target.fileno(), pulse)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    source = Source(path)
    try:
        yield source
    finally:
        source.env.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    with opened(tmp_path / "source") as source:
        yield source


def contents_of(path: Path) -> Contents:
    """What LMDB reads in a copy, of which every page is verified first."""
    assert verify(path, subdir=False) == []  # type: ignore[no-untyped-call]
    env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=8, lib_version=0)
    try:
        databases = {name: env.open_db(name, create=False) for name in DATABASES}
        with env.begin() as txn:
            return {name: dict(txn.cursor(db=db)) for name, db in databases.items()}
    finally:
        env.close()


def values(rng: random.Random, count: int, bytes_max: int = 9000) -> dict[bytes, bytes]:
    """Some random keys with values of all sizes, many of them in overflow pages."""
    return {
        b"task-%06d" % rng.randrange(10_000): rng.randbytes(int(bytes_max * rng.random() ** 3))
        for _ in range(count)
    }


@pytest.mark.parametrize("page_bytes", [512, 4096, 16384, 65536])
def test_a_file_from_a_machine_with_other_pages_is_looked_at(
    tmp_path: Path, page_bytes: int
) -> None:
    path = tmp_path / "source"
    make_file(path, page_bytes)
    inspect_file(str(path))
    path.write_bytes(path.read_bytes()[: page_bytes + 100])
    with pytest.raises(TruncatedFileError, match=f"at least {2 * page_bytes}"):
        inspect_file(str(path))


@pytest.mark.parametrize("page_bytes", [512, 4096, 16384, 32768])
def test_a_copy_has_everything_and_no_free_page(tmp_path: Path, page_bytes: int) -> None:
    rng = random.Random(page_bytes)
    make_file(tmp_path / "source", page_bytes)
    with opened(tmp_path / "source") as source:
        for step in range(12):
            source.put(values(rng, 150))
            keys = sorted(source.contents()[b"results"])
            source.delete(rng.sample(keys, len(keys) // 3))
            source.copy(tmp_path / f"copy-{step}")
            assert contents_of(tmp_path / f"copy-{step}") == source.contents()
        assert source.env.stat()["psize"] == page_bytes
    sizes = [(tmp_path / name).stat().st_size for name in ("source", "copy-11")]
    assert sizes[1] < sizes[0]


def test_a_copy_can_be_written_to_and_copied_again(source: Source, tmp_path: Path) -> None:
    rng = random.Random(1)
    source.put(values(rng, 300))
    source.copy(tmp_path / "first")
    with opened(tmp_path / "first") as first:
        for _ in range(5):
            first.put(values(rng, 100))
            first.delete(sorted(first.contents()[b"results"])[::3])
        first.copy(tmp_path / "second")
        assert contents_of(tmp_path / "second") == first.contents()


def test_an_empty_file_is_copied(source: Source, tmp_path: Path) -> None:
    source.copy(tmp_path / "copy")
    assert contents_of(tmp_path / "copy") == {name: {} for name in DATABASES}


def test_a_list_of_free_pages_that_needs_overflow_pages_is_read(
    source: Source, tmp_path: Path
) -> None:
    rng = random.Random(2)
    source.put({b"%06d" % n: rng.randbytes(3000) for n in range(4000)})
    kept = [b"%06d" % n for n in range(0, 4000, 13)]
    source.delete([b"%06d" % n for n in range(4000) if n % 13])
    source.copy(tmp_path / "copy")
    assert sorted(contents_of(tmp_path / "copy")[b"results"]) == kept
    size, copied = (path.stat().st_size for path in (source.path, tmp_path / "copy"))
    assert copied * 10 < size


def test_a_value_larger_than_what_is_read_at_once_is_copied(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "SLICE_BYTES", 3 * 4096)
    rng = random.Random(3)
    source.put({b"%d" % n: rng.randbytes(size) for n, size in enumerate((100_000, 5, 70_000))})
    told: list[int] = []
    source.copy(tmp_path / "copy", told.append)
    assert contents_of(tmp_path / "copy") == source.contents()
    assert told == sorted(told)
    assert len(told) > 14  # slices of three pages
    assert told[-1] == (tmp_path / "copy").stat().st_size


# -- writers meanwhile ------------------------------------------------------------------------


def write_during_the_copy(
    source: Source, path: Path, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    """Copy page by page and overwrite everything after the third, so many times."""
    monkeypatch.setattr(pages, "SLICE_BYTES", 4096)
    rng = random.Random(transactions)
    calls: list[int] = []

    def pulse(written: int) -> None:
        calls.append(written)
        if len(calls) == 3:
            for _ in range(transactions):
                source.put({key: rng.randbytes(500) for key in source.contents()[b"results"]})

    source.copy(path, pulse)
    assert len(calls) > 3


@pytest.mark.parametrize("transactions", [1, 2, 3, 7])
def test_a_copy_is_the_state_at_its_start_or_void(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    source.put(values(random.Random(4), 200))
    before = source.contents()
    if transactions == 1:
        write_during_the_copy(source, tmp_path / "copy", monkeypatch, transactions)
        assert contents_of(tmp_path / "copy") == before
    else:
        with pytest.raises(OvertakenError, match="written to while it was copied"):
            write_during_the_copy(source, tmp_path / "copy", monkeypatch, transactions)
    assert source.contents() != before


def test_a_transaction_that_has_not_been_committed_spares_the_pages_of_a_copy(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one behind the snapshot has all its pages in the file, but not its meta page."""
    monkeypatch.setattr(pages, "SLICE_BYTES", 4096)
    rng = random.Random(5)
    source.put({b"%06d" % n: rng.randbytes(700) for n in range(20_000)})
    source.delete([b"%06d" % n for n in range(0, 20_000, 2)])
    source.put({b"more": b""})
    before = source.contents()
    results = source.databases[b"results"]
    calls: list[int] = []
    open_txn: list[lmdb.Transaction[bytes]] = []

    def pulse(written: int) -> None:
        calls.append(written)
        if len(calls) == 3:
            source.put({b"%06d" % n: rng.randbytes(700) for n in range(0, 20_000, 2)})
            txn = source.env.begin(write=True)
            open_txn.append(txn)
            # More than LMDB keeps in memory: pages go to the file before the commit.
            for n in range(160_000):
                txn.put(b"%06d" % n, rng.randbytes(700), db=results)

    source.copy(tmp_path / "copy", pulse)
    assert contents_of(tmp_path / "copy") == before
    open_txn[0].commit()


def test_a_snapshot_that_is_not_the_newest_is_refused(source: Source) -> None:
    source.put({b"a": b"1"})
    with source.env.begin() as txn:
        number = txn.id()
    source.put({b"a": b"2"})
    with open(source.path, "rb") as file, pytest.raises(OvertakenError, match="its header"):
        pages.Snapshot(file.fileno(), "source", number)
    source.put({b"a": b"3"})
    with open(source.path, "rb") as file, pytest.raises(OvertakenError, match="its header"):
        pages.Snapshot(file.fileno(), "source", number)


def test_copies_beside_a_writer_that_never_rests_are_whole_or_void(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value says of which transaction it is: a copy has those of one."""
    monkeypatch.setattr(pages, "SLICE_BYTES", 4096)
    keys = [b"%04d" % n for n in range(200)]
    source.put(dict.fromkeys(keys, b"%08d" % 0 * 100))
    stop = threading.Event()

    def write() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            source.put(dict.fromkeys(keys, b"%08d" % version * (60 + version % 80)))

    writer = threading.Thread(target=write)
    writer.start()
    whole = void = 0
    path = tmp_path / "copy"
    try:
        while whole < 20 or void < 20:
            # With small slices the writer comes between, with large ones not.
            monkeypatch.setattr(pages, "SLICE_BYTES", 4096 if void < 20 else 1 << 20)
            path.unlink(missing_ok=True)
            try:
                source.copy(path)
            except OvertakenError:
                void += 1
                continue
            whole += 1
            copied = contents_of(path)[b"results"]
            assert sorted(copied) == keys
            assert len(set(copied.values())) == 1
    finally:
        stop.set()
        writer.join()


# -- damage -----------------------------------------------------------------------------------


@pytest.fixture
def at_rest(tmp_path: Path) -> Path:
    """A file that is not open, with a list of free pages, overflow pages and branches."""
    rng = random.Random(6)
    with opened(tmp_path / "source") as source:
        source.put(values(rng, 400, 1500))
        source.put(values(rng, 10))
        source.delete(sorted(source.contents()[b"results"])[::4])
        source.put(values(rng, 20, 1500))
    return tmp_path / "source"


def newest_meta(data: bytes | bytearray) -> tuple[int, int]:
    """The number of the newest transaction, and where its meta page is."""
    return max((struct.unpack_from("<Q", data, at + 144)[0], at) for at in (0, 4096))


def copy_at_rest(path: Path) -> None:
    """Copy a file as its newest meta page has it."""
    number, _ = newest_meta(path.read_bytes())
    path.with_name("copy").unlink(missing_ok=True)
    with open(path, "rb") as source, open(path.with_name("copy"), "xb") as target:
        copy_pages(source.fileno(), str(path), number, target.fileno(), lambda _: None)


def roots(data: bytes | bytearray) -> tuple[int, int]:
    """The root pages of the list of free pages and of the main database."""
    _, at = newest_meta(data)
    return struct.unpack_from("<Q", data, at + 80)[0], struct.unpack_from("<Q", data, at + 128)[0]


def free_pages(path: Path) -> list[int]:
    """The pages that are not copied, but for the meta pages."""
    number, _ = newest_meta(path.read_bytes())
    with open(path, "rb") as file:
        marks = pages.Snapshot(file.fileno(), str(path), number).marks_of_free_pages()
    return [page for page in range(2, len(marks)) if marks[page]]


def test_a_child_of_the_list_of_free_pages_may_be_any_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose number has more than 32 bits, in a file of more than 16 TiB."""
    head = struct.pack("<QHHHH", 2, 0, metapages.BRANCH, 16 + 2 * 1, 4096)
    node = struct.pack("<HHHH", 0x5678, 0x1234, 0x9, 0)
    page = bytearray((head + struct.pack("<H", 18) + node).ljust(4096, b"\0"))
    snapshot = object.__new__(pages.Snapshot)
    monkeypatch.setattr(snapshot, "read", lambda first, count: page)
    assert snapshot._mark_listed(2, bytearray(3)) == [0x9_1234_5678]


def test_a_file_that_is_cut_off_is_damage(at_rest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_SLACK_PAGES", 0)
    data = at_rest.read_bytes()
    copy_at_rest(at_rest)
    at_rest.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptTableError, match="the file ends within the pages"):
        copy_at_rest(at_rest)
    at_rest.write_bytes(data[:100])
    with pytest.raises(CorruptTableError, match="no whole header"), open(at_rest, "rb") as file:
        pages.Snapshot(file.fileno(), str(at_rest), 1)


@pytest.mark.parametrize("tree", [0, 1], ids=["free pages", "main"])
def test_a_page_that_is_another_one_is_damage(at_rest: Path, tree: int) -> None:
    data = bytearray(at_rest.read_bytes())
    root = roots(data)[tree]
    struct.pack_into("<Q", data, root * 4096, root + 1)
    at_rest.write_bytes(data)
    with pytest.raises(CorruptTableError, match=f"page {root} .*{root + 1}"):
        copy_at_rest(at_rest)


def test_a_free_page_that_is_in_use_is_damage(at_rest: Path) -> None:
    data = bytearray(at_rest.read_bytes())
    free = free_pages(at_rest)[-1]
    _, at = newest_meta(data)
    for page in (free, 0, 1, len(data) // 4096, _NO_PAGE - 1):
        struct.pack_into("<Q", data, at + 128, page)
        at_rest.write_bytes(data)
        with pytest.raises(CorruptTableError, match=f"page {page} is in use, but free"):
            copy_at_rest(at_rest)


def test_a_page_that_is_free_twice_is_damage(at_rest: Path) -> None:
    data = bytearray(at_rest.read_bytes())
    root, main = roots(data)
    node = root * 4096 + struct.unpack_from("<H", data, root * 4096 + 16)[0]
    listed = node + 8 + 8 + 8  # behind the node's head, its key, and the length of the list
    for page, said in ((root, "listed twice"), (len(data), "page")):
        struct.pack_into("<Q", data, listed, page)
        at_rest.write_bytes(data)
        with pytest.raises(CorruptTableError, match=f"page {root} of the list of free.*{said}"):
            copy_at_rest(at_rest)
    struct.pack_into("<Q", data, listed, main)
    at_rest.write_bytes(data)
    with pytest.raises(CorruptTableError, match=f"page {main} is in use, but free"):
        copy_at_rest(at_rest)


def first_in_use(path: Path, flags: int) -> int:
    """Where the first page of a kind is that is in use."""
    data, free = path.read_bytes(), free_pages(path)
    return next(
        at
        for at in range(2 * 4096, len(data), 4096)
        if struct.unpack_from("<QHH", data, at) == (at // 4096, 0, flags) and at // 4096 not in free
    )


def break_header(path: Path, data: bytearray) -> None:
    data[newest_meta(data)[1] + 16] ^= 1


def break_page_size(path: Path, data: bytearray) -> None:
    struct.pack_into("<I", data, 40, 5000)


def break_other_page_size(path: Path, data: bytearray) -> None:
    _, at = newest_meta(data)
    assert at  # the first one says what counts
    struct.pack_into("<I", data, at + 40, 1 << 31)


def break_list_of_free_pages(path: Path, data: bytearray) -> None:
    page = roots(data)[0] * 4096
    data[page + struct.unpack_from("<H", data, page + 16)[0] + 16] ^= 1


def break_length_of_a_value(path: Path, data: bytearray) -> None:
    struct.pack_into("<I", data, first_in_use(path, 4) + 12, 0)


def lengthen_a_value(path: Path, data: bytearray) -> None:
    struct.pack_into("<I", data, first_in_use(path, 4) + 12, 1 << 30)


def break_kind_of_a_page(path: Path, data: bytearray) -> None:
    data[first_in_use(path, 2) + 10] = 0x22


def break_kind_of_a_value(path: Path, data: bytearray) -> None:
    page = first_in_use(path, 2)
    data[page + struct.unpack_from("<H", data, page + 16)[0] + 4] = 4


DAMAGES: dict[Callable[[Path, bytearray], None], str] = {
    break_header: "no header of the known format",
    break_page_size: "a page size of 5000",
    break_other_page_size: "page sizes of 4096 and 2147483648",
    break_list_of_free_pages: "of the list of free pages .* said to be",
    break_length_of_a_value: "flags 0x4",
    lengthen_a_value: "is free and part of a value",
    break_kind_of_a_page: "flags 0x22",
    break_kind_of_a_value: "a node with flags 0x4",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_lmdb_does_not_write_for_a_store_is_damage(
    at_rest: Path, damage: Callable[[Path, bytearray], None]
) -> None:
    data = bytearray(at_rest.read_bytes())
    damage(at_rest, data)
    at_rest.write_bytes(data)
    with pytest.raises(CorruptTableError, match=f"{at_rest}: damaged: .*{DAMAGES[damage]}"):
        copy_at_rest(at_rest)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_makes_a_copy_fail_in_another_way(at_rest: Path, seed: int) -> None:
    """Flipped bits, strange numbers and pages of noise: a copy, or an error of the package."""
    rng = random.Random(seed)
    data = at_rest.read_bytes()
    used = sorted({0, 1, *roots(data), *range(len(data) // 4096)} - set(free_pages(at_rest)))
    said: dict[str, int] = {}
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            page = rng.choice((*roots(data), *rng.sample(used, 6)))
            at = 4096 * page + rng.choice((rng.randrange(4088), rng.randrange(160)))
            kind = rng.randrange(4)
            if kind == 0:
                changed[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                struct.pack_into("<H", changed, at & -2, rng.choice((0, 1, 2, 0xFFFF, 4096)))
            elif kind == 2:
                number = rng.choice((0, 1, page, rng.getrandbits(64), _NO_PAGE))
                struct.pack_into("<Q", changed, at, number)
            else:
                changed[at : at + 64] = rng.randbytes(len(changed[at : at + 64]))
        with open(
            at_rest, "r+b"
        ) as file:  # a file system may flush one that it has to cut off first
            file.write(changed)
        try:
            copy_at_rest(at_rest)
        except LogstoreError as exc:
            said[type(exc).__name__] = said.get(type(exc).__name__, 0) + 1
    assert said["CorruptTableError"] > 10
